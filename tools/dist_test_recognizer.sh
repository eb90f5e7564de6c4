#!/usr/bin/env bash
# Test on several GPUs, or several CPU processes where there is no GPU.
#   tools/dist_test_recognizer.sh CONFIG CHECKPOINT GPUS [options of test_recognizer.py]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
if [ $# -lt 3 ]; then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
launch test_recognizer.py "$3" "$1" "$2" "${@:4}"
