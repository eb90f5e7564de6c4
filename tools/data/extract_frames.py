#!/usr/bin/env python3
"""Cut the videos of a list into JPEG frames, and write a list of those.

    python tools/data/extract_frames.py data/own/train.txt data/own/frames

The frames of a video are FRAMES/PATH/image_00001.jpg and so on. The new list,
train_rawframes.txt beside train.txt (or ..._list_rawframes.txt for
..._list_videos.txt), has PATH, the number of frames and the label. A run that
was stopped goes on where it was. Videos that cannot be read get a line each
and are left out of the list.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2  # noqa: E402
from hosts.lists import VIDEO_FORM, read_list  # noqa: E402
from video_files import Video, VideoError  # noqa: E402
from whole_files import temporary_name, write_json  # noqa: E402

from data.side_by_side import side_by_side  # noqa: E402
from data.video_sets import (  # noqa: E402
    LINK,
    HostError,
    Videos,
    add_workers,
    command,
    frames_list,
    write_whole,
)

TEMPLATE = 'image_{:05d}.jpg'
SETTINGS = 'extracted.json'  # in FRAMES: how its frames were made


def resized(image, short_side):
    """An image whose short side is at most short_side pixels."""
    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if not short_side or scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def extract(task):
    """Cut one video into a folder, which is there whole or not at all.

    Args:
        task (tuple): the file, its folder, the short side, the JPEG quality.

    Returns:
        str | None: what is wrong.
    """
    file, folder, short_side, quality = task
    temporary = Path(temporary_name(folder))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with Video(file) as video:
            number = 0
            for number, image in enumerate(video, 1):
                ok, data = cv2.imencode(
                    '.jpg',
                    resized(image(), short_side),
                    [cv2.IMWRITE_JPEG_QUALITY, quality],
                )
                if not ok:
                    raise VideoError(f'frame {number} cannot be written as JPEG')
                (temporary / TEMPLATE.format(number)).write_bytes(data.tobytes())
            if number < len(video):
                raise VideoError(
                    f'only {number} of its {len(video)} frames can be decoded'
                )
        os.replace(temporary, folder)
    except VideoError as error:
        return str(error)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return None


def check_settings(frames, settings):
    """All frames of a folder are made alike.

    Raises:
        HostError: those that are there were not.
    """
    path = frames / SETTINGS
    frames.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_json(path, settings)
        return
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if found != settings:
        raise HostError(
            f'{frames} has frames of other settings ({found}, not {settings}): '
            f'give another folder'
        )


def extract_list(path, args):
    """Cut the videos of one list, and write the list of their frames."""
    path, frames = Path(path), Path(args.frames)
    listed = read_list(str(path), VIDEO_FORM)
    videos = Videos(args.videos or path.parent / LINK)
    files = [videos.find(name) for name, _ in listed]
    folders = {file: frames / os.path.splitext(file)[0] for file in files if file}
    by_folder = {}
    for file, folder in folders.items():
        other = by_folder.setdefault(folder, file)
        if other != file:
            raise HostError(f'{other} and {file} would have one folder, {folder}')
    todo = [file for file in folders if not folders[file].is_dir()]
    tasks = [
        (str(videos.folder / f), str(folders[f]), args.short_side, args.quality)
        for f in todo
    ]
    title = f'{path}: {len(todo)} of {len(folders)} to cut'
    done = side_by_side(extract, tasks, args.workers, title)
    faults = {file: fault for fault, file in zip(done, todo)}
    lines = []
    for number, ((name, label), file) in enumerate(zip(listed, files), 1):
        fault = faults.get(file) if file else 'there is no such video'
        if fault:
            print(f'{path}, line {number}: {videos.folder / (file or name)}: {fault}')
            continue
        count = len(os.listdir(folders[file]))
        lines.append(f'{os.path.splitext(file)[0]} {count} {label}\n')
    if not lines:
        raise HostError(f'{path}: not one of its videos can be read')
    new = frames_list(path)
    write_whole(new, ''.join(lines))
    print(f'{new}: {len(lines)} of {len(listed)} videos')


def main(args):
    if args.short_side < 0 or not 1 <= args.quality <= 100:
        raise HostError('--short-side is from 0, --quality from 1 to 100')
    settings = dict(short_side=args.short_side, quality=args.quality)
    check_settings(Path(args.frames), settings)
    for path in args.lists:
        extract_list(path, args)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('lists', nargs='+', metavar='LIST', help='list of videos')
    parser.add_argument('frames', metavar='FRAMES', help='folder for the frames')
    parser.add_argument(
        '--videos', help='folder of the videos (default: the link videos beside LIST)'
    )
    parser.add_argument(
        '--short-side',
        type=int,
        default=256,
        help='of a frame, in pixels, at most; 0: as it is (default: %(default)s)',
    )
    parser.add_argument(
        '--quality', type=int, default=95, help='of the JPEGs (default: %(default)s)'
    )
    add_workers(parser)
    return parser.parse_args()


if __name__ == '__main__':
    command(main, parse_args())
