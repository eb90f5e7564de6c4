#!/usr/bin/env bash
# From a fresh clone to a trained ResNet-DNR and its results pickle: installs
# into .venv, generates clips, trains on 2 processes (GPUs where there are 2,
# else on the CPU), tests, and prints the accuracies.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset MMACTION_ROOT PYTHONPATH  # this is the mmaction2 host's way

tools/setup/setup_env.sh
export PYTHON=$PWD/.venv/bin/python
gpus=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
if [ "$gpus" = 1 ]; then
    processes=1  # two processes cannot share a GPU over NCCL
else
    processes=2
fi
config=configs/DNR_resnet18_arrow_demo.py
work_dir=work_dirs/DNR_r18_arrow_demo

echo "== 1/3 Generated clips: two pairs of a process and its reversal"
"$PYTHON" tools/data/make_arrow_dataset.py data/arrow --pairs 2 --size 32 \
    --train 150 --val 25 --test 50
echo "== 2/3 Training on $processes process(es); log in $work_dir"
tools/dist_train_recognizer.sh "$config" "$processes" --validate --seed 0
echo "== 3/3 Testing"
tools/dist_test_recognizer.sh "$config" \
    "$(cat "$work_dir/last_checkpoint")" "$processes" \
    --out "$work_dir/results.pkl"
echo
echo "Done: $work_dir/results.pkl holds the scores of every test clip."
echo "A network that cannot see the order of frames would guess within each"
echo "pair and stay near 50 % top-1. Compare for yourself:"
echo "  tools/dist_train_recognizer.sh $config $processes --validate \\"
echo "      --cfg-options model.backbone.dnr=none work_dir=work_dirs/arrow_bn"
