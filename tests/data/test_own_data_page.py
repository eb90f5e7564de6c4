"""docs/own_data.md, as written: from a folder of videos to an accuracy, and on."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from videos import make_video

from resnet_dnr import ResNet_DNR

BLOCKS = re.findall(
    r'^```\n(.*?)^```', (ROOT / 'docs/own_data.md').read_text(), re.M | re.S
)
PROCESSES = ' 2 '


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder as a clone is, whose small configs train for one epoch."""
    folder = tmp_path_factory.mktemp('page')
    (folder / 'tools').symlink_to(ROOT / 'tools')
    (folder / 'configs').mkdir()
    for path in (ROOT / 'configs').glob('*.py'):
        text = re.sub(r'total_epochs = \d+', 'total_epochs = 1', path.read_text())
        (folder / 'configs' / path.name).write_text(text)
    for seed in range(16):
        name = ('draw', 'wipe')[seed % 2]
        (folder / 'my_videos' / name).mkdir(parents=True, exist_ok=True)
        path = folder / 'my_videos' / name / f'clip {seed}.mp4'
        make_video(path, size=(96, 72), seed=seed, frames=10 + seed)
    return folder


def run_commands(commands, folder):
    """What commands of the page print, typed in a folder with this Python."""
    env = dict(
        os.environ,
        PATH=f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}',
        PYTHON=sys.executable,
        OMP_NUM_THREADS='1',
        CUDA_VISIBLE_DEVICES='',
    )
    printed = ''
    for command in commands:
        command = command.replace('classes=10', 'classes=2')
        done = subprocess.run(
            re.sub(r'epoch_\d+', 'epoch_1', command),
            shell=True,
            cwd=folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout[-3000:]
        printed += done.stdout
    return printed


@pytest.mark.full
@pytest.mark.parametrize('blocks, processes', [((0, 1), 2), ((2,), 1)])
def test_commands(folder, blocks, processes):
    """From video files on two processes, with predictions; from frames on one."""
    commands = ''.join(BLOCKS[block] for block in blocks).splitlines()
    assert len(commands) == 4 + (1 in blocks)
    printed = run_commands(
        [command.replace(PROCESSES, f' {processes} ') for command in commands], folder
    )
    assert 'Top-1 Accuracy = ' in printed
    kind = 'videos' if 0 in blocks else 'frames'
    assert (folder / f'work_dirs/DNR_r18_own_{kind}_cpu/epoch_1.pth').is_file()
    # The test list has videos of both classes.
    labels = [line.split()[-1] for line in (folder / 'data/own/test.txt').open()]
    assert sorted(labels) == ['0', '0', '1', '1']
    if 1 in blocks:
        videos = json.loads((folder / 'results.json').read_text())['videos']
        assert len(videos) == 16
        assert {item['name'] for item in videos[0]['top']} == {'draw', 'wipe'}


@pytest.mark.full
def test_few_videos(folder):
    """A training that begins with the quickstart's backbone."""
    path = folder / 'work_dirs/DNR_r18_arrow_demo/epoch_1.pth'
    path.parent.mkdir(parents=True)
    backbone = ResNet_DNR(18, out_indices=(3,))
    state = {f'backbone.{name}': value for name, value in backbone.state_dict().items()}
    torch.save(dict(state_dict=state, meta={}), path)
    (train,) = BLOCKS[4].splitlines()
    printed = run_commands(
        [BLOCKS[0].splitlines()[0], train.replace(PROCESSES, ' 1 ')], folder
    )
    assert 'Load checkpoint from work_dirs/DNR_r18_arrow_demo/epoch_1.pth' in printed
