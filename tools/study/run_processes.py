"""The processes that train, test and evaluate a run of a study."""

import os
import signal
import subprocess
import sys
import time
from collections import deque

import torch
from checkpoint_files import read_checkpoint
from hosts import HostError
from hosts.checkpoint_folder import checkpoints_in
from whole_files import remove_unfinished, replacing, write_json

from study.plans import commands

SECONDS_TO_STOP = 10  # for a child, before it is killed


class Stopped(Exception):
    """The time is over, or a signal came."""


def threads(jobs):
    """Threads for each of several processes that share the cores."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)


def run_child(plan, step, command, device, jobs, lock, stop):
    """Run a script in a process and add its seconds to the run's state.

    Args:
        plan (Plan): the run.
        step (str): 'train', 'test' or 'evaluate'; its log is STEP.log.
        command (list): the script and its arguments.
        device (str | None): for CUDA_VISIBLE_DEVICES.
        jobs (int): processes that share the cores.
        lock (int): descriptor of a locked file, locked while a child lives.
        stop (threading.Event): ends the process early.

    Raises:
        Stopped: it did.
        HostError: the process failed; the text has its log and last lines.
    """
    env = dict(os.environ)
    env.pop('MMACTION_ROOT', None)  # mmaction2 is the host here
    env.setdefault('OMP_NUM_THREADS', str(threads(jobs)))
    if device is not None:
        env['CUDA_VISIBLE_DEVICES'] = device
    log = plan.folder / f'{step}.log'
    start = time.perf_counter()
    with open(log, 'a') as file:
        # In a session of its own, so that its data loaders end with it.
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock],
        )
    while process.poll() is None and not stop.wait(0.2):
        pass
    stopped = process.poll() is None
    for number in (signal.SIGTERM, signal.SIGKILL) if stopped else ():
        os.killpg(process.pid, number)
        try:
            process.wait(SECONDS_TO_STOP)
            break
        except subprocess.TimeoutExpired:
            continue
    state = plan.read_state()
    state['seconds'][step] = state['seconds'].get(step, 0) + time.perf_counter() - start
    write_json(plan.folder / 'state.json', state)
    if stopped:
        raise Stopped
    if process.returncode:
        with open(log, errors='replace') as file:
            last = ''.join(deque(file, 8)).rstrip()
        raise HostError(
            f'{step} failed with exit status '
            f'{process.returncode}, see {log}, which ends:\n'
            f'{last}'
        )


def do_steps(plan, devices, jobs, lock, stop):
    """Do what is left of a run's training, testing and evaluation.

    Args:
        plan (Plan): the run.
        devices (queue.Queue): of values for CUDA_VISIBLE_DEVICES, or None;
            one is taken and put back.
        jobs, lock, stop: see :func:`run_child`.
    """
    if stop.is_set():
        raise Stopped
    plan.folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(plan.folder)  # of a process that was stopped while it wrote
    write_json(plan.folder / 'state.json', plan.read_state())
    device = devices.get()
    try:
        command = commands(plan)
        if plan.epochs_done() < plan.epochs:
            # What an earlier training left is not this one's.
            remove(plan, ('results.pkl', 'evaluation.json'))
            # After the config; --cfg-options takes all that follows it.
            train = [*command['train'][:2], '--resume', *command['train'][2:]]
            run_child(plan, 'train', train, device, jobs, lock, stop)
        if not (plan.folder / 'results.pkl').exists():
            remove(plan, ['evaluation.json'])
            run_child(plan, 'test', command['test'], device, jobs, lock, stop)
        if 'evaluate' in command and not (plan.folder / 'evaluation.json').exists():
            run_child(plan, 'evaluate', command['evaluate'], device, jobs, lock, stop)
    finally:
        devices.put(device)


def leave_backbone(plan):
    """Write the backbone of a run's last checkpoint, for runs that begin from it.

    Without the class head: that of the other run starts anew.

    Args:
        plan (Plan): the run, trained.
    """
    state = read_checkpoint(plan.checkpoint)['state_dict']
    state = {
        name: value for name, value in state.items() if name.startswith('backbone.')
    }
    with replacing(plan.backbone) as temporary:
        torch.save(dict(state_dict=state, meta={}), temporary)


def remove_checkpoints(plan):
    """Remove a run's checkpoints, which fill a disk, and what was made of them."""
    for path in checkpoints_in(plan.folder).values():
        os.remove(path)
    remove(plan, ('results.pkl', 'evaluation.json', 'last_checkpoint'))


def remove(plan, names):
    """Remove files of a run's folder that may be there."""
    for name in names:
        (plan.folder / name).unlink(missing_ok=True)
