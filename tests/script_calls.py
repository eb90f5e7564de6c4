"""How tests call the repository's scripts: in a process, or in this one."""

import contextlib
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from collections import OrderedDict

import pytest
import torch
from conftest import ROOT
from mmengine.utils import ManagerMixin

# The tests of scripts are of a CPU, and of mmaction2.
ENV = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
ENV.pop('MMACTION_ROOT', None)


def start(*command, cwd):
    """Start a Python script; its output is a pipe of text."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*command, cwd, code=0):
    """Run a Python script to its end and return what it printed."""
    with start(*command, cwd=cwd) as process:
        try:
            output, _ = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == code, output[-3000:]
    return output


@contextlib.contextmanager
def state_as_before():
    """What a script sets in this process is put back."""
    signals = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }
    kept = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.get_num_threads(),
    )
    try:
        yield
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)
        torch.set_float32_matmul_precision(kept[0])
        torch.backends.cudnn.allow_tf32 = kept[1]
        torch.backends.cudnn.benchmark = kept[2]
        torch.set_num_threads(kept[3])


def managers(kind=ManagerMixin):
    """mmengine's classes whose instances a process keeps by the run's name."""
    for manager in kind.__subclasses__():
        yield manager
        yield from managers(manager)


def call(script, *arguments, cwd):
    """A script's command line in this process: saves seconds of imports.

    Returns:
        tuple: what it exits with, 0, a number or a text, and what it printed.
    """
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(tempfile.TemporaryFile('w+'))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        stack.enter_context(state_as_before())
        stack.enter_context(contextlib.redirect_stdout(output))
        stack.enter_context(contextlib.redirect_stderr(output))
        patch.chdir(cwd)
        patch.setattr(sys, 'argv', [str(script), *map(str, arguments)])
        # mmengine names a run by its second, so that the second run of one
        # second would get the first one's logger and picture folder.
        for manager in managers():
            patch.setattr(manager, '_instance_dict', OrderedDict())
        try:
            runpy.run_path(str(script), run_name='__main__')
            code = 0
        except SystemExit as exit:
            code = exit.code or 0
        output.seek(0)
        return code, output.read()


@contextlib.contextmanager
def small_files(limit):
    """No file of this process grows beyond a limit: in place of a full disk.

    Args:
        limit (int): bytes. Writing more is an OSError, 'File too large'.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # Python itself ignores the signal of it
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def make_clips(folder, name, train, val, test):
    """Generated clips of four classes, 32 x 32.

    Args:
        folder (Path): in which to make them.
        name (str): of their folder in it.
        train, val, test (int): clips a class.

    Returns:
        Path: folder.
    """
    script = ROOT / 'tools' / 'data' / 'make_arrow_dataset.py'
    numbers = ['--train', train, '--val', val, '--test', test]
    code, output = call(script, name, '--pairs', 2, '--size', 32, *numbers, cwd=folder)
    assert code == 0, output
    return folder
