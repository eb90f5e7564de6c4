#!/usr/bin/env python3
"""Put ResNet_DNR and its configs into a checkout of mmaction v1.

    tools/setup/install_into_mmaction.py PATH              install or upgrade
    tools/setup/install_into_mmaction.py PATH --check      report, change nothing
    tools/setup/install_into_mmaction.py PATH --uninstall  take it out again

What goes where:
  resnet_dnr.py        into mmaction/models/tenons/backbones/
  resnet_dnr_fused.py  beside it, where this repository has it: the method runs
                       without it, but slower
  add_dnr.py           beside it: DNR in mmaction v1's own networks
  configs/**/*.py      to the same relative paths under configs/
  two lines            into mmaction/models/tenons/backbones/__init__.py: the
                       import and, first in the list, the entry of __all__

No record is kept in the checkout. Each copy ends in a comment with a checksum
of its path and text instead, which tells what may be touched:
  checksum holds      a copy of ours, of this or an older version: install
                      brings it up to date (or removes it, where this version
                      has no such file), uninstall removes it
  checksum is broken  edited after it was installed: both refuse
  no checksum         not made here: uninstall leaves it, install refuses. A
                      plain copy of our current file is good enough, though:
                      install leaves it as well
The two lines are left alone in the same way where they were written by hand,
that is, where the entry does not come first in __all__. The import alone will
do: it registers the class.

All changes are made or none. Folders that uninstall leaves empty are removed.
A run that is killed leaves .resnet_dnr_install in the checkout, a list of what
it was changing: --check names it, and the next run, of either kind, removes
what the killed one left half done.
The exit code is 1 after an error, and if --check finds anything to do.
"""

import argparse
import ast
import contextlib
import hashlib
import os
import shlex
import shutil
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
BACKBONES = 'mmaction/models/tenons/backbones/'
INIT = BACKBONES + '__init__.py'
# All but the first are optional.
MODULES = (
    'resnet_dnr.py',
    'resnet_dnr_fused.py',
    'resnet_dnr_kernels.py',
    'add_dnr.py',
)
IMPORT = b'from .resnet_dnr import ResNet_DNR'
ENTRY = b"    'ResNet_DNR',"
# While files are changed: their relative paths, one a line.
JOURNAL = '.resnet_dnr_install'
# Stays as the first version wrote it, so that copies of then are known.
STAMP = b'# Installed by tools/install_into_mmaction.py of ResNet-DNR: '

CONFIG = 'configs/DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
TRAIN = f'./tools/dist_train_recognizer.sh {CONFIG} 8 --validate'
TEST = (
    f'./tools/dist_test_recognizer.sh {CONFIG} '
    'work_dirs/DNR_r50_kinetics400_rgb_seg1_8x8_scratch/epoch_196.pth '
    '8 --out DNR_r50_kinetics_results.pkl'
)
NEXT = f"""
Next, in the checkout, in an environment that mmaction v1 runs in, such as that
of tools/setup/setup_mmaction_v1.sh:
  cd {{path}}
  bash {TRAIN}
  bash {TEST}
or the same through our scripts, which check more:
  cd {{repo}}
  MMACTION_ROOT={{path}} {TRAIN}
  MMACTION_ROOT={{path}} {TEST}"""


class InstallError(Exception):
    """What is wrong and what to do about it, for the user."""


def check_checkout(root):
    """Raise InstallError unless root is a checkout of mmaction v1."""
    lacks = [
        rel
        for rel in (INIT, 'mmaction/models/registry.py')
        if not (root / rel).is_file()
    ]
    if not lacks:
        return
    if not root.exists():
        found = 'there is no such folder'
    elif not root.is_dir():
        found = 'it is a file'
    elif root == REPO:
        found = 'it is ResNet-DNR itself'
    else:
        found = f'it has no {lacks[0]}'
        if (root / 'mmaction/models').is_dir():
            found += (
                ' (if it is mmaction2: nothing is installed there, '
                'resnet_dnr is named in custom_imports)'
            )
    raise InstallError(
        f'{root} is no checkout of mmaction v1: {found}. PATH is the folder '
        'that "git clone https://github.com/open-mmlab/mmaction" makes'
    )


def our_files():
    """Returns the text of our files, by their relative path in a checkout."""
    files = {
        BACKBONES + name: REPO / name for name in MODULES if (REPO / name).exists()
    }
    for path in sorted(REPO.glob('configs/**/*.py')):
        if path.name == 'study.py':  # no config: tools/study/ reads it
            continue
        files[path.relative_to(REPO).as_posix()] = path
    return {rel: path.read_bytes() for rel, path in files.items()}


def stamped(rel, text):
    """Returns the text with its checksum below, as it is installed."""
    # The path is part of it: a config copied to a new name is the user's.
    digest = hashlib.sha256(rel.encode() + b'\n' + text).hexdigest()
    return text + STAMP + digest[:16].encode() + b'\n'


def is_stamped(rel, data):
    """Whether the data was installed as rel and not edited since."""
    text, mark, _ = data.rpartition(STAMP)
    return bool(mark) and data == stamped(rel, text)


def installed_files(root):
    """Returns the relative paths of all unedited copies, of any version."""
    paths = [root / BACKBONES / name for name in MODULES]
    paths += root.glob('configs/**/*.py')
    rels = [p.relative_to(root).as_posix() for p in paths if p.is_file()]
    return [rel for rel in rels if is_stamped(rel, (root / rel).read_bytes())]


def file_states(root, files):
    """Compare the files of the checkout with ours.

    Args:
        root (Path): the checkout.
        files (dict): what our_files returns.

    Returns:
        dict: relative path to 'missing', 'current', 'older version',
            'left from an older version', 'edited since it was installed' or
            'not installed by this script'.
    """
    states = {rel: 'left from an older version' for rel in installed_files(root)}
    for rel, text in files.items():
        path = root / rel
        data = path.read_bytes() if path.is_file() else b''
        if not os.path.lexists(path):
            states[rel] = 'missing'
        elif data in (text, stamped(rel, text)):
            states[rel] = 'current'
        elif is_stamped(rel, data):
            states[rel] = 'older version'
        elif STAMP in data:
            states[rel] = 'edited since it was installed'
        else:
            states[rel] = 'not installed by this script'
    return states


def refuse(root, states, *refused):
    """Raise InstallError if a file is in one of the refused states."""
    found = [
        f'{root / rel} ({state})' for rel, state in states.items() if state in refused
    ]
    if found:
        raise InstallError(
            'in the way: ' + ', '.join(found) + '. Move what '
            'you want to keep, delete the rest, run again'
        )


def find_list(path):
    """Parse backbones/__init__.py.

    Args:
        path (Path): the file.

    Returns:
        tuple: its syntax tree, its lines as bytes with their ends, and the
            number (from 1) of the line '__all__ = [', None without one.

    Raises:
        InstallError: it is not Python.
    """
    data = path.read_bytes()
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError) as err:
        raise InstallError(f'{path} is not valid Python: {err}') from err
    lines = data.splitlines(True)
    for node in tree.body:
        if isinstance(node, ast.Assign):
            code = lines[node.lineno - 1].partition(b'#')[0]
            if b''.join(code.split()) == b'__all__=[':
                return tree, lines, node.lineno
    return tree, lines, None


def registered(path):
    """Returns backbones/__init__.py with the class in it; writes nothing.

    Args:
        path (Path): the file.

    Returns:
        bytes: two lines longer, or as it is if the class is there already.

    Raises:
        InstallError: the lines have to be written by hand.
    """
    tree, lines, opening = find_list(path)
    imports = [
        node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    ours = [
        node
        for node in imports
        if any('ResNet_DNR' == (name.asname or name.name) for name in node.names)
    ]
    for node in ours:
        if getattr(node, 'module', None) != 'resnet_dnr':
            raise InstallError(
                f'{path}, line {node.lineno}: takes a ResNet_DNR from another '
                'file, and only one can be registered. Take that line out, '
                'then run again'
            )
    nodes = list(ast.walk(tree))
    has_list = any(getattr(node, 'id', None) == '__all__' for node in nodes)
    listed = any(
        isinstance(node, ast.Constant) and node.value == 'ResNet_DNR' for node in nodes
    )
    if ours:  # importing the module registers the class
        return b''.join(lines)
    if listed or opening is None:
        wanted = [f'the line "{IMPORT.decode()}"']
        if has_list and not listed:
            wanted.append("'ResNet_DNR', in the list __all__")
        raise InstallError(
            f'{path} is not as mmaction v1 has it. Add by '
            f'hand: {" and ".join(wanted)}; then run again'
        )
    # Whole lines only, so that no line of the file has to change.
    end = b'\r\n' if lines[opening - 1].endswith(b'\r\n') else b'\n'
    last = max(
        (node.end_lineno for node in imports if node.end_lineno < opening),
        default=opening - 1,
    )
    return b''.join(
        lines[:last]
        + [IMPORT + end]
        + lines[last:opening]
        + [ENTRY + end]
        + lines[opening:]
    )


def unregistered(path):
    """Returns backbones/__init__.py without our lines; writes nothing."""
    _, lines, opening = find_list(path)
    plain = [line.rstrip(b'\r\n') for line in lines]
    ours = ()
    if opening and plain[opening] == ENTRY and plain.count(IMPORT) == 1:
        ours = (opening, plain.index(IMPORT))
    return b''.join(ln for i, ln in enumerate(lines) if i not in ours)


def plan_install(root):
    """Returns what to write: path to content, or to None for removal."""
    files = our_files()
    states = file_states(root, files)
    refuse(
        root, states, 'edited since it was installed', 'not installed by this script'
    )
    changes = {
        root / rel: stamped(rel, files[rel]) if rel in files else None
        for rel, state in states.items()
        if state != 'current'
    }
    # The registration is last: what it imports is in place by then.
    init = root / INIT
    text = registered(init)
    if text != init.read_bytes():
        changes[init] = text
    return changes


def plan_uninstall(root):
    """Returns what to write, as plan_install does."""
    states = file_states(root, our_files())
    refuse(root, states, 'edited since it was installed')
    init = root / INIT
    text = unregistered(init)
    changes = {init: text} if text != init.read_bytes() else {}
    changes.update({root / rel: None for rel in installed_files(root)})
    if b'resnet_dnr' in text:
        print(
            f'{init} still names resnet_dnr: those lines were not written '
            'by this script and are left alone'
            + (
                '; take them out by hand'
                if root / BACKBONES / MODULES[0] in changes
                else ''
            )
        )
    return changes


def beside(path, end):
    """The name that stands in for path until all changes are ready."""
    return path.with_name(f'.{path.name}.{end}')


def begin_journal(root, changes):
    """Write down, whole or not at all, what a kill might leave half done."""
    rels = [path.relative_to(root).as_posix() for path in changes]
    unfinished = root / f'{JOURNAL}.new'
    unfinished.write_text('\n'.join(rels))
    os.replace(unfinished, root / JOURNAL)


def debris(root):
    """Returns the journal's files of a killed run, and what these name.

    Args:
        root (Path): the checkout.

    Returns:
        tuple: files of the journal that are there, and the paths in it.
    """
    journal = root / JOURNAL
    rels = journal.read_text(errors='replace').split('\n') if journal.is_file() else []
    # A journal is a file that anybody can write.
    paths = [
        root / rel
        for rel in rels
        if rel.startswith((BACKBONES, 'configs/')) and '..' not in Path(rel).parts
    ]
    return [p for p in (root / f'{JOURNAL}.new', journal) if p.is_file()], paths


def sweep(root):
    """Remove what a run, this one or a killed one, leaves beside the files.

    Args:
        root (Path): the checkout.

    Returns:
        list[Path]: the journal's files that were there.
    """
    journals, paths = debris(root)
    for path in paths:
        for end in ('new', 'old'):
            with contextlib.suppress(OSError):
                beside(path, end).unlink()
        for folder in list(path.relative_to(root).parents)[:-1]:
            with contextlib.suppress(OSError):  # it is not empty
                (root / folder).rmdir()
    for path in journals:  # last: a kill before it leaves the list
        with contextlib.suppress(OSError):
            path.unlink()
    return journals


def apply(root, changes):
    """Write and remove files, all of them or none.

    Args:
        root (Path): the checkout.
        changes (dict): path to content, or to None for removal.

    Raises:
        InstallError: a file could not be written; nothing is changed.
    """
    begun, path = [], root / JOURNAL
    try:
        begin_journal(root, changes)
        # All that takes space on the disk comes first; then only renames.
        for path, data in changes.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                shutil.copy2(path, beside(path, 'old'))
            if data is not None:
                beside(path, 'new').write_bytes(data)
                if path.exists():
                    shutil.copymode(path, beside(path, 'new'))
        for path, data in changes.items():
            begun.append(path)
            if data is None:
                path.unlink()
            else:
                os.replace(beside(path, 'new'), path)
    except BaseException as err:
        for done in begun:
            if beside(done, 'old').exists():
                os.replace(beside(done, 'old'), done)
            elif done.exists():
                done.unlink()
        if isinstance(err, OSError):
            raise InstallError(
                f'{path}: {err.strerror}. The checkout is as it was before'
            ) from err
        raise
    finally:
        sweep(root)


def check(root):
    """Returns 0 if this version is installed, 1 if not, and prints why."""
    states = file_states(root, our_files())
    init = root / INIT
    try:
        done = registered(init) == init.read_bytes()
        states[INIT] = 'current' if done else 'ResNet_DNR is not registered'
    except InstallError as err:
        states[INIT] = str(err)
    for path in debris(root)[0]:
        states[path.relative_to(root).as_posix()] = (
            'left by a run that was killed; run again, or with --uninstall'
        )
    wrong = {rel: s for rel, s in states.items() if s != 'current'}
    for rel, state in wrong.items():
        print(f'{root / rel}: {state}')
    if not wrong:
        print(f'{root} has the current version')
    return int(bool(wrong))


def main():
    parser = argparse.ArgumentParser(
        description='Put ResNet_DNR and its configs into a checkout of mmaction v1.'
    )
    parser.add_argument('path', help='the checkout')
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--uninstall', action='store_true', help='take out what was installed'
    )
    what.add_argument(
        '--check',
        action='store_true',
        help='change nothing; exit code 0 if up to date, else 1',
    )
    args = parser.parse_args()
    root = Path(args.path).resolve()
    try:
        check_checkout(root)
        if args.check:
            return check(root)
        changes = (plan_uninstall if args.uninstall else plan_install)(root)
        swept = sweep(root)
        if changes:
            apply(root, changes)
    except (InstallError, OSError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    for path in swept:
        print('removed what a killed run had left:', path)
    for path, data in changes.items():
        print('removed' if data is None else 'wrote', path)
    if args.uninstall:
        print('uninstalled' if changes else f'nothing installed in {root}')
    else:
        print('installed' if changes else f'{root} is up to date, unchanged')
        print(NEXT.format(path=shlex.quote(str(root)), repo=shlex.quote(str(REPO))))
    return 0


if __name__ == '__main__':
    sys.exit(main())
