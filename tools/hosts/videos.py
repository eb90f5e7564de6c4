"""Data sets of video files, and flips that change labels: for both hosts.

VideoDataset is mmaction v1's: a line of its list is a path, without its ending
where video_ext has it, and a label. Two keys are ours:

    skip_broken     in training, the next video stands for one that is broken
    flip_label_map  the labels that a mirrored video has instead of its own
"""

import multiprocessing
import os
import os.path as osp

from . import HostError
from .lists import VIDEO_FORM, read_list


class BrokenVideo(HostError):
    """A video file cannot be read; the text names the list, line and file."""


def video_files(ann_file, prefix, ending, num_classes=None, skip_broken=False):
    """The files that a list names; each is there.

    Args:
        ann_file (str): the list, of lines 'path label'.
        prefix (str): the folder that the paths are in.
        ending (str | None): follows each path and a dot; None where the list
            has the endings.
        num_classes (int | None): which labels must be below, None for any.
        skip_broken (bool): some may be missing, but not all.

    Returns:
        list[tuple]: a line's file (str), its label (int) and itself: where it
        stands (str), for messages.

    Raises:
        HostError: the list is faulty, or a file is missing; the text names
            the file and the line, and says how many are missing.
    """
    dot = f'.{ending}' if ending else ''
    videos = [
        (osp.join(prefix, path) + dot, label, f'{ann_file}, line {number}')
        for number, (path, label) in enumerate(
            read_list(ann_file, VIDEO_FORM, num_classes), 1
        )
    ]
    there = {}
    for file, _, _ in videos:  # a folder is read once, however many are in it
        folder = osp.dirname(file)
        if folder not in there:
            there[folder] = set(os.listdir(folder or '.')) if osp.isdir(folder) else ()
    missing = [
        (file, where)
        for file, _, where in videos
        if osp.basename(file) not in there[osp.dirname(file)]
    ]
    if missing and (not skip_broken or len(missing) == len(videos)):
        file, where = missing[0]
        folder, name = osp.split(file.removesuffix(dot))
        mend = 'img_prefix and video_ext in the config'
        if dot and name in there[folder]:
            mend = 'the list has the endings: set video_ext=None beside its ann_file'
        raise HostError(
            f'{where}: {file} does not exist; {len(missing)} of {len(videos)} '
            f'videos are missing ({mend})'
        )
    return videos


def check_skip_broken(split, data):
    """Only training can do with other videos than those of its list.

    Args:
        split (str): 'train', 'val' or 'test'.
        data (dict): data.SPLIT of a v1 config.

    Raises:
        HostError: skip_broken is set in another split.
    """
    if split != 'train' and data.get('skip_broken'):
        raise HostError(
            f'data.{split}.skip_broken=True: each video of the list has a score of '
            f'its own. tools/data/check_videos.py writes a list without broken ones'
        )


def check_flip_label_map(split, data, num_classes):
    """A map of labels that mirroring twice brings back.

    Args:
        split (str): 'train', 'val' or 'test'.
        data (dict): data.SPLIT of a v1 config.
        num_classes (int): of the head.

    Returns:
        dict | None: label to label, of int; None without one.

    Raises:
        HostError: flip_label_map is wrong, or nothing is flipped.
    """
    labels = data.get('flip_label_map')
    if labels is None:
        return None
    where = f'data.{split}.flip_label_map'
    if not isinstance(labels, dict) or not labels:
        raise HostError(
            f'{where}={labels!r} should be a dict such as {{86: 87, 87: 86}}, in a '
            'config file'
        )
    for label, other in labels.items():
        for value in (label, other):
            if not isinstance(value, int) or not 0 <= value < num_classes:
                raise HostError(
                    f'{where}: {label!r}: {other!r} has {value!r}, which is no label '
                    f'of the {num_classes} classes (0 to {num_classes - 1})'
                )
        if labels.get(other) != label:
            raise HostError(
                f'{where}: {label} becomes {other}, but {other} becomes '
                f'{labels.get(other, other)}; a video that is mirrored twice is '
                f'what it was: add {other}: {label}, or take {label} out'
            )
    if not data.get('flip_ratio', 0.5):
        raise HostError(f'{where} is set, but data.{split}.flip_ratio=0 flips no video')
    return dict(labels)


def mirrored_labels(classes):
    """Which labels a mirror swaps, by the words left and right in their names.

    Args:
        classes (list[str]): a name a label.

    Returns:
        dict: label to label, for those with a partner.
    """
    other = {'left': 'right', 'right': 'left'}
    numbers = {}
    for label, name in enumerate(classes):
        words = name.replace('_', ' ').replace('-', ' ').lower().split()
        numbers[tuple(words)] = label
    pairs = {}
    for words, label in numbers.items():
        mirrored = tuple(other.get(word, word) for word in words)
        if mirrored != words and mirrored in numbers:
            pairs[label] = numbers[mirrored]
    return dict(sorted(pairs.items()))


class Replacements:
    """Counts, over the processes that load data, what was replaced.

    Args:
        size (int): videos of the data set.
        ann_file (str): its list, for messages.
    """

    def __init__(self, size, ann_file):
        self.size, self.ann_file = size, ann_file
        self._count = multiprocessing.Value('q', 0)

    def first_good(self, index, load, tell):
        """A video, or the next one of the list that can be read.

        Args:
            index (int): of the video.
            load (callable): of an index; raises BrokenVideo.
            tell (callable): of a text, for the log.

        Returns:
            what load returns.

        Raises:
            HostError: not one of the list can be read.
        """
        for step in range(self.size):
            try:
                return load((index + step) % self.size)
            except BrokenVideo as error:
                with self._count.get_lock():
                    self._count.value += 1
                tell(f'{error}; the next one stands for it (skip_broken)')
        raise HostError(f'{self.ann_file}: not one of its videos can be read')

    def take_count(self):
        """The number since the last call."""
        with self._count.get_lock():
            count, self._count.value = self._count.value, 0
        return count
