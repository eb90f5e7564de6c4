#!/usr/bin/env python3
"""Lists of Kinetics-400, from its official CSV files.

    python tools/data/prepare_kinetics400.py ANNOTATIONS VIDEOS data/kinetics400

ANNOTATIONS has train.csv, val.csv (or validate.csv) and perhaps test.csv, or
the same with kinetics_ or kinetics400_ before: columns label, youtube_id, time_start,
time_end, split. VIDEOS has the clips, in folders of classes, of splits, or in
none: YOUTUBEID_000010_000020.mp4, or YOUTUBEID.mp4 as some tools name them. Labels
are the places of the classes' names in alphabetical order, as in mmaction v1.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hosts.lists import read_text  # noqa: E402

from data.prepared_sets import label_of, main, write_prepared  # noqa: E402
from data.video_sets import HostError, Videos, read_table  # noqa: E402

SPLITS = dict(train=('train',), val=('val', 'validate', 'validation'), test=('test',))
COLUMNS = ['label', 'youtube_id', 'time_start', 'time_end']


def read_split(folder, names):
    """The rows of a split: its file, and (line, row) each; None without one."""
    for before in ('', 'kinetics_', 'kinetics400_', 'kinetics-400_'):
        for name in names:
            path = folder / f'{before}{name}.csv'
            if path.is_file():
                # The list of the test videos may have no labels.
                first = read_text(path).partition('\n')[0]
                if 'test' in names and 'label' not in first:
                    print(f'{path} has no labels: left out')
                    return None
                return path, read_table(path, COLUMNS)
    return None


def clip_name(path, line, row):
    """A clip's name, and its label's."""
    try:
        start, end = (round(float(row[key])) for key in ('time_start', 'time_end'))
    except ValueError:
        raise HostError(
            f'{path}, line {line}: time_start and time_end should be numbers'
        ) from None
    return f'{row["youtube_id"]}_{start:06d}_{end:06d}'


def prepare(args):
    splits = {}
    for split, names in SPLITS.items():
        found = read_split(args.annotations, names)
        if found:
            splits[split] = found
    if 'train' not in splits:
        raise HostError(f'{args.annotations} has no train.csv or kinetics_train.csv')
    classes = sorted({row['label'] for _, row in splits['train'][1]})
    labels = {name: label for label, name in enumerate(classes)}
    lists = {}
    for split, (path, rows) in splits.items():
        lists[f'kinetics400_{split}_list_videos.txt'] = [
            (clip_name(path, n, row), label_of(row['label'], labels, path, f'line {n}'))
            for n, row in rows
        ]
    videos = Videos(args.videos)

    def find(name):
        return videos.find_name(name) or videos.find_name(name[:-14])

    write_prepared(args, lists, classes, find)


if __name__ == '__main__':
    main(prepare, __doc__, 'folder of the CSV files')
