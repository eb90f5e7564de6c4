"""mmaction v1's own scripts and the mmaction2 host agree.

The same checkpoint and frames give the same scores, and a training step from
the same weights on the same videos the same loss and weights. Float32, on one
machine's CPU. Needs both environments.
"""

import json
import os
import pickle
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, V1_CHECKOUT
from videos import make_video, rotate_video

from resnet_dnr import ResNet_DNR

CONFIG = ROOT / 'configs' / 'DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
V1_PYTHON = ROOT / '.venv-v1' / 'bin' / 'python'
pytestmark = pytest.mark.skipif(
    not (V1_CHECKOUT and V1_PYTHON.exists()),
    reason='needs a checkout of mmaction v1 and its environment: '
    'tools/setup/setup_mmaction_v1.sh CHECKOUT, then MMACTION_ROOT=CHECKOUT '
    './tools/run_tests.sh tests/hosts/test_host_agreement.py',
)

# (frames, width, height): among them shorter than the 64 frames of a segment,
# and upright.
VIDEOS = [(70, 340, 256), (20, 200, 300), (5, 256, 256), (64, 320, 240)]
SMALL = [
    'model.backbone.depth=18',
    'model.cls_head.in_channels=512',
    'model.cls_head.num_classes=5',
    'data.workers_per_gpu=1',
]


def run(host, folder, *command, code=0):
    env = dict(os.environ, CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    python = sys.executable
    if host == 'v1':
        python, env['MMACTION_ROOT'] = V1_PYTHON, V1_CHECKOUT
    result = subprocess.run(
        [python, *map(str, command)],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert result.returncode == code, result.stdout[-3000:]
    return result.stdout


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Frames, lists and a checkpoint that evaluation is sensitive to."""
    folder = tmp_path_factory.mktemp('agree')
    rng = np.random.default_rng(0)
    lines = []
    for i, (frames, width, height) in enumerate(VIDEOS):
        (folder / f'video{i}').mkdir()
        base = rng.uniform(0, 255, (6, 6, 3)).astype(np.float32)
        for n in range(frames):
            base += rng.normal(0, 8, base.shape)
            image = cv2.resize(base, (width, height), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(
                f'{folder}/video{i}/image_{n + 1:05d}.jpg',
                image.clip(0, 255).astype(np.uint8),
            )
        lines.append(f'video{i} {frames} {i % 5}\n')
    (folder / 'list.txt').write_text(''.join(lines))
    torch.manual_seed(0)
    backbone = ResNet_DNR(18, out_indices=(3,), bn_eval=False)
    backbone.init_weights()
    with torch.no_grad():
        for _ in range(20):  # running statistics of some data
            backbone(torch.randn(16, 3, 64, 64))
    state = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    state['cls_head.fc_cls.weight'] = torch.randn(5, 512)
    state['cls_head.fc_cls.bias'] = torch.randn(5)
    torch.save(dict(state_dict=state, meta={}), folder / 'start.pth')
    return folder


@pytest.mark.parametrize('crops', ['three_crop', 'centre'])
def test_scores(folder, crops):
    """Every score of every video to 1e-4."""
    options = SMALL + ['data.test.ann_file=list.txt', 'data.test.img_prefix=.']
    if crops == 'centre':
        options += [
            'data.test.oversample=None',
            'data.test.input_size=224',
            'data.test.num_segments=1',
        ]
    scores = {}
    for host in ('v1', 'mmaction2'):
        out = folder / f'{host}-{crops}.pkl'
        run(
            host,
            folder,
            ROOT / 'tools/test_recognizer.py',
            CONFIG,
            folder / 'start.pth',
            '--out',
            out,
            '--cfg-options',
            *options,
        )
        scores[host] = pickle.loads(out.read_bytes())
        assert all(s.shape == (1, 5) and s.dtype == np.float32 for s in scores[host])
    difference = np.abs(
        np.concatenate(scores['v1']) - np.concatenate(scores['mmaction2'])
    ).max()
    print(f'{crops}: largest difference of a score {difference:.2g}')
    assert difference < 1e-4
    assert np.ptp(np.concatenate(scores['v1']), axis=0).max() > 0.1


def test_training_step(folder, monkeypatch):
    """Loss and updated weights to 1e-5, after one step on all videos.

    The hosts shuffle differently; a batch of all videos is the same to the
    batch statistics and the mean loss. With backend='plain', whose rounding
    depends on the order least: where rounding flips a ReLU, the stem's
    weights differ by more.
    """
    monkeypatch.setenv('RESNET_DNR_BACKEND', 'plain')
    options = SMALL + [
        'data.train.ann_file=list.txt',
        'data.train.img_prefix=.',
        'data.train.random_shift=False',
        'data.train.flip_ratio=0',
        'data.train.multiscale_crop=False',
        'data.videos_per_gpu=4',
        'model.cls_head.dropout_ratio=0',
        'load_from=start.pth',
        'total_epochs=1',
        'log_config.interval=1',
        'optimizer.lr=0.01',
        'lr_config.warmup=None',
    ]
    losses, states = {}, {}
    for host in ('v1', 'mmaction2'):
        output = run(
            host,
            folder,
            ROOT / 'tools/train_recognizer.py',
            CONFIG,
            '--work_dir',
            folder / host,
            '--seed',
            0,
            '--cfg-options',
            *options,
        )
        losses[host] = float(re.findall(r'\bloss: ([\d.]+)', output)[-1])
        for log in (folder / host).rglob('*.json'):
            for line in log.read_text().splitlines():
                losses[host] = json.loads(line).get('loss', losses[host])
        states[host] = torch.load(folder / host / 'epoch_1.pth', weights_only=True)[
            'state_dict'
        ]
    print('losses', losses)
    assert abs(losses['v1'] - losses['mmaction2']) <= 1e-5
    assert states['v1'].keys() == states['mmaction2'].keys()
    moved = torch.load(folder / 'start.pth', weights_only=True)['state_dict']
    for name, value in states['v1'].items():
        other = states['mmaction2'][name]
        assert torch.allclose(value.double(), other.double(), rtol=1e-5, atol=1e-5), (
            name
        )
    assert not torch.equal(
        states['v1']['cls_head.fc_cls.weight'], moved['cls_head.fc_cls.weight']
    )


OWN = ROOT / 'configs' / 'DNR_resnet18_own_videos_cpu.py'


@pytest.fixture(scope='module')
def videos(folder):
    """Video files in three lists; v1 reads them with OpenCV."""
    for name, frames, size in (
        ('one', 1, (64, 96)),
        ('few frames', 5, (100, 80)),
        ('turned', 12, (96, 64)),
        ('long ä', 60, (128, 96)),
    ):
        make_video(folder / f'{name}.mp4', frames, size, seed=frames)
    rotate_video(folder / 'turned.mp4', 90)
    (folder / 'broken.mp4').write_bytes(b'no video')
    good = 'one 0\nfew frames 1\nturned 2\nlong ä 3\n'
    (folder / 'videos.txt').write_text(good)
    (folder / 'broken.txt').write_text(good + 'broken 4\n')
    (folder / 'endings.txt').write_text('one.mp4 0\nlong ä.mp4 3\n')
    return folder


@pytest.mark.parametrize('name', ['videos', 'endings'])
def test_scores_of_videos(videos, name):
    options = [
        'model.cls_head.num_classes=5',
        f'data.test.ann_file={name}.txt',
        'data.test.img_prefix=.',
    ]
    options += ['data.test.video_ext=None'] if name == 'endings' else []
    scores = []
    for host in ('v1', 'mmaction2'):
        out = videos / f'{host}-{name}.pkl'
        command = ROOT / 'tools/test_recognizer.py', OWN, videos / 'start.pth'
        run(host, videos, *command, '--out', out, '--cfg-options', *options)
        scores.append(np.concatenate(pickle.loads(out.read_bytes())))
    assert np.abs(scores[0] - scores[1]).max() < 1e-4
    assert np.ptp(scores[0], axis=0).max() > 0.1


@pytest.mark.parametrize('host', ['v1', 'mmaction2'])
@pytest.mark.parametrize('skip', [False, True])
def test_broken_video(videos, host, skip):
    """It ends the run, or is replaced and counted; mirrors swap labels."""
    options = [
        'model.cls_head.num_classes=5',
        'data.train.ann_file=broken.txt',
        'data.train.img_prefix=.',
        'data.videos_per_gpu=5',
        f'data.train.skip_broken={skip}',
        'data.train.flip_ratio=1',
        'total_epochs=1',
    ]
    command = ROOT / 'tools/train_recognizer.py', OWN, '--work_dir', videos / host
    output = run(
        host, videos, *command, '--cfg-options', *options, code=0 if skip else 1
    )
    assert re.search(r'broken.txt, line 5: .*broken', output)
    if skip:
        assert 'broken videos were replaced 1 times in this epoch' in output
    else:
        assert output.strip().splitlines()[-1].startswith('error: ')
