#!/usr/bin/env bash
# Run the tests in .venv: tools/run_tests.sh [--full] [arguments of pytest]
# The long ones are left out, unless --full is given or a test is named:
#   tools/run_tests.sh --full
#   tools/run_tests.sh tests/test_golden.py -k resnet50
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH

tools/setup/setup_env.sh
export PATH=$PWD/.venv/bin:$PATH VIRTUAL_ENV=$PWD/.venv
# Of two workers, each takes files whole: a file's tests share what they trained.
workers=()
case $* in '' | --full) workers=(-n 2 --dist loadfile --no-loadscope-reorder) ;; esac
exec python -m pytest ${workers[@]+"${workers[@]}"} "$@"
