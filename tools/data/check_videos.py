#!/usr/bin/env python3
"""Decode every video of a list, and write a list of those that can be used.

    python tools/data/check_videos.py data/own/train.txt data/own/val.txt

Each video that is missing, broken or short gets a line that says why, and so does one
whose label is of no class of classes.txt, where that lies beside the list. A list
train_clean.txt beside train.txt has the others. Of videos that have two labels in a
list, or are in two of the lists, a line names the first. What was found is kept in
train_checked.json: the next run decodes the files that are new or changed.
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hosts.lists import VIDEO_FORM, doubts, read_list, read_text  # noqa: E402
from video_files import Video, VideoError  # noqa: E402
from whole_files import write_json  # noqa: E402

from data.side_by_side import side_by_side  # noqa: E402
from data.video_sets import (  # noqa: E402
    LINK,
    HostError,
    Videos,
    add_workers,
    clean_list,
    command,
    write_whole,
)


def check(path):
    """Decode a video.

    Args:
        path (str): the file.

    Returns:
        dict: frames, width, height; fault (None where there is none).
    """
    result = dict(frames=0, width=0, height=0, fault=None)
    try:
        with Video(path) as video:
            for image in video:
                result['frames'] += 1
                if result['frames'] == 1:
                    result['height'], result['width'] = image().shape[:2]
            if result['frames'] < len(video):
                raise VideoError(
                    f'only {result["frames"]} of its {len(video)} frames can be decoded'
                )
    except VideoError as error:
        result['fault'] = str(error)
    return result


def stamp(path):
    """What changes when a file does."""
    state = os.stat(path)
    return [state.st_size, state.st_mtime_ns]


def read_kept(path):
    """What an earlier run has found, by file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # none, or not whole: everything is decoded again


def check_list(path, args):
    """Check the videos of one list.

    Returns:
        tuple: the number of those that can be used; and, of each line, the file (str)
        and the label (int).
    """
    path = Path(path)
    listed = read_list(str(path), VIDEO_FORM)
    videos = Videos(args.videos or path.parent / LINK)
    files = [videos.find(name) for name, _ in listed]
    kept_path = path.with_name(path.stem + '_checked.json')
    kept = read_kept(kept_path)
    stamps = {file: stamp(videos.folder / file) for file in files if file}
    todo = sorted(f for f in stamps if kept.get(f, {}).get('stamp') != stamps[f])
    done = side_by_side(
        check,
        [str(videos.folder / file) for file in todo],
        args.workers,
        f'{path}: {len(todo)} of {len(stamps)} to decode',
    )
    try:
        for result, file in zip(done, todo):
            kept[file] = dict(result, stamp=stamps[file])
    finally:  # what is done is kept, whatever ends the run
        write_json(kept_path, {file: kept[file] for file in stamps if file in kept})
    classes, known = path.with_name('classes.txt'), None
    if classes.is_file():
        known = sum(bool(line.strip()) for line in read_text(classes).splitlines())
    good = []
    for number, ((name, label), file) in enumerate(zip(listed, files), 1):
        fault = 'there is no such video' if file is None else kept[file]['fault']
        if not fault and kept[file]['frames'] < args.min_frames:
            fault = (
                f'it has {kept[file]["frames"]} of at least {args.min_frames} frames'
            )
        if not fault and known is not None and label >= known:
            fault = f'its label {label} is of none of the {known} classes of {classes}'
        if fault:
            shown = videos.folder / (file or name)
            print(f'{path}, line {number}: {shown}: {fault}')
        else:
            good.append(f'{name} {label}\n')
    clean = clean_list(path)
    if good:
        write_whole(clean, ''.join(good))
    print(f'{path}: {len(good)} of {len(listed)} videos are good; {clean}')
    found = [(file or name, label) for (name, label), file in zip(listed, files)]
    return len(good), found


def main(args):
    lists = []
    for path in args.lists:
        good, found = check_list(path, args)
        if not good:
            raise HostError(f'{path}: not one of its videos can be used')
        lists.append((path, found))
    for line in doubts(*lists):
        print(line)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('lists', nargs='+', metavar='LIST', help='list of videos')
    parser.add_argument(
        '--videos', help='folder of the videos (default: the link videos beside LIST)'
    )
    parser.add_argument(
        '--min-frames',
        type=int,
        default=1,
        help='frames that a video must have (default: %(default)s)',
    )
    add_workers(parser)
    return parser.parse_args()


if __name__ == '__main__':
    command(main, parse_args())
