"""tools/setup/install_into_mmaction.py, run as a user runs it.

A miniature package with the registry rules of mmaction v1 stands in for the
checkout, and a copy of this repository's files for ours, so that a test can
change either. The last test wants a real checkout.
"""

import resource
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, V1_CHECKOUT

BACKBONES = 'mmaction/models/tenons/backbones/'
INIT = BACKBONES + '__init__.py'
KILLS = ROOT / 'tests/setup/kills.py'
FUSED = 'resnet_dnr_fused.py'
CONFIG = 'configs/DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
IMPORT = 'from .resnet_dnr import ResNet_DNR'
ENTRY = "    'ResNet_DNR',"

REGISTRY = """
from torch import nn


class Registry:
    def __init__(self, name):
        self.name = name
        self.module_dict = {}

    def register_module(self, cls):
        if not issubclass(cls, nn.Module):
            raise TypeError(f'{cls} is no nn.Module')
        if cls.__name__ in self.module_dict:
            raise KeyError(f'{cls.__name__} is in {self.name} already')
        self.module_dict[cls.__name__] = cls
        return cls


BACKBONES = Registry('backbone')
"""
BACKBONE = """
from torch import nn

from ...registry import BACKBONES


@BACKBONES.register_module
class {0}(nn.Module):
    pass
"""
LIST = """from .plain import Plain

from .other import Other

__all__ = [
    'Plain',
    'Other'
]
"""


def snapshot(root):
    """Every file and folder below root, with content and mode."""
    return {
        p.relative_to(root).as_posix(): (
            p.stat().st_mode,
            p.read_bytes() if p.is_file() else None,
        )
        for p in root.rglob('*')
    }


def edit(path, old, new):
    text = path.read_bytes()
    assert text.count(old) == 1
    path.write_bytes(text.replace(old, new))


@pytest.fixture
def ours(tmp_path):
    """A copy of our files, with one config more, in a folder."""
    root = tmp_path / 'ours'
    script = 'tools/setup/install_into_mmaction.py'
    modules = [path.name for path in ROOT.glob('*_dnr*.py')]
    for name in [script, *modules, CONFIG]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / 'configs/DNR/more').mkdir(parents=True)
    (root / 'configs/DNR/more/small.py').write_text('model = dict()\n')
    return root


@pytest.fixture
def checkout(tmp_path):
    """A miniature of mmaction v1."""
    root = tmp_path / 'a checkout'
    files = {
        'configs/other.py': 'model = dict()\n',
        'mmaction/__init__.py': '',
        'mmaction/models/__init__.py': 'from .tenons.backbones import *\n',
        'mmaction/models/registry.py': REGISTRY,
        BACKBONES + 'plain.py': BACKBONE.format('Plain'),
        BACKBONES + 'other.py': BACKBONE.format('Other'),
        INIT: LIST,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def script(ours, checkout):
    """Runs our copy of the script; checks the exit code; gives its output."""

    def run(*options, path=checkout, code=0, **kwargs):
        return execute(
            [ours / 'tools/setup/install_into_mmaction.py', path, *options],
            code,
            **kwargs,
        )

    return run


def execute(args, code=0, **kwargs):
    done = subprocess.run(
        [sys.executable, '-B', *map(str, args)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **kwargs,
    )
    assert done.returncode == code, done.stdout
    assert 'Traceback' not in done.stdout
    return done.stdout


def added_lines(old, new):
    """The lines of new that old lacks; the others must be the same."""
    rest = old.splitlines(True)
    added = []
    for line in new.splitlines(True):
        if rest and line == rest[0]:
            rest.pop(0)
        else:
            added.append(line)
    assert not rest
    return added


def test_installed_class_is_in_the_registry_and_runs(script, checkout):
    script()
    out = execute(
        [
            '-c',
            (
                'import torch\n'
                'from mmaction.models.registry import BACKBONES\n'
                'from mmaction.models import *\n'
                'from mmaction.models.tenons.backbones import ResNet_DNR as cls\n'
                'assert ResNet_DNR is cls is BACKBONES.module_dict["ResNet_DNR"]\n'
                'assert cls.__module__ == "mmaction.models.tenons.backbones'
                '.resnet_dnr"\n'
                'assert sorted(BACKBONES.module_dict) == ["Other", "Plain", '
                '"ResNet_DNR", "WithDNR"]\n'
                'net = cls(depth=18, out_indices=(3,))\n'
                'print(tuple(net(torch.rand(8, 3, 32, 32)).shape))\n'
            ),
        ],
        cwd=checkout,
    )
    assert out.split('\n')[-2] == '(8, 512, 1, 1)'


def test_installs_the_files_and_two_lines_and_nothing_else(script, ours, checkout):
    before = snapshot(checkout)
    script()
    after = snapshot(checkout)
    assert after.keys() - before.keys() == {
        *(BACKBONES + path.name for path in ours.glob('*_dnr*.py')),
        CONFIG,
        'configs/DNR',
        'configs/DNR/more',
        'configs/DNR/more/small.py',
    }
    assert [name for name in before if before[name] != after[name]] == [INIT]
    assert added_lines(LIST, (checkout / INIT).read_text()) == [
        IMPORT + '\n',
        ENTRY + '\n',
    ]
    for here, there in (
        (CONFIG, CONFIG),
        ('resnet_dnr.py', BACKBONES + 'resnet_dnr.py'),
    ):
        # Our text, and one line of a checksum.
        text = (checkout / there).read_bytes()
        assert text.startswith((ours / here).read_bytes())
        assert len(text.splitlines()) == 1 + len(
            (ours / here).read_bytes().splitlines()
        )


def test_the_fused_file_comes_along(script, ours, checkout):
    before = snapshot(checkout)
    (ours / FUSED).write_text('fused = 1\n')
    there = checkout / BACKBONES / FUSED
    assert f'{there}: missing\n' in script('--check', code=1)
    script()
    assert there.read_text().startswith('fused = 1\n')
    script('--check')
    (ours / FUSED).write_text('fused = 2\n')
    assert script('--check', code=1) == f'{there}: older version\n'
    script()
    edit(there, b'fused = 2', b'fused = 3')
    assert f'{there} (edited since it was installed)' in script('--uninstall', code=1)
    edit(there, b'fused = 3', b'fused = 2')
    script('--uninstall')
    assert snapshot(checkout) == before


def test_without_the_fused_file_the_method_is_installed_alone(script, ours, checkout):
    (ours / FUSED).write_text('fused = 1\n')
    script()
    (ours / FUSED).unlink()
    there = checkout / BACKBONES / FUSED
    assert f'{there}: left from an older version\n' in script('--check', code=1)
    script()
    assert not there.exists() and there.with_name('resnet_dnr.py').exists()
    script('--check')
    # A file of that name which is not ours is no business of this script.
    there.write_text('theirs = True\n')
    script('--check')
    script()
    script('--uninstall')
    assert there.read_text() == 'theirs = True\n'


def test_prints_the_commands_to_run_next(script, ours, checkout):
    out = script()
    train = f'./tools/dist_train_recognizer.sh {CONFIG} 8 --validate\n'
    # mmaction v1's test script has no run bit.
    assert f"  cd '{checkout}'\n  bash {train}" in out
    assert f"  MMACTION_ROOT='{checkout}' {train}" in out
    assert f'  bash ./tools/dist_test_recognizer.sh {CONFIG} work_dirs/' in out


def test_twice_changes_nothing(script, checkout):
    script()
    once = snapshot(checkout)
    times = {p: p.stat().st_mtime_ns for p in checkout.rglob('*')}
    assert 'up to date, unchanged' in script()
    assert snapshot(checkout) == once
    assert times == {p: p.stat().st_mtime_ns for p in checkout.rglob('*')}


@pytest.mark.parametrize(
    'text',
    [
        LIST,
        LIST.rstrip('\n'),
        LIST.replace("'Other'\n", "'Other',\n"),
        LIST.replace('\n', '\r\n'),
        LIST.replace('__all__ = [', '__all__=[  # all'),
        '"""Words."""\n# import\n' + LIST + '\nx = 1\nimport os\n',
        LIST.replace('import Other', 'import (\n    Other)'),
        'try:\n    import re\nexcept ImportError:\n    re = 0\n__all__ = [\n]\n',
    ],
)
def test_uninstall_is_byte_for_byte(script, checkout, text):
    (checkout / INIT).write_bytes(text.encode())
    (checkout / INIT).chmod(0o640)
    before = snapshot(checkout)
    script()
    new = (checkout / INIT).read_bytes().decode()
    end = '\r\n' if '\r\n' in text else '\n'
    assert added_lines(text, new) == [IMPORT + end, ENTRY + end]
    compile(new, INIT, 'exec')
    assert 'uninstalled' in script('--uninstall')
    assert snapshot(checkout) == before


def test_uninstall_of_nothing_is_harmless(script, checkout):
    before = snapshot(checkout)
    assert 'nothing installed' in script('--uninstall')
    assert snapshot(checkout) == before


def test_uninstall_leaves_what_was_added_since(script, checkout):
    script()
    (checkout / 'configs/DNR/mine.py').write_text('x = 1\n')
    shutil.copy(checkout / CONFIG, checkout / 'configs/copy.py')
    edit(
        checkout / INIT,
        IMPORT.encode(),
        IMPORT.encode() + b'\nfrom .third import Third',
    )
    script('--uninstall')
    left = snapshot(checkout)
    assert {'configs/DNR/mine.py', 'configs/copy.py'} <= left.keys()
    assert 'configs/DNR/more' not in left
    assert added_lines(LIST, (checkout / INIT).read_text()) == [
        'from .third import Third\n'
    ]


def test_check_reports_and_changes_nothing(script, ours, checkout):
    before = snapshot(checkout)
    out = script('--check', code=1)
    assert f'{checkout / CONFIG}: missing\n' in out
    assert f'{checkout / INIT}: ResNet_DNR is not registered\n' in out
    assert snapshot(checkout) == before
    script()
    before = snapshot(checkout)
    assert 'has the current version' in script('--check')
    (ours / CONFIG).write_text('model = dict(newer=True)\n')
    assert script('--check', code=1) == (f'{checkout / CONFIG}: older version\n')
    assert snapshot(checkout) == before
    (checkout / CONFIG).write_text('model = dict(mine=True)\n')
    edit(
        checkout / BACKBONES / 'resnet_dnr.py',
        b'class ResNet_DNR',
        b'class  ResNet_DNR',
    )
    edit(checkout / INIT, IMPORT.encode() + b'\n', b'')
    out = script('--check', code=1)
    assert f'{CONFIG}: not installed by this script\n' in out
    assert 'resnet_dnr.py: edited since it was installed\n' in out
    assert f'Add by hand: the line "{IMPORT}"' in out


def test_check_and_uninstall_together_are_refused(script):
    script('--check', '--uninstall', code=2)


def test_upgrade(script, ours, checkout):
    before = snapshot(checkout)
    script()
    text = (ours / CONFIG).read_text() + 'newer = True\n'
    (ours / CONFIG).write_text(text)
    shutil.rmtree(ours / 'configs/DNR')
    (ours / 'configs/new.py').write_text('new = True\n')
    assert 'small.py: left from an older version' in script('--check', code=1)
    script()
    assert (checkout / CONFIG).read_text().startswith(text)
    after = snapshot(checkout)
    assert 'configs/new.py' in after and 'configs/DNR' not in after
    script('--check')
    # Another version can undo it too.
    (ours / CONFIG).write_text('model = dict()\n')
    (ours / 'configs/new.py').unlink()
    script('--uninstall')
    assert snapshot(checkout) == before


def test_edited_copies_are_kept(script, ours, checkout):
    script()
    (ours / 'resnet_dnr.py').write_text('newer = True\n')
    edit(checkout / CONFIG, b'depth=50', b'depth=34')
    before = snapshot(checkout)
    for option in ([], ['--uninstall']):
        out = script(*option, code=1)
        assert f'{checkout / CONFIG} (edited since it was installed)' in out
        assert 'run again' in out and out.count('\n') == 1
        assert snapshot(checkout) == before
    (checkout / CONFIG).unlink()
    script()
    script('--uninstall')


def test_files_of_others_are_kept(script, checkout):
    (checkout / CONFIG).write_text('theirs = True\n')
    (checkout / BACKBONES / 'resnet_dnr.py').mkdir()
    before = snapshot(checkout)
    out = script(code=1)
    assert f'{checkout / CONFIG} (not installed by this script)' in out
    assert 'resnet_dnr.py (not installed by this script)' in out
    assert snapshot(checkout) == before
    assert 'nothing installed' in script('--uninstall')
    assert snapshot(checkout) == before


@pytest.mark.parametrize(
    'line, old, new',
    [
        (IMPORT, "'Other'", "'Other',\n    'ResNet_DNR'"),
        (IMPORT, "    'Other'", f"{ENTRY}\n    'Other'"),
        ('from .resnet_dnr import (ResNet_DNR)', '[', f'[\n{ENTRY}'),
        (IMPORT, '', ''),  # the import alone registers the class
    ],
)
def test_dropped_in_by_hand_is_left_alone(script, ours, checkout, line, old, new):
    shutil.copy(ours / 'resnet_dnr.py', checkout / BACKBONES)
    (checkout / INIT).write_text(f'{line}\n{LIST.replace(old, new)}')
    before = snapshot(checkout)
    script()
    assert snapshot(checkout).items() >= before.items()
    assert (checkout / CONFIG).is_file()
    script('--check')
    assert 'left alone' in script('--uninstall')
    assert snapshot(checkout) == before


@pytest.mark.parametrize(
    'text, wanted',
    [
        ("from .plain import Plain\n__all__ = ['Plain']\n", (True, True)),
        ("from .plain import Plain\n__all__ = ['Plain',\n]\n", (True, True)),
        ("from .plain import Plain\n__all__ = (\n    'Plain',)\n", (True, True)),
        ('from .plain import Plain\n', (True, False)),
        (LIST.replace('[', "[\n    'ResNet_DNR',"), (True, False)),
    ],
)
def test_lines_to_add_by_hand_are_named(script, checkout, text, wanted):
    (checkout / INIT).write_text(text)
    before = snapshot(checkout)
    out = script(code=1)
    assert 'hand' in out and out.count('\n') == 1 and INIT in out
    assert (
        f'the line "{IMPORT}"' in out,
        "'ResNet_DNR', in the list __all__" in out,
    ) == wanted
    assert snapshot(checkout) == before
    # Done as told, it goes on.
    if wanted[0]:
        text = IMPORT + '\n' + text
    if wanted[1]:
        text = text.replace("'Plain'", "'Plain', 'ResNet_DNR'")
    (checkout / INIT).write_text(text)
    script()
    assert (checkout / INIT).read_text() == text


@pytest.mark.parametrize(
    'text, message',
    [
        (LIST + 'from .published import ResNet_DNR\n', 'line 9: takes a ResNet'),
        (LIST + '<<<<<<< HEAD\n', 'not valid Python'),
    ],
)
def test_an_init_that_cannot_work_is_refused(script, checkout, text, message):
    (checkout / INIT).write_text(text)
    before = snapshot(checkout)
    assert message in script(code=1)
    assert snapshot(checkout) == before


def test_refuses_what_is_no_v1_checkout(script, ours, checkout, tmp_path):
    mmaction2 = tmp_path / 'mmaction2'
    (mmaction2 / 'mmaction/models/backbones').mkdir(parents=True)
    a_file = tmp_path / 'file'
    a_file.write_text('')
    for path, message in (
        (tmp_path / 'nowhere', 'there is no such folder'),
        (a_file, 'it is a file'),
        (tmp_path, f'it has no {INIT}'),
        (checkout / 'mmaction', f'it has no {INIT}'),
        (mmaction2, 'custom_imports'),
        (ours, 'it is ResNet-DNR itself'),
    ):
        before = snapshot(tmp_path)
        for options in ([], ['--check'], ['--uninstall']):
            out = script(*options, path=path, code=1)
            assert out.startswith(f'error: {path} is no checkout of mmaction v1: ')
            assert message in out and 'git clone' in out
        assert snapshot(tmp_path) == before


def small_files_only():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def test_a_full_disk_changes_nothing(script, checkout):
    before = snapshot(checkout)
    out = script(code=1, preexec_fn=small_files_only)
    assert out.startswith('error: ') and out.count('\n') == 1
    assert 'File too large. The checkout is as it was before' in out
    assert snapshot(checkout) == before


def test_a_file_where_a_folder_is_needed_changes_nothing(script, checkout):
    (checkout / 'configs/DNR').write_text('')
    before = snapshot(checkout)
    assert 'as it was before' in script(code=1)
    assert snapshot(checkout) == before


# Makes the n-th rename or removal fail, as on a file system gone read-only.
BREAK = """
import errno, os, pathlib, runpy, sys
left = int(sys.argv[1])
def broken(work):
    def wrapper(path, *args):
        global left
        if not str(path).endswith('.old'):
            left -= 1
            if left == 0:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return work(path, *args)
    return wrapper
os.replace = broken(os.replace)
if '--uninstall' in sys.argv:
    pathlib.Path.unlink = broken(pathlib.Path.unlink)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.mark.parametrize('nth', [1, 2, 3, 4])
@pytest.mark.parametrize('options', [[], ['upgrade'], ['--uninstall']])
def test_a_failure_in_the_middle_is_rolled_back(script, ours, checkout, options, nth):
    if options:
        script()
    if options == ['upgrade']:
        options = []
        edit(checkout / INIT, ENTRY.encode() + b'\n', b'')
        edit(checkout / INIT, IMPORT.encode() + b'\n', b'')
        for path in [ours / 'resnet_dnr.py', *ours.glob('configs/**/*.py')]:
            path.write_text(path.read_text() + 'newer = True\n')
    before = snapshot(checkout)
    command = [ours / 'tools/setup/install_into_mmaction.py', checkout, *options]
    out = execute(['-c', BREAK, nth, *command], code=1)
    assert 'Read-only file system. The checkout is as it was before' in out
    assert snapshot(checkout) == before
    script(*options)


# ---- killed at any file operation


JOURNAL = '.resnet_dnr_install'


@pytest.mark.full
@pytest.mark.parametrize(
    'task, half',
    [
        ('install', False),
        ('install', True),
        ('upgrade', False),
        ('upgrade', True),
        ('uninstall', False),
    ],
)
def test_killed_at_any_file_operation(script, ours, checkout, tmp_path, task, half):
    """--check sees it; a second run completes it; --uninstall takes all out."""
    clean = tmp_path / 'clean'
    shutil.copytree(checkout, clean)
    if task != 'install':
        script()
    if task == 'upgrade':
        for path in [ours / 'resnet_dnr.py', *ours.glob('configs/**/*.py')]:
            path.write_text(path.read_text() + 'newer = True\n')
        (ours / 'configs/DNR/more/small.py').rename(ours / 'configs/new.py')
        (ours / 'configs/DNR/more').rmdir()
    program = ours / 'tools/setup/install_into_mmaction.py'
    # In a process of its own: a small one is forked fast.
    kills = execute([KILLS, program, checkout, clean, task, '--half' if half else ''])
    assert int(kills) >= (3 if half else 15)


def test_a_journal_reaches_no_file_outside(script, checkout, tmp_path):
    (tmp_path / '.victim.old').write_text('x')
    outside = tmp_path / 'victim', 'configs/../../victim', '../victim'
    (checkout / JOURNAL).write_text('\n'.join(map(str, outside)))
    assert JOURNAL in script('--check', code=1)
    assert JOURNAL in script('--uninstall')
    assert (tmp_path / '.victim.old').exists()
    assert not (checkout / JOURNAL).exists()


@pytest.mark.skipif(
    not V1_CHECKOUT,
    reason=(
        'needs a checkout of mmaction v1: MMACTION_ROOT=/path/to/mmaction '
        './tools/run_tests.sh tests/setup/test_install_into_mmaction.py'
    ),
)
def test_git_status_of_a_real_checkout(tmp_path):
    root = tmp_path / 'mmaction'

    def git(*args):
        return subprocess.run(
            ['git', '-c', 'user.name=x', '-c', 'user.email=x', *args],
            cwd=root,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        ).stdout

    def status():
        out = git('status', '--porcelain', '-uall', '--ignored')
        return set(out.splitlines()) - ignored

    shutil.copytree(
        V1_CHECKOUT,
        root,
        symlinks=True,
        ignore=shutil.ignore_patterns('.git', '__pycache__', 'data', 'work_dirs'),
    )
    script = ROOT / 'tools/setup/install_into_mmaction.py'
    # The checkout that is named may have it installed already.
    execute([script, root, '--uninstall'])
    git('init', '-q')
    git('add', '-A')
    git('commit', '-q', '-m', 'mmaction v1')
    ignored = set()
    ignored = status()  # such as version.py

    execute([script, root])
    configs = [p for p in ROOT.glob('configs/**/*.py') if p.name != 'study.py']
    assert status() == {
        ' M ' + INIT,
        *(f'?? {BACKBONES}{path.name}' for path in ROOT.glob('*_dnr*.py')),
        *(f'?? {path.relative_to(ROOT).as_posix()}' for path in configs),
    }
    assert git('diff', '--numstat').split() == ['2', '0', INIT]
    execute([script, root, '--check'])
    execute([script, root, '--uninstall'])
    assert status() == set()
