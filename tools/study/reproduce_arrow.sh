#!/usr/bin/env bash
# The arrow-of-time study from nothing: makes the clips, trains, tests and
# evaluates all runs, and draws them. Stopped, it goes on when called again.
# Takes --jobs, --time-limit and --commit of tools/study/study.py.
# PYTHON names the interpreter; without it, .venv is installed and used.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
unset MMACTION_ROOT PYTHONPATH  # this is the mmaction2 host's way

for argument in "$@"; do
    case $argument in
        --jobs | --jobs=* | --time-limit | --time-limit=*) ;;
        --commit | --commit=*) ;;
        --*) echo "error: $argument is not for the whole study, which takes" \
                 "--jobs, --time-limit and --commit" >&2
             exit 2 ;;
    esac
done

if [ -z "${PYTHON:-}" ]; then
    tools/setup/setup_env.sh
    PYTHON=$PWD/.venv/bin/python
fi
"$PYTHON" tools/data/make_arrow_dataset.py data/arrow112 \
    --train 300 --val 20 --test 100
"$PYTHON" tools/study/study.py configs/arrow/study.py "$@"
"$PYTHON" tools/study/plot_study.py arrow
