"""The checkpoints in a work_dir: which one is the newest, and which ones go.

Both hosts write epoch_N.pth. mmaction2's side names the one that was written
last in the text file last_checkpoint, mmaction v1's with the link latest.pth.
"""

import contextlib
import os
import os.path as osp
import re

from checkpoint_files import read_checkpoint
from whole_files import temporary_name, write_whole

from . import HostError

LAST = 'last_checkpoint'  # holds a path
LATEST = 'latest.pth'  # links to a name


def checkpoints_in(folder):
    """The checkpoints of a folder, which need not exist.

    Args:
        folder (str | Path): a work_dir.

    Returns:
        dict[int, str]: the path of each by the epochs that are behind it,
        fewest first.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        names = []
    matches = [re.fullmatch(r'epoch_([1-9]\d*)\.pth', name) for name in names]
    found = {int(m[1]): osp.join(folder, m[0]) for m in matches if m}
    return dict(sorted(found.items()))


def newest_first(folder):
    """The paths of a folder's checkpoints, in the order to go on from them.

    First the one that was written last, whatever its epoch: a folder may hold
    more epochs of an earlier training. Then those with most epochs.

    Args:
        folder (str | Path): a work_dir.

    Returns:
        list[str]: may be empty.
    """
    paths = list(checkpoints_in(folder).values())[::-1]
    named = None
    with contextlib.suppress(OSError):
        named = os.readlink(osp.join(folder, LATEST))
    # Damaged text names no checkpoint.
    options = dict(encoding='utf-8', errors='replace')
    with contextlib.suppress(OSError), open(osp.join(folder, LAST), **options) as file:
        named = file.read().strip()
    # By its name: the folder may have been moved.
    last = [
        path for path in paths if named and osp.basename(path) == osp.basename(named)
    ]
    return last + [path for path in paths if path not in last]


def newest_checkpoint(folder):
    """The newest whole checkpoint of a folder. Says which ones it passes by.

    Args:
        folder (str | Path): a work_dir.

    Returns:
        tuple[str, dict] | tuple[None, None]: its path, and what
        read_checkpoint returns. None where the folder holds no checkpoint.

    Raises:
        HostError: it holds some, and none is whole.
    """
    paths = newest_first(folder)
    for path in paths:
        try:
            return path, read_checkpoint(path)
        except HostError as error:
            print(f'passed by: {error}', flush=True)
    if paths:
        raise HostError(f'none of the {len(paths)} checkpoints in {folder} is whole')
    return None, None


def record_last(path):
    """Write down, in its folder, which checkpoint was written last.

    Args:
        path (str | Path): of the checkpoint.

    Raises:
        OSError: as whole_files.write_whole does.
    """
    write_whole(osp.join(osp.dirname(path), LAST), os.fspath(path))


def link_latest(name, link):
    """Let a link name another file, in place of what it named.

    Args:
        name (str): what it should name.
        link (str | Path): the link.
    """
    temporary = temporary_name(link)
    try:
        os.symlink(name, temporary)
        os.replace(temporary, link)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def remove_old(folder, epoch, keep):
    """Remove older checkpoints, after a newer one has been written.

    Args:
        folder (str | Path): a work_dir.
        epoch (int): of the newer one. Those of later epochs, which another
            training has left, stay.
        keep (int): how many to keep; all, where it is below 1.
    """
    paths = [path for n, path in checkpoints_in(folder).items() if n <= epoch]
    for path in paths[:-keep] if keep > 0 else []:
        os.remove(path)
