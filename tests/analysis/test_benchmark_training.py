"""tools/analysis/benchmark_training.py: the training loop by the clock, on a CPU."""

import json
import os

import cv2
import pytest
import torch
from analysis import benchmark_training
from analysis.benchmark_training import settings_of
from benchmarks import BENCHMARK, CONFIG
from conftest import ROOT
from hosts import HostError
from hosts.mmaction2_config import load_config, translate
from script_calls import call, make_clips, run
from video_files import Video

KINETICS = str(ROOT / 'configs' / 'DNR_resnet50_kinetics400_rgb_seg1_f8s8.py')


def test_faults(tmp_path, monkeypatch):
    for command, root, message in (
        ('no.py', '', 'config no.py does not exist'),
        (f'{CONFIG} --cfg-options total_epoch=3', '', 'no total_epoch'),
        (CONFIG, '/mmaction', 'unset MMACTION_ROOT'),
        (f'{CONFIG} --cfg-options amp=half', '', "amp='half' should be"),
    ):
        monkeypatch.setenv('MMACTION_ROOT', root)
        code, _ = call(BENCHMARK, '--e2e', *command.split(), cwd=tmp_path)
        assert code.startswith('error: '), command
        assert message in code, command


def test_loop_timer(monkeypatch):
    """Time goes to the part that it was spent in, once the split begins."""
    now = 0
    monkeypatch.setattr(benchmark_training.time, 'perf_counter', lambda: now)
    timer = benchmark_training.LoopTimer(2, 3, torch.device('cpu'))
    with pytest.raises(benchmark_training.LoopDone) as done:
        for iteration in range(100):
            for part, seconds in (
                ('data', 1),
                ('other', 10),
                ('transfer', 100),
                ('compute', 1000),
            ):
                now += seconds
                timer.lap(part)
            now += 10000
            timer.end_iteration(iteration)
    assert done.value.args == (7,)
    assert timer.seconds == 3 * 11111
    assert timer.laps == dict(data=3, transfer=300, compute=3000, other=30030)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with data/arrow: 4 classes, 16, 4 and 4 clips."""
    folder = tmp_path_factory.mktemp('run')
    return make_clips(folder, 'data/arrow', train=4, val=1, test=1)


def test_settings():
    assert settings_of('plain') == {}
    assert settings_of('bn+bf16') == {'model.backbone.dnr': 'none', 'amp': 'bf16'}
    with pytest.raises(HostError, match="'fast' is none of plain"):
        settings_of('bn+fast')


def test_made_data(tmp_path):
    """Videos and their frames, listed; a second call makes nothing."""
    folder = tmp_path / 'made'
    benchmark_training.make_data(folder, count=2, frames=3, repeats=2)
    assert (folder / 'videos.txt').read_text() == '0 0\n1 0\n' * 2
    assert (folder / 'frames.txt').read_text() == '0 3 0\n1 3 0\n' * 2
    for name in '01':
        names = sorted(os.listdir(folder / 'frames' / name))
        assert names == [f'image_{n:05d}.jpg' for n in (1, 2, 3)]
        with Video(folder / 'videos' / f'{name}.mp4') as video:
            assert len(video) == 3
            image = video.read([2])[2].astype(int)
        frame = cv2.imread(str(folder / 'frames' / name / names[2])).astype(int)
        assert frame.shape == (256, 340, 3)
        assert abs(frame - image).mean() < 5
    before = sorted(os.listdir(folder))
    benchmark_training.make_data(folder, count=3)
    assert sorted(os.listdir(folder)) == before
    v1 = load_config(KINETICS)
    for data, kind in (('videos', 'V1Videos'), ('frames', 'V1RawFrames')):
        benchmark_training.read_made(v1, data, folder)
        loader = translate(v1, splits=('train',)).train_dataloader
        assert loader.dataset.type == kind
        assert loader.dataset.ann_file == str(folder / f'{data}.txt')


@pytest.mark.full
@pytest.mark.parametrize('processes', [1, 2])
def test_training_loop(data, processes):
    """Over epochs of 4 iterations; under torchrun, all processes count."""
    launcher = (
        ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
        if processes == 2
        else []
    )
    output = run(
        *launcher,
        BENCHMARK,
        '--e2e',
        CONFIG,
        *('--iters', 3, '--out', 'loop.json'),
        *('--settings', 'plain', 'bn+bf16+channels-last'),
        *('--launcher', 'pytorch' if launcher else 'none'),
        '--cfg-options',
        f'data.videos_per_gpu={4 // processes}',
        cwd=data,
    )
    content = json.loads((data / 'loop.json').read_text())
    assert content['benchmark'] == 'training'
    assert content['config'] == CONFIG
    assert content['cfg_options'] == [f'data.videos_per_gpu={4 // processes}']
    assert (content['processes'], content['iters']) == (processes, 3)
    rows = content['rows']
    assert [row['settings'] for row in rows] == ['plain', 'bn+bf16+channels-last']
    for row in rows:
        assert row['data'] == 'config' and row['clips'] == 4 // processes
        assert row['fraction'] == pytest.approx(
            row['clips_per_s'] / row['on_device_clips_per_s']
        )
        assert row['images_per_s'] == pytest.approx(8 * row['clips_per_s'])
        assert list(row['parts_ms']) == ['data', 'transfer', 'compute', 'other']
        assert all(value > 0 for value in row['parts_ms'].values())
    assert output.count('training loop') == 2
    assert f'{processes} process(es), {4 // processes} clips' in output
    assert 'Traceback' not in output
    # No logs and checkpoints are left.
    assert sorted(os.listdir(data)) == ['data', 'loop.json']
