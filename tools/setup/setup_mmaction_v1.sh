#!/usr/bin/env bash
# Sets up mmaction v1 with ResNet_DNR on today's PyTorch, and tries it.
#
#   tools/setup/setup_mmaction_v1.sh [CHECKOUT]
#
# Makes the environment .venv-v1, installs ResNet_DNR and its configs into the
# checkout of mmaction v1 (without CHECKOUT, clones one to mmaction-v1), then
# trains and tests on a little generated data for about two minutes. Run
# again, it does only what is still to be done, and the trial.
#
# PYTHON names the Python to use, 3.10 to 3.13 (default: python3).
set -euo pipefail
unset PYTHONPATH

URL=https://github.com/open-mmlab/mmaction
COMMIT=c7e3b7c11fb94131be9b48a8e3d510589addc3ce
MMCV=1.7.2

fail() {
    echo "error: $*" >&2
    exit 1
}

case ${1:-} in
    -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit ;;
esac
[ $# -le 1 ] || fail 'one CHECKOUT at most'
if [ $# = 1 ]; then
    [ -d "$1" ] || fail "there is no folder $1"
    checkout=$(cd "$1" && pwd)
fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
repo=$PWD
venv=$repo/.venv-v1
python=${PYTHON:-python3}

# What is being made, removed again unless it is finished.
unfinished=
trap '[ -z "$unfinished" ] || rm -rf "$unfinished"' EXIT
trap 'exit 130' INT TERM

echo '== 1/4 mmaction v1'
if [ -z "${checkout:-}" ]; then
    checkout=$repo/mmaction-v1
    if [ ! -d "$checkout" ]; then
        command -v git > /dev/null || fail 'git is needed to clone mmaction v1'
        unfinished=$checkout.part
        rm -rf "$unfinished"
        { GIT_TERMINAL_PROMPT=0 git clone "$URL" "$unfinished" &&
            git -C "$unfinished" checkout -q --detach "$COMMIT"; } || fail \
            "could not clone $URL; nothing is left of it. Where you have" \
            'mmaction v1 already: tools/setup/setup_mmaction_v1.sh CHECKOUT'
        mv "$unfinished" "$checkout"
        unfinished=
    fi
fi
[ -f "$checkout/tools/train_recognizer.py" ] &&
    [ -f "$checkout/mmaction/models/registry.py" ] ||
    fail "$checkout is no checkout of mmaction v1"
echo "$checkout"

echo '== 2/4 environment'
wanted=$(cat tools/setup/requirements-v1.txt; echo "mmcv==$MMCV")
if [ "$(cat "$venv/complete" 2> /dev/null)" != "$wanted" ] ||
    ! "$venv/bin/python" -c ''; then
    "$python" -c 'import sys
sys.exit(not (3, 10) <= sys.version_info < (3, 14))' ||
        fail "$python is not Python 3.10 to 3.13; name one in PYTHON"
    rm -rf "$venv"
    unfinished=$venv
    undone="; $venv is removed again. The message above says why"
    "$python" -m venv "$venv" || fail "could not make an environment$undone"
    pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
    pip install -r tools/setup/requirements-v1.txt ||
        fail "could not install tools/setup/requirements-v1.txt$undone"
    # A wheel from pip's cache may name the other OpenCV as its need.
    MMCV_WITH_OPS=0 pip install --no-build-isolation --no-deps \
        --no-cache-dir "mmcv==$MMCV" ||
        fail "could not build mmcv $MMCV$undone"
    echo "$wanted" > "$venv/complete"
    unfinished=
fi
"$venv/bin/python" tools/hosts/v1_startup.py  # v1's own scripts run, too

echo '== 3/4 ResNet_DNR'
"$venv/bin/python" tools/setup/install_into_mmaction.py "$checkout" |
    sed '/^Next/,$d'

echo '== 4/4 trial: an epoch on a few generated clips, then a test'
trial=$(mktemp -d)
unfinished=$trial
export MMACTION_ROOT=$checkout PYTHON=$venv/bin/python
"$PYTHON" tools/data/make_arrow_dataset.py "$trial/data" --pairs 2 --size 32 \
    --train 8 --val 2 --test 3
gpus=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
processes=$((gpus == 1 ? 1 : 2))  # two cannot share a GPU over NCCL
config=configs/DNR_resnet18_arrow_demo.py
options=(total_epochs=1 log_config.interval=1)
for split in train val test; do
    options+=("data.$split.ann_file=$trial/data/$split.txt"
        "data.$split.img_prefix=$trial/data/rawframes/$split")
done
tools/dist_train_recognizer.sh $config $processes --validate \
    --work_dir "$trial/work" --cfg-options "${options[@]}" &&
    tools/dist_test_recognizer.sh $config "$trial/work/epoch_1.pth" \
        $processes --out "$trial/results.pkl" \
        --cfg-options "${options[@]}" &&
    "$PYTHON" -c 'import pickle, sys
scores = pickle.load(open(sys.argv[1], "rb"))
assert [s.shape for s in scores] == [(1, 4)] * 12, scores' \
        "$trial/results.pkl" &&
    (cd "$checkout" && "$PYTHON" tools/train_recognizer.py --help) > /dev/null ||
    fail 'the trial failed. The message above says why'

cat << EOF

mmaction v1 is ready: the trial above ran on $processes process(es). To use it:
  export MMACTION_ROOT=$checkout
  ./tools/dist_train_recognizer.sh CONFIG GPUS --validate
  ./tools/dist_test_recognizer.sh CONFIG CHECKPOINT GPUS --out RESULTS.pkl
or, without the checks of the scripts here, v1's own:
  . $venv/bin/activate; cd $checkout
  bash ./tools/dist_train_recognizer.sh CONFIG GPUS --validate
  bash ./tools/dist_test_recognizer.sh CONFIG CHECKPOINT GPUS --out RESULTS.pkl
EOF
