"""A small network with a checkpoint, and clips, for the tools that look at them."""

import pytest
import torch
from conftest import ROOT
from script_calls import make_clips

TOOLS = ROOT / 'tools' / 'analysis'
NAMES = ['grow', 'shrink', 'a <b>&$x$', 'dim "é"']  # of the classes
CONFIG = """
_base_ = {base!r}
model = dict(
    backbone=dict(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,)),
    spatial_temporal_module=dict(spatial_size=8),
    cls_head=dict(in_channels=64),
)
"""


def save_checkpoint(folder, name, **options):
    """Weights at random in which the groups of frames differ.

    Args:
        folder (Path): with config.py; the checkpoint goes there.
        name (str): of the checkpoint's file.
        **options: a dict, values of the config by dotted keys.
    """
    from video_inputs import build_recognizer, testing_config

    torch.manual_seed(0)
    model = build_recognizer(testing_config(str(folder / 'config.py'), **options))
    model.init_weights()
    for key, value in model.state_dict().items():
        if key.endswith('running_mean'):
            value.normal_(0, 0.3)
        elif key.endswith('running_var'):
            value.uniform_(0.5, 2)
        elif '.relay.' in key:
            value.normal_(0, 0.3)
    torch.save(dict(state_dict=model.state_dict()), folder / name)


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """A folder with config.py, small.pth, classes.txt and data/arrow."""
    folder = tmp_path_factory.mktemp('small')
    (folder / 'data').mkdir()
    make_clips(folder, 'data/arrow', 1, 1, 3)
    base = str(ROOT / 'configs' / 'DNR_resnet18_arrow_demo.py')
    (folder / 'config.py').write_text(CONFIG.format(base=base))
    (folder / 'classes.txt').write_text('\n'.join(NAMES), encoding='utf-8')
    save_checkpoint(folder, 'small.pth')
    return folder


def frames_of(folder):
    """A folder of frames of the test clips, and its label."""
    path, _, label = (folder / 'data/arrow/test.txt').read_text().split('\n')[0].split()
    return folder / 'data/arrow/rawframes/test' / path, int(label)
