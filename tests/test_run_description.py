"""tools/run_description.py: what a file of results says of its run."""

import json
import subprocess

import pytest
import run_description
import torch
from run_description import describe_run, source_commit

CPU = torch.device('cpu')


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository of one file, in place of this one."""

    def git(*command):
        subprocess.run(
            ['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *command],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    monkeypatch.setattr(run_description, 'ROOT', tmp_path)
    (tmp_path / 'file').write_text('1')
    git('init')
    git('add', 'file')
    git('commit', '-m', 'x')
    git('tag', 'v1')  # a tag is no commit
    return tmp_path


def test_keys():
    described = describe_run(CPU, mmcv='2.0.1')
    assert list(described) == [
        'command',
        'date',
        'commit',
        'device',
        'cores',
        'load_average',
        'versions',
    ]
    assert described['device'].startswith('CPU (')
    assert described['versions']['torch'] == torch.__version__
    assert described['versions']['mmcv'] == '2.0.1'
    json.dumps(described)


def test_commit(checkout):
    commit = source_commit()
    assert len(commit) == 40 and int(commit, 16)
    (checkout / 'file').write_text('2')
    assert source_commit() == commit + '-dirty'
    assert describe_run(CPU)['commit'] == commit + '-dirty'
    assert describe_run(CPU, 'abc')['commit'] == 'abc'


def test_without_a_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(run_description, 'ROOT', tmp_path)
    assert source_commit() is None
    assert describe_run(CPU)['commit'] is None
