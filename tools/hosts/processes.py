"""The processes of one launch: how they end, and how they agree.

Each process of a launch is called by its rank, from 0 on.
"""

import atexit
import contextlib
import ctypes
import fcntl
import hashlib
import os
import signal
import sys

from . import HostError

# What tools/launch.py tells its processes.
LAUNCHER = 'DNR_LAUNCHER_PID'
LAUNCH = 'DNR_LAUNCH_ID'
REFUSED = 'DNR_LAUNCH_REFUSED'

VARIABLES = 'RANK', 'WORLD_SIZE', 'LOCAL_RANK'  # of torchrun

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def end_with_launcher():
    """Have the kernel end this process when its launcher ends.

    Without this, the processes of a launcher that was killed train on. To be
    called by the scripts before their slow imports; it does nothing where
    torchrun is not the launcher.
    """
    if 'TORCHELASTIC_RUN_ID' not in os.environ or sys.platform != 'linux':
        return
    parent = int(os.environ.get(LAUNCHER, os.getppid()))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def end_quietly():
    """Have Ctrl-C end this process without a traceback until :func:`hosts.run`.

    To be called by the scripts before their slow imports.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _end(*_):
    os._exit(130)  # as a shell has it


def is_said(text, told):
    """Whether another process of this launch prints an error's text.

    It is noted for the others on this machine, and for the launcher, which restarts
    nothing then.

    Args:
        text (str): it.
        told (bool): another one is known to print it.

    Returns:
        bool: told, where tools/launch.py is not the launcher.
    """
    if not os.environ.get(REFUSED):
        return told
    digest = hashlib.sha256(text.encode(errors='replace')).hexdigest()
    try:
        with open(os.environ[REFUSED], 'a+') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            said = told or digest in file.read().split()
            if not said:
                file.write(f'{digest}\n')
    except OSError:  # such as a full disk: better twice than not at all
        return told
    return said


@contextlib.contextmanager
def ending_early():
    """Where an exception takes this process out of its group, spare Python's end.

    Its last part takes the group's threads down in their work, and then PyTorch aborts
    the process now and then: the launcher would report that.
    """
    try:
        yield
    except BaseException as error:
        dist = sys.modules.get('torch.distributed')
        if dist and dist.is_available() and dist.is_initialized():
            code = error.code if isinstance(error, SystemExit) else 1
            _end_early.code = 1 if isinstance(code, str) else code or 0
        raise


@atexit.register  # before all others, so it comes after them
def _end_early():
    if _end_early.code is not None:
        with contextlib.suppress(OSError):  # nobody reads it
            sys.stdout.flush()
        os._exit(_end_early.code)


_end_early.code = None


@contextlib.contextmanager
def interruptible():
    """Let Ctrl-C end this process at once, also where C++ code waits."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def one_interrupt():
    """After Ctrl-C, end with KeyboardInterrupt, whatever a library makes of it.

    mmengine, for one, takes it for a fault in the text of a config.
    """
    pressed = []

    def note(number, frame):
        pressed.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) not in (signal.default_int_handler, _end):
        yield  # it is ignored, as behind nohup
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception as error:
        if pressed:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def launch_id():
    """What tells this launch from others, its restarts included.

    Returns:
        str | None: None where tools/launch.py has not started this process.
    """
    return os.environ.get(LAUNCH)


def may_restart():
    """Whether the launcher may start this launch's processes again."""
    return int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', 0)) > 0


def on_first_rank(task):
    """Run a task in the first process alone; all get what it returned.

    Args:
        task (callable): of no arguments. What it returns is pickled.

    Returns:
        what the task returned, in every process.

    Raises:
        HostError: of the task, or in place of its OSError; in every process.
            Only the first one prints it.
    """
    import torch.distributed as dist

    alone = not (dist.is_available() and dist.is_initialized())
    first = alone or dist.get_rank() == 0
    result, failure = None, None
    if first:
        try:
            result = task()
        except HostError as error:
            failure = error
        except OSError as error:
            failure = HostError(describe_os_error(error))
    if not alone:
        box = [(result, failure and str(failure))]
        dist.broadcast_object_list(box)
        result, text = box[0]
        if text and not first:
            failure = HostError(text)
            failure.told = True
    if failure:
        raise failure
    return result


def describe_os_error(error):
    """A fault of the system, a disk or a folder as one line.

    Args:
        error (OSError): with an errno.

    Returns:
        str
    """
    path = f'{error.filename}: ' if error.filename else ''
    return f'{path}{error.strerror}'


def variables_of(launcher):
    """The environment's variables that number this process.

    Args:
        launcher (str): 'pytorch', 'slurm' or 'mpi' (Open MPI).

    Returns:
        tuple[str]: names, in the order of VARIABLES.

    Raises:
        HostError: one is not set.
    """
    names = dict(
        pytorch=VARIABLES,
        slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
        mpi=(
            'OMPI_COMM_WORLD_RANK',
            'OMPI_COMM_WORLD_SIZE',
            'OMPI_COMM_WORLD_LOCAL_RANK',
        ),
    )[launcher]
    for name in names:
        if name not in os.environ:
            raise HostError(
                f'--launcher {launcher}: {name} is not set, so this was not started by '
                'it; tools/dist_train_recognizer.sh and tools/dist_test_recognizer.sh '
                'start processes'
            )
    return names


def is_lost_worker(error):
    """Whether an error says that a process which loads data was killed.

    Args:
        error (Exception): of whatever ran when PyTorch noticed it.

    Returns:
        bool
    """
    return isinstance(error, RuntimeError) and str(error).startswith(
        'DataLoader worker (pid'
    )


def is_lost_peer(error):
    """Whether an error says that another process of the group has ended.

    Args:
        error (Exception): of a collective operation or of joining a group.

    Returns:
        bool
    """
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text
        for sign in (
            'Connection closed by peer',
            'Connection reset by peer',
            'Broken pipe',
            'Connection refused',
            'failed to recv, got 0 bytes',
            'remote process exited',
            'NCCL communicator was aborted',
        )
    )
