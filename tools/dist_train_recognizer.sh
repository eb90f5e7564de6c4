#!/usr/bin/env bash
# Train on several GPUs, or several CPU processes where there is no GPU.
#   tools/dist_train_recognizer.sh CONFIG GPUS [options of train_recognizer.py]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
if [ $# -lt 2 ]; then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
launch train_recognizer.py "$2" "$1" "${@:3}"
