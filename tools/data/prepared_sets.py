"""What the tools that prepare public data sets share.

Each has the annotation files as they are published, and a folder with what
was downloaded of the videos, in whichever of the usual layouts. It writes
lists, label names and a link to the videos; what is missing is counted.
"""

import argparse
from pathlib import Path

from hosts.lists import read_text
from rich.progress import track

from data.video_sets import (
    HostError,
    add_workers,
    command,
    tell_mirrored,
    write_set,
)


def read_lines(path):
    """The lines of a text file that are not empty.

    Args:
        path (Path): the file.

    Returns:
        list[tuple]: number of a line and its text.

    Raises:
        HostError: it cannot be read or is empty.
    """
    lines = [
        (number, line.strip())
        for number, line in enumerate(read_text(path).splitlines(), 1)
        if line.strip()
    ]
    if not lines:
        raise HostError(f'{path} is empty')
    return lines


def label_of(name, labels, path, line):
    """The label of a class's name.

    Args:
        name (str): of the class.
        labels (dict): name to label.
        path (Path): the file that has it.
        line (int | str): where.

    Raises:
        HostError: there is no such class.
    """
    if name not in labels:
        raise HostError(
            f'{path}, {line}: {name!r} is none of the {len(labels)} classes'
        )
    return labels[name]


def write_prepared(args, lists, classes, find, frames=None):
    """Find the videos and write the data set.

    Args:
        args (argparse.Namespace): videos, a folder, and out, another.
        lists (dict): name of a list to what it should have, (key, label) each.
        classes (list[str]): a name a label.
        find (callable): of a key; the path in the folder of videos, None where
            it is missing.
        frames (dict | None): as for write_set.

    Raises:
        HostError: none was found, or the lists cannot be written.
    """
    written, missing, first = {}, 0, None
    for name, wanted in lists.items():
        found = []
        for key, label in track(wanted, name):
            path = find(key)
            if path is None:
                missing, first = missing + 1, first or key
            else:
                found.append((path, label))
        print(f'{name}: {len(found)} of {len(wanted)} videos are there')
        if found:
            written[name] = found
    if not written:
        raise HostError(f'not one video of the annotations is in {args.videos}')
    if missing:
        print(f'{missing} videos are missing, the first is {first}')
    write_set(Path(args.out), Path(args.videos), written, classes, frames)
    tell_mirrored(classes)


def main(prepare, description, annotations, workers=False):
    """The command line that all have.

    Args:
        prepare (callable): of the arguments annotations, videos and out.
        description (str): of the tool.
        annotations (str): what is in that folder, for the help.
        workers (bool): there is work for several processes.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('annotations', metavar='ANNOTATIONS', help=annotations)
    parser.add_argument('videos', metavar='VIDEOS', help='folder of what is downloaded')
    parser.add_argument('out', metavar='OUT', help='folder for the lists')
    if workers:
        add_workers(parser)
    args = parser.parse_args()
    args.annotations = Path(args.annotations)
    if not args.annotations.is_dir():
        command(_no_folder, args)
    command(prepare, args)


def _no_folder(args):
    raise HostError(f'{args.annotations} is no folder')
