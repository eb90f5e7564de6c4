"""What can go wrong with processes and machines: real processes, and kills.

Most of it with a small script in place of training, which starts at once.
docs/reliability.md says what is promised.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import launch
import pytest
import torch
from conftest import ROOT
from hosts import HostError, processes, run
from hosts.locks import FolderLock
from hosts.processes import describe_os_error, is_lost_peer
from script_calls import ENV, make_clips

LAUNCH = ROOT / 'tools' / 'launch.py'
CONFIG = ROOT / 'tests' / 'three_stages.py'
TRAIN = ROOT / 'tools' / 'dist_train_recognizer.sh'

HEADER = f"""
import os, signal, sys, time
sys.path.insert(0, {str(ROOT / 'tools')!r})
from hosts import HostError, run
from hosts.processes import end_with_launcher
end_with_launcher()
rank, count = os.environ['RANK'], os.environ['TORCHELASTIC_RESTART_COUNT']
print(f'rank {{rank}} start {{count}} pid {{os.getpid()}}\\n', end='', flush=True)
"""


def start(*command, cwd, **env):
    """Start a command; its output is a pipe of text."""
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=dict(ENV, PYTHON=sys.executable, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def launched(tmp_path, body, processes=1, **env):
    """Start a script of so many processes through the launcher."""
    script = tmp_path / 'script.py'
    script.write_text(HEADER + body)
    return start(sys.executable, LAUNCH, script, processes, cwd=tmp_path, **env)


def read_until(process, pattern, count=1):
    """Read a process's output until a pattern has come so often."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        found = re.findall(pattern, ''.join(lines))
        if len(found) == count:
            return found
    raise AssertionError(''.join(lines))


def gone(pid):
    """Whether a process has ended. Its parent need not have noticed."""
    try:
        return (
            Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] in 'ZX'
        )
    except FileNotFoundError:
        return True


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


# ---- the launcher and its processes


def test_processes_end_with_their_launcher(tmp_path):
    process = launched(tmp_path, 'time.sleep(300)', 2)
    pids = [int(pid) for pid in read_until(process, r'pid (\d+)', 2)]
    assert not any(map(gone, pids))
    process.kill()
    wait_for(lambda: all(map(gone, pids)), 2)
    process.communicate()


def test_a_killed_process_is_started_again_and_a_refusal_is_not(tmp_path):
    body = """
open(f'started_{rank}_{count}', 'w').close()
while not os.path.exists(f'started_0_{count}'):
    time.sleep(0.02)
if count == '0' and rank == '1':
    os.kill(os.getpid(), signal.SIGKILL)
if count == '0':
    time.sleep(300)
def task(args):
    raise HostError('no such config')
if rank == '1':
    run(task, None)
time.sleep(300)
"""
    with launched(tmp_path, body, 2, MAX_RESTARTS='5') as process:
        output = process.stdout.read()
    assert process.returncode == 1
    assert output.count('starting all processes again') == 1
    assert output.count('rank 0') == output.count('rank 1') == 2
    assert output.splitlines()[-1] == 'error: no such config'
    assert 'Traceback' not in output


@pytest.mark.full
def test_a_process_ended_by_a_signal_is_named(tmp_path):
    body = 'os.kill(os.getpid(), signal.SIGKILL)'
    with launched(tmp_path, body) as process:
        output = process.stdout.read()
    assert process.returncode == 1
    assert re.search(
        r'\nerror: process 0 \(pid \d+ on .*\) was ended by SIGKILL', output
    )
    assert 'Traceback' not in output


# The part of Python's end in which a group's threads abort a process now and then.
LEAVING = """
import atexit, multiprocessing, socket
import torch.distributed as dist
from hosts.processes import on_first_rank
class Kept:
    def __del__(self):
        print('the end of Python', flush=True)
kept = Kept()
socket.create_connection(('127.0.0.1', int(os.environ['MASTER_PORT']))).close()
dist.init_process_group('gloo')
"""


@pytest.mark.full
def test_processes_meet_again_and_leave_by_an_error(tmp_path):
    body = """
if count == '0' and rank == '1':
    os.kill(os.getpid(), signal.SIGKILL)
if count == '0':
    time.sleep(300)
def first():
    raise HostError('no such config')
run(lambda _: on_first_rank(first), None)
"""
    with launched(tmp_path, LEAVING + body, 2, MAX_RESTARTS='1') as process:
        output = process.stdout.read()
    assert process.returncode == 1
    assert output.count('starting all processes again') == 1
    assert output.splitlines()[-1] == 'error: no such config'
    assert 'ended by' not in output and 'the end of Python' not in output


@pytest.mark.full
def test_a_process_that_leaves_by_an_error_cleans_up(tmp_path):
    body = """
def task(_):
    context = multiprocessing.get_context('spawn')
    context.Process(target=time.sleep, args=[300], daemon=True).start()
    atexit.register(print, 'cleaned up')
    task.queue = context.Queue()  # has semaphores of the system
    raise ValueError('a bug')
run(task, None)
"""
    with launched(tmp_path, LEAVING + body) as process:
        output = process.stdout.read()  # to the end of the process it has started
    assert process.returncode == 1
    lines = output.splitlines()
    assert lines[-2:] == ['[rank0]: ValueError: a bug', 'cleaned up']
    assert 'leaked' not in output


# ---- machines that meet


@pytest.fixture
def meeting(tmp_path):
    """Makes meetings of one launch, for machines of this process."""
    port = free_port()

    def make(rank, machines=2, seconds=10, port=port):
        refused = str(tmp_path / 'refused')
        return launch.Meeting(rank, machines, '127.0.0.1', port, seconds, 'id', refused)

    return make


@pytest.mark.parametrize(
    'variables, message',
    [
        ('NNODES=two', "NNODES should be a whole number of at least 1, got 'two'"),
        ('NNODES=0', 'NNODES should be'),
        ('NNODES=2', 'NNODES=2 needs NODE_RANK: the number of this machine'),
        ('NNODES=2 NODE_RANK=1', 'NNODES=2 needs MASTER_ADDR: the name or'),
        ('NNODES=2 NODE_RANK=2 MASTER_ADDR=a', 'NODE_RANK should be a whole number '),
        ('NNODES=2 NODE_RANK=-1 MASTER_ADDR=a', 'from 0 to 1'),
        ('NNODES=2 NODE_RANK=0 MASTER_ADDR=a PORT=99999', 'PORT should be'),
        ('PORT=http', 'PORT should be'),
        ('NNODES=2 NODE_RANK=0 MASTER_ADDR=a WAIT_SECONDS=0', 'WAIT_SECONDS should'),
    ],
)
def test_variables_that_cannot_be(monkeypatch, variables, message):
    for name in ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT', 'WAIT_SECONDS'):
        monkeypatch.delenv(name, raising=False)
    for variable in variables.split():
        monkeypatch.setenv(*variable.split('='))
    with pytest.raises(HostError) as caught:
        launch.read_meeting('id', 'refused')
    assert message in str(caught.value)


def meet(*meetings):
    """Let machines meet at once; each one's rank, or its error's text."""
    results = [None] * len(meetings)

    def join(number):
        try:
            info = meetings[number].next_rendezvous()
            results[number] = info.rank, info.bootstrap_store_info.master_port
        except HostError as error:
            results[number] = str(error)

    threads = [
        threading.Thread(target=join, args=[number]) for number in range(len(meetings))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_machines_meet_at_the_start_and_again(meeting, capfd):
    first, second = meeting(0), meeting(1)
    results = meet(second, first)
    assert [result[0] for result in results] == [1, 0]
    assert results[0][1] == results[1][1]
    assert f'waits for 2 machines at 127.0.0.1:{first.port}' in capfd.readouterr().out
    # The second has a failure: the first notices, and comes again.
    assert first.num_nodes_waiting() == 0
    thread = threading.Thread(target=second.next_rendezvous)
    thread.start()
    wait_for(first.num_nodes_waiting, 5)
    first.next_rendezvous()
    thread.join()
    # It ends; the first does not wait for it in vain.
    second.shutdown()
    with pytest.raises(HostError, match='machine 1 has ended'):
        first.next_rendezvous()


def test_a_machine_that_does_not_come(meeting):
    (error,) = meet(meeting(0, machines=3, seconds=1))
    assert 'machines 1, 2 of 3 did not come to 127.0.0.1:' in error
    assert 'NODE_RANK=1' in error
    (error,) = meet(meeting(1, seconds=1, port=free_port()))
    assert 'machine 0 at 127.0.0.1:' in error
    assert 'has not answered in 1 s' in error


def test_a_machine_that_nobody_knows(meeting, monkeypatch):
    """Machine 0 says so at once; the others wait for it to become known."""

    def getaddrinfo(*args):
        raise socket.gaierror(-2, 'Name or service not known')

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    for machine in meeting(0, seconds=60), meeting(1, seconds=1):
        (error,) = meet(machine)
        assert error.startswith('MASTER_ADDR=127.0.0.1 cannot be found: Name or ser')


@pytest.mark.full
def test_a_port_of_another_program_that_is_mute(meeting):
    with socket.socket() as mute:
        mute.bind(('127.0.0.1', 0))
        mute.listen()
        (error,) = meet(meeting(1, seconds=1, port=mute.getsockname()[1]))
    assert 'takes the call and does not answer: another program' in error


def test_two_machines_of_one_number(meeting):
    first, *others = meeting(0, 3, seconds=2), meeting(1, 3, 2), meeting(1, 3, 2)
    errors = [result for result in meet(first, *others) if 'NODE_RANK=1 is' in result]
    assert len(errors) == 1
    assert f'is taken by {socket.gethostname()}' in errors[0]


def test_an_error_is_printed_once(tmp_path, monkeypatch):
    def say(texts, told=False):
        return [processes.is_said(text, told) for text in texts]

    monkeypatch.delenv(processes.REFUSED, raising=False)
    assert say('aa') == [False, False] and say('a', told=True) == [True]
    monkeypatch.setenv(processes.REFUSED, str(tmp_path / 'refused'))
    # A process that is told may come before the one that prints.
    assert say('a', told=True) == [True] and (tmp_path / 'refused').exists()
    assert say('aabab') == [False, True, False, True, True]
    monkeypatch.setenv(processes.REFUSED, str(tmp_path))  # which is a folder
    assert say('aa') == [False, False] and say('a', told=True) == [True]


@pytest.mark.parametrize('real', [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_port_that_is_taken(tmp_path, meeting, real):
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        port = taken.getsockname()[1]
        if not real:
            (output,) = meet(meeting(0, port=port))
        else:
            with launched(tmp_path, '', PORT=str(port)) as process:
                output = process.stdout.read()
            assert process.returncode == 1
            assert output.startswith('error: ') and output.count('\n') == 1
    assert f'port {port} of {socket.gethostname()} is taken: set PORT to' in output


@pytest.mark.parametrize('rank', ['0', pytest.param('1', marks=pytest.mark.full)])
def test_waiting_says_for_what_and_ends_at_once(tmp_path, rank):
    port = str(free_port())
    settings = dict(NNODES='2', NODE_RANK=rank, MASTER_ADDR='127.0.0.1', PORT=port)
    process = launched(tmp_path, '', **settings)
    read_until(process, f'waits for 2 machines at 127.0.0.1:{port}, at most 600 s')
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    output, _ = process.communicate(timeout=20)
    assert time.monotonic() - begun < 1
    assert process.returncode == -signal.SIGINT
    assert 'Traceback' not in output


@pytest.mark.full
@pytest.mark.parametrize('victim', ['0', '1'])
def test_machines_start_again_together(tmp_path, victim):
    body = f"""
machine = os.environ['GROUP_RANK']
print('machine', machine, 'runs', flush=True)
if machine == '{victim}' and count == '0':
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
if count == '0' and not os.path.exists('second'):
    open('second', 'w').close()
    time.sleep(300)
time.sleep(2)
"""
    settings = dict(
        NNODES='2', MASTER_ADDR='127.0.0.1', PORT=str(free_port()), MAX_RESTARTS='1'
    )
    machines = [launched(tmp_path, body, NODE_RANK=n, **settings) for n in '01']
    outputs = [machine.communicate(timeout=60)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    assert [output.count('starting all processes again') for output in outputs] == [
        1,
        1,
    ]


# ---- two trainings in one folder

HOLD = f"""
import sys, time
sys.path.insert(0, {str(ROOT / 'tools')!r})
from hosts.locks import FolderLock
lock = FolderLock(sys.argv[1])
lock.acquire()
if 'fork' in sys.argv:
    import os
    child = os.fork()
    if not child:
        time.sleep(300)
    print('child', child, flush=True)
print('locked', flush=True)
time.sleep(300)
"""


def refusal(folder):
    lock = FolderLock(folder)
    try:
        lock.acquire()
    except HostError as error:
        return str(error)
    lock.release()


def test_a_folder_has_one_training(tmp_path):
    holder = start(sys.executable, '-c', HOLD, tmp_path, 'fork', cwd=tmp_path)
    (child,) = read_until(holder, r'child (\d+)')
    read_until(holder, 'locked')
    error = refusal(tmp_path)
    assert f'another training runs in {tmp_path}: process {holder.pid} on ' in error
    (tmp_path / '.training.lock').write_bytes(b'\xff\xfe')  # held, and damaged
    assert 'its lock file does not say which process' in refusal(tmp_path)
    assert socket.gethostname() in error
    holder.kill()
    holder.wait()
    # A dead one's lock is no obstacle, nor is one that its workers could hold.
    assert not gone(child)
    assert refusal(tmp_path) is None
    os.kill(int(child), signal.SIGKILL)
    holder.communicate()


def test_a_lock_that_was_given_back_or_is_no_lock(tmp_path, monkeypatch, capfd):
    lock = FolderLock(tmp_path)
    lock.acquire()
    written = json.loads((tmp_path / '.training.lock').read_text())
    assert written['pid'] == os.getpid()
    lock.release()
    lock.release()
    assert (tmp_path / '.training.lock').read_text() == ''

    def lockf(*args):
        raise OSError(38, 'Function not implemented')

    monkeypatch.setattr('fcntl.lockf', lockf)
    assert refusal(tmp_path) is None
    assert 'a file system without locks (Function not implemented)' in (
        capfd.readouterr().out
    )


# ---- what a process says


def test_lost_peers_and_full_disks_are_told_apart():
    lost = RuntimeError('[gloo/transport/tcp/pair.cc] Connection closed by peer [::1]')
    assert is_lost_peer(lost)
    assert not is_lost_peer(RuntimeError('mat1 and mat2 shapes cannot be multiplied'))
    assert not is_lost_peer(ValueError('Connection closed by peer'))
    full = OSError(28, 'No space left on device', 'a/epoch_1.pth')
    assert describe_os_error(full) == 'a/epoch_1.pth: No space left on device'


def test_a_lost_loader_is_told_in_a_line():
    def task(_):
        raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')

    with pytest.raises(SystemExit) as caught:
        run(task, None)
    assert str(caught.value) == (
        'error: DataLoader worker (pid 7) is killed by signal: Killed. Was there too '
        'little memory? Fewer data.workers_per_gpu need less'
    )


@pytest.mark.parametrize('moment', ['imports', 'run'])
def test_ctrl_c_at_the_start(tmp_path, moment):
    """No traceback, before and after the command begins."""
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT / 'tools')!r})
from hosts import run
from hosts.processes import end_quietly

def wait(_):
    print('ready', flush=True)
    time.sleep(60)

end_quietly()
wait(None) if {moment == 'imports'} else run(wait, None)
"""
    process = subprocess.Popen(
        [sys.executable, '-c', code],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == '' and process.returncode == 130


# ---- real trainings

SMALL = 'data.videos_per_gpu=2 data.workers_per_gpu=1 log_config.interval=1'.split()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp('clips'), 'data/arrow', 3, 1, 1)


def train(data, work_dir, *options, processes=2, **env):
    """Start a training of 3 iterations an epoch, with random flips."""
    return start(
        TRAIN,
        CONFIG,
        processes,
        '--seed',
        7,
        '--work_dir',
        work_dir,
        '--cfg-options',
        *SMALL,
        'data.train.flip_ratio=0.5',
        'model.cls_head.dropout_ratio=0.5',
        *options,
        cwd=data,
        **env,
    )


@pytest.mark.full
def test_a_second_training_is_refused(data, tmp_path):
    holder = start(sys.executable, '-c', HOLD, tmp_path, cwd=tmp_path)
    read_until(holder, 'locked')
    (tmp_path / 'epoch_3.pth.123.tmp').touch()
    with train(data, tmp_path, processes=2) as process:
        output = process.stdout.read()
    holder.kill()
    holder.communicate()
    assert process.returncode == 1
    (line,) = [line for line in output.splitlines() if 'error' in line]
    assert line.startswith(f'error: another training runs in {tmp_path}: process ')
    assert 'Traceback' not in output
    assert sorted(os.listdir(tmp_path)) == ['.training.lock', 'epoch_3.pth.123.tmp']


@pytest.mark.full
def test_killed_five_times(data, tmp_path):
    """A rank killed at random moments: the weights of an uninterrupted run."""
    epochs = 'total_epochs=4'
    with train(data, tmp_path / 'straight', epochs) as process:
        output = process.stdout.read()
    assert process.returncode == 0, output
    seed = time.time()
    print('seed', seed)  # is shown where this fails
    chance = random.Random(seed)
    process = train(data, tmp_path / 'killed', epochs, MAX_RESTARTS='9')
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children')
    lines, kills, passed = [], 0, chance.randrange(5)
    for line in process.stdout:
        lines.append(line)
        if 'starting all processes again' in line:
            passed = chance.randrange(5)
        elif 'Epoch(train)' in line and kills < 5:
            # Once in a start: within the first epoch or after a checkpoint.
            last = re.search(r'Epoch\(train\) +\[4\]', line)
            passed -= 1
            if passed == -1 or (last and passed >= 0):
                passed = -1
                time.sleep(0 if last else chance.uniform(0, 0.5))
                victim = int(chance.choice(children.read_text().split()))
                os.kill(victim, signal.SIGKILL)
                kills += 1
    process.wait()
    output = ''.join(lines)
    assert process.returncode == 0, output[-3000:]
    assert kills == output.count('starting all processes again') == 5
    states = [
        torch.load(tmp_path / name / 'epoch_4.pth', weights_only=True)
        for name in ('straight', 'killed')
    ]
    for name, value in states[0]['state_dict'].items():
        assert torch.equal(value, states[1]['state_dict'][name]), name
    momenta = [state['optimizer']['state'] for state in states]
    for number, values in momenta[0].items():
        for name, value in values.items():
            assert torch.equal(value, momenta[1][number][name])
    assert not list(tmp_path.glob('killed/*.tmp'))


@pytest.mark.full
def test_a_full_disk(data, tmp_path):
    """One line, no traceback, and the checkpoints that were finished."""
    if os.geteuid():
        pytest.skip('a full disk is a small tmpfs, which root alone can mount')
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=70m', 'tmpfs', tmp_path],
        stderr=subprocess.PIPE,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f'a full disk is a small tmpfs: {mounted.stderr.strip()}')
    try:
        with train(
            data, tmp_path, 'total_epochs=5', processes=1, MAX_RESTARTS='2'
        ) as process:
            output = process.stdout.read()
        assert process.returncode == 1
        assert 'Traceback' not in output
        (line,) = [line for line in output.splitlines() if line.startswith('error')]
        assert f'cannot write {tmp_path}/epoch_3.pth: No space left on device' in line
        assert f'finite weights is {tmp_path}/epoch_2.pth' in line
        assert 'starting all processes again' not in output
        assert (tmp_path / 'last_checkpoint').read_text() == f'{tmp_path}/epoch_2.pth'
        torch.load(tmp_path / 'epoch_2.pth', weights_only=True)
        assert not list(tmp_path.glob('*.tmp'))
        remount = ['mount', '-o', 'remount,ro', tmp_path]
        subprocess.run(remount, check=True)
        assert refusal(tmp_path) == f'cannot write in {tmp_path}: Read-only file system'
    finally:
        subprocess.run(['umount', tmp_path], check=True)


@pytest.mark.parametrize('made_of_it', [SyntaxError, HostError, None])
def test_ctrl_c_in_a_library_that_catches_it(made_of_it):
    """As mmengine does where it formats a config for a checkpoint."""

    def task(args):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except BaseException as error:
            if made_of_it:
                raise made_of_it('failed to format') from error
            raise

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as ended:
            run(task, None)
        assert ended.value.code == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.full
def test_waiting_prints_no_pages_of_pytorch(tmp_path):
    variables = dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='127.0.0.1')
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/launch.py', 'script.py', '1'],
        env=dict(ENV, **variables, PORT=str(free_port()), WAIT_SECONDS='3'),
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        'machine',
        'error:',
    ]
