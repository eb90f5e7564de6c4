"""tools/study/ridge.py: the regression, and clips across folds."""

import cv2
import numpy as np
import pytest
from hosts import HostError
from study import ridge


def test_scores_are_those_of_the_normal_equations():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(12, 5)), rng.normal(size=(3, 5))
    targets = rng.normal(size=(12, 2))
    (found,) = ridge.fit_and_score(train, targets, test, [0.3])
    centred = train - train.mean(0)
    penalty = 0.3 * (centred**2).sum() / 12
    weights = np.linalg.solve(
        centred.T @ centred + penalty * np.eye(5),
        centred.T @ (targets - targets.mean(0)),
    )
    wanted = (test - train.mean(0)) @ weights + targets.mean(0)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_across_folds():
    """Classes 1 and 4 by the sign of a number; class 2 takes no part."""
    rng = np.random.default_rng(0)
    labels = np.array([1, 4, 2, 1, 4, 2] * 8)
    folds = np.repeat([1, 2, 3, 4], 12)
    clips = rng.normal(scale=0.1, size=(48, 20))
    clips[labels == 1, 3] += 2
    clips[labels == 4, 3] -= 2
    found = ridge.across_folds(clips, labels, folds, [1, 4])
    assert found['accuracy'] == 1
    assert found['clips'] == 32
    assert [values['clips'] for values in found['folds'].values()] == [8] * 4
    # A fold whose signs are turned round is wrong, though its own fit would be right.
    clips[folds == 2] *= -1
    found = ridge.across_folds(clips, labels, folds, [1, 4])
    assert found['folds'][2]['right'] == 0


def test_numbers_of_a_clip(tmp_path):
    """Something bright that moves to the right, and the same clip backwards."""

    def make(name, places):
        (tmp_path / name).mkdir()
        for number, place in enumerate(places, 1):
            image = np.zeros((36, 48, 3), np.uint8)
            image[10:20, place : place + 6] = 255
            cv2.imwrite(str(tmp_path / name / f'image_{number:05d}.jpg'), image)
        return ridge.describe_clip(tmp_path / name, len(places))

    places = list(range(0, 36, 4))
    there, back = make('there', places), make('back', places[::-1])
    assert there.shape == (4 * 36 * 48,)
    assert np.linalg.norm(there) == pytest.approx(1)
    bins = there.reshape(4, 36, 48), back.reshape(4, 36, 48)
    np.testing.assert_allclose(bins[0], bins[1][::-1], atol=1e-6)
    columns = [(b.sum(0) * np.arange(48)).sum() / b.sum() for b in bins[0]]
    assert columns == sorted(columns)
    with pytest.raises(HostError, match='5 are the least'):
        ridge.describe_clip(tmp_path / 'there', 4)
    with pytest.raises(HostError, match='cannot read the frame'):
        ridge.describe_clip(tmp_path / 'there', 30)
