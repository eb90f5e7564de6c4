#!/usr/bin/env python3
"""Lists for training on your own videos, from folders or a CSV file.

    python tools/data/list_videos.py VIDEOS data/own
    python tools/data/list_videos.py VIDEOS data/own --csv clips.csv
    python tools/data/list_videos.py VIDEOS data/own --csv clips.csv \
        --group person --test-groups anna ben --val-groups carla

VIDEOS has a folder a class, with the class's videos in it; or, with --csv, any
folders, and the CSV file has the columns path (in VIDEOS) and class. It leaves
in data/own:

    train.txt, val.txt, test.txt   a line a video: path label
    classes.txt                    the classes' names, by label
    videos                         a link to VIDEOS

Videos are split at random within classes, or by groups: all videos of a person,
a scene or whatever the column --group has are in the same list. The same
--seed gives the same lists.
"""

import argparse
import random
import sys
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.video_sets import (  # noqa: E402
    HostError,
    Videos,
    command,
    read_table,
    remove_lists_of,
    tell_mirrored,
    write_set,
)

SPLITS = ('train', 'val', 'test')
SHOWN = 10  # lines about videos that are missing


def rows_of_folders(videos):
    """A row a video: its class is the first folder of its path."""
    rows = []
    for path in videos.paths:
        name, _, rest = path.partition('/')
        if not rest:
            print(f'left out: {videos.folder / path} is in no folder of a class')
            continue
        rows.append({'path': path, 'class': name})
    return rows


def rows_of_table(videos, table, group):
    """The rows of the CSV file whose videos are there."""
    columns = ['path', 'class'] + ([group] if group else [])
    rows, seen, missing = [], {}, 0
    for line, row in read_table(table, columns):
        path = videos.find(row['path'])
        if path is None:
            missing += 1
            if missing <= SHOWN:
                print(
                    f'left out: {table}, line {line}: {row["path"]} is no video in '
                    f'{videos.folder}'
                )
        elif path in seen:
            raise HostError(
                f'{table}, line {line}: {row["path"]} is in line {seen[path]}, too'
            )
        else:
            seen[path] = line
            rows.append(dict(row, path=path))
    if missing > SHOWN:
        print(f'left out: {missing - SHOWN} more lines of {table}')
    if not rows:
        raise HostError(
            f'not one path of {table} is of a video in {videos.folder}: paths count '
            'from that folder'
        )
    return rows


def split_at_random(rows, shares, rng):
    """Share out the videos of each class.

    Args:
        rows (list[dict]): of videos.
        shares (dict): of val and test.
        rng (random.Random): draws.

    Returns:
        dict: split to its rows.
    """
    parts = {split: [] for split in SPLITS}
    by_class = defaultdict(list)
    for row in rows:
        by_class[row['class']].append(row)
    for name in sorted(by_class):
        of_class = by_class[name]
        rng.shuffle(of_class)
        for split in ('test', 'val'):
            count = round(shares[split] * len(by_class[name]))
            if shares[split] and not count and len(of_class) > 2:
                count = 1
            parts[split] += [of_class.pop() for _ in range(min(count, len(of_class)))]
        parts['train'] += of_class
    return parts


def split_by_groups(rows, column, named, shares, rng):
    """Give each group to one split: those that are named, or at random."""
    sizes = Counter(row[column] for row in rows)
    for split, groups in named.items():
        for group in groups or ():
            if group not in sizes:
                raise HostError(
                    f'--{split}-groups: no video has {column} {group!r}, but '
                    f'{", ".join(sorted(sizes))}'
                )
    both = set(named['test'] or ()) & set(named['val'] or ())
    if both:
        raise HostError(f'{column} {both.pop()!r} is named for val and for test')
    split_of = {group: split for split in named for group in named[split] or ()}
    left = sorted(set(sizes) - set(split_of))
    rng.shuffle(left)
    for split in ('test', 'val'):
        wanted = shares[split] * len(rows)
        # At least one group, and no more once the share is reached.
        while named[split] is None and wanted > 0 and len(left) > 1:
            group = left.pop()
            split_of[group] = split
            wanted -= sizes[group]
    parts = {split: [] for split in SPLITS}
    for row in rows:
        parts[split_of.get(row[column], 'train')].append(row)
    return parts


def remove_unwritten(out, lists):
    """Remove the lists of an earlier split that this one does not have."""
    for path in (out / f'{split}.txt' for split in SPLITS):
        if path.name not in lists and path.exists():
            path.unlink()
            print(f'{path}: removed, since this split has none')
            remove_lists_of(path)


def list_videos(args):
    for name in ('val', 'test'):
        if not 0 <= getattr(args, name) < 1:
            raise HostError(f'--{name} should be a share, from 0 to below 1')
    if not args.group and args.val + args.test >= 1:
        raise HostError(
            f'--val {args.val} and --test {args.test} leave nothing to train on'
        )
    if args.group and not args.csv:
        raise HostError('--group is a column of a CSV file: give --csv, too')
    named = dict(val=args.val_groups, test=args.test_groups)
    if not args.group and any(named.values()):
        raise HostError('--val-groups and --test-groups need --group COLUMN')
    videos = Videos(args.videos)
    if args.csv:
        rows = rows_of_table(videos, args.csv, args.group)
    else:
        rows = rows_of_folders(videos)
    classes = sorted({row['class'] for row in rows})
    if len(classes) < 2:
        raise HostError(
            f'{len(rows)} videos of {len(classes)} classes; two classes are the least'
            + (
                ''
                if args.csv
                else f'. {args.videos} should have a folder for each class'
            )
        )
    shares = dict(val=args.val, test=args.test)
    rng = random.Random(args.seed)
    if args.group:
        parts = split_by_groups(rows, args.group, named, shares, rng)
    else:
        parts = split_at_random(rows, shares, rng)
    if not parts['train']:
        raise HostError('no video is left for training')
    for split, part in parts.items():
        missing = set(classes) - {row['class'] for row in part}
        if part and missing:
            print(f'{split}.txt has no video of {", ".join(sorted(missing))}')
        if not part and shares.get(split):
            print(f'{split}.txt is not there: {len(rows)} videos are too few for it')
    lists = {
        f'{split}.txt': sorted(
            (row['path'], classes.index(row['class'])) for row in part
        )
        for split, part in parts.items()
        if part
    }
    remove_unwritten(Path(args.out), lists)
    write_set(Path(args.out), videos.folder, lists, classes)
    print(f'In the config, set model.cls_head.num_classes={len(classes)}')
    tell_mirrored(classes)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('videos', metavar='VIDEOS', help='folder of videos')
    parser.add_argument('out', metavar='OUT', help='folder for the lists')
    parser.add_argument('--csv', help='file with the columns path and class')
    parser.add_argument('--group', metavar='COLUMN', help='column to split by')
    parser.add_argument('--test-groups', nargs='+', help='groups of test.txt')
    parser.add_argument('--val-groups', nargs='+', help='groups of val.txt')
    parser.add_argument(
        '--test', type=float, default=0.2, help='share of test.txt (%(default)s)'
    )
    parser.add_argument(
        '--val', type=float, default=0.1, help='share of val.txt (%(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='of the random split')
    return parser.parse_args()


if __name__ == '__main__':
    command(list_videos, parse_args())
