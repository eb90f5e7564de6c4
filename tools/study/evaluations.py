"""What can be evaluated of a run, by the names that studies use.

An evaluation returns a dict that becomes keys of the run's JSON. Those in OF_SCORES
take what the testing script has written, which costs nothing. Those in OF_NETWORK take
the trained network, and are done by tools/study/evaluate_run.py in a process of its
own, on the run's device.
"""

import importlib
import pickle

import numpy as np
from hosts import HostError


def accuracies(predicted, labels, classes):
    """How many clips are right, where classes 2k and 2k + 1 are a pair.

    Args:
        predicted (np.ndarray): classes, (clips,) of int.
        labels (np.ndarray): true classes, (clips,) of int.
        classes (int): how many there are.

    Returns:
        dict: top1 (float), the share of clips whose class is predicted; pair
        (float), of clips whose predicted class is of the right pair; order (float
        | None), of the clips whose pair is right, the share whose class is;
        confusion, a list of lists of int: clips, true classes down, predicted
        ones across.
    """
    right = predicted == labels
    right_pair = predicted // 2 == labels // 2
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    return dict(
        top1=float(right.mean()),
        pair=float(right_pair.mean()),
        order=float(right[right_pair].mean()) if right_pair.any() else None,
        confusion=confusion.tolist(),
    )


def pairs(scores, labels):
    """The accuracies of a test, of classes in pairs.

    Args:
        scores (np.ndarray): (clips, classes) float.
        labels (np.ndarray): (clips,) int.

    Returns:
        dict: evaluation, which has those of :func:`accuracies` under test.
    """
    found = accuracies(scores.argmax(1), labels, scores.shape[1])
    return dict(evaluation=dict(test=found))


def top1(scores, labels):
    """The accuracy of a test.

    Args:
        scores, labels: as :func:`pairs` has them.

    Returns:
        dict: evaluation, which has top1 under test.
    """
    return dict(
        evaluation=dict(test=dict(top1=float((scores.argmax(1) == labels).mean())))
    )


OF_SCORES = dict(pairs=pairs, top1=top1)
# Functions of an evaluate_run.TrainedRun: the module, which has one of that name.
OF_NETWORK = dict(
    statistics='study.statistics_evaluation',
    relay='study.statistics_evaluation',
    order='study.order_evaluation',
)


def check_names(names, where):
    """Evaluations that a study names are there.

    Args:
        names (list[str]): of the study.
        where (str): in it.

    Raises:
        HostError: one is not.
    """
    known = {**OF_SCORES, **OF_NETWORK}
    for name in names:
        if name not in known:
            raise HostError(
                f'{where}: {name} is no evaluation; there are {", ".join(known)}'
            )


def of_network(name):
    """The function of an evaluation of OF_NETWORK."""
    return getattr(importlib.import_module(OF_NETWORK[name]), name)


def read_scores(path):
    """The testing script's results: (videos, classes) float32.

    Args:
        path (Path): its --out.
    """
    with open(path, 'rb') as file:
        return np.concatenate(pickle.load(file))
