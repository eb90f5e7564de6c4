#!/usr/bin/env python3
"""Lists of Something-Something V1, from its official CSV files.

    python tools/data/prepare_sthv1.py ANNOTATIONS VIDEOS data/sthv1

ANNOTATIONS has something-something-v1-labels.csv, a class a line, and
...-train.csv and ...-validation.csv, of lines ID;CLASS. VIDEOS has the frames,
ID/00001.jpg and so on, which are counted. Labels are the places in the labels
file, from 0.
"""

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.prepared_sets import label_of, main, read_lines, write_prepared  # noqa: E402
from data.side_by_side import side_by_side  # noqa: E402
from data.video_sets import HostError  # noqa: E402

FRAME = re.compile(r'\d{5}\.jpg')


def count_frames(folder):
    """The number of frames in a folder.

    Args:
        folder (str): of 00001.jpg and so on.

    Returns:
        tuple: the number, 0 without the folder, and what is wrong (None).
    """
    if not os.path.isdir(folder):
        return 0, None
    names = sorted(name for name in os.listdir(folder) if FRAME.fullmatch(name))
    if not names:
        return 0, 'it has no frames 00001.jpg and so on'
    if names[-1] != f'{len(names):05d}.jpg':
        return 0, f'it has {len(names)} frames, but they go up to {names[-1]}'
    return len(names), None


def read_part(path, labels):
    """The videos of a split: (ID, label) each."""
    videos = []
    for line, text in read_lines(path):
        key, semicolon, name = text.partition(';')
        if not semicolon or not key.isdigit():
            raise HostError(f'{path}, line {line}: {text!r} should be ID;CLASS')
        videos.append((key, label_of(name, labels, path, f'line {line}')))
    return videos


def prepare(args):
    def file(name):
        return args.annotations / f'something-something-v1-{name}.csv'

    classes = [name for _, name in read_lines(file('labels'))]
    labels = {name: label for label, name in enumerate(classes)}
    lists = {
        'train.txt': read_part(file('train'), labels),
        'val.txt': read_part(file('validation'), labels),
    }
    keys = sorted({key for videos in lists.values() for key, _ in videos})
    folders = [str(Path(args.videos) / key) for key in keys]
    counts = side_by_side(count_frames, folders, args.workers, 'counting frames')
    frames = {}
    for (count, fault), key, folder in zip(counts, keys, folders):
        if fault:
            print(f'{folder}: {fault}')
        elif count:
            frames[key] = count
    write_prepared(
        args, lists, classes, lambda key: key if key in frames else None, frames
    )


if __name__ == '__main__':
    main(prepare, __doc__, 'folder of the CSV files', workers=True)
