#!/usr/bin/env python3
"""Lists of UCF101, from its official split files.

    python tools/data/prepare_ucf101.py ANNOTATIONS VIDEOS data/ucf101

ANNOTATIONS is ucfTrainTestlist: classInd.txt, of lines NUMBER CLASS, and
trainlist01.txt and testlist01.txt to 03, of lines CLASS/NAME.avi (and the number).
VIDEOS has the videos, in folders of classes or in none.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.prepared_sets import label_of, main, read_lines, write_prepared  # noqa: E402
from data.video_sets import HostError, Videos  # noqa: E402


def read_classes(path):
    """The classes' names in the order of their numbers, which begin at 1."""
    classes = []
    for line, text in read_lines(path):
        number, _, name = text.partition(' ')
        if number != str(len(classes) + 1) or not name.strip():
            raise HostError(
                f'{path}, line {line}: {text!r} is not class {len(classes) + 1}'
            )
        classes.append(name.strip())
    return classes


def prepare(args):
    classes = read_classes(args.annotations / 'classInd.txt')
    labels = {name: label for label, name in enumerate(classes)}
    lists = {}
    for split in (1, 2, 3):
        for part in ('train', 'test'):
            path = args.annotations / f'{part}list{split:02d}.txt'
            if not path.is_file() and split > 1:
                continue
            lists[f'{part}_split{split}.txt'] = []
            for line, text in read_lines(path):
                name, _, file = text.split()[0].rpartition('/')
                label = label_of(name, labels, path, f'line {line}')
                key = f'{name}/{os.path.splitext(file)[0]}'
                lists[f'{part}_split{split}.txt'].append((key, label))
    write_prepared(args, lists, classes, Videos(args.videos).find_name)


if __name__ == '__main__':
    main(prepare, __doc__, 'folder of the split files')
