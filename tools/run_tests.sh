#!/usr/bin/env bash
# Run the tests in .venv: tools/run_tests.sh [arguments of pytest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH

tools/setup/setup_env.sh
export PATH=$PWD/.venv/bin:$PATH VIRTUAL_ENV=$PWD/.venv
exec python -m pytest "${@:-tests}"
