"""What lets mmaction v1's own scripts run in the environment made for it.

    .venv-v1/bin/python tools/hosts/v1_startup.py

writes resnet_dnr_v1.pth into the environment whose Python runs it. From then
on each Python there, spawned data loading workers too, waits for the import of
mmcv. If mmaction v1 is what imports it, the fixes of v1_fixes.py are applied
then, once, and v1's scripts find their own checkout and take --local-rank.
"""

import functools
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
import warnings

TOOLS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAME = 'resnet_dnr_v1.pth'
# One line: site runs those that begin with import.
LINE = (
    'import importlib.util as u; '
    "s = u.spec_from_file_location('resnet_dnr_v1', {path!r}); "
    'm = u.module_from_spec(s); s.loader.exec_module(m); m.wait()\n'
)


class Waiting:
    """A finder on sys.meta_path that sees the import of mmcv coming."""

    def find_spec(self, name, path=None, target=None):
        """The usual spec of mmcv, which mends when it is loaded."""
        if name != 'mmcv':
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = functools.partial(
                load_and_mend, spec.loader.exec_module
            )
        return spec


def wait():
    """Start to wait for the import of mmcv."""
    sys.meta_path.insert(0, Waiting())


def load_and_mend(load, module):
    """Load mmcv, and mend what mmaction v1 lacks, if it is v1 that runs."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'On January 1, 2023, MMCV')
        load(module)
    root = checkout()
    if root is None:
        return
    if root not in sys.path:
        sys.path.insert(1, root)
    if TOOLS not in sys.path:  # last: v1 has folders of the same names
        sys.path.append(TOOLS)
    from hosts import v1_fixes

    v1_fixes.apply()
    # What PyTorch 2's launcher passes, as v1's parsers know it.
    sys.argv[1:] = [
        argument.replace('--local-rank', '--local_rank', 1)
        if argument.startswith('--local-rank')
        else argument
        for argument in sys.argv[1:]
    ]


def checkout():
    """The checkout of mmaction v1 that runs, or is importable.

    Returns:
        str | None: its root.
    """
    roots = []
    if sys.argv and sys.argv[0]:  # ROOT/tools/SCRIPT
        script = os.path.abspath(sys.argv[0])
        roots.append(os.path.dirname(os.path.dirname(script)))
    spec = importlib.machinery.PathFinder.find_spec('mmaction')
    if spec is not None and spec.origin:
        roots.append(os.path.dirname(os.path.dirname(spec.origin)))
    for root in roots:
        if os.path.isdir(os.path.join(root, 'mmaction/models/tenons')):
            return root
    return None


def main():
    """Write the .pth file, whole or not at all."""
    sys.path.insert(0, TOOLS)
    from whole_files import write_whole

    path = os.path.join(sysconfig.get_path('purelib'), NAME)
    try:
        write_whole(path, LINE.format(path=os.path.abspath(__file__)))
    except OSError as error:
        sys.exit(f'error: cannot write {path}: {error.strerror}')
    print(f'wrote {path}')


if __name__ == '__main__':
    main()
