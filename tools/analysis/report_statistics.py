"""The figures of tools/analysis/report.py: what scores and labels say.

Intervals are at 95 %. They count each clip as one by itself: clips that were
cut from one video are alike, and the intervals are then too narrow.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.cluster import hierarchy
from scipy.special import softmax
from scipy.stats import binomtest, false_discovery_control

DRAWS = 10_000  # of a bootstrap
BINS = 15  # of the calibration, of equal width


@dataclass(frozen=True)
class Result:
    """The scores of a test, and the labels.

    Attributes:
        name (str): what the page calls it.
        scores (np.ndarray): (clips, classes) float, raw.
        labels (np.ndarray): (clips,) int.
    """

    name: str
    scores: np.ndarray
    labels: np.ndarray

    @property
    def classes(self):
        return self.scores.shape[1]

    @cached_property
    def probabilities(self):
        """(clips, classes): softmax of the scores."""
        return softmax(self.scores.astype(np.float64), axis=1)

    @cached_property
    def predicted(self):
        """(clips,) int: the class with the highest score."""
        return self.scores.argmax(1)

    @cached_property
    def confidence(self):
        """(clips,): the probability of the predicted class."""
        return self.probabilities.max(1)

    @cached_property
    def hits(self):
        """(clips,) bool."""
        return self.predicted == self.labels

    @cached_property
    def top5(self):
        """(clips,) bool: the label is one of the five with the highest scores."""
        best = np.argsort(self.scores, axis=1)[:, -5:]
        return (best == self.labels[:, None]).any(1)

    @cached_property
    def confusion(self):
        """(classes, classes) int: clips by label and by predicted class."""
        matrix = np.zeros((self.classes, self.classes), int)
        np.add.at(matrix, (self.labels, self.predicted), 1)
        return matrix

    @cached_property
    def wrong(self):
        """Places of the wrong clips, those of the highest confidence first."""
        wrong = np.flatnonzero(~self.hits)
        return wrong[np.argsort(-self.confidence[wrong], kind='stable')]


def wilson(right, total):
    """Wilson's score interval of a share.

    Args:
        right, total (int): clips; total is at least 1.

    Returns:
        tuple[float]: its ends, from 0 to 1.
    """
    interval = binomtest(int(right), int(total)).proportion_ci(method='wilson')
    return float(interval.low), float(interval.high)


def mcnemar(gained, lost):
    """McNemar's exact test of two results for the same clips.

    Args:
        gained (int): clips that only the second has right.
        lost (int): clips that only the first has right.

    Returns:
        float: how probable a difference of this size or more is, where chance
        alone decides which result has such a clip right.
    """
    both = int(gained + lost)
    return float(binomtest(int(gained), both).pvalue) if both else 1.0


def per_class(values, labels, classes):
    """Sums over the clips of each class: (classes,)."""
    return np.bincount(labels, weights=values, minlength=classes).astype(int)


def mean_class_interval(gained, lost, totals):
    """Bootstrap interval of a mean over classes, of clips drawn within classes.

    Drawing the clips of a class anew is drawing how many of them gain and
    lose: these counts are drawn.

    Args:
        gained, lost (np.ndarray): (classes,) clips that count 1 and -1; the
            others count 0.
        totals (np.ndarray): (classes,) clips, at least 1.

    Returns:
        tuple[float]: the ends.
    """
    rng = np.random.default_rng(0)
    draws = np.zeros(DRAWS)
    for up, down, total in zip(gained, lost, totals):
        shares = np.array([up, down, total - up - down]) / total
        counts = rng.multinomial(total, shares, size=DRAWS)
        draws += (counts[:, 0] - counts[:, 1]) / total
    low, high = np.quantile(draws / len(totals), (0.025, 0.975))
    return float(low), float(high)


def mean_interval(values):
    """Bootstrap interval of a mean over clips, of clips drawn with replacement.

    Drawing clips anew is drawing how many of them have each value.

    Args:
        values (np.ndarray): (clips,) float, such as the share of runs that have a
            clip right. There are few different ones.

    Returns:
        tuple[float]: the ends.
    """
    distinct, counts = np.unique(values, return_counts=True)
    total = len(values)
    drawn = np.random.default_rng(0).multinomial(total, counts / total, size=DRAWS)
    low, high = np.quantile(drawn @ distinct / total, (0.025, 0.975))
    return float(low), float(high)


def accuracies(result):
    """The accuracies that testing prints, with their intervals.

    Args:
        result (Result): a test's.

    Returns:
        dict: a name to (share, low, high, what the interval is).
    """
    count = len(result.labels)
    totals = np.bincount(result.labels)
    occur = totals > 0
    hits = per_class(result.hits, result.labels, len(totals))[occur]
    figures = {'Top-1': (result.hits.mean(), *wilson(result.hits.sum(), count))}
    if result.classes > 5:
        figures['Top-5'] = (result.top5.mean(), *wilson(result.top5.sum(), count))
    figures['Mean class'] = (
        (hits / totals[occur]).mean(),
        *mean_class_interval(hits, np.zeros_like(hits), totals[occur]),
    )
    return {name: tuple(map(float, values)) for name, values in figures.items()}


def compare(first, second):
    """What the second result has more of than the first, of the same clips.

    Args:
        first, second (Result): of one list.

    Returns:
        dict: difference (share of clips), low, high (its interval, by a paired
        bootstrap), p (of :func:`mcnemar`), and the numbers of clips both,
        gained, lost, neither.
    """
    gained = int((second.hits & ~first.hits).sum())
    lost = int((first.hits & ~second.hits).sum())
    count = len(first.labels)
    low, high = mean_class_interval([gained], [lost], [count])
    both = int((first.hits & second.hits).sum())
    return dict(
        difference=(gained - lost) / count,
        low=low,
        high=high,
        p=mcnemar(gained, lost),
        both=both,
        gained=gained,
        lost=lost,
        neither=count - both - gained - lost,
    )


def compare_classes(first, second):
    """The same of each class that occurs.

    Args:
        first, second (Result): of one list.

    Returns:
        dict: a label to a dict of difference, p, and q: the p of all classes
        by Benjamini and Hochberg. Of the classes with q up to 0.05, a
        twentieth differs by chance alone, on average.
    """
    classes = first.classes
    gained = per_class(second.hits & ~first.hits, first.labels, classes)
    lost = per_class(first.hits & ~second.hits, first.labels, classes)
    totals = np.bincount(first.labels, minlength=classes)
    occur = np.flatnonzero(totals)
    ps = [mcnemar(gained[label], lost[label]) for label in occur]
    return {
        int(label): dict(
            difference=float((gained[label] - lost[label]) / totals[label]),
            p=p,
            q=float(q),
        )
        for label, p, q in zip(occur, ps, false_discovery_control(ps))
    }


def calibration(result):
    """Whether a probability is the share of clips that are right.

    Args:
        result (Result): a test's.

    Returns:
        tuple: the expected calibration error (float): the mean over clips of
        the distance, in the clip's bin, between the mean confidence and the
        accuracy; and for each bin that has clips a dict of clips, right
        (numbers) and confidence (mean).
    """
    place = np.minimum((result.confidence * BINS).astype(int), BINS - 1)
    bins, error = [], 0.0
    for number in range(BINS):
        inside = place == number
        if inside.any():
            confidence = float(result.confidence[inside].mean())
            error += abs(result.hits[inside].mean() - confidence) * inside.mean()
            bins.append(
                dict(
                    clips=int(inside.sum()),
                    right=int(result.hits[inside].sum()),
                    confidence=confidence,
                )
            )
    return float(error), bins


def confused_pairs(result):
    """Pairs of a label and another class that was predicted, the most first.

    Args:
        result (Result): a test's.

    Returns:
        list[tuple[int]]: label, predicted class, number of clips.
    """
    wrong = result.confusion.copy()
    np.fill_diagonal(wrong, 0)
    pairs = [(int(a), int(b), int(wrong[a, b])) for a, b in np.argwhere(wrong)]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))


def order_classes(results):
    """An order in which classes that are confused stand beside each other.

    Args:
        results (list[Result]): of one list.

    Returns:
        list[int]: all labels.
    """
    confusion = sum(result.confusion for result in results).astype(float)
    if len(confusion) < 3:
        return list(range(len(confusion)))
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    likeness = np.minimum((shares + shares.T) / 2, 1)
    above = np.triu_indices(len(likeness), 1)
    tree = hierarchy.linkage(1 - likeness[above], 'average', optimal_ordering=True)
    return hierarchy.leaves_list(tree).tolist()
