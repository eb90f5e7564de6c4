"""One training a work_dir: the second is refused."""

import errno
import fcntl
import json
import os
import os.path as osp
import socket
import time

from . import HostError


class FolderLock:
    """A lock on a folder, held by a process until it ends, however it ends.

    It is a POSIX record lock on the file .training.lock, which the kernel
    releases with the process. Forked data loading workers do not inherit it.
    NFS carries it to the other machines that have mounted the folder.

    Args:
        folder (str | Path): the folder, which exists when the lock is taken.
    """

    def __init__(self, folder):
        self.folder = os.fspath(folder)
        self._file = None

    def acquire(self):
        """Take the lock, and say in the file who has it.

        Where the file system has no locks a line says so, and nothing is
        locked.

        Raises:
            HostError: another process has it; the text names its machine
                and process. Or the folder cannot be written.
        """
        try:
            file = open(
                osp.join(self.folder, '.training.lock'),
                'a+',
                encoding='utf-8',
                errors='replace',
            )
        except OSError as error:
            raise HostError(
                f'cannot write in {self.folder}: {error.strerror}'
            ) from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read()
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                print(
                    f'note: {self.folder} is on a file system without locks '
                    f'({error.strerror}). Nothing stops a second training in it',
                    flush=True,
                )
                return
            raise HostError(
                f'another training runs in {self.folder}: {_describe(holder)}. '
                f'Wait for it or stop it, or choose another --work_dir'
            ) from None
        self._file = file
        self._write(
            json.dumps(
                dict(
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    since=time.strftime('%Y-%m-%d %H:%M:%S'),
                )
            )
        )

    def release(self):
        """Give the lock back, where it is held."""
        if self._file:
            self._write('')
            self._file.close()
            self._file = None

    def _write(self, text):
        try:
            self._file.truncate(0)
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise HostError(
                f'cannot write in {self.folder}: {error.strerror}'
            ) from error


def _describe(text):
    """Who holds a lock, by what its file says; it may be empty just then."""
    try:
        holder = json.loads(text)
        return f'process {holder["pid"]} on {holder["host"]}, since {holder["since"]}'
    except (ValueError, KeyError, TypeError):
        return 'its lock file does not say which process'
