#!/usr/bin/env python
"""Start a script in one process a GPU, on this machine or with others.

    launch.py SCRIPT PROCESSES [arguments of the script]

The dist_*.sh scripts call this. It runs torchrun's elastic agent, with a
meeting of the machines that says what it waits for. Of the environment it
takes:

    NNODES        machines (1)
    NODE_RANK     which of them this is, from 0 on; machine 0 is MASTER_ADDR
    MASTER_ADDR   name or address of machine 0
    PORT          a port of machine 0 that the others can reach (29500 for
                  several machines; any free one for one)
    WAIT_SECONDS  how long to wait for the other machines (600)
    MAX_RESTARTS  how often to start all processes again after a failure (0)
"""

import contextlib
import datetime
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from hosts import HostError  # noqa: E402
from hosts.processes import LAUNCH, LAUNCHER, REFUSED, end_quietly  # noqa: E402

if __name__ == '__main__':  # before imports that take seconds
    end_quietly()

# PyTorch prints a page for each try to reach a machine that is not there yet,
# unless this is set when it is imported. The processes do not get it.
if quiet := 'TORCH_CPP_LOG_LEVEL' not in os.environ:
    os.environ['TORCH_CPP_LOG_LEVEL'] = 'FATAL'
try:
    from torch.distributed.elastic.rendezvous import RendezvousInfo
except ImportError:
    sys.exit(
        'error: tools/launch.py needs PyTorch 2.5 or newer. With an older one, '
        'start the script with torchrun: docs/training.md shows how'
    )
from torch.distributed import DistError, PrefixStore, TCPStore  # noqa: E402
from torch.distributed.elastic.multiprocessing.api import SignalException  # noqa: E402
from torch.distributed.elastic.multiprocessing.errors import (  # noqa: E402
    ChildFailedError,
)
from torch.distributed.elastic.rendezvous import (  # noqa: E402
    RendezvousHandler,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.launcher.api import (  # noqa: E402
    LaunchConfig,
    elastic_launch,
)

if quiet:
    del os.environ['TORCH_CPP_LOG_LEVEL']

REPORT_SECONDS = 30  # between two lines about what is waited for
GRACE_SECONDS = 6  # which PyTorch takes beyond its own limit of 2 s


class Meeting(RendezvousHandler):
    """Where the agents of all machines meet, at the start and at restarts.

    Machine 0 has a store, in which each machine writes its name. A round is a
    start of all processes. An agent that waits in the next round makes the
    others start their processes again.

    Args:
        rank (int): of this machine.
        machines (int): how many there are.
        address (str): of machine 0.
        port (int): of machine 0; 0 is any free one, for one machine.
        seconds (float): how long to wait.
        run_id (str): of the launch.
        refused (str): a file; where it is there, no restart would help.
    """

    def __init__(self, rank, machines, address, port, seconds, run_id, refused):
        self.rank, self.machines = rank, machines
        self.address, self.port = address, port
        self.seconds = seconds
        self.run_id = run_id
        self.refused = refused
        self.store, self.round = None, 0
        self.process_store = None

    def get_backend(self):
        return 'meeting'

    @property
    def use_agent_store(self):
        """Whether the processes meet in a store of the launcher's.

        Where process 0 opens one, seconds later, another program may have its port
        by then. For several machines it does so all the same: in a launcher's store,
        older releases of PyTorch tell starts apart by a machine's own number of
        restarts, and these can differ.
        """
        return self.machines == 1

    def get_run_id(self):
        return self.run_id

    def is_closed(self):
        return False

    def set_closed(self):
        self.shutdown()

    def shutdown(self):
        """Tell the others that this machine does not come again."""
        try:
            if self.store:
                self.store.set(f'left/{self.rank}', '1')
        except DistError:  # machine 0 has ended already
            return False
        return True

    def num_nodes_waiting(self):
        """Machines that wait in the next round already."""
        return int(self.store.check([f'{self.round + 1}/begun']))

    def next_rendezvous(self):
        """Meet the others.

        Raises:
            HostError: this cannot be, or the processes have refused their
                work.
        """
        self.round += 1
        if self.round > 1:
            if os.path.exists(self.refused):
                raise HostError('')  # the process has said it
            print('starting all processes again after a failure', flush=True)
        elif self.machines > 1:
            print(
                f'machine {self.rank} of {self.machines} ({socket.gethostname()}) '
                f'waits for {self.machines} machines at '
                f'{self.address}:{self.port}, at most {self.seconds:g} s',
                flush=True,
            )
        deadline = time.monotonic() + self.seconds
        if self.store is None:
            self.store = self._open(deadline)
        self._check_in(deadline)
        store = PrefixStore(f'{self.round}/agents', self.store)
        if self.use_agent_store:  # a new one each time, with nothing in it
            self.process_store = TCPStore(
                self.address, 0, is_master=True, wait_for_workers=False
            )
            where = RendezvousStoreInfo(self.address, self.process_store.port)
        else:
            where = RendezvousStoreInfo.build(self.rank, store, self.address)
        return RendezvousInfo(store, self.rank, self.machines, where)

    def _open(self, deadline):
        """The store: here on machine 0, else by its address."""
        first = self.rank == 0
        told = time.monotonic()
        where = f'machine 0 at {self.address}:{self.port}'
        while True:
            unknown = why_unknown(self.address)
            if first and unknown:
                raise HostError(unknown)
            if not unknown:
                left = max(deadline - time.monotonic(), 1)
                try:
                    return in_time(left + GRACE_SECONDS, self._new_store)
                except TimeoutError:
                    raise HostError(
                        f'{where} takes the call and does not answer: another '
                        f'program may have this port. Set PORT to another, the same '
                        f'on all machines'
                    ) from None
                except (DistError, RuntimeError) as error:
                    if first:
                        raise HostError(self._why_closed(str(error))) from error
            now = time.monotonic()
            if now > deadline:
                raise HostError(
                    unknown
                    or f'{where} has not answered in {self.seconds:g} s. It should '
                    f'run the same command with NODE_RANK=0, and its port be open'
                )
            if now > told + REPORT_SECONDS:
                told = now
                print(f'waiting for {where}', flush=True)
            time.sleep(0.2)

    def _new_store(self):
        first = self.rank == 0
        return TCPStore(
            self.address,
            self.port,
            is_master=first,
            wait_for_workers=False,
            timeout=datetime.timedelta(seconds=self.seconds if first else 2),
        )

    def _why_closed(self, text):
        """Why machine 0 cannot open its store, in our words where we have some."""
        if 'EADDRINUSE' in text:
            return (
                f'port {self.port} of {socket.gethostname()} is taken: '
                f'set PORT to another, the same on all machines'
            )
        return f'cannot open {self.address}:{self.port}: {text.splitlines()[0]}'

    def _check_in(self, deadline):
        """Write this machine's name, and wait for those of the others."""
        name = f'{self.round}/machine/{self.rank}'
        if self.store.add(f'{self.round}/taken/{self.rank}', 1) > 1:
            raise HostError(
                f'NODE_RANK={self.rank} is taken by {self.store.get(name).decode()}: '
                f'each machine needs a number of its own, from 0 to '
                f'{self.machines - 1}'
            )
        self.store.set(name, f'{socket.gethostname()} (process {os.getpid()})')
        self.store.set(f'{self.round}/begun', '1')
        told = time.monotonic()
        while True:
            missing = [
                rank
                for rank in range(self.machines)
                if not self.store.check([f'{self.round}/machine/{rank}'])
            ]
            if not missing:
                return
            left = [rank for rank in missing if self.store.check([f'left/{rank}'])]
            if left:
                raise HostError(f'{_name(left)} has ended: see what it says')
            now = time.monotonic()
            if now > deadline:
                raise HostError(
                    f'{_name(missing)} of {self.machines} did not come to '
                    f'{self.address}:{self.port} in {self.seconds:g} s '
                    f'(WAIT_SECONDS). Start the same command there, with '
                    f'NODE_RANK={missing[0]}'
                )
            if now > told + REPORT_SECONDS:
                told = now
                print(f'waiting for {_name(missing)}', flush=True)
            time.sleep(0.2)


def _name(ranks):
    """Some machines, by their numbers."""
    return f'machine{"s" * (len(ranks) > 1)} ' + ', '.join(map(str, ranks))


def in_time(seconds, task):
    """What a task returns or raises, which may wait in C++ code for ever.

    Args:
        seconds (float): how long it may take.
        task (callable): of no arguments. It goes on in its own thread, which
            ends with the process.

    Raises:
        TimeoutError: it takes longer.
    """
    box = []

    def call():
        try:
            box.append((task(), None))
        except Exception as error:
            box.append((None, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if not box:
        raise TimeoutError
    result, error = box[0]
    if error:
        raise error
    return result


def why_unknown(address):
    """Why a machine's name or address stands for no machine.

    Args:
        address (str): of a machine.

    Returns:
        str | None
    """
    try:
        socket.getaddrinfo(address, None)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, 'strerror', None) or 'it is no name'
        return f'MASTER_ADDR={address} cannot be found: {reason}'
    return None


def number(name, default, least, most=None):
    """A number out of the environment.

    Raises:
        HostError: it is none, or not from least to most.
    """
    text = os.environ.get(name) or str(default)
    if not (text.isdecimal() and least <= int(text) <= (most or int(text))):
        limits = f'from {least} to {most}' if most else f'of at least {least}'
        raise HostError(f'{name} should be a whole number {limits}, got {text!r}')
    return int(text)


def read_meeting(run_id, refused):
    """The meeting that the environment describes.

    Raises:
        HostError: a variable is missing, or has a value that cannot be.
    """
    machines = number('NNODES', 1, 1)
    if machines == 1:
        port = number('PORT', 0, 0, 65535)
        return Meeting(0, 1, '127.0.0.1', port, 60, run_id, refused)
    for name, what in (
        ('NODE_RANK', f'the number of this machine, from 0 to {machines - 1}'),
        ('MASTER_ADDR', 'the name or address of the machine with NODE_RANK=0'),
    ):
        if not os.environ.get(name):
            raise HostError(f'NNODES={machines} needs {name}: {what}')
    return Meeting(
        number('NODE_RANK', 0, 0, machines - 1),
        machines,
        os.environ['MASTER_ADDR'],
        number('PORT', 29500, 1, 65535),
        number('WAIT_SECONDS', 600, 1, 10**7),  # PyTorch counts milliseconds
        run_id,
        refused,
    )


def launch(script, processes, arguments):
    """Run a script in some processes, until they end.

    Args:
        script (str): its path.
        processes (int): on this machine.
        arguments (list[str]): of the script.

    Raises:
        HostError: what is wrong; empty where a process has said it.
    """
    if 'LOGLEVEL' not in os.environ:
        # What torch logs of a failure is a page; the last line here says it.
        logging.disable(logging.ERROR)
    run_id = uuid.uuid4().hex
    refused = os.path.join(tempfile.gettempdir(), f'refused_{run_id}')
    meeting = read_meeting(run_id, refused)
    restarts = number('MAX_RESTARTS', 0, 0)
    os.environ.update({LAUNCHER: str(os.getpid()), LAUNCH: run_id, REFUSED: refused})
    rendezvous_handler_registry.register('meeting', lambda parameters: meeting)
    config = LaunchConfig(
        min_nodes=meeting.machines,
        max_nodes=meeting.machines,
        nproc_per_node=processes,
        run_id=run_id,
        rdzv_backend='meeting',
        max_restarts=restarts,
    )
    # Until the agent has its own handlers, Ctrl-C ends this at once, also
    # where C++ code waits.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        elastic_launch(config, sys.executable)(script, *arguments)
    except ChildFailedError as error:
        raise HostError(describe(error)) from error
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except DistError as error:
        raise HostError(
            f'machine 0 at {meeting.address} has ended: see what it says'
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(refused)


def describe(failed):
    """What the launcher says of processes that failed.

    Args:
        failed (ChildFailedError): of the agent.

    Returns:
        str: empty where the first one that failed has said why.
    """
    rank, failure = failed.get_first_failure()
    if failure.exitcode >= 0:
        return ''
    return (
        f'process {rank} (pid {failure.pid} on {socket.gethostname()}) was ended '
        f'by {signal.Signals(-failure.exitcode).name}'
        + (
            '. The machine may have had too little memory'
            if failure.exitcode == -signal.SIGKILL
            else ''
        )
    )


if __name__ == '__main__':
    try:
        launch(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
    except HostError as error:
        sys.exit(f'error: {error}' if str(error) else 1)
