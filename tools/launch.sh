# Sourced by the dist_*.sh scripts: launch SCRIPT GPUS [arguments].
#
# One process a GPU through launch.py, which says what of the environment it
# takes: NNODES, NODE_RANK, MASTER_ADDR, PORT, WAIT_SECONDS, MAX_RESTARTS.
# PYTHON names the interpreter. Without it: with MMACTION_ROOT set, that of the
# environment which setup/setup_mmaction_v1.sh made here; else the active virtual
# environment's; else that of the one which quickstart.sh made; else python3.

launch() {
    local script=$1 gpus=$2
    shift 2
    if ! [[ $gpus =~ ^[1-9][0-9]*$ ]]; then
        echo "error: GPUS should be a number of processes, got '$gpus'" >&2
        exit 2
    fi
    local tools root python
    tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    root=$(dirname "$tools")
    if [ -n "${PYTHON:-}" ]; then
        python=$PYTHON
    elif [ -n "${MMACTION_ROOT:-}" ] && [ -x "$root/.venv-v1/bin/python" ]; then
        python=$root/.venv-v1/bin/python
    elif [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        python=python
    elif [ -x "$root/.venv/bin/python" ]; then
        python=$root/.venv/bin/python
    else
        python=python3
    fi
    # The cores are shared out among the processes.
    local cores=$(($(nproc) / gpus))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > 1 ? cores : 1))}
    export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
    exec "$python" "$tools/launch.py" "$tools/$script" "$gpus" --launcher pytorch "$@"
}
