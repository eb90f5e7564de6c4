"""The mmaction v1 host: v1's own scripts on today's stack, on CPUs.

The second half runs real processes on a real checkout of mmaction v1:

    MMACTION_ROOT=/path/to/mmaction .venv-v1/bin/python -m pytest \
        tests/hosts/test_mmaction_v1_host.py
"""

import collections
import importlib.metadata
import importlib.util
import math
import os
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, V1_CHECKOUT


def mmcv_version():
    try:
        return importlib.metadata.version('mmcv')
    except importlib.metadata.PackageNotFoundError:
        return 'none'


needs_v1 = pytest.mark.skipif(
    not (V1_CHECKOUT and mmcv_version().startswith('1.')),
    reason='needs a checkout of mmaction v1 and its environment: '
    'MMACTION_ROOT=/path/to/mmaction .venv-v1/bin/python -m pytest '
    'tests/hosts/test_mmaction_v1_host.py',
)


@pytest.fixture
def fixes():
    """v1_fixes alone; the package around it imports a host."""
    path = ROOT / 'tools/hosts/v1_fixes.py'
    spec = importlib.util.spec_from_file_location('v1_fixes', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The parts of a v1 checkout that the fixes look at, importable."""
    for folder in (
        'ops/nms',
        'ops/roi_align',
        'ops/roi_pool',
        'models',
        'third_party/ActivityNet',
    ):
        (tmp_path / 'mmaction' / folder).mkdir(parents=True)
    for package in ('.', 'ops', 'ops/nms', 'models'):
        (tmp_path / 'mmaction' / package / '__init__.py').touch()
    (tmp_path / 'mmaction/__init__.py').write_text(
        'from .version import __version__, short_version\n'
    )
    (tmp_path / 'mmaction/ops/nms/wrapper.py').write_text(
        'from . import nms_cuda, nms_cpu\nfrom .soft_nms_cpu import soft_nms_cpu\n'
    )
    (tmp_path / 'mmaction/models/registry.py').touch()
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools/train_recognizer.py').touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(sys.modules)
    for name in before:
        if name.split('.')[0] == 'mmaction':
            monkeypatch.delitem(sys.modules, name)
    yield tmp_path
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


# ---- the fixes alone


def test_every_fix_says_what_broke(fixes):
    for fix in fixes.FIXES:
        assert fix.__name__.startswith('fix_')
        assert fix.__doc__.splitlines()[0].endswith('.')


def test_sequence_and_numpy_names(fixes, monkeypatch):
    monkeypatch.setattr(collections, 'Sequence', None, raising=False)
    assert not fixes.fix_collections_sequence()
    monkeypatch.delattr(collections, 'Sequence')
    assert fixes.fix_collections_sequence()
    assert isinstance([], collections.Sequence)

    monkeypatch.setattr(np, 'Inf', 1.5, raising=False)
    monkeypatch.setattr(np, 'int', int, raising=False)
    assert not fixes.fix_numpy_names()
    assert np.Inf == 1.5
    monkeypatch.delattr(np, 'Inf')
    assert fixes.fix_numpy_names()
    assert np.Inf == np.inf
    monkeypatch.undo()


def test_an_old_stack_is_left_alone(fixes, monkeypatch):
    monkeypatch.setattr(fixes, 'TORCH', (1, 5))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    for name in (
        'ddp_replicated_tensor',
        'torch_warnings',
        'copy_stream',
        'weights_only',
        'cpu_process_group',
        'cpu_current_device',
        'cpu_module_cuda',
        'cpu_ddp',
    ):
        assert not getattr(fixes, 'fix_' + name)(), name


def test_a_missing_operator_says_which_and_why(fixes, checkout):
    assert fixes.fix_version_file()
    assert fixes.fix_compiled_operators()
    wrapper = importlib.import_module('mmaction.ops.nms.wrapper')
    with pytest.raises(
        RuntimeError,
        match=r'mmaction\.ops\.nms\.nms_cuda\.'
        r'nms is missing: .*THC.*PyTorch 1\.11.*detectors',
    ):
        wrapper.nms_cuda.nms(None, 0.5)
    with pytest.raises(RuntimeError, match=r'soft_nms_cpu'):
        wrapper.soft_nms_cpu(None)
    resample = importlib.import_module('resample2d_cuda')
    with pytest.raises(RuntimeError, match=r'resample2d_cuda\.forward'):
        resample.forward()


def test_a_compiled_operator_is_kept(fixes, checkout):
    for name in ('nms_cuda', 'nms_cpu'):
        (checkout / f'mmaction/ops/nms/{name}.py').write_text('built = 1\n')
    (checkout / 'mmaction/version.py').write_text(
        '__version__ = short_version = "mine"\n'
    )
    assert not fixes.fix_version_file()
    assert fixes.fix_compiled_operators()
    wrapper = importlib.import_module('mmaction.ops.nms.wrapper')
    assert wrapper.nms_cuda.built and wrapper.nms_cpu.built


def test_the_missing_submodule(fixes, checkout):
    fixes.fix_version_file()
    assert fixes.fix_activitynet()
    from mmaction.third_party.ActivityNet.Evaluation.ava import (
        object_detection_evaluation,
    )

    with pytest.raises(RuntimeError, match='ActivityNet submodule'):
        object_detection_evaluation.PascalDetectionEvaluator([])


def setup_script(tmp_path, *args, **env):
    """Run tools/setup/setup_mmaction_v1.sh in a copy of the repository."""
    copy = tmp_path / 'copy'
    shutil.copytree(ROOT / 'tools', copy / 'tools', dirs_exist_ok=True)
    run = subprocess.run(
        [str(copy / 'tools/setup/setup_mmaction_v1.sh'), *map(str, args)],
        env={**os.environ, **env},
        text=True,
        capture_output=True,
        timeout=120,
    )
    return run, sorted(path.name for path in copy.iterdir())


def test_setup_where_the_clone_is_refused(tmp_path):
    (tmp_path / 'git').write_text('#!/bin/sh\nmkdir "$3"; exit 1\n')
    (tmp_path / 'git').chmod(0o755)
    run, left = setup_script(tmp_path, PATH=f'{tmp_path}:{os.environ["PATH"]}')
    assert run.returncode == 1
    assert 'could not clone https://github.com/open-mmlab' in run.stderr
    assert left == ['tools']


@pytest.mark.full
def test_setup_where_a_download_is_refused(tmp_path, checkout):
    run, left = setup_script(
        tmp_path,
        checkout,
        PYTHON=sys.executable,
        PIP_CONFIG_FILE=os.devnull,
        PIP_RETRIES='0',
        PIP_FIND_LINKS='',
        PIP_EXTRA_INDEX_URL='',
        PIP_INDEX_URL='http://127.0.0.1:9/',
    )
    assert run.returncode == 1
    assert 'could not install tools/setup/requirements-v1.txt' in run.stderr
    assert left == ['tools']


def test_setup_with_a_wrong_folder(tmp_path):
    run, left = setup_script(tmp_path, tmp_path)
    assert run.returncode == 1 and left == ['tools']
    assert f'{tmp_path} is no checkout of mmaction v1' in run.stderr
    run, left = setup_script(tmp_path, tmp_path / 'nowhere')
    assert run.returncode == 1
    assert f'there is no folder {tmp_path}/nowhere' in run.stderr


# ---- v1's own scripts


CONFIG = """
model = dict(
    type='TSN2D',
    backbone=dict(
        type='ResNet_DNR', depth=18, out_indices=(3, ), bn_eval=False),
    spatial_temporal_module=dict(type='SimpleSpatialModule', spatial_size=1),
    segmental_consensus=dict(type='SimpleConsensus', consensus_type='avg'),
    cls_head=dict(
        type='ClsHead', with_avg_pool=False, spatial_feature_size=1,
        dropout_ratio=0.4, in_channels=512, num_classes=6))
train_cfg = None
test_cfg = None
common = dict(
    type='RawFramesDataset', num_segments=1, new_length=8, modality='RGB',
    img_norm_cfg=dict(mean=[123.675, 116.28, 103.53],
                      std=[58.395, 57.12, 57.375], to_rgb=True),
    image_tmpl='image_{:05d}.jpg', img_scale=36, input_size=32, flip_ratio=0)
data = dict(
    videos_per_gpu=2,
    workers_per_gpu=0,
    train=dict(ann_file='train.txt', img_prefix='train', **common),
    val=dict(ann_file='val.txt', img_prefix='val', random_shift=False,
             **common),
    test=dict(ann_file='val.txt', img_prefix='val', test_mode=True,
              oversample=None, **common))
optimizer = dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4)
optimizer_config = dict(grad_clip=dict(max_norm=40, norm_type=2))
lr_config = dict(policy='cosine')
checkpoint_config = dict(interval=1)
workflow = [('train', 1)]
log_config = dict(interval=1, hooks=[dict(type='TextLoggerHook')])
total_epochs = 3
dist_params = dict(backend='nccl')
log_level = 'INFO'
work_dir = './work'
load_from = None
resume_from = None
"""


def start(folder, name, processes, *args):
    """Start a script of ours, through its shell script where it has one.

    Args:
        folder (Path): Where it runs.
        name (str): 'train' or 'test'.
        processes (int): 1 runs it without a launcher.
        *args: Its arguments; the first is the config or config, checkpoint.

    Returns:
        subprocess.Popen: With its output in stdout.
    """
    args = list(map(str, args))
    if processes == 1:
        command = [sys.executable, ROOT / f'tools/{name}_recognizer.py']
    else:
        command = [ROOT / f'tools/dist_{name}_recognizer.sh']
        args.insert(1 if name == 'train' else 2, str(processes))
    path = os.path.dirname(sys.executable) + ':' + os.environ['PATH']
    env = {
        **os.environ,
        'PATH': path,
        'OMP_NUM_THREADS': '1',
        'MMACTION_ROOT': os.path.abspath(V1_CHECKOUT),
        'CUDA_VISIBLE_DEVICES': '',
    }
    return subprocess.Popen(
        [*command, *args],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run(folder, name, processes, *args, fails=False):
    """Run a script of ours as `start` does. Returns its output."""
    process = start(folder, name, processes, *args)
    output = process.communicate(timeout=300)[0]
    assert (process.returncode != 0) == fails, output
    return output


def inside(folder, code, fails=False, **env):
    """Run Python code that has imported the v1 host. Returns its output."""
    tools = f'{ROOT / "tools"}:{env.pop("PYTHONPATH", "")}'
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            'from hosts import choose_host\nhost = choose_host()\n' + code,
        ],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        env={
            **os.environ,
            'MMACTION_ROOT': os.path.abspath(V1_CHECKOUT),
            'CUDA_VISIBLE_DEVICES': '',
            'PYTHONPATH': tools,
            **env,
        },
    )
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout


def load(path):
    with open(path, 'rb') as file:
        return pickle.load(file)


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    """A folder with a config, random clips and lists of them."""
    import cv2

    folder = tmp_path_factory.mktemp('v1')
    rng = np.random.default_rng(0)
    (folder / 'config.py').write_text(CONFIG)
    for split, count in (('train', 8), ('val', 5)):
        with open(folder / f'{split}.txt', 'w') as lines:
            for i in range(count):
                clip = folder / split / f'clip{i}'
                clip.mkdir(parents=True)
                for t in range(1, 9 + i):
                    frame = rng.integers(0, 256, (40 + i, 44, 3), np.uint8)
                    cv2.imwrite(str(clip / f'image_{t:05d}.jpg'), frame)
                lines.write(f'clip{i} {8 + i} {i % 4}\n')
    return folder


@pytest.fixture(scope='module')
def trained(work):
    """The output of a training with validation in two processes."""
    return run(
        work,
        'train',
        2,
        'config.py',
        '--validate',
        '--seed',
        0,
        '--cfg-options',
        'data.workers_per_gpu=1',
    )


def rates(output):
    """The learning rate of each epoch's first iteration, from a log."""
    return [
        float(lr) for lr in re.findall(r'Epoch \[\d+\]\[1/\d+\]\s+lr: (\S+),', output)
    ]


@needs_v1
def test_training_with_validation(work, trained):
    assert (work / 'work/epoch_3.pth').is_file()
    assert trained.count('top1 acc') == 3
    assert 'Warning' not in trained, trained
    assert 'ActivityNet' not in trained
    state = torch.load(work / 'work/epoch_3.pth', weights_only=True)
    assert "'workers_per_gpu': 1" in state['meta']['config']
    assert state['state_dict']['backbone.layer1.0.bn2.running_mean'].any()


@needs_v1
def test_cosine_is_cosine_annealing_to_zero(work, trained):
    expected = [0.01 * (1 + math.cos(math.pi * i / 3)) for i in range(3)]
    assert rates(trained) == pytest.approx(expected, rel=1e-3)
    # In one process without a launcher, one video at a time.
    output = run(
        work,
        'train',
        1,
        'config.py',
        '--cfg-options',
        'lr_config.policy=CosineAnnealing',
        'lr_config.min_lr=0',
        'data.videos_per_gpu=1',
        'work_dir=annealing',
    )
    assert rates(output) == pytest.approx(expected, rel=1e-3)


@needs_v1
def test_resuming(work, trained):
    """The weights of a training that was not stopped, to the bit.

    Frames, crops and dropout are random in it.
    """
    output = run(
        work,
        'train',
        2,
        'config.py',
        '--resume_from',
        'work/epoch_2.pth',
        '--work_dir',
        'resumed',
        '--cfg-options',
        'data.workers_per_gpu=1',
    )
    assert 'Epoch [3][1/2]' in output and 'Epoch [2]' not in output
    assert sorted(p.name for p in (work / 'resumed').glob('epoch*')) == ['epoch_3.pth']
    states = [
        torch.load(work / folder / 'epoch_3.pth', weights_only=True)['state_dict']
        for folder in ('work', 'resumed')
    ]
    for name, value in states[0].items():
        if 'running' not in name:  # rank 0's statistics; the others' are not saved
            assert torch.equal(value, states[1][name]), name
    assert os.readlink(work / 'resumed/latest.pth') == 'epoch_3.pth'


@needs_v1
def test_resuming_honours_the_command(work, trained, tmp_path):
    """Settings are the config's, and what is not finite stops the training."""
    for epoch in 2, 3:
        shutil.copy(work / f'work/epoch_{epoch}.pth', tmp_path)
    output = run(
        work,
        'train',
        1,
        'config.py',
        '--resume',
        '--work_dir',
        tmp_path,
        '--cfg-options',
        'total_epochs=6',
        'optimizer.lr=0.04',
        'checkpoint_config.max_keep_ckpts=1',
    )
    assert f'resuming from {tmp_path}/epoch_3.pth' in output
    expected = [0.02 * (1 + math.cos(math.pi * i / 6)) for i in (3, 4, 5)]
    assert rates(output) == pytest.approx(expected, rel=1e-3)
    assert 'the batch is 1 x 2 clips, and that of' in output
    assert 'eta: -' not in output
    assert [path.name for path in tmp_path.glob('epoch_*')] == ['epoch_6.pth']
    state = torch.load(tmp_path / 'epoch_6.pth', weights_only=True)
    assert state['meta']['iter'] == 6 * 4 and state['meta']['seed'] == 0
    for options, message in (
        ('total_epochs=9 optimizer.lr=1e30', f'is {tmp_path}/epoch_6.pth. A lower'),
        ('total_epochs=9 optimizer.type=Adagrad', 'optimizer.momentum=0.9 is unknown'),
    ):
        arguments = ['--resume', '--work_dir', tmp_path, '--cfg-options']
        output = run(
            work, 'train', 1, 'config.py', *arguments, *options.split(), fails=True
        )
        assert 'Traceback' not in output
        assert message in output.splitlines()[-1]
        assert [path.name for path in tmp_path.glob('epoch_*')] == ['epoch_6.pth']


@needs_v1
def test_once_read_and_once_built(work, trained):
    """A resumed training reads its checkpoint, and builds its backbone, once."""
    output = inside(
        work,
        """
import argparse, sys, torch
load, read, built = torch.load, [], []
def counted_load(path, *args, **kwargs):
    read.append(path)
    return load(path, *args, **kwargs)
torch.load = counted_load
host.add_backbone()
from mmaction.models import BACKBONES
backbone = BACKBONES.module_dict['ResNet_DNR']
init = backbone.__init__
def counted_init(self, *args, **kwargs):
    built.append(self)
    init(self, *args, **kwargs)
backbone.__init__ = counted_init
host.train(argparse.Namespace(
    config='config.py', work_dir='once', resume_from='work/epoch_2.pth',
    resume=False, validate=False, gpus=1, seed=None, launcher='none', cfg_options=None))
print('read', read, 'built', len(built))
""",
    )
    assert "read ['work/epoch_2.pth'] built 1" in output
    assert (work / 'once/epoch_3.pth').is_file()
    assert not (work / 'once/epoch_2.pth').is_file()


@needs_v1
def test_results_with_one_and_two_processes(work, trained):
    one = run(work, 'test', 1, 'config.py', 'work/epoch_3.pth', '--out', 'one.pkl')
    # Two tests at once, of names that v1 gives one temporary folder.
    processes = {
        epoch: start(
            work,
            'test',
            2,
            'config.py',
            f'work/epoch_{epoch}.pth',
            '--out',
            f'./epoch{epoch}.pkl',
        )
        for epoch in (1, 3)
    }
    outputs = {
        epoch: process.communicate(timeout=600)[0]
        for epoch, process in processes.items()
    }
    for epoch, process in processes.items():
        assert process.returncode == 0, outputs[epoch]
    scores = load(work / 'one.pkl')
    assert [(s.shape, s.dtype) for s in scores] == [((1, 6), np.float32)] * 5
    # A convolution's rounding may depend on the size of a batch.
    rounding = 1e-5 * np.abs(scores).max()
    np.testing.assert_allclose(scores, load(work / 'epoch3.pkl'), rtol=0, atol=rounding)
    assert np.abs(np.subtract(scores, load(work / 'epoch1.pkl'))).max() > 0.01
    for output in (one, outputs[3]):
        assert re.findall(r'^(.*) Accuracy = \d', output, re.M) == [
            'Mean Class',
            'Top-1',
            'Top-5',
        ]
    assert not (work / 'tmp').exists()
    assert not list(work.glob('*.tmp'))
    assert 'has label' not in one and 'trained with' not in one


@needs_v1
def test_doubts_of_a_test_are_said_once(work, trained, tmp_path):
    doubtful = tmp_path / 'doubtful.txt'
    doubtful.write_text('clip0 8 0\nclip1 9 1\nclip0 8 1\n')
    arguments = ['--out', tmp_path / 'doubtful.pkl', '--cfg-options']
    arguments += [
        f'data.test.ann_file={doubtful}',
        'model.backbone.running_stats=shared',
        'model.backbone.backend=plain',
    ]
    output = run(work, 'test', 2, 'config.py', 'work/epoch_3.pth', *arguments)
    assert (
        output.count(f'{doubtful}, line 3: val/clip0 has label 1, but in line 1 ') == 1
    )
    what = "running_stats='shared', and trained with 'grouped'"
    assert output.count(f'epoch_3.pth is tested with model.backbone.{what}') == 1


@needs_v1
def test_a_missing_frame_stops_every_process(work, tmp_path):
    shutil.copytree(work / 'train', tmp_path / 'train')
    shutil.copy(work / 'train.txt', tmp_path)
    # Frames that every choice of 8 has.
    for clip in (0, 1):
        (tmp_path / f'train/clip{clip}/image_00005.jpg').unlink()
    output = run(
        work,
        'train',
        2,
        'config.py',
        '--cfg-options',
        f'data.train.ann_file={tmp_path}/train.txt',
        f'data.train.img_prefix={tmp_path}/train',
        'data.workers_per_gpu=1',
        f'work_dir={tmp_path}/work',
        fails=True,
    )
    assert re.search(
        rf'cannot read frame {tmp_path}/train/clip[01]/'
        r'image_00005.jpg: .*No such file',
        output,
    ), output


@needs_v1
def test_an_unreadable_frame_stops_every_process(work, trained, tmp_path):
    shutil.copytree(work / 'val', tmp_path / 'val')
    (tmp_path / 'val/clip1/image_00004.jpg').write_text('no image')
    output = run(
        work,
        'test',
        2,
        'config.py',
        'work/epoch_3.pth',
        '--out',
        tmp_path / 'results.pkl',
        '--cfg-options',
        f'data.test.img_prefix={tmp_path}/val',
        fails=True,
    )
    assert (
        f'cannot read frame {tmp_path}/val/clip1/image_00004.jpg: not an image'
    ) in output
    assert not list(tmp_path.glob('*.pkl'))


@needs_v1
def test_a_malformed_annotation(work, tmp_path):
    bad = tmp_path / 'bad.txt'
    bad.write_text('clip0 8 0\nclip1 9 one\nclip2 10 2\n')
    output = run(
        work,
        'train',
        1,
        'config.py',
        '--cfg-options',
        f'data.train.ann_file={bad}',
        fails=True,
    )
    assert f"error: {bad}, line 2: 'clip1 9 one' should be" in output
    output = inside(
        work,
        f"""
from hosts import HostError
from mmaction.datasets import RawFramesDataset
for line in ('clip1 9', 'clip1 9 1 x', 'clip1 0 1', 'clip1 9 -1', ''):
    with open({str(bad)!r}, 'w') as lines:
        lines.write(f'clip0 8 0\\n{{line}}\\nclip2 10 2\\n')
    try:
        RawFramesDataset.load_annotations(None, {str(bad)!r})
    except HostError as error:
        print('bad.txt, line 2: ' in str(error))
""",
    )
    assert output.split() == ['True'] * 5


@needs_v1
def test_too_few_videos(work):
    output = inside(
        work,
        """
import numpy
from mmaction.datasets import DistributedGroupSampler
host.guard_few_videos()
class Videos(list):
    flag = numpy.ones(3, 'uint8')
print(len(list(DistributedGroupSampler(Videos('abc'), 3, 2, 0))))
list(DistributedGroupSampler(Videos('abc'), 4, 2, 0))
""",
        fails=True,
    )
    assert output.startswith('3\n')
    assert 'HostError: 3 videos are too few for 8 places' in output


@needs_v1
def test_checkpoints_that_are_refused(work, trained, tmp_path):
    state = torch.load(work / 'work/epoch_3.pth', weights_only=True)
    lacking = dict(
        state,
        state_dict={k: v for k, v in state['state_dict'].items() if 'fc_cls' not in k},
    )
    torch.save(lacking, tmp_path / 'lacking.pth')
    deeper = dict(state['state_dict'])
    deeper['backbone.layer4.2.conv1.weight'] = torch.zeros(1)
    torch.save(dict(state_dict=deeper), tmp_path / 'deeper.pth')
    torch.save({'state_dict': print}, tmp_path / 'code.pth')
    for name, text, options in (
        (
            'lacking.pth',
            'no cls_head.fc_cls.weight, cls_head.fc_cls.bias',
            ['model.cls_head.num_classes=6'],
        ),
        (
            'deeper.pth',
            'which has no backbone.layer4.2.conv1.weight',
            ['model.cls_head.num_classes=6'],
        ),
        (
            'code.pth',
            'it holds print, which is no plain data',
            ['model.cls_head.num_classes=6'],
        ),
        (
            work / 'work/epoch_3.pth',
            'set model.cls_head.num_classes=6',
            ['model.cls_head.num_classes=7'],
        ),
    ):
        output = run(
            work,
            'test',
            1,
            'config.py',
            tmp_path / name,
            '--out',
            tmp_path / 'results.pkl',
            '--cfg-options',
            *options,
            fails=True,
        )
        assert f'{tmp_path / name}' in output and text in output, output
        assert not (tmp_path / 'results.pkl').exists()


@needs_v1
def test_what_would_train_on_wrong_clips_or_a_wrong_state(work, tmp_path):
    torch.save(dict(state_dict={}, message_hub={}), tmp_path / 'other.pth')
    for options, text in (
        (
            ['--cfg-options', 'data.train.new_length=4'],
            'n_segment=8 is not the clip of data.train: new_length=4',
        ),
        (
            ['--resume_from', tmp_path / 'other.pth'],
            'other.pth is a checkpoint of the mmaction2 host',
        ),
    ):
        output = run(work, 'train', 1, 'config.py', *options, fails=True)
        assert output.splitlines()[-1].startswith('error: ')
        assert text in output


@needs_v1
def test_v1_imports_whole_and_missing_operators_raise(work):
    output = inside(
        work,
        """
import mmaction.models
from mmaction.ops.nms import nms_wrapper
print(sorted(mmaction.models.DETECTORS.module_dict))
host.add_backbone()
import os, sys
name = mmaction.models.BACKBONES.module_dict['ResNet_DNR'].__module__
print(name)
# What lies beside the file is found too.
print('found', '.' in name or os.path.dirname(sys.modules[name].__file__) in sys.path)
import numpy
nms_wrapper.nms(numpy.zeros((3, 5), 'float32'), 0.5, device_id=None)
""",
        fails=True,
    )
    assert 'FasterRCNN' in output
    assert re.search(r'^(mmaction\..*)?resnet_dnr$', output, re.M), output
    assert 'found True' in output
    assert 'mmaction.ops.nms.nms_cpu.nms is missing' in output


@needs_v1
@pytest.mark.parametrize('error', ['RuntimeError', 'ImportError'])
def test_a_broken_torchvision(work, tmp_path, error):
    (tmp_path / 'torchvision').mkdir()
    (tmp_path / 'torchvision/part.py').touch()
    (tmp_path / 'torchvision/__init__.py').write_text(
        f'from . import part\nraise {error}("no torchvision::nms")\n'
    )
    output = inside(
        work,
        """
import sys
print([name for name in sys.modules if 'torchvision' in name])
from mmcv.runner import load_checkpoint
load_checkpoint(None, 'torchvision://resnet18')
""",
        fails=True,
        PYTHONPATH=str(tmp_path),
    )
    assert output.startswith('[]')
    assert 'torchvision.__version__ is missing' in output
    assert f'{error}: no torchvision::nms' in output


@needs_v1
def test_checkpoints_are_read_without_running_them(work):
    output = inside(
        work,
        """
import numpy, torch
from mmcv.runner.checkpoint import _load_checkpoint
for number in (numpy.float64(.1), numpy.arange(2), print):
    torch.save(dict(state_dict={}, meta=dict(number=number)), "meta.pth")
    print(_load_checkpoint("meta.pth")["meta"]["number"])
""",
        fails=True,
    )
    assert output.startswith('0.1\n[0 1]\n')
    assert 'it holds print, which is no plain data' in output


@pytest.fixture(scope='module')
def coded(work, trained):
    """A checkpoint in whose text of a config stands code."""
    state = torch.load(work / 'work/epoch_1.pth', weights_only=True)
    text = f"open({str(work / 'ran')!r}, 'w').close()"
    state['meta'].update(config=text, cfg=text, number=np.float64(1))
    torch.save(state, work / 'coded.pth')
    return 'coded.pth'


# What is not read need not be there.
GONE = ['model.backbone.pretrained=gone.pth', 'load_from=gone.pth']
WAYS = {
    'test': ['--out', 'coded.pkl', '--cfg-options', *GONE, 'data.train.new_length=3'],
    'resume': ['--resume_from', 'coded.pth', '--cfg-options', *GONE],
    'load_from': ['--cfg-options', 'load_from=coded.pth', 'total_epochs=1'],
    'pretrained': [
        '--cfg-options',
        'model.backbone.pretrained=coded.pth',
        'total_epochs=1',
    ],
}
SAID = {
    'load_from': 'coded.pth: took tensors for backbone.conv1 1 of 1, ',
    'pretrained': r'coded.pth: took (\d+) of \1 tensors',
}
some = [
    pytest.param(way, marks=() if way in ('test', 'resume') else pytest.mark.full)
    for way in WAYS
]


@needs_v1
@pytest.mark.parametrize('way', some)
def test_text_of_a_config_is_not_run(work, coded, way):
    options = [*WAYS[way], f'work_dir=coded_{way}']
    if way == 'test':
        output = run(work, 'test', 1, 'config.py', coded, *options)
    else:
        output = run(work, 'train', 1, 'config.py', *options)
        assert list((work / f'coded_{way}').glob('epoch_*.pth'))
    assert not (work / 'ran').exists()
    assert re.search(SAID.get(way, ''), output)


@needs_v1
@pytest.mark.parametrize('way', some)
def test_a_malicious_or_alien_file_by_way_in(work, trained, tmp_path, way):
    """In each way in; and where nothing fits, no training starts at random."""
    path = tmp_path / 'coded.pth'
    files = [(dict(state_dict={}, x=print), 'it holds print, which is no plain data')]
    if way == 'load_from':
        files.append((dict(x=torch.zeros(1)), 'backbone.conv1 0 of 1'))
    if way == 'resume':
        state = torch.load(work / 'work/epoch_1.pth', weights_only=True)
        del state['state_dict']['cls_head.fc_cls.bias']
        files.append((state, 'has no cls_head.fc_cls.bias'))
        files.append((dict(state_dict={}), "has no 'optimizer'"))
    for content, text in files:
        torch.save(content, path)
        options = [option.replace('coded.pth', str(path)) for option in WAYS[way]]
        first = ['config.py'] + ([path] if way == 'test' else [])
        script = 'test' if way == 'test' else 'train'
        options.append(f'work_dir={tmp_path}/work')
        output = run(work, script, 1, *first, *options, fails=True)
        assert output.splitlines()[-1].startswith('error: '), output
        assert f'{path} ' in output and text in output
        assert 'Traceback' not in output and 'safe_globals' not in output
        assert not list(tmp_path.glob('work/*.pth'))


@needs_v1
def test_launchers(work):
    output = run(work, 'train', 1, 'config.py', '--launcher', 'slurm', fails=True)
    assert 'error: --launcher slurm: SLURM_PROCID is not set' in output
    numbers = dict(RANK='3', SIZE='4', LOCAL_RANK='1')
    output = inside(
        work,
        """
import argparse, os
host.set_launcher('mpi')
print(*(os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')))
host.train(argparse.Namespace(launcher='none', gpus=2))
""",
        fails=True,
        MASTER_ADDR='here',
        **{'OMPI_COMM_WORLD_' + name: value for name, value in numbers.items()},
    )
    assert output.startswith('3 4 1\n')
    assert 'HostError: --gpus 2 needs a process a GPU' in output


@needs_v1
def test_a_folder_that_is_no_checkout(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/train_recognizer.py', 'config.py'],
        env={**os.environ, 'MMACTION_ROOT': str(tmp_path)},
        text=True,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f'MMACTION_ROOT={tmp_path} is no checkout')


@needs_v1
def test_a_network_of_v1_with_dnr(tmp_path):
    """SlowOnly-DNR, which v1 trains and tests by the repository's config."""
    name = 'SlowOnly_DNR_resnet50_kinetics400_rgb_seg1_f8s8_mmaction_v1.py'
    make = [sys.executable, ROOT / 'tools/data/make_arrow_dataset.py', tmp_path / 'a']
    few = [f'--{split}=1' for split in ('train', 'val', 'test')]
    subprocess.run([*make, '--pairs=2', '--size=32', *few], check=True)
    (tmp_path / 'config.py').write_text(f"""
_base_ = {str(ROOT / 'configs' / name)!r}
clip = dict(
    type='RawFramesDataset', img_scale=32, input_size=32, flip_ratio=0,
    multiscale_crop=False, oversample=None, new_step=1, random_shift=False,
    ann_file='a/train.txt', img_prefix='a/rawframes/train')
data = dict(videos_per_gpu=2, workers_per_gpu=0, train=dict(**clip),
            test=dict(num_segments=1, **clip))
model = dict(spatial_temporal_module=dict(spatial_size=1),
             cls_head=dict(num_classes=4))
lr_config = dict(warmup_iters=1)
total_epochs = 1
work_dir = 'work'
""")
    run(tmp_path, 'train', 1, 'config.py')
    state = torch.load(tmp_path / 'work/epoch_1.pth', weights_only=True)['state_dict']
    assert state['backbone.layer1.0.bn2.running_mean'].shape == (4, 64)
    assert 'backbone.layer4.relay.hidden_map.2.bias' in state
    run(tmp_path, 'test', 1, 'config.py', 'work/epoch_1.pth', '--out', 'out.pkl')
    assert len(pickle.loads((tmp_path / 'out.pkl').read_bytes())) == 4
