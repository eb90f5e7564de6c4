"""Options of speed on mmaction v1's own scripts: they take effect, or are refused.

    MMACTION_ROOT=/path/to/mmaction .venv-v1/bin/python -m pytest \
        tests/hosts/test_v1_speed.py
"""

import numpy as np
import pytest
import torch
from test_mmaction_v1_host import (
    inside,
    load,
    needs_v1,
    rates,
    run,
    work,  # noqa: F401
)

REFUSALS = """
import argparse
from hosts import HostError, v1_config
host.add_backbone()
for options in (
    dict(native=dict(custom_hooks=[])), dict(accumulate=2), dict(cuda_graph=True),
    dict(amp='half'),
    {'amp': 'bf16', 'model.backbone.type': 'ResNet'},
    {'auto_scale_lr.enable': True}, dict(class_names='none.txt'),
):
    cfg = v1_config.load_config('config.py', options)
    try:
        v1_config.check_config(cfg, argparse.Namespace(validate=False))
    except HostError as error:
        print('refused:', error)
"""


@needs_v1
def test_refusals(work):  # noqa: F811
    output = inside(work, REFUSALS)
    assert [line for line in output.splitlines() if line.startswith('refused: ')] == [
        'refused: native, which is for mmengine, cannot be honoured on mmaction v1: '
        'unset MMACTION_ROOT to run on mmaction2',
        'refused: accumulate=2 cannot be honoured on mmaction v1: unset MMACTION_ROOT '
        'to run on mmaction2',
        'refused: cuda_graph=True cannot be honoured on mmaction v1: unset '
        'MMACTION_ROOT to run on mmaction2',
        "refused: amp='half' should be bf16, fp16 or None",
        "refused: amp='bf16' needs model.backbone.type=ResNet_DNR, not 'ResNet'",
        'refused: auto_scale_lr.base_batch_size is missing: the clips a step that '
        'optimizer.lr was chosen for, over all processes, such as 64 for 8 GPUs with '
        '8 videos each',
        'refused: class_names: cannot read none.txt: No such file or directory',
    ]


@needs_v1
@pytest.mark.full
def test_training_and_testing(work):  # noqa: F811
    options = '--seed 0 --work_dir fast --amp --channels-last --auto-scale-lr'.split()
    scale = ['auto_scale_lr.base_batch_size=4', 'total_epochs=1']
    output = run(work, 'train', 1, 'config.py', *options, '--cfg-options', *scale)
    assert 'amp=bf16: the backbone computes in bfloat16' in output
    assert 'channels_last=True: the backbone' in output
    assert 'optimizer.lr is 0.01' in output
    assert rates(output) == [pytest.approx(0.01, rel=1e-3)]
    meta = torch.load(work / 'fast/epoch_1.pth', weights_only=True)['meta']
    assert meta['speed'] == dict(
        amp='bf16', channels_last=True, compile=None, cuda_graph=False, accumulate=1
    )
    scores = []
    for fast in ([], ['--amp', '--channels-last']):
        run(work, 'test', 1, 'config.py', 'fast/epoch_1.pth', '--out', 'f.pkl', *fast)
        scores.append(np.concatenate(load(work / 'f.pkl')))
    difference = np.abs(scores[0] - scores[1]).max()
    assert 0 < difference < 0.1 * np.abs(scores[0]).max()
    output = run(
        work,
        'train',
        1,
        'config.py',
        '--work_dir',
        'fast',
        '--resume',
        '--cfg-options',
        'total_epochs=2',
    )
    assert "amp is None and was 'bf16', channels_last is False and was True" in output
