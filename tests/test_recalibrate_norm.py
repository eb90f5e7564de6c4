"""tools/recalibrate_norm.py: exact statistics, and the command on a CPU."""

import copy
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time

import pytest
import recalibrate_norm
import torch
from checkpoint_files import to_published_names
from conftest import ROOT
from hosts import HostError
from torch import nn
from videos import make_video

from resnet_dnr import DynamicNorm, ResNet_DNR

CONFIG = str(ROOT / 'configs' / 'DNR_resnet18_arrow_demo.py')
SCRIPT = str(ROOT / 'tools' / 'recalibrate_norm.py')
ENV = dict(
    os.environ, PYTHON=sys.executable, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''
)
ENV.pop('MMACTION_ROOT', None)


class Recognizer(nn.Module):
    """A backbone, called as mmaction2's recognizers are."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = ResNet_DNR(
            18, out_indices=(3,), n_segment=4, num_groups=2, **options
        )
        self.backbone.init_weights()
        self.dropout = nn.Dropout()

    def data_preprocessor(self, batch, training):
        return dict(inputs=batch)

    def forward(self, inputs, mode):
        assert mode == 'tensor' and not self.dropout.training
        return self.backbone(inputs)


def make_batches():
    """Three batches of 3 clips, of different brightness and contrast."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(3 * 4, 3, 32, 32, generator=generator) * (1 + batch) + batch
        for batch in range(3)
    ]


def inputs_by_hand(model, batches):
    """What every normalization sees in training, (images, C, H, W) float64.

    The whole network is computed in float64, all layers in training mode.
    """
    model = copy.deepcopy(model).double()
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, (DynamicNorm, nn.BatchNorm2d)):
            seen[name] = []
            module.train()
            module.register_forward_pre_hook(
                lambda _, inputs, kept=seen[name]: kept.append(inputs[0])
            )
    with torch.no_grad():
        for batch in batches:
            model.backbone(batch.double())
    return {name: torch.cat(inputs) for name, inputs in seen.items()}


@pytest.mark.parametrize(
    'options',
    [
        dict(bn_eval=False),
        dict(bn_eval=True),
        dict(bn_eval=False, running_stats='shared'),
        dict(bn_eval=False, dnr='none'),
        dict(bn_eval=False, backend='plain', with_cp=True),
    ],
    ids=str,
)
def test_exact(options):
    model = Recognizer(**options)
    batches = make_batches()
    before = copy.deepcopy(dict(model.named_parameters()))
    norms = recalibrate_norm.choose_norms(model)
    statistics = recalibrate_norm.estimate(model, norms, batches)
    seen = inputs_by_hand(model, batches)
    assert len(statistics) == 2 * len(seen) == 2 * 20
    shapes = set()
    for name, norm in norms.items():
        x = seen[name]  # (9 clips * 4 frames, C, H, W)
        if norm.running_mean.dim() == 2:
            mean, var = [], []
            for group in range(2):  # frames 0, 1 and frames 2, 3
                part = torch.cat([x[2 * group :: 4], x[2 * group + 1 :: 4]])
                mean.append(part.mean((0, 2, 3)))
                var.append(part.var((0, 2, 3), unbiased=False))
            mean, var = torch.stack(mean), torch.stack(var)
        else:
            mean = x.mean((0, 2, 3))
            var = x.var((0, 2, 3), unbiased=False)
        for key, wanted in (('running_mean', mean), ('running_var', var)):
            value = statistics[f'{name}.{key}']
            assert value.dtype == torch.float64
            assert value.shape == getattr(norm, key).shape
            error = (value - wanted).abs().max() / wanted.abs().max()
            assert error < 1e-5, (name, key)  # the network is in float32
            shapes.add(value.dim())
    grouped = 'dnr' not in options and 'running_stats' not in options
    assert shapes == ({1, 2} if grouped else {1})
    assert all(
        torch.equal(before[name], value) for name, value in model.named_parameters()
    )


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason='no CUDA here; on a machine with a GPU: '
    './tools/run_tests.sh tests/test_recalibrate_norm.py -k on_cuda',
)
@pytest.mark.parametrize('running_stats', ['grouped', 'shared'])
def test_on_cuda(running_stats, monkeypatch):
    """The same as on a CPU, with the kernels."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    model = Recognizer(bn_eval=False, running_stats=running_stats)
    norms = recalibrate_norm.choose_norms(model)
    wanted = recalibrate_norm.estimate(model, norms, make_batches())
    found = recalibrate_norm.estimate(
        model.cuda(), norms, [batch.cuda() for batch in make_batches()]
    )
    for name, value in found.items():
        assert value.is_cuda
        error = (value.cpu() - wanted[name]).abs().max()
        assert error < 1e-4 * wanted[name].abs().max(), name


def test_one_batch_is_what_training_keeps():
    """With momentum 1 a layer's own buffers hold it, var unbiased."""
    model = Recognizer(bn_eval=False)
    batches = make_batches()[:1]
    norms = recalibrate_norm.choose_norms(model)
    for norm in norms.values():
        norm.momentum = 1.0
    statistics = recalibrate_norm.estimate(model, norms, batches)
    seen = inputs_by_hand(model, batches)
    for name, norm in norms.items():
        count = seen[name].numel() / norm.running_mean.numel()
        for key, factor in (('running_mean', 1), ('running_var', 1 - 1 / count)):
            assert torch.allclose(
                getattr(norm, key).double() * factor,
                statistics[f'{name}.{key}'],
                rtol=1e-5,
                atol=1e-6,
            ), name


def test_frozen_stages_keep_theirs():
    model = Recognizer(bn_eval=False, frozen_stages=1)
    names = set(recalibrate_norm.choose_norms(model))
    others = {
        name
        for name, module in model.named_modules()
        if isinstance(module, (DynamicNorm, nn.BatchNorm2d))
    } - names
    assert others == {'backbone.bn1'} | {
        f'backbone.layer1.{b}.bn{i}' for b in (0, 1) for i in (1, 2)
    }
    assert not model.backbone.bn1.training
    assert not any(name.startswith('backbone.layer1.') for name in names)


def test_diverged_weights():
    model = Recognizer(bn_eval=False)
    weight = model.get_parameter('backbone.layer2.0.conv1.weight')
    weight.data[0] = float('nan')
    with pytest.raises(
        HostError, match='running_mean of backbone.layer2.0.bn1 is not finite'
    ):
        recalibrate_norm.estimate(
            model, recalibrate_norm.choose_norms(model), make_batches()
        )


@pytest.mark.parametrize(
    'clips, count, wanted',
    [(20, 3, 3), (20, 200, 5), (19, 200, 5), (3, 200, 1), (1, 1, 1)],
)
def test_share_of_batches(clips, count, wanted):
    """Processes have the same batches, every clip at most an epoch long."""

    def share(rank, world_size):
        numbers = recalibrate_norm.share_of_batches(clips, 4, count, rank, world_size)
        assert len(numbers) % 4 == 0
        return [tuple(numbers[i : i + 4]) for i in range(0, len(numbers), 4)]

    alone = share(0, 1)
    assert len(alone) == wanted
    assert sorted(alone) == sorted(sum((share(r, 3) for r in range(3)), []))
    numbers = sum(alone, ())
    assert set(numbers) <= set(range(clips))
    if count == 200:
        assert set(numbers) == set(range(clips))


def test_published_checkpoint():
    """Its names stay, in its order; its (C,) buffers become grouped."""
    model = Recognizer(bn_eval=False)
    statistics = recalibrate_norm.estimate(
        model, recalibrate_norm.choose_norms(model), make_batches()
    )
    published = {
        f'module.{name}': value
        for name, value in to_published_names(model.state_dict()).items()
    }
    state = dict(published)
    recalibrate_norm.replace_statistics(state, statistics)
    assert list(state) == list(published)
    name = 'layer1.ModuleList.0.bn2.running_mean'
    assert published[f'module.backbone.{name}'].shape == (64,)
    assert state[f'module.backbone.{name}'].shape == (2, 64)
    loaded = Recognizer(bn_eval=False)
    loaded.load_state_dict({k[len('module.') :]: v for k, v in state.items()})
    own = loaded.state_dict()
    assert all(
        torch.equal(own[name], value.float()) for name, value in statistics.items()
    )
    assert {k for k in state if state[k] is not published[k]} == {
        k for k in state if k.endswith(('running_mean', 'running_var'))
    }


# ---- the command


def run(*command, cwd, code=0):
    """Run a command to its end and return what it printed."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ENV,
        timeout=300,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == code, result.stdout[-3000:]
    return result.stdout


def read(path):
    return torch.load(path, weights_only=True)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with data, a trained checkpoint and one without statistics.

    Returns the folder and the top-1 accuracy that training ended at, in
    percent.
    """
    folder = tmp_path_factory.mktemp('recalibrate')
    run(
        sys.executable,
        ROOT / 'tools/data/make_arrow_dataset.py',
        'data/arrow',
        '--pairs',
        2,
        '--size',
        32,
        '--train',
        40,
        '--val',
        10,
        '--test',
        10,
        cwd=folder,
    )
    output = run(
        sys.executable,
        ROOT / 'tools/train_recognizer.py',
        CONFIG,
        '--validate',
        '--seed',
        0,
        '--work_dir',
        'trained',
        '--cfg-options',
        'total_epochs=3',
        cwd=folder,
    )
    checkpoint = read(folder / 'trained/epoch_3.pth')
    for name, value in checkpoint['state_dict'].items():
        if name.endswith('running_mean'):
            value.zero_()
        elif name.endswith('running_var'):
            value.fill_(1)
    torch.save(checkpoint, folder / 'spoiled.pth')
    return folder, 100 * float(re.findall(r'acc/top1: ([\d.]+)', output)[-1])


def accuracies(output):
    before, after = re.search(
        r'^Top-1 Accuracy = ([\d.]+) before, ([\d.]+) after$', output, re.MULTILINE
    ).groups()
    return float(before), float(after)


@pytest.fixture(scope='module')
def recalibrated(trained):
    """What the command printed in one process; it wrote new/one.pth."""
    folder, _ = trained
    return run(sys.executable, SCRIPT, CONFIG, 'spoiled.pth', 'new/one.pth', cwd=folder)


@pytest.mark.full
def test_accuracy_comes_back(trained, recalibrated):
    folder, wanted = trained
    before, after = accuracies(recalibrated)
    assert wanted > 80  # or the training shows nothing
    assert before < 60
    assert after > wanted - 6  # two clips of 40
    assert 'wrote new/one.pth: statistics of 20 norm' in recalibrated
    assert 'Estimating' in recalibrated and '100%' in recalibrated
    assert os.listdir(folder / 'new') == ['one.pth']


@pytest.mark.full
def test_only_statistics_change(trained, recalibrated):
    folder, _ = trained
    old, new = read(folder / 'spoiled.pth'), read(folder / 'new/one.pth')
    assert list(old) == list(new)
    del old['meta']['cfg']  # the text of a config
    assert new['meta'] == old['meta']
    assert {'optimizer', 'param_schedulers', 'message_hub'} <= set(new)
    momenta = [
        checkpoint['optimizer']['state'][0]['momentum_buffer']
        for checkpoint in (old, new)
    ]
    assert torch.equal(*momenta)
    assert list(old['state_dict']) == list(new['state_dict'])
    for name, value in new['state_dict'].items():
        same = torch.equal(value, old['state_dict'][name])
        assert same != name.endswith(('running_mean', 'running_var')), name
    assert new['state_dict']['backbone.layer1.0.bn2.running_var'].shape == (4, 64)


@pytest.mark.full
def test_two_processes_write_the_same(trained, recalibrated):
    """And so does a config that keeps normalizations in evaluation mode."""
    folder, _ = trained
    output = run(
        ROOT / 'tools/dist_recalibrate_norm.sh',
        CONFIG,
        'spoiled.pth',
        'two.pth',
        2,
        '--cfg-options',
        'model.backbone.bn_eval=True',
        cwd=folder,
    )
    assert accuracies(output) == accuracies(recalibrated)
    # Process 0 alone speaks.
    assert len(re.findall('Top-1 Accuracy', output)) == 1
    assert len(re.findall('100%', output)) == 1
    one = read(folder / 'new/one.pth')['state_dict']
    two = read(folder / 'two.pth')['state_dict']
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-6, atol=1e-7), name


@pytest.mark.full
def test_tested_as_any_checkpoint(trained, recalibrated):
    folder, _ = trained
    output = run(
        sys.executable,
        ROOT / 'tools/test_recognizer.py',
        CONFIG,
        'new/one.pth',
        '--out',
        'one.pkl',
        '--cfg-options',
        'data.test.ann_file=data/arrow/val.txt',
        'data.test.img_prefix=data/arrow/rawframes/val',
        cwd=folder,
    )
    top1 = float(re.search(r'Top-1 Accuracy = ([\d.]+)', output)[1])
    assert top1 == accuracies(recalibrated)[1]


@pytest.mark.full
def test_video_files(trained):
    folder, _ = trained
    (folder / 'videos').mkdir()
    for seed in range(4):
        make_video(folder / f'videos/{seed}.mp4', size=(48, 36), seed=seed)
    (folder / 'videos.txt').write_text(''.join(f'{seed} {seed}\n' for seed in range(4)))
    options = [
        f'data.{split}.{key}'
        for split in ('train', 'val')
        for key in ('ann_file=videos.txt', 'img_prefix=videos')
    ]
    output = run(
        sys.executable,
        SCRIPT,
        ROOT / 'configs/DNR_resnet18_own_videos_cpu.py',
        'spoiled.pth',
        'of_videos.pth',
        '--cfg-options',
        'model.cls_head.num_classes=4',
        *options,
        cwd=folder,
    )
    assert 'wrote of_videos.pth: statistics of 20 normalizations' in output
    before, after = (read(folder / f'{name}.pth') for name in ('spoiled', 'of_videos'))
    name = 'backbone.bn1.running_var'
    assert not torch.equal(before['state_dict'][name], after['state_dict'][name])


@pytest.mark.full
def test_shared(trained):
    """Few batches, and one pair of statistics for all groups of frames."""
    folder, _ = trained
    output = run(
        sys.executable,
        SCRIPT,
        CONFIG,
        'spoiled.pth',
        'shared.pth',
        '--batches',
        3,
        '--cfg-options',
        'model.backbone.running_stats=shared',
        cwd=folder,
    )
    assert accuracies(output)
    state = read(folder / 'shared.pth')['state_dict']
    assert state['backbone.layer1.0.bn2.running_mean'].shape == (64,)


@pytest.mark.full
def test_killed(trained):
    """What OUT held is still there, whole."""
    folder, _ = trained
    (folder / 'kept.pth').write_bytes(b'what was there')
    process = subprocess.Popen(
        [sys.executable, SCRIPT, CONFIG, 'spoiled.pth', 'kept.pth'],
        cwd=folder,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if 'Epoch(val)' in line and 'acc/top1' in line:
            break  # before the estimation
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (folder / 'kept.pth').read_bytes() == b'what was there'
    assert not list(folder.glob('kept.pth.*'))


@pytest.mark.full
def test_checkpoint_of_another_network(trained):
    folder, _ = trained
    output = run(
        sys.executable,
        SCRIPT,
        CONFIG,
        'spoiled.pth',
        'no.pth',
        '--cfg-options',
        'model.backbone.dnr=none',
        cwd=folder,
        code=1,
    )
    assert 'error: spoiled.pth is no checkpoint of this model' in output
    assert not (folder / 'no.pth').exists()


def test_mmaction_v1_host_is_refused_at_once(tmp_path):
    result = subprocess.run(
        [sys.executable, SCRIPT, CONFIG, 'a.pth', 'b.pth'],
        cwd=tmp_path,
        env=dict(ENV, MMACTION_ROOT=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert result.stderr.startswith(
        'error: tools/recalibrate_norm.py runs on mmaction2 alone'
    )


@pytest.mark.parametrize(
    'command, message',
    [
        ('no-config.py w.pth o.pth', 'config no-config.py does not exist'),
        ('{c} no.pth o.pth', 'checkpoint no.pth does not exist'),
        ('{c} text.pth o.pth', 'cannot be loaded as a checkpoint'),
        ('{c} w.pth w.pth', 'OUT w.pth is CHECKPOINT itself'),
        ('{c} w.pth link.pth', 'OUT link.pth is CHECKPOINT itself'),
        ('{c} w.pth o.txt', 'OUT o.txt should end in .pth or .pt'),
        ('{c} w.pth folder.pth', 'cannot write OUT folder.pth: it is a folder'),
        ('{c} w.pth text.pth/o.pth', 'cannot write OUT text.pth/o.pth'),
        ('{c} w.pth full/o.pth', '0 MiB are free there'),
        ('{c} w.pth o.pth --batches 0', '--batches 0 should be at least 1'),
        ('{c} w.pth o.pth --cfg-options modle.a=1', 'has no modle'),
        ('{c} w.pth o.pth --launcher mpi', '--launcher mpi needs CUDA'),
    ],
)
def test_faults(tmp_path, monkeypatch, command, message):
    """Each ends with a line that names it, before any work."""
    torch.save(dict(state_dict={}), tmp_path / 'w.pth')
    (tmp_path / 'text.pth').write_text('no checkpoint')
    (tmp_path / 'folder.pth').mkdir()
    (tmp_path / 'link.pth').symlink_to('w.pth')
    disk_usage = shutil.disk_usage
    monkeypatch.setattr(
        shutil,
        'disk_usage',
        lambda path: (
            disk_usage('.')._replace(free=0) if path == 'full' else disk_usage(path)
        ),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(sys, 'argv', [SCRIPT, *command.format(c=CONFIG).split()])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(SCRIPT, run_name='__main__')
    assert str(exit.value).startswith('error: ')
    assert message in str(exit.value)
    assert not (tmp_path / 'o.pth').exists()


def test_disk_full_while_writing(tmp_path):
    with pytest.raises(HostError, match='cannot write OUT .*no/o.pth'):
        recalibrate_norm.write_out(str(tmp_path / 'no/o.pth'), {})


def test_shell_script_usage():
    output = run(ROOT / 'tools/dist_recalibrate_norm.sh', CONFIG, cwd=ROOT, code=2)
    assert 'tools/dist_recalibrate_norm.sh CONFIG CHECKPOINT OUT' in output
