"""A step of training as one CUDA graph: the same weights, or a line that says why."""

import contextlib
import os
import re
import subprocess
import sys
from unittest.mock import Mock

import pytest
import torch
from conftest import ROOT
from hosts import HostError, mmaction2_graph
from hosts.mmaction2_config import load_config, translate
from hosts.mmaction2_graph import GraphedStep, average_gradients, check_graph
from hosts.mmaction2_training import V1OptimWrapper
from hosts.speed import speed_of
from mmaction.structures import ActionDataSample
from mmengine.model import BaseModel
from script_calls import call, make_clips
from torch.testing import assert_close

CONFIGS = ROOT / 'configs'
DEMO = CONFIGS / 'DNR_resnet18_arrow_demo.py'
TRAIN = ROOT / 'tools' / 'train_recognizer.py'
ON_A_GPU = (
    'on a machine with two GPUs: '
    './tools/run_tests.sh --full tests/hosts/test_cuda_graph.py'
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """20 clips for training, and a config of a small network for them."""
    folder = make_clips(
        tmp_path_factory.mktemp('graph'), 'data/arrow', train=5, val=1, test=1
    )
    (folder / 'tiny.py').write_text(f"""\
_base_ = {str(DEMO)!r}
model = dict(
    backbone=dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,)),
    spatial_temporal_module=dict(spatial_size=4),
    cls_head=dict(in_channels=128, dropout_ratio=0),
)
data = dict(videos_per_gpu=2, workers_per_gpu=1)
log_config = dict(interval=1)
lr_config = dict(by_epoch=False, warmup_iters=7)
optimizer = dict(lr=0.002, fused=True)
optimizer_config = dict(grad_clip=dict(max_norm=1, norm_type=2))
checkpoint_config = dict(interval=1)
total_epochs = 2
""")
    return folder


def load(path):
    return torch.load(path, map_location='cpu')


def train(folder, work_dir, *options, processes=1):
    """The checkpoint of a training on GPUs, and its log."""
    command = [sys.executable, TRAIN]
    if processes > 1:
        command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
        command += ['--nproc_per_node', processes, TRAIN, '--launcher', 'pytorch']
    command += ['tiny.py', '--work_dir', work_dir, '--seed', 0, *options]
    environment = {k: v for k, v in os.environ.items() if k != 'MMACTION_ROOT'}
    result = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    log = result.stdout + result.stderr
    assert result.returncode == 0, log[-4000:]
    return load(folder / work_dir / 'epoch_2.pth'), log


@pytest.mark.full
@pytest.mark.skipif(not torch.cuda.is_available(), reason=f'no CUDA here; {ON_A_GPU}')
@pytest.mark.parametrize(
    'processes, options',
    [
        (1, ()),
        (1, ('--validate', '--amp', '--channels-last', '--compile')),
        (2, ('--validate', '--channels-last')),
    ],
)
def test_cuda_trains_the_same_with_a_graph(folder, processes, options):
    """10 or 5 steps an epoch, with another rate in each; the first 3 have no graph."""
    if torch.cuda.device_count() < processes:
        pytest.skip(f'needs {processes} GPUs; {ON_A_GPU}')
    run, steps = f'{processes}_{len(options)}', 20 // processes
    plain, log = train(folder, f'plain_{run}', *options, processes=processes)
    graph, graph_log = train(
        folder, f'graph_{run}', '--cuda-graph', *options, processes=processes
    )
    assert 'cuda_graph=True: after the first steps' in graph_log
    rates = [re.findall(r'lr: (\S+)', text) for text in (log, graph_log)]
    assert len(set(rates[0])) == steps and rates[0] == rates[1]
    before = load(folder / f'plain_{run}' / 'epoch_1.pth')['state_dict']
    for name, value in plain['state_dict'].items():
        other = graph['state_dict'][name]
        if not value.is_floating_point():
            assert torch.equal(value, other), name
            continue
        way, off = (value - before[name]).norm(), (value - other).norm()
        assert off <= 0.2 * way + 1e-4, (name, off, way)
    for figure in ('loss', 'grad_norm'):
        values = [
            torch.tensor([float(x) for x in re.findall(rf' {figure}: (\S+)', text)])
            for text in (log, graph_log)
        ]
        assert len(values[0]) == steps
        assert_close(*values, rtol=0.02, atol=0.02)


def native_config():
    return translate(load_config(str(DEMO), dict(cuda_graph=True)), splits=('train',))


@pytest.mark.parametrize(
    'key, value, named',
    [
        ('optim_wrapper.type', 'OptimWrapper', 'native.optim_wrapper.type'),
        ('optim_wrapper.accumulative_counts', 4, 'accumulative_counts=4: it can be 1'),
        ('optim_wrapper.keep_gradients', True, 'keep_gradients=True: leave it out'),
        ('optim_wrapper.optimizer.foreach', True, 'optimizer.foreach=True'),
        ('model.backbone.with_cp', True, 'model.backbone.with_cp=True'),
        ('env_cfg.dist_cfg.backend', 'gloo', "dist_params.backend='gloo'"),
        ('optim_wrapper.optimizer.type', 'AdamW', 'optimizer.type'),
        ('optim_wrapper.optimizer.fused', False, 'optimizer.fused=False'),
        ('model.cls_head.type', 'TSNHead', 'native.model.cls_head.type'),
        ('model.cls_head.label_smooth_eps', 0.1, 'label_smooth_eps=0.1'),
        ('model.data_preprocessor.blending', dict(type='Mixup'), 'blending'),
        ('model_wrapper_cfg.broadcast_buffers', True, 'broadcast_buffers=True'),
        ('model_wrapper_cfg.type', 'MMFullyShardedDataParallel', 'cfg.type'),
        ('activation_checkpointing', ['backbone'], 'native.activation_checkpointing'),
        ('sync_bn', 'torch', 'native.sync_bn'),
        (
            'param_scheduler',
            [dict(type='LinearLR'), dict(type='CosineAnnealingMomentum')],
            "native.param_scheduler='CosineAnnealingMomentum'",
        ),
        (
            'param_scheduler',
            [dict(type='LinearParamScheduler', param_name='weight_decay')],
            "native.param_scheduler='LinearParamScheduler'",
        ),
    ],
)
def test_what_a_graph_cannot_have(key, value, named, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = native_config()
    assert cfg.train_cfg.cuda_graph
    check_graph(cfg)
    cfg.merge_from_dict({key: value})
    with pytest.raises(HostError, match=re.escape(named)):
        check_graph(cfg)


@pytest.mark.parametrize(
    'values, message',
    [
        (dict(cuda_graph=1), 'cuda_graph=1 should be True or False'),
        (dict(cuda_graph=True, accumulate=2), 'cannot be used with accumulate=2'),
        (
            dict(cuda_graph=True, compile='reduce-overhead'),
            "compile=reduce-overhead; use compile='default'",
        ),
        (dict(cuda_graph=True, amp='fp16'), 'amp=fp16; use amp=bf16'),
    ],
)
def test_options_that_exclude_each_other(values, message):
    with pytest.raises(HostError, match=re.escape(message)):
        speed_of(values)


@pytest.mark.parametrize(
    'path',
    [
        str(path.relative_to(CONFIGS))
        for study in ('arrow', 'gestures', 'small_batches')
        for path in sorted((CONFIGS / study).glob('*.py'))
        if path.stem not in ('study', 'recipe')
    ],
)
def test_studies_can_have_it(path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    v1 = load_config(str(CONFIGS / path), dict(cuda_graph=True))
    check_graph(translate(v1, splits=('train',)))


def test_testing_leaves_it_out():
    v1 = load_config(str(DEMO), dict(cuda_graph=True, compile='reduce-overhead'))
    cfg = translate(v1, splits=('test',))
    assert not any(
        'graph' in note for note in cfg.default_hooks.faithful_training.notes
    )


@pytest.mark.parametrize(
    'options',
    [
        {'native.train_cfg.cuda_graph': True},
        {
            'cuda_graph': True,
            'native.train_cfg._delete_': True,
            'native.train_cfg.type': 'EpochBasedTrainLoop',
            'native.train_cfg.max_epochs': 1,
        },
    ],
)
def test_native_settings_do_not_contradict_it(options):
    with pytest.raises(HostError, match='native.train_cfg leaves cuda_graph at'):
        translate(load_config(str(DEMO), options), splits=('train',))


def test_it_needs_a_gpu(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    code, output = call(TRAIN, 'tiny.py', '--cuda-graph', cwd=folder)
    assert code == 'error: cuda_graph=True needs CUDA', output


class Toy(BaseModel):
    """A model with a running statistic, whose clips are of 5 numbers."""

    def __init__(self):
        super().__init__(dict(type='BaseDataPreprocessor'))
        torch.manual_seed(0)
        self.norm, self.linear = torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3)

    def forward(self, inputs, data_samples, mode):
        labels = torch.stack([sample.gt_labels.item for sample in data_samples])
        scores = self.linear(self.norm(inputs))
        return dict(
            loss_cls=torch.nn.functional.cross_entropy(scores, labels.squeeze(1)),
            top1_acc=(scores.argmax(1) == labels.squeeze(1)).double().mean(),
        )


class CpuGraph:
    """In place of a CUDA graph: replays the Python of a step, to the same tensors."""

    def __init__(self):
        self.fresh = None

    @contextlib.contextmanager
    def capture(self, graphed):
        self.graphed, self.fresh = graphed, True
        yield

    def replay(self):
        if not self.fresh:  # here, what is captured is computed at once
            outputs = self.graphed.compute(self.graphed.inputs, self.graphed.labels)
            for name, value in self.graphed.outputs.items():
                value.copy_(outputs[name])
            self.graphed.norm.copy_(self.graphed.wrapper.norm)
        self.fresh = False


def test_steps_are_those_of_mmengine(monkeypatch):
    """With a rate a step, a batch of another size, and another weight decay; the graph
    itself is played on a CPU."""
    graphs = []
    monkeypatch.setattr(torch.cuda, 'Stream', lambda device: Mock())
    monkeypatch.setattr(torch.cuda, 'current_stream', Mock)
    monkeypatch.setattr(torch.cuda, 'stream', lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(
        torch.cuda, 'CUDAGraph', lambda: graphs.append(CpuGraph()) or graphs[-1]
    )
    monkeypatch.setattr(torch.cuda, 'graph', lambda graph, **_: graph.capture(graphed))
    models = Toy(), Toy()
    wrappers = [
        V1OptimWrapper(
            torch.optim.SGD(
                [
                    dict(params=model.norm.parameters(), lr=0.2),
                    dict(params=model.linear.parameters(), lr=0.1),
                ],
                momentum=0.9,
                fused=True,
            ),
            clip_grad=dict(max_norm=0.5),
        )
        for model in models
    ]
    graphed = GraphedStep(models[1], wrappers[1])
    generator, kept = torch.Generator().manual_seed(1), []
    for step in range(15):
        clips = 3 if step == 7 else 4
        batch = dict(
            inputs=torch.randn(clips, 5, generator=generator),
            data_samples=[
                ActionDataSample().set_gt_labels(int(label))
                for label in torch.randint(3, (clips,), generator=generator)
            ],
        )
        for wrapper in wrappers:
            for group in wrapper.optimizer.param_groups:
                group['lr'] *= 0.9
                if step == 9:
                    group['weight_decay'] = 0.1
        if step == 9:
            graphed.refresh()
        expected = models[0].train_step(batch, wrappers[0])
        outputs = graphed(batch)
        kept.append((outputs, {name: v.item() for name, v in expected.items()}))
        assert_close(wrappers[1].norm, wrappers[0].norm)
        assert wrappers[1].optimizer.param_groups[0]['lr'] == pytest.approx(
            0.2 * 0.9 ** (step + 1)
        )
    assert len(graphs) == 2  # the second, of the other weight decay
    for outputs, expected in kept:
        assert {name: float(v) for name, v in outputs.items()} == pytest.approx(
            expected, rel=1e-5
        )
    for name, value in models[0].state_dict().items():
        assert_close(models[1].state_dict()[name], value, msg=name)


@pytest.mark.parametrize('contiguous', [True, False])
def test_gradients_are_averaged(contiguous, monkeypatch):
    """Of any memory format, and with holes; a parameter without one stays so."""

    def all_reduce(flat, op):  # the other process has 3 times as much
        assert op == torch.distributed.ReduceOp.AVG
        flat.mul_(2)

    monkeypatch.setattr(mmaction2_graph.distributed, 'all_reduce', all_reduce)
    shapes = [(4,), (2, 3, 4, 5), (2, 3, 4, 5), (3, 4)]
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    parameters[2].data = parameters[2].contiguous(memory_format=torch.channels_last)
    for parameter in parameters[:3]:
        parameter.grad = torch.randn_like(parameter)
    if not contiguous:
        parameters[1].grad = torch.randn(2, 3, 4, 10)[..., ::2]
    expected = [2 * parameter.grad.clone() for parameter in parameters[:3]]
    average_gradients(parameters)
    for parameter, grad in zip(parameters, expected):
        assert torch.equal(parameter.grad, grad)
    assert parameters[3].grad is None
    assert parameters[2].grad.is_contiguous(memory_format=torch.channels_last)
