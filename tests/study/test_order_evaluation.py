"""tools/study/order_evaluation.py: clips in another order."""

import numpy as np
import pytest
import torch
from study import order_evaluation


def test_permutations():
    orders = order_evaluation.permutations(50, 3, seed=1)
    assert len(orders) == 50
    for order in orders:
        assert sorted(order) == [0, 1, 2]
        assert list(order) not in ([0, 1, 2], [2, 1, 0])
    again = order_evaluation.permutations(50, 3, seed=1)
    assert np.array_equal(orders, again)
    other = order_evaluation.permutations(50, 3, seed=2)
    assert not np.array_equal(orders, other)


@pytest.mark.parametrize('shape, axis', [((4, 3, 2, 2), 0), ((1, 3, 4, 2, 2), 2)])
def test_frames_of_2d_and_3d_clips(shape, axis):
    frames = torch.rand(shape)
    clip = dict(inputs=frames, other=1)
    order = [2, 0, 3, 1]
    found = order_evaluation.reorder(clip, order)
    assert found['other'] == 1
    for place, frame in enumerate(order):
        assert torch.equal(
            found['inputs'].select(axis, place), frames.select(axis, frame)
        )
    assert torch.equal(clip['inputs'], frames)
