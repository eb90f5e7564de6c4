"""docs/own_data.md, as written: from a folder of videos to an accuracy, and on."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from videos import make_video

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
        text = path.read_text().replace('total_epochs = 20', 'total_epochs = 1')
        (folder / 'configs' / path.name).write_text(text)
    for seed in range(16):
        name = ('draw', 'wipe')[seed % 2]
        (folder / 'my_videos' / name).mkdir(parents=True, exist_ok=True)
        path = folder / 'my_videos' / name / f'clip {seed}.mp4'
        make_video(path, size=(96, 72), seed=seed, frames=10 + seed)
    return folder


@pytest.mark.full
@pytest.mark.parametrize('blocks, processes', [((0, 1), 2), ((2,), 1)])
def test_commands(folder, blocks, processes):
    """From video files on two processes, with predictions; from frames on one."""
    text = ''.join(BLOCKS[block] for block in blocks)
    text = text.replace('epoch_20', 'epoch_1').replace('classes=10', 'classes=2')
    commands, printed = text.splitlines(), ''
    assert len(commands) == 4 + (1 in blocks)
    env = dict(
        os.environ,
        PATH=f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}',
        PYTHON=sys.executable,
        OMP_NUM_THREADS='1',
        CUDA_VISIBLE_DEVICES='',
    )
    for command in commands:
        done = subprocess.run(
            command.replace(PROCESSES, f' {processes} '),
            shell=True,
            cwd=folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout[-3000:]
        printed += done.stdout
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
