"""What the tools for video files share: finding and listing them."""

import csv
import os
import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from hosts import HostError
from hosts.lists import read_text
from hosts.videos import mirrored_labels
from video_files import ENDINGS
from whole_files import write_whole

LINK = 'videos'  # in a data set's folder, to where its videos are


def command(task, args):
    """Run a tool: exit 1 with a line that says what is wrong.

    Args:
        task (callable): of one argument.
        args (argparse.Namespace): the argument.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
    try:
        task(args)
    except HostError as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        sys.exit(f'error: {error.filename}: {error.strerror}')
    except BrokenProcessPool:
        sys.exit('error: a worker process was killed; out of memory? try --workers 1')
    except KeyboardInterrupt:
        sys.exit('interrupted; run the same command to go on')


def add_workers(parser):
    """The option --workers."""
    parser.add_argument(
        '--workers',
        type=int,
        default=len(os.sched_getaffinity(0)),
        help='processes (default: %(default)s)',
    )


class Videos:
    """The video files of a folder and the folders in it.

    Args:
        folder (str | Path): of videos; what links lead to belongs to it.

    Raises:
        HostError: there is no such folder, or no video in it.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise HostError(f'{folder} is no folder')
        self.paths, self._by_stem, self._by_name = [], {}, {}
        for root, folders, names in os.walk(self.folder, followlinks=True):
            folders.sort()
            for name in sorted(names):
                path = os.path.relpath(os.path.join(root, name), self.folder)
                if is_video(name):
                    self.paths.append(path)
                    self._by_stem.setdefault(os.path.splitext(path)[0], path)
                    stem = os.path.splitext(name)[0]
                    self._by_name.setdefault(stem, []).append(path)
        if not self.paths:
            raise HostError(
                f'{folder} has no videos: no files that end in {", ".join(ENDINGS)}'
            )
        self._known = set(self.paths)

    def find(self, path):
        """A video by its path in the folder, with or without its ending.

        Returns:
            str | None: the path with its ending.
        """
        path = os.path.normpath(path)
        return path if path in self._known else self._by_stem.get(path)

    def find_name(self, name):
        """A video by its file's name without ending, in whichever folder.

        Args:
            name (str): NAME, or FOLDER/NAME: one that is in a folder of that
                name comes before others.

        Returns:
            str | None: the path in the folder; the first, where there are more.
        """
        folder, stem = os.path.split(name)
        found = self._by_name.get(stem, [])
        for path in found:
            if os.path.basename(os.path.dirname(path)) == folder:
                return path
        return found[0] if found else None


def is_video(name):
    """Whether a file's name is one of a video that is not hidden."""
    ending = os.path.splitext(name)[1][1:].lower()
    return ending in ENDINGS and not name.startswith('.')


def read_table(path, columns):
    """Read a CSV file with a line of names.

    Args:
        path (str): the file, in UTF-8.
        columns (list[str]): those that it must have.

    Returns:
        list[tuple]: for each row the number of its line and a dict of columns.

    Raises:
        HostError: it cannot be read, or lacks a column or a value.
    """
    rows = []
    reader = csv.DictReader(read_text(path).splitlines())
    missing = [name for name in columns if name not in (reader.fieldnames or [])]
    if missing:
        raise HostError(
            f'{path}, line 1: there is no column {" or ".join(missing)}, only '
            f'{", ".join(reader.fieldnames or ["nothing"])}'
        )
    for row in reader:
        row = {name: (row[name] or '').strip() for name in columns}
        for name in columns:
            if not row[name]:
                raise HostError(f'{path}, line {reader.line_num}: {name} is empty')
        rows.append((reader.line_num, row))
    if not rows:
        raise HostError(f'{path} has no rows')
    return rows


def clean_list(path):
    """Where check_videos.py puts a list's good videos (Path)."""
    return path.with_name(path.stem + '_clean' + path.suffix)


def frames_list(path):
    """Where extract_frames.py puts the list of frames of a list of videos (Path)."""
    stem = path.stem
    stem = (
        stem.replace('videos', 'rawframes') if 'videos' in stem else stem + '_rawframes'
    )
    return path.with_name(stem + path.suffix)


def remove_lists_of(path):
    """Remove the lists that were made of one that changes or goes.

    Args:
        path (Path): it.
    """
    clean = clean_list(path)
    for made in (clean, frames_list(path), frames_list(clean)):
        if made.exists():
            made.unlink()
            print(f'{made}: removed, since {path.name} is another one now')


def write_set(out, videos, lists, classes, frames=None):
    """Write a data set: lists, the names of the labels, a link to the videos.

    The lists of video files have no endings where all end alike, as mmaction
    v1 wants it. A run that finds the same files changes nothing.

    Args:
        out (Path): its folder.
        videos (Path): the folder of its videos.
        lists (dict): name of a list to its videos, (path, label) each.
        classes (list[str]): a name a label, from 0.
        frames (dict | None): of folders of frames, how many each has.

    Raises:
        HostError: something else is in the way, or a name fits no list.
    """
    for names in lists.values():
        for path, _ in names:
            if path != path.strip() or len(path.splitlines()) != 1:
                raise HostError(
                    f'{videos / path!s:.200}: a list cannot hold a name that begins '
                    f'or ends with a space or has a line break: rename the file'
                )
    out.mkdir(parents=True, exist_ok=True)
    link = out / LINK
    if os.path.lexists(link):
        if not os.path.samefile(link, videos):
            raise HostError(
                f'{link} is not {videos}: remove it, or give another folder for the '
                f'lists'
            )
    else:
        link.symlink_to(os.path.relpath(videos.resolve(), out.resolve()))
    endings = {'.mp4'}
    if not frames:
        endings = {os.path.splitext(p)[1] for names in lists.values() for p, _ in names}
    for name, listed in lists.items():
        lines = []
        for path, label in listed:
            if frames:
                path = f'{path} {frames[path]}'
            elif len(endings) == 1:
                path = os.path.splitext(path)[0]
            lines.append(f'{path} {label}\n')
        text = ''.join(lines)
        if not (out / name).exists() or (out / name).read_bytes() != text.encode():
            remove_lists_of(out / name)
        write_whole(out / name, text)
        print(f'{out / name}: {len(lines)} videos')
    write_whole(out / 'classes.txt', ''.join(f'{name}\n' for name in classes))
    print(f'{out / "classes.txt"}: {len(classes)} classes')
    if len(endings) > 1:
        print(
            f'The videos end in {", ".join(sorted(endings))}, so the lists have the '
            'endings: in the config, set video_ext=None in data.train, data.val and '
            'data.test'
        )
    elif endings != {'.mp4'}:
        print(
            f"In the config, set video_ext='{endings.pop()[1:]}' in data.train, "
            'data.val and data.test'
        )


def tell_mirrored(classes):
    """Print the flip_label_map that the names of the classes ask for."""
    pairs = mirrored_labels(classes)
    if pairs:
        print(
            'A mirror swaps classes: in a config with data.train.flip_ratio above 0, '
            f'set data.train.flip_label_map={pairs}'
        )
