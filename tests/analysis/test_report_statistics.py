"""tools/analysis/report_statistics.py: its figures, computed another way."""

import math

import numpy as np
import pytest
from analysis.report_statistics import (
    Result,
    accuracies,
    calibration,
    compare,
    compare_classes,
    confused_pairs,
    mcnemar,
    mean_class_interval,
    mean_interval,
    order_classes,
    wilson,
)


def result_of(predicted, labels, classes, sure=0.6):
    """A result that predicts these classes, each with probability `sure`."""
    rest = (1 - sure) / (classes - 1)
    shares = np.full((len(labels), classes), rest)
    shares[np.arange(len(labels)), predicted] = sure
    return Result('name', np.log(shares), np.array(labels))


@pytest.mark.parametrize('right, total', ((0, 5), (5, 5), (7, 9), (700, 1000)))
def test_wilson_by_its_formula(right, total):
    z, p = 1.959963984540054, right / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = math.sqrt(p * (1 - p) / total + (z / (2 * total)) ** 2)
    half *= z / (1 + z * z / total)
    assert wilson(right, total) == pytest.approx((centre - half, centre + half))


@pytest.mark.parametrize('gained, lost', ((0, 0), (1, 0), (8, 1), (30, 30), (3, 12)))
def test_mcnemar_is_the_binomial_tail(gained, lost):
    count, few = gained + lost, min(gained, lost)
    tail = sum(math.comb(count, k) for k in range(few + 1)) / 2**count
    assert mcnemar(gained, lost) == pytest.approx(min(1, 2 * tail))


def test_the_bootstrap_is_as_wide_as_theory_says():
    gained, lost, totals = map(np.array, ([300, 40], [100, 60], [1000, 400]))
    shares = (gained - lost) / totals
    variance = ((gained + lost) / totals - shares**2) / totals
    half = 1.96 * math.sqrt(variance.sum()) / 2  # of the mean over two classes
    low, high = mean_class_interval(gained, lost, totals)
    assert low == pytest.approx(shares.mean() - half, abs=0.003)
    assert high == pytest.approx(shares.mean() + half, abs=0.003)


def test_accuracies_are_those_that_testing_prints(tmp_path, capsys):
    from hosts.mmaction2_components import V1Results

    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 4, 5, 6], 200)  # nothing is of class 3
    scores = rng.normal(size=(200, 7)).astype(np.float32)
    scores[np.arange(200), labels] += 1
    V1Results(str(tmp_path / 'a.pkl')).compute_metrics(
        [(score[None], int(label)) for score, label in zip(scores, labels)]
    )
    printed = dict(
        line.split(' Accuracy = ')
        for line in capsys.readouterr().out.splitlines()
        if ' Accuracy = ' in line
    )
    figures = accuracies(Result('name', scores, labels))
    for name, text in printed.items():
        share, low, high = figures[name.replace('Class', 'class')]
        assert f'{100 * share:.02f}' == text
        assert low < share < high


def test_two_results_of_the_same_clips():
    labels = [0] * 40 + [1] * 40
    first = result_of([0] * 20 + [1] * 20 + [1] * 40, labels, 3)
    second = result_of([0] * 38 + [2] * 2 + [1] * 39 + [0], labels, 3)
    whole = compare(first, second)
    assert (whole['both'], whole['gained'], whole['lost'], whole['neither']) == (
        *(59, 18, 1),
        2,
    )
    assert whole['difference'] == pytest.approx(17 / 80)
    assert whole['low'] < 17 / 80 < whole['high'] and whole['p'] < 0.001
    changes = compare_classes(first, second)
    assert set(changes) == {0, 1}  # of class 2 there is no clip
    assert changes[0]['q'] < 0.001 and changes[0]['difference'] == pytest.approx(0.45)
    assert changes[1]['q'] == 1 and changes[1]['difference'] == pytest.approx(-1 / 40)
    same = compare(first, first)
    assert same['p'] == 1 and same['low'] == same['difference'] == same['high'] == 0


def test_of_many_classes_that_are_alike_few_differ():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(100), 40)
    results = [
        result_of(
            np.where(rng.random(4000) < 0.7, labels, (labels + 1) % 100), labels, 100
        )
        for _ in range(2)
    ]
    changes = compare_classes(*results)
    assert min(change['p'] for change in changes.values()) < 0.05  # by chance
    assert sum(change['q'] <= 0.05 for change in changes.values()) == 0


def test_calibration_by_hand():
    labels = [0] * 10
    sure = result_of([0] * 5 + [1] * 5, labels, 2, 0.9)  # right in half of them
    error, bins = calibration(sure)
    assert error == pytest.approx(0.4)
    assert bins == [dict(clips=10, right=5, confidence=pytest.approx(0.9))]
    certain = Result('name', np.array([[1e4, 0.0]]), np.array([0]))
    assert calibration(certain)[0] == 0  # a confidence of 1 is in the last bin


def test_pairs_and_order_of_classes():
    labels = [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
    predicted = [3] * 4 + [0] * 2 + [1] * 5 + [2] + [2] * 6 + [0] * 3 + [3] * 3
    result = result_of(predicted, labels, 4)
    assert confused_pairs(result) == [(0, 3, 4), (3, 0, 3), (1, 2, 1)]
    order = order_classes([result])
    assert sorted(order) == [0, 1, 2, 3]
    assert abs(order.index(0) - order.index(3)) == 1
    assert result.wrong.tolist() == [0, 1, 2, 3, 11, 18, 19, 20]


def test_interval_of_a_mean():
    """Of clips that are right or wrong, it is the binomial one."""
    values = np.repeat([0.0, 1.0], [60, 140])
    low, high = mean_interval(values)
    deviation = (0.7 * 0.3 / 200) ** 0.5
    assert low == pytest.approx(0.7 - 1.96 * deviation, abs=0.01)
    assert high == pytest.approx(0.7 + 1.96 * deviation, abs=0.01)
    assert mean_interval(values * 2 - 1) == pytest.approx((2 * low - 1, 2 * high - 1))
    assert mean_interval(np.full(5, 2 / 3)) == pytest.approx((2 / 3, 2 / 3))
