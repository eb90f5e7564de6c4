"""The checkpoints in a work_dir: whose they are, which is the newest, which ones go.

Both hosts write epoch_N.pth. mmaction2's side names the one that was written
last in the text file last_checkpoint, mmaction v1's with the link latest.pth.
"""

import contextlib
import os
import os.path as osp
import re
import uuid

from checkpoint_files import read_checkpoint
from whole_files import temporary_name, write_whole

from . import HostError

LAST = 'last_checkpoint'  # holds a path
LATEST = 'latest.pth'  # links to a name
TRAINING = '.training_id'  # holds that of the training that was begun last


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


def _say(line):
    print(line, flush=True)


def newest_checkpoint(folder, say=_say):
    """The newest whole checkpoint of the training that was begun last in a folder.

    Args:
        folder (str | Path): a work_dir.
        say (callable): gets a line on each that it passes by.

    Returns:
        tuple[str, dict] | tuple[None, None]: its path, and what
        read_checkpoint returns. None where the folder holds none of that training.

    Raises:
        HostError: it holds some, and none is whole.
    """
    training, damaged, earlier = training_id(folder), 0, []
    for path in newest_first(folder):
        try:
            checkpoint = read_checkpoint(path)
        except HostError as error:
            damaged += 1
            say(f'passed by: {error}')
            continue
        if training in (None, checkpoint.get('meta', {}).get('training')):
            return path, checkpoint
        earlier.append(path)
    if earlier:
        say(
            f'passed by: {len(earlier)} checkpoints of an earlier training than the '
            f'one begun last in {folder}. To go on with it: --resume_from {earlier[0]}'
        )
    if damaged:
        raise HostError(f'none of the {damaged} checkpoints in {folder} is whole')
    return None, None


def training_id(folder):
    """The training that was begun last in a folder.

    Args:
        folder (str | Path): a work_dir.

    Returns:
        str | None: what its checkpoints have as ``meta['training']``; None where the
        folder does not say it.
    """
    try:
        with open(osp.join(folder, TRAINING), encoding='utf-8') as file:
            return file.read().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def begin_training(folder, resumed, meta):
    """Note in a folder which training is begun there, or gone on with.

    To be called when a first step has been taken: what is refused before leaves the
    folder to the training that had it.

    Args:
        folder (str | Path): a work_dir.
        resumed (str | None): the checkpoint that the training goes on from.
        meta (dict | None): that of the checkpoint.

    Raises:
        OSError: as whole_files.write_whole does.
    """
    path, training = osp.join(folder, TRAINING), uuid.uuid4().hex
    if resumed and osp.realpath(osp.dirname(resumed)) == osp.realpath(folder):
        training = meta.get('training')
    if training:
        write_whole(path, str(training))
    else:  # of a version that did not note it, or of another program
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


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
