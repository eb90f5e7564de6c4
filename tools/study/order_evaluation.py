"""What a network makes of clips whose frames are in another order."""

import numpy as np


def order(trained):
    """Scores of the test clips as they are, shuffled and reversed.

    Args:
        trained (TrainedRun): the run.

    Returns:
        dict: labels, a list of int; scores, a dict from plain, shuffled and
        reversed to a list of a row of raw scores a clip, rounded to 4 digits; and
        largest_difference_of_a_score from the testing script's.
    """
    model, clips = trained.build(), trained.clips
    plain = trained.scores(model, clips, trained.batch)
    tested = trained.check_results(plain)
    length = clips[0]['inputs'].size(axis_of_frames(clips[0]))
    orders = permutations(len(clips), length, trained.seed)
    backwards = np.arange(length)[::-1].copy()
    scores = dict(
        plain=plain,
        shuffled=trained.scores(
            model, [reorder(c, o) for c, o in zip(clips, orders)], trained.batch
        ),
        reversed=trained.scores(
            model, [reorder(c, backwards) for c in clips], trained.batch
        ),
    )
    return dict(
        labels=trained.labels.tolist(),
        scores={name: values.round(4).tolist() for name, values in scores.items()},
        largest_difference_of_a_score=float(abs(tested - plain).max()),
    )


def axis_of_frames(clip):
    """Of a clip's tensor: (T, 3, H, W), or (1, 3, T, H, W) for 3D networks."""
    return 0 if clip['inputs'].dim() == 4 else 2


def reorder(clip, order):
    """A clip with its frames in another order.

    Args:
        clip (dict): of a data set.
        order (np.ndarray): (frames,) of int, places of the frames.
    """
    frames = clip['inputs']
    places = np.asarray(order).tolist()
    axis = axis_of_frames(clip)
    return dict(
        clip, inputs=frames.index_select(axis, frames.new_tensor(places).long())
    )


def permutations(clips, length, seed):
    """An order of the frames for each clip, at random: neither forwards nor backwards.

    Args:
        clips (int): how many.
        length (int): frames of each, at least 3.
        seed (int): the same one gives the same orders.

    Returns:
        list[np.ndarray]: (length,) of int.
    """
    rng = np.random.default_rng(seed)
    plain = np.arange(length)
    found = []
    while len(found) < clips:
        order = rng.permutation(length)
        if not ((order == plain).all() or (order == plain[::-1]).all()):
            found.append(order)
    return found
