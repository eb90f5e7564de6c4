"""Files that are there whole or not at all.

Whoever writes a file that somebody may read or go on from writes it through
this module: to a temporary name beside its place, then to the disk, then
renamed. A kill, a full disk or a second process that writes the same file
leaves the old file or the new one, never half of one.
"""

import contextlib
import glob
import json
import os
import re
import tempfile


def temporary_name(path):
    """The name beside path that this process writes to first.

    Args:
        path (str | Path): the file.

    Returns:
        str: no other process has this one.
    """
    return f'{os.fspath(path)}.{os.getpid()}.tmp'


@contextlib.contextmanager
def replacing(path):
    """Write a file by any means, whole or not at all.

    For what has a way of writing of its own::

        with replacing('figure.svg') as temporary:
            figure.savefig(temporary, format='svg')

    The temporary name does not end as path does.

    Args:
        path (str | Path): the file.

    Yields:
        str: the name to write to. After the block it is renamed to path.

    Raises:
        OSError: what failed, with path as its filename. As after any other
            exception in the block, path is as it was and nothing is left
            beside it.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, temporary):
            error.filename = os.fspath(path)
            error.filename2 = None
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def write_whole(path, content):
    """Write a file's whole content.

    Args:
        path (str | Path): the file.
        content (bytes | str): all of it; text is written as UTF-8.

    Raises:
        OSError: as :func:`replacing` does.
    """
    if isinstance(content, str):
        content = content.encode()
    with replacing(path) as temporary, open(temporary, 'wb') as file:
        file.write(content)


def write_or_keep(path, content):
    """Write what took long to make; to the temporary files if its place fails.

    Args:
        path (str | Path): the file.
        content (bytes | str): all of it.

    Raises:
        OSError: as :func:`replacing` does. Its strerror says where the content is kept
            instead, if there is room: in a new folder.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        with contextlib.suppress(OSError):
            folder = tempfile.mkdtemp(prefix='kept_')
            kept = os.path.join(folder, os.path.basename(path))
            try:
                write_whole(kept, content)
            except OSError:
                os.rmdir(folder)
                raise
            error.strerror = f'{error.strerror or error}; it is kept as {kept}'
        raise


def write_json(path, content, indent=1):
    """Write what json can hold, and a line's end.

    Args:
        path (str | Path): the file.
        content: the data.
        indent (int | None): of json.dumps.

    Raises:
        OSError: as :func:`replacing` does.
    """
    write_whole(path, json.dumps(content, indent=indent) + '\n')


def remove_unfinished(folder):
    """Remove what killed processes were writing in a folder.

    Args:
        folder (str | Path): nobody may be writing in it.
    """
    pattern = os.path.join(glob.escape(os.fspath(folder)), '*.tmp')
    for name in glob.glob(pattern):
        if re.search(r'\.\d+\.tmp$', name):  # as temporary_name makes them
            os.remove(name)
