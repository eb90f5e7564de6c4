#!/usr/bin/env python3
"""Lists of HMDB51, from its official split files.

    python tools/data/prepare_hmdb51.py ANNOTATIONS VIDEOS data/hmdb51

ANNOTATIONS is testTrainMulti_7030_splits: CLASS_test_split1.txt to 3 for each class,
of lines NAME.avi and 1 (training), 2 (testing) or 0 (neither). VIDEOS has the videos,
in folders of classes or in none. Labels are the places of the classes' names
in alphabetical order.
"""

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.prepared_sets import main, read_lines, write_prepared  # noqa: E402
from data.video_sets import HostError, Videos  # noqa: E402

FILE = re.compile(r'(.+)_test_split([123])\.txt')


def prepare(args):
    files = {}
    for path in sorted(args.annotations.iterdir()):
        match = FILE.fullmatch(path.name)
        if match:
            files[match[1], int(match[2])] = path
    classes = sorted({name for name, _ in files})
    if not classes:
        raise HostError(f'{args.annotations} has no files CLASS_test_split1.txt')
    lists = {}
    for split in sorted({split for _, split in files}):
        parts = {1: [], 2: []}
        for label, name in enumerate(classes):
            if (name, split) not in files:
                raise HostError(
                    f'{args.annotations} has no {name}_test_split{split}.txt'
                )
            path = files[name, split]
            for line, text in read_lines(path):
                file, _, part = text.rpartition(' ')
                if part not in ('0', '1', '2') or not file.strip():
                    raise HostError(
                        f'{path}, line {line}: {text!r} should be a name and 0, 1 or 2'
                    )
                if part != '0':
                    key = f'{name}/{os.path.splitext(file.strip())[0]}'
                    parts[int(part)].append((key, label))
        lists[f'train_split{split}.txt'], lists[f'test_split{split}.txt'] = (
            parts[1],
            parts[2],
        )
    write_prepared(args, lists, classes, Videos(args.videos).find_name)


if __name__ == '__main__':
    main(prepare, __doc__, 'folder of the split files')
