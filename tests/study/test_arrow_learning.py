"""What the arrow study finds, on a CPU: both sees the order, none does not.

The first two stages of ResNet-18 on 32 x 32 clips of two pairs, one seed.
"""

import shutil

import pytest
import torch
from script_calls import make_clips
from studies import BOTH, NONE, SMALL, result, study

pytestmark = pytest.mark.full


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """The folder after a study."""
    folder = make_clips(
        tmp_path_factory.mktemp('learning'), 'data/small', train=80, val=5, test=30
    )
    study('--only', BOTH, NONE, *SMALL, cwd=folder)
    return folder


def test_both_sees_the_order_and_none_does_not(small):
    both = result(small, BOTH)['evaluation']['grouped']
    none = result(small, NONE)['evaluation']['grouped']
    assert both['top1'] > 0.75
    assert both['order'] > 0.8
    assert none['pair'] > 0.6
    assert 0.35 < none['order'] < 0.65


def test_evaluation_is_not_below_training_mode(small):
    """Where statistics of 8 clips are noisy themselves, by more than a few points."""
    both = result(small, BOTH)
    assert both['gap'] < 0.06
    modes = both['evaluation']
    for mode in ('large_batch', 'recalibrated'):
        assert abs(modes[mode]['top1'] - modes['grouped']['top1']) < 0.06


def test_relay_tells_the_directions_of_a_pair(small):
    clips = result(small, 'relay')['clips']
    assert any(
        (clip['predicted'], clip['reversed_predicted'])
        == (clip['label'], clip['reversed_label'])
        for clip in clips
    )


def test_wrong_running_statistics_are_estimated_anew(small, tmp_path):
    shutil.copytree(small / 'data', tmp_path / 'data')
    work = tmp_path / 'work_dirs/arrow' / BOTH
    shutil.copytree(small / 'work_dirs/arrow' / BOTH, work)
    checkpoint = torch.load(work / 'epoch_3.pth', weights_only=False)
    for name, value in checkpoint['state_dict'].items():
        if name.endswith('running_mean'):
            value += 1
    torch.save(checkpoint, work / 'epoch_3.pth')
    (work / 'results.pkl').unlink()  # to test it again
    study('--only', BOTH, *SMALL, cwd=tmp_path)
    modes = result(tmp_path, BOTH)['evaluation']
    right = result(small, BOTH)['evaluation']
    assert modes['grouped']['top1'] < right['grouped']['top1'] - 0.2
    for mode in ('batch', 'large_batch', 'recalibrated'):
        assert modes[mode] == right[mode]
