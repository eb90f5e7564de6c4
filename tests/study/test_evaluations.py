"""tools/study/evaluations.py: figures of scores."""

import numpy as np
from study import evaluations


def test_accuracies():
    # Pairs (0, 1) and (2, 3): right, mirrored, other pair, right.
    found = evaluations.accuracies(np.array([0, 0, 1, 3]), np.array([0, 1, 2, 3]), 4)
    assert found == dict(
        top1=0.5,
        pair=0.75,
        order=2 / 3,
        confusion=[[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
    )
    nothing = evaluations.accuracies(np.array([0, 2]), np.array([3, 1]), 4)
    assert (nothing['top1'], nothing['pair'], nothing['order']) == (0, 0, None)
