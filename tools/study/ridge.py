#!/usr/bin/env python
"""A simple baseline of the study of gestures: ridge regression on grey frames.

    python tools/study/ridge.py --out results/gestures/ridge.json

A clip is four bins of equal length in time. Each is the mean, over its frames, of the
absolute difference from the frame before, in grey, 48 x 36 pixels: 6,912 numbers in
order, which say where something moves when. (The grey frames themselves fail: the arm
is brighter than one scene and darker than the next.) They are divided by their length
as a vector, less their mean over the training clips. Scores of the classes are a
linear function of these, fitted by least squares to 1 for the class and -1 for the
others, with a penalty on the squared weights. The penalty is the one of
PENALTIES that has most training clips right when each of the three training folds in
turn is left out; of equals, the largest.

Three tasks: all classes, and each pair of classes that one another's reversal is, on
clips of that pair alone. No network, no pretraining, no GPU.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

from hosts import HostError, run  # noqa: E402
from hosts.lists import read_list, read_text  # noqa: E402
from run_description import describe_run  # noqa: E402
from whole_files import write_json  # noqa: E402

BINS, WIDTH, HEIGHT = 4, 48, 36
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # of the mean squared length
MIRRORED = (('left', 'right'), ('up', 'down'))
FOLDS = (1, 2, 3, 4)


def describe_clip(folder, frames):
    """A clip's numbers: (BINS * HEIGHT * WIDTH,) float, of length 1.

    Args:
        folder (Path): of its frames.
        frames (int): how many there are.
    """
    images = []
    for number in range(1, frames + 1):
        path = folder / f'image_{number:05d}.jpg'
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise HostError(f'cannot read the frame {path}')
        images.append(cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
    moves = abs(np.diff(np.array(images, float), axis=0))
    if len(moves) < BINS:
        raise HostError(f'{folder} has {frames} frames; {BINS + 1} are the least')
    parts = np.concatenate(
        [part.mean(0).ravel() for part in np.array_split(moves, BINS)]
    )
    return parts / max(np.linalg.norm(parts), 1e-12)


def fit_and_score(train, targets, test, penalties):
    """Scores of test clips by ridge regression with an intercept.

    Args:
        train (np.ndarray): (clips, numbers).
        targets (np.ndarray): (clips, classes), 1 and -1.
        test (np.ndarray): (test clips, numbers).
        penalties (sequence of float): times the mean squared length of a clip.

    Returns:
        list[np.ndarray]: (test clips, classes), one a penalty.
    """
    mean, offset = train.mean(0), targets.mean(0)
    train, test = train - mean, test - mean
    kernel = train @ train.T  # fewer clips than numbers: the dual form
    scale = np.trace(kernel) / len(kernel)
    values, vectors = np.linalg.eigh(kernel)
    across = test @ train.T @ vectors
    turned = vectors.T @ (targets - offset)
    return [
        across @ (turned / (values + penalty * scale)[:, None]) + offset
        for penalty in penalties
    ]


def one_against_others(labels, classes):
    """Targets, (clips, classes): 1 for the class and -1 for the others."""
    return np.where(labels[:, None] == np.asarray(classes), 1.0, -1.0)


def across_folds(clips, labels, folds, classes):
    """Predict each clip from the other folds.

    Args:
        clips (np.ndarray): (clips, numbers).
        labels, folds (np.ndarray): (clips,) int.
        classes (list[int]): labels that take part.

    Returns:
        dict: accuracy, of clips (their number), right by fold, and the penalty that
        was chosen for each fold.
    """
    inside = np.isin(labels, classes)
    clips, labels, folds = clips[inside], labels[inside], folds[inside]
    classes = np.array(classes)

    def right(train, test, penalties):
        """Clips of test that are right, by penalty."""
        targets = one_against_others(labels[train], classes)
        scores = fit_and_score(clips[train], targets, clips[test], penalties)
        return [int((classes[s.argmax(1)] == labels[test]).sum()) for s in scores]

    by_fold = {}
    for fold in np.unique(folds):
        train = folds != fold
        counts = np.zeros(len(PENALTIES), int)
        for other in np.unique(folds[train]):
            counts += right(train & (folds != other), folds == other, PENALTIES)
        penalty = max(zip(counts, PENALTIES))[1]
        (found,) = right(train, folds == fold, [penalty])
        by_fold[int(fold)] = dict(
            clips=int((folds == fold).sum()), right=found, penalty=penalty
        )
    total = sum(values['clips'] for values in by_fold.values())
    return dict(
        accuracy=sum(values['right'] for values in by_fold.values()) / total,
        clips=total,
        folds=by_fold,
    )


def main(args):
    args.out.parent.mkdir(parents=True, exist_ok=True)
    names = read_text(args.data / 'fold1' / 'classes.txt').split()
    clips, labels, folds = [], [], []
    for fold in FOLDS:
        listed = read_list(str(args.data / f'fold{fold}' / 'test_rawframes.txt'))
        for path, frames, label in listed:
            clips.append(describe_clip(args.data / 'frames' / path, frames))
            labels.append(label)
            folds.append(fold)
    clips, labels, folds = map(np.array, (clips, labels, folds))
    tasks = {'all': range(len(names))}
    for pair in MIRRORED:
        tasks['/'.join(pair)] = [names.index(name) for name in pair]
    found = {
        task: across_folds(clips, labels, folds, list(classes))
        for task, classes in tasks.items()
    }
    write_json(
        args.out,
        dict(
            study='gestures',
            baseline='ridge',
            **describe_run(torch.device('cpu'), args.commit, numpy=np.__version__),
            bins=BINS,
            size=[WIDTH, HEIGHT],
            penalties=PENALTIES,
            tasks=found,
        ),
    )
    for task, values in found.items():
        print(f'{task:12} {values["accuracy"]:.3f} of {values["clips"]} clips')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--data',
        type=Path,
        default=Path('data/gestures'),
        help='what tools/study/prepare_gestures.sh made (default: %(default)s)',
    )
    parser.add_argument('--out', type=Path, required=True, help='JSON file')
    parser.add_argument('--commit', help='what the result says of the source')
    return parser.parse_args()


if __name__ == '__main__':
    run(main, parse_args())
