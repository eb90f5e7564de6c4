#!/usr/bin/env bash
# Estimate running statistics on several GPUs, or several CPU processes.
#   tools/dist_recalibrate_norm.sh CONFIG CHECKPOINT OUT GPUS [options of recalibrate_norm.py]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
if [ $# -lt 4 ]; then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
launch recalibrate_norm.py "$4" "$1" "$2" "$3" "${@:5}"
