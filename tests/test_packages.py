"""The folders of tools/ are packages, which others of the same names do not hide."""

from importlib.machinery import PathFinder

import pytest
from conftest import ROOT

TOOLS = ROOT / 'tools'


@pytest.mark.parametrize('name', ['analysis', 'data', 'hosts', 'prediction', 'study'])
def test_a_package_of_the_name_is_elsewhere(tmp_path, name):
    """A folder without __init__.py would give way to one that has it."""
    other = tmp_path / name / '__init__.py'
    other.parent.mkdir()
    other.touch()
    found = PathFinder.find_spec(name, [str(TOOLS), str(tmp_path)])
    assert found.origin == str(TOOLS / name / '__init__.py')
