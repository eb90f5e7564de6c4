# Sourced by the dist_*.sh scripts: launch SCRIPT GPUS [arguments].
#
# One process a GPU through torchrun. For several machines, set on each:
#   NNODES (default 1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), PORT (29500)
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
    local rendezvous=(--standalone)  # a free port, so that jobs can be many
    if [ "${NNODES:-1}" != 1 ] || [ -n "${PORT:-}" ]; then
        rendezvous=(--nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}"
                    --master_addr "${MASTER_ADDR:-127.0.0.1}"
                    --master_port "${PORT:-29500}")
    fi
    exec "$python" -m torch.distributed.run "${rendezvous[@]}" \
        --nproc_per_node "$gpus" "$tools/$script" --launcher pytorch "$@"
}
