"""Options of speed: each takes effect, or is refused by name."""

import argparse
import copy
import pickle
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from hosts import HostError
from hosts import speed as speed_module
from hosts.mmaction2_config import load_config, translate
from hosts.resuming import batch_warning, describe_batch
from hosts.speed import (
    FastBackbone,
    add_options,
    changes,
    check_compiler,
    config_options,
    describe,
    fuse,
    rate_scale,
    speed_of,
)
from script_calls import call, make_clips, run
from torch.testing import assert_close

from resnet_dnr import ResNet_DNR

CONFIGS = ROOT / 'configs'
DEMO = CONFIGS / 'DNR_resnet18_arrow_demo.py'
TRAIN = ROOT / 'tools' / 'train_recognizer.py'
TEST = ROOT / 'tools' / 'test_recognizer.py'
PLAIN = dict(
    amp=None, channels_last=False, compile=None, cuda_graph=False, accumulate=1
)


class Backbone(FastBackbone, ResNet_DNR):
    """One stage, of 64 channels."""

    def __init__(self, **kwargs):
        super().__init__(
            18,
            num_stages=1,
            strides=(1,),
            dilations=(1,),
            out_indices=(0,),
            bn_eval=False,
            **kwargs,
        )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Clips of four classes, 12, 4 and 4, and a config of a network of one stage."""
    folder = make_clips(
        tmp_path_factory.mktemp('speed'), 'data/arrow', train=3, val=1, test=1
    )
    (folder / 'tiny.py').write_text(f"""\
_base_ = {str(DEMO)!r}
model = dict(
    backbone=dict(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,)),
    spatial_temporal_module=dict(spatial_size=8),
    cls_head=dict(in_channels=64),
)
data = dict(videos_per_gpu=4, workers_per_gpu=0)
lr_config = dict(warmup_iters=3)
log_config = dict(interval=1)
total_epochs = 2
auto_scale_lr = dict(base_batch_size=8)
""")
    return folder


def train(folder, work_dir, *options):
    """The log of a training, and its last checkpoint."""
    code, output = call(
        TRAIN,
        'tiny.py',
        '--work_dir',
        work_dir,
        '--seed',
        0,
        *options,
        cwd=folder,
    )
    assert code == 0, output
    return output, torch.load(folder / work_dir / 'epoch_2.pth', weights_only=True)


# ---- values


@pytest.mark.parametrize(
    'values, message',
    [
        (dict(amp='half'), "amp='half' should be bf16, fp16 or None"),
        (dict(amp=True), 'amp=True should be'),
        (dict(amp='fp16'), 'amp=fp16 needs CUDA: on a CPU, use bf16'),
        (dict(channels_last='yes'), "channels_last='yes' should be True or False"),
        (dict(compile='max'), "compile='max' should be default, reduce-overhead"),
        (dict(accumulate=0), 'accumulate=0 should be an int of at least 1'),
        (dict(accumulate=1.5), 'accumulate=1.5 should be'),
        (dict(accumulate=True), 'accumulate=True should be'),
    ],
)
def test_wrong_values(values, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(HostError, match=re.escape(message)):
        speed_of(values)


@pytest.mark.parametrize(
    'value, message',
    [
        (True, 'auto_scale_lr should be a dict'),
        (dict(enable=True), 'auto_scale_lr.base_batch_size is missing'),
        (dict(enable=1.5, base_batch_size=8), 'auto_scale_lr.enable=1.5'),
        (dict(base_batch_size=0), 'base_batch_size=0 should be an int of at least 1'),
        (dict(base_batch_sise=8), 'did you mean base_batch_size?'),
    ],
)
def test_wrong_scales(value, message):
    with pytest.raises(HostError, match=re.escape(message)):
        rate_scale(dict(auto_scale_lr=value))


def test_the_command_wins():
    parser = argparse.ArgumentParser()
    add_options(parser, training=True)
    args = parser.parse_args([], argparse.Namespace(cfg_options=dict(amp='fp16')))
    assert config_options(args) == dict(amp='fp16')
    line = '--amp --channels-last --compile reduce-overhead --cuda-graph --accumulate 4'
    line += ' --auto-scale-lr'
    args = parser.parse_args(line.split(), args)
    assert config_options(args) == {
        'amp': 'bf16',
        'channels_last': True,
        'compile': 'reduce-overhead',
        'cuda_graph': True,
        'accumulate': 4,
        'auto_scale_lr.enable': True,
    }
    args = parser.parse_args(['--accumulate', '0'])
    args.cfg_options = None
    assert config_options(args) == dict(accumulate=0)  # which speed_of refuses


@pytest.mark.parametrize(
    'values, channels_last',
    [
        ({}, False),
        (dict(compile='default'), True),
        (dict(compile='reduce-overhead', channels_last=False), False),
    ],
)
def test_a_compiled_network_is_channels_last(values, channels_last):
    assert speed_of(values)['channels_last'] is channels_last


@pytest.mark.parametrize(
    'on_cuda, backbone, optimizer, fused',
    [
        (True, dict(compile='default'), dict(type='SGD'), True),
        (True, dict(compile='default', amp='bf16'), dict(type='SGD'), True),
        (True, dict(compile='default', amp='fp16'), dict(type='SGD'), None),
        (True, dict(compile='default'), dict(type='SGD', fused=False), False),
        (True, dict(compile='default'), dict(type='SGD', foreach=True), None),
        (True, dict(compile='default'), dict(type='AdamW'), None),
        (True, dict(), dict(type='SGD'), None),
        (False, dict(compile='default'), dict(type='SGD'), None),
    ],
)
def test_a_compiled_training_on_a_gpu_has_a_fused_optimizer(
    on_cuda, backbone, optimizer, fused, monkeypatch
):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: on_cuda)
    assert fuse(optimizer, backbone) is bool(fused)
    assert optimizer.get('fused') is fused


def test_a_fused_optimizer_is_refused_with_fp16():
    with pytest.raises(HostError, match='fused=True cannot be used with amp=fp16'):
        fuse(dict(type='SGD', fused=True), dict(amp='fp16'))


@pytest.mark.parametrize('on_cuda, name', [(True, 'gcc'), (False, 'g++')])
def test_no_compiler(on_cuda, name, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setenv('CC' if on_cuda else 'CXX', name)
    with pytest.raises(HostError, match=re.escape(f'neither {name} nor clang')):
        check_compiler(on_cuda)


def test_lines_and_changes():
    assert describe(PLAIN) == []
    speed = dict(
        amp='bf16',
        channels_last=True,
        compile='default',
        cuda_graph=True,
        accumulate=4,
    )
    names = [line.partition('=')[0] for line in describe(speed)]
    assert names == list(speed)
    assert changes(speed, {}, 'a.pth') is None  # an older checkpoint
    assert changes(speed, dict(speed=dict(speed, accumulate=1)), 'a.pth') is None
    assert changes(PLAIN, dict(speed=speed), 'a.pth') == (
        "amp is None and was 'bf16', channels_last is False and was True, compile is "
        "None and was 'default', cuda_graph is False and was True in a.pth: the "
        'command and the config count'
    )


def test_another_number_of_batches_a_step_is_another_batch():
    meta = dict(processes=2, videos_per_gpu=4)
    for before, now in ((1, 2), (4, 2)):
        noted = dict(meta=dict(meta, accumulate=before))
        warning = batch_warning(noted, 'a.pth', describe_batch(2, 4, now), 9)
        assert 'the batch is 2 x 4 clips, 2 times a step' in warning
    assert batch_warning(dict(meta=meta), 'a.pth', describe_batch(2, 4), 9) is None


# ---- the backbone


@pytest.mark.parametrize('dnr', ['both', 'none'])
@pytest.mark.parametrize(
    'options, tolerance',
    [
        (dict(channels_last=True), 1e-5),
        (dict(amp='bf16', channels_last=True), 0.03),
    ],
)
def test_the_backbone_computes_the_same(options, tolerance, dnr):
    """Outputs in float32, gradients and running statistics; by the same names."""
    torch.manual_seed(0)
    plain, fast = Backbone(dnr=dnr), Backbone(dnr=dnr, **options)
    fast.load_state_dict(plain.state_dict())
    fast = copy.deepcopy(fast)  # as for an average of weights
    x = torch.randn(16, 3, 16, 16)
    outputs = []
    for backbone in (plain, fast):
        output = backbone(x)
        assert output.dtype == torch.float32
        (output**2).mean().backward()
        backbone.eval()
        outputs.append((output.detach(), backbone(x).detach()))
    for a, b in zip(*outputs):
        assert (a - b).norm() <= tolerance * a.norm()
    for (name, a), b in zip(plain.named_parameters(), fast.parameters()):
        size = a.grad.norm() + 1e-3
        assert (a.grad - b.grad).norm() <= 4 * tolerance * size, name
    if options.get('channels_last'):
        weight = fast.layer1[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert outputs[1][0].is_contiguous(memory_format=torch.channels_last)


def test_a_seed_draws_the_same_weights():
    states = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        backbone = Backbone(channels_last=channels_last)
        backbone.init_weights()
        states.append(backbone.state_dict())
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name
    weight = backbone.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_what_is_compiled(monkeypatch):
    """The size of the first batch of training, and of evaluation."""
    compiled = []

    def fake(mode):
        def features(backbone, x):
            compiled.append((mode, backbone.training, len(x)))
            return backbone.features(x)

        return features

    monkeypatch.setattr(speed_module, '_compiled', fake)
    backbone = Backbone(compile='default')
    for training, images in ((True, 16), (False, 8), (False, 16), (True, 16)):
        backbone.train(training)(torch.randn(images, 3, 8, 8))
    assert compiled == [
        ('default', True, 16),
        ('default', False, 8),
        ('default', True, 16),
    ]


@pytest.mark.full
def test_compiled():
    """By the same names. tests/test_resnet_dnr.py compiles dynamic layers."""
    torch.manual_seed(0)
    plain = Backbone(dnr='none')
    fast = Backbone(dnr='none', compile='default', channels_last=True)
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(16, 3, 16, 16)
    outputs = [backbone(x) for backbone in (plain, fast)]
    assert_close(*outputs, rtol=1e-4, atol=1e-4)
    for output in outputs:
        output.sum().backward()
    grads = [b.layer1[0].conv1.weight.grad for b in (plain, fast)]
    assert_close(*grads, rtol=1e-3, atol=1e-3)
    assert list(fast.state_dict()) == list(plain.state_dict())


# ---- the training


@pytest.mark.full
def test_two_batches_a_step_are_one_of_twice_the_size(folder):
    """Weights and rates, where no statistics are of a batch; 12 clips fill 2 of 8."""
    frozen = ['model.backbone.bn_eval=True', 'model.backbone.dnr=none']
    frozen += [
        'optimizer_config.grad_clip.max_norm=1',
    ]
    frozen_8 = ['data.videos_per_gpu=8', *frozen]
    one, whole = train(folder, 'whole', '--cfg-options', *frozen_8)
    log, parts = train(folder, 'parts', '--accumulate', 2, '--cfg-options', *frozen)
    for name, value in whole['state_dict'].items():
        assert_close(parts['state_dict'][name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert parts['meta']['iter'] == whole['meta']['iter'] == 4
    assert 'accumulate=2: each step adds up' in log
    lines = [re.findall(r'\[(\d)\]\[(\d)/2\]  lr: (\S+)', text) for text in (one, log)]
    assert len(lines[0]) == 4 and lines[0] == lines[1]
    assert len({rate for _, _, rate in lines[0]}) > 2


@pytest.mark.full
def test_the_rate_follows_the_clips_a_step(folder):
    """Of 4 clips, twice a step, for a rate made for 16."""
    log, checkpoint = train(
        folder,
        'scaled',
        *'--accumulate 2 --auto-scale-lr --cfg-options'.split(),
        'auto_scale_lr.base_batch_size=16',
    )
    assert 'batch size of 16 and the current batch size is 8' in log
    (group,) = checkpoint['optimizer']['param_groups']
    assert group['initial_lr'] == pytest.approx(0.05 * 8 / 16)


def test_resuming_with_other_settings(folder):
    """The command counts, and a line says what changed; names stay."""
    log, checkpoint = train(folder, 'first', '--amp', '--channels-last')
    assert log.count('INFO - amp=bf16: the backbone computes in bfloat16') == 1
    assert log.count('INFO - channels_last=True: the backbone') == 1
    assert checkpoint['meta']['speed'] == dict(PLAIN, amp='bf16', channels_last=True)
    code, log = call(
        TRAIN,
        'tiny.py',
        '--work_dir',
        'again',
        '--resume_from',
        'first/epoch_1.pth',
        cwd=folder,
    )
    assert code == 0, log
    assert "amp is None and was 'bf16', channels_last is False and was True" in log
    resumed = torch.load(folder / 'again' / 'epoch_2.pth', weights_only=True)
    assert resumed['meta']['speed'] == PLAIN
    assert list(resumed['state_dict']) == list(checkpoint['state_dict'])


def test_scores_agree(folder):
    """With and without, of one checkpoint: to a tenth of their spread."""
    torch.manual_seed(0)
    backbone = Backbone()
    backbone.init_weights()
    for _ in range(3):
        backbone(torch.randn(16, 3, 32, 32))
    state = {f'backbone.{name}': value for name, value in backbone.state_dict().items()}
    state['cls_head.fc_cls.weight'] = torch.randn(4, 64)
    state['cls_head.fc_cls.bias'] = torch.zeros(4)
    torch.save(dict(state_dict=state), folder / 'scores.pth')
    scores = []
    for n, options in enumerate(([], ['--channels-last'], ['--amp', 'bf16'])):
        code, log = call(
            TEST, 'tiny.py', 'scores.pth', '--out', f'{n}.pkl', *options, cwd=folder
        )
        assert code == 0, log
        scores.append(np.concatenate(pickle.loads((folder / f'{n}.pkl').read_bytes())))
    spread = scores[0].std()
    assert spread > 0.01
    assert np.abs(scores[1] - scores[0]).max() < 1e-3 * spread
    assert 0 < np.abs(scores[2] - scores[0]).max() < 0.1 * spread


@pytest.mark.full
def test_two_processes(folder):
    """Parts of a step on two processes are the whole of one; and with a compiler."""
    frozen = ['model.backbone.bn_eval=True', 'model.backbone.dnr=none']
    _, whole = train(folder, 'one', '--cfg-options', 'data.videos_per_gpu=8', *frozen)
    run(
        *'-m torch.distributed.run --standalone --nproc_per_node 2'.split(),
        *(TRAIN, 'tiny.py', '--launcher', 'pytorch', '--work_dir', 'two'),
        *'--seed 0 --accumulate 2 --compile --channels-last --cfg-options'.split(),
        *('data.videos_per_gpu=2', *frozen),
        cwd=folder,
    )
    parts = torch.load(folder / 'two' / 'epoch_2.pth', weights_only=True)
    for name, value in whole['state_dict'].items():
        assert_close(parts['state_dict'][name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_validation_takes_as_many_images_as_training():
    """Something-Something: a video of validation is 8 segments of a frame."""
    cfg = translate(
        load_config(str(CONFIGS / 'DNR_resnet50_sthv1_rgb_seg8_f1.py')), validate=True
    )
    assert cfg.val_dataloader.batch_size == 8
    assert cfg.test_dataloader.batch_size == 8


def test_class_names(tmp_path):
    names = tmp_path / 'classes.txt'
    names.write_text('a\nb\nc\n')
    v1 = load_config(str(DEMO), dict(class_names=str(names)))
    with pytest.raises(HostError, match='names 3 classes, but the network has 4'):
        translate(v1)
    names.write_text('a\nb\nc\nd')
    translate(v1)
    names.unlink()
    with pytest.raises(HostError, match='class_names: .*No such file'):
        translate(v1)
