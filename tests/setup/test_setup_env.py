"""tools/setup/setup_env.sh: what a stranger meets when something is missing."""

import os
import shutil
import subprocess

import pytest
from conftest import ROOT


@pytest.fixture
def clone(tmp_path):
    folder = tmp_path / 'tools/setup'
    folder.mkdir(parents=True)
    for name in ('setup_env.sh', 'requirements.txt'):
        shutil.copy(ROOT / 'tools/setup' / name, folder)
    return tmp_path


def setup(clone, **env):
    result = subprocess.run(
        [clone / 'tools/setup/setup_env.sh'],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return result.returncode, result.stdout


@pytest.mark.full
def test_no_network(clone):
    """It fails, says so, and the next run does not take it for done."""
    no_network = dict(PIP_NO_INDEX='1', PIP_FIND_LINKS='', PYTHON='python3')
    for _ in range(2):
        code, output = setup(clone, **no_network)
        assert code == 1
        assert 'error: pip could not install what is pinned' in output
        assert not (clone / '.venv' / 'installed').exists()


def test_done_before(clone):
    """Nothing is done twice, but for other pins."""
    wanted = subprocess.run(
        'cat tools/setup/requirements.txt tools/setup/setup_env.sh | cksum',
        shell=True,
        cwd=clone,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    (clone / '.venv').mkdir()
    (clone / '.venv' / 'installed').write_text(wanted)
    assert setup(clone) == (0, '')
    with open(clone / 'tools/setup/requirements.txt', 'a') as pins:
        pins.write('one-more==1.0\n')
    assert setup(clone, PYTHON='false')[0] == 1


@pytest.mark.parametrize('python', ['false', '/no/such/python'])
def test_no_python(clone, python):
    code, output = setup(clone, PYTHON=python)
    assert code == 1
    assert f"error: '{python}' is no Python 3.9 or newer" in output
    assert not (clone / '.venv').exists()


def test_pins_are_complete():
    """Every installed package's needs are pinned: none is left to chance."""
    from importlib.metadata import distribution

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned = {}
    for line in (ROOT / 'tools/setup/requirements.txt').read_text().splitlines():
        line = line.split('#')[0].strip()
        if line:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                pinned[canonicalize_name(requirement.name)] = requirement
    missing = set()
    for name in pinned:
        for need in distribution(name).requires or []:
            need = Requirement(need)
            if need.marker is None or need.marker.evaluate({'extra': ''}):
                missing.add(canonicalize_name(need.name))
    torch_needs = {
        canonicalize_name(Requirement(need).name)
        for need in distribution('torch').requires
    }
    assert missing - set(pinned) - torch_needs == {
        # OpenCV builds that need libGL: the headless one stands in.
        'opencv-python',
        'opencv-contrib-python',
        # Reads video files; the pipelines here read frames.
        'decord',
    }
