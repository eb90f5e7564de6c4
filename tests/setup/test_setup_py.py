"""setup.py: the version and the modules that a wheel gets."""

import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

FUSED = 'resnet_dnr_fused'


@pytest.fixture
def copy(tmp_path):
    """A folder with setup.py and a method of another version."""
    shutil.copy(ROOT / 'setup.py', tmp_path)
    (tmp_path / 'resnet_dnr.py').write_text(
        '"""Doc."""\nimport missing\n\n__version__ = \'9.8.7\'\n'
    )
    return tmp_path


def setup(folder, *args):
    done = subprocess.run(
        [sys.executable, 'setup.py', '--quiet', *args],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout.strip() or done.stderr


def test_the_version_is_the_method_s(copy):
    assert setup(copy, '--version') == (0, '9.8.7')
    (copy / 'resnet_dnr.py').write_text('')
    code, output = setup(copy, '--version')
    assert code == 1 and 'resnet_dnr.py has no line __version__' in output


@pytest.mark.parametrize('fused', [True, False])
def test_modules(copy, fused):
    if fused:
        (copy / f'{FUSED}.py').touch()
    assert setup(copy, 'build')[0] == 0
    built = sorted(path.name for path in copy.glob('build/lib*/*'))
    assert built == ['resnet_dnr.py'] + fused * [f'{FUSED}.py']
