"""Shared by the tests of tools/study: a small study, and how it is called."""

import json

import torch
from conftest import ROOT
from script_calls import call, run

STUDY = ROOT / 'tools/study/study.py'
ARROW = ROOT / 'configs/arrow/study.py'
BOTH, NONE = 'both_b8_g4_s0', 'none_b8_g4_s0'
BROKEN = 'none_b8_g4_s1'
# The first two stages of ResNet-18, on script_calls.make_clips(FOLDER, 'data/small').
SMALL = [
    '--jobs',
    '2',
    '--commit',
    'of the test',
    '--cfg-options',
    *(
        f'data.{split}.{key}'
        for split in ('train', 'val', 'test')
        for key in (
            'img_scale=32',
            'input_size=32',
            f'ann_file=data/small/{split}.txt',
            f'img_prefix=data/small/rawframes/{split}',
        )
    ),
    'data.workers_per_gpu=1',
    'model.backbone.depth=18',
    'model.backbone.num_stages=2',
    'model.backbone.strides=[1,2]',
    'model.backbone.dilations=[1,1]',
    'model.backbone.out_indices=[1]',
    'model.cls_head.in_channels=128',
    'model.spatial_temporal_module.spatial_size=4',
    'model.cls_head.num_classes=4',
    'optimizer.lr=0.05',
    'lr_config.warmup_iters=10',
    'log_config.interval=4',
    'total_epochs=3',
]
# Two epochs, which are not enough to learn.
TINY = [*SMALL, 'total_epochs=2']


def study(*arguments, cwd, code=0, file=ARROW):
    """Run a study on a CPU to its end and return what it printed."""
    if torch.cuda.is_available():  # in this process it would take the GPU
        return run(STUDY, file, *arguments, cwd=cwd, code=code)
    found, output = call(STUDY, file, *arguments, cwd=cwd)
    if isinstance(found, str):
        found, output = 1, output + found
    assert found == code, output
    return output


def result(folder, name):
    return json.loads((folder / f'results/arrow/{name}.json').read_text())
