"""Kill the installer at each of its file operations, and look what is left.

    python kills.py PROGRAM CHECKOUT CLEAN install|upgrade|uninstall [--half]

PROGRAM is run on copies of CHECKOUT, each time killed a file operation later.
After each kill, --check must see what is left, a second run must complete the
work, though it may be killed too, and --uninstall must leave CLEAN. Prints the
number of kills.
"""

# PROGRAM's modules are imported here, once for all its runs.
import argparse  # noqa: F401
import ast  # noqa: F401
import functools
import hashlib  # noqa: F401
import os
import resource
import shlex  # noqa: F401
import shutil
import signal
import sys
import tempfile
from pathlib import Path

JOURNAL = '.resnet_dnr_install'
CHANGES = ('os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.chmod', 'os.utime')


def snapshot(root):
    """Every file and folder below root, with content and mode."""
    return {
        p.relative_to(root).as_posix(): (
            p.stat().st_mode,
            p.read_bytes() if p.is_file() else None,
        )
        for p in root.rglob('*')
    }


@functools.lru_cache(None)
def compile_once(program):
    return compile(program.read_bytes(), str(program), 'exec')


def forked(program, *arguments, kill=0, half=False):
    """Run the program in a child process that may be killed.

    Args:
        program (Path): the script.
        *arguments: its command line.
        kill (int): the change to the disk, counted from 1, that SIGKILL comes
            before; 0 for none.
        half (bool): the kill comes in the middle of the first write of more
            than 1000 bytes from there instead.

    Returns:
        tuple: the exit code, None if it was killed, and what it printed.
    """
    compiled = compile_once(program)
    with tempfile.TemporaryFile('w+') as printed:
        child = os.fork()
        if not child:
            run_child(compiled, program, arguments, printed, kill, half)
        _, status = os.waitpid(child, 0)
        printed.seek(0)
        output = printed.read()
    assert 'Traceback' not in output, output
    code = None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return code, output


def run_child(compiled, program, arguments, printed, kill, half):
    """The child's part of :func:`forked`; it does not return."""
    left = kill

    def count(event, args):
        nonlocal left
        opened = event == 'open' and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if opened or event in CHANGES:
            left -= 1
            if left == 0 and half:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            elif left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 9
    try:
        sys.stdout = sys.stderr = printed
        sys.argv = [str(program), *map(str, arguments)]
        main = dict(__name__='__main__', __file__=str(program))
        sys.addaudithook(count)  # of this child alone
        exec(compiled, main)
    except SystemExit as exit:
        code = exit.code or 0
    finally:
        printed.flush()
        os._exit(code)


def kill_everywhere(program, checkout, clean, task, half, work):
    """Returns the number of kills; AssertionError where something is wrong."""
    options = ['--uninstall'] if task == 'uninstall' else []
    root, again = work / 'root', work / 'again'
    before, clean = snapshot(checkout), snapshot(clean)
    shutil.copytree(checkout, root)
    assert forked(program, root, *options)[0] == 0
    after = snapshot(root)
    kills = 0
    while True:
        shutil.rmtree(root)
        shutil.copytree(checkout, root)
        kill = dict(kill=kills + 1, half=half)
        if forked(program, root, *options, **kill)[0] is not None:
            break
        kills += 1
        left = snapshot(root)
        code, output = forked(program, root, '--check')
        assert code == (left != (before if options else after)), (kills, output)
        if left.keys() - before.keys() - after.keys():
            assert JOURNAL in output, (kills, output)
            assert 'a run that was killed' in output, (kills, output)
        shutil.copytree(root, again)
        forked(program, again, **kill)
        assert forked(program, again)[0] == 0
        assert snapshot(again) == (before if options else after), kills
        assert forked(program, again, '--check')[0] == 0
        shutil.rmtree(again)
        assert forked(program, root, '--uninstall')[0] == 0
        assert snapshot(root) == clean, kills
    assert snapshot(root) == after
    return kills


def main():
    program, checkout, clean, task, *half = sys.argv[1:]
    assert task in ('install', 'upgrade', 'uninstall')
    with tempfile.TemporaryDirectory(dir=Path(checkout).parent) as work:
        paths = Path(program), Path(checkout), Path(clean)
        print(kill_everywhere(*paths, task, '--half' in half, Path(work)))


if __name__ == '__main__':
    main()
