"""The key native: merged, written to the log, or refused by name."""

import re

import pytest
import torch
from conftest import ROOT
from hosts import HostError
from hosts.mmaction2 import import_components
from hosts.mmaction2_config import load_config, translate
from hosts.mmaction2_native import check_types
from script_calls import call, make_clips, run

DEMO = str(ROOT / 'configs' / 'DNR_resnet18_arrow_demo.py')
TRAIN = ROOT / 'tools' / 'train_recognizer.py'
TEST = ROOT / 'tools' / 'test_recognizer.py'
LAUNCH = ROOT / 'tools' / 'launch.py'
CLIP = (
    "dict(type='V1SampleFrames', num_segments=1, new_length=8, new_step=1, "
    'random_shift=False, temporal_jitter=False, test_mode=False)'
)
# What users ask mmengine and mmaction2 for.
NATIVE = f"""dict(
    custom_hooks=[dict(type='EMAHook', momentum=0.5)],
    visualizer=dict(vis_backends=[dict(type='LocalVisBackend', save_dir='pictures')]),
    model=dict(
        data_preprocessor=dict(
            blending=dict(type='MixupBlending', num_classes=4, alpha=0.2)
        ),
        cls_head=dict(label_smooth_eps=0.1),
    ),
    train_dataloader=dict(
        sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
        dataset=dict(
            pipeline=[
                {CLIP},
                dict(type='V1ReadFrames'),
                dict(type='RandomResizedCrop', area_range=(0.5, 1.0)),
                dict(type='Resize', scale=(32, 32), keep_ratio=False),
                dict(type='FormatShape', input_format='NCHW'),
                dict(type='PackActionInputs'),
            ]
        ),
    ),
    optim_wrapper=dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.001)),
    val_evaluator=dict(metric_list=('top_k_accuracy',)),
    test_evaluator=dict(type='ConfusionMatrix'),
)"""


def full(*values):
    return pytest.param(*values, marks=pytest.mark.full)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Clips of four classes, 8, 4 and 4, and a config of a network of one stage."""
    return make_clips(
        tmp_path_factory.mktemp('native'), 'data/arrow', train=2, val=1, test=1
    )


def write(folder, native, name='native.py'):
    (folder / name).write_text(f"""\
_base_ = {DEMO!r}
model = dict(
    backbone=dict(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,)),
    spatial_temporal_module=dict(spatial_size=8),
    cls_head=dict(in_channels=64),
)
data = dict(videos_per_gpu=4, workers_per_gpu=0)
total_epochs = 2
native = {native}
""")
    return name


def test_training_and_testing(folder):
    """All of it takes effect, and the log says so; resuming goes on with it."""
    config = write(folder, NATIVE)
    code, log = call(
        TRAIN, config, '--work_dir', 'ema', '--seed', 0, '--validate', cwd=folder
    )
    assert code == 0, log
    for line in (
        "native.custom_hooks = [{'type': 'EMAHook', 'momentum': 0.5}]",
        "native.train_dataloader.sampler.type = 'DefaultSampler'",
        "native.optim_wrapper.optimizer.type = 'AdamW'",
    ):
        assert log.count(f'INFO - {line}\n') == 1, line
    assert 'top1_acc' not in log  # labels are mixed
    # Our hooks are still there.
    assert 'V1CheckpointHook' in log and 'FaithfulTrainingHook' in log
    checkpoint = torch.load(folder / 'ema' / 'epoch_2.pth', weights_only=True)
    assert 'ema_state_dict' in checkpoint
    states = checkpoint['optimizer']['state']
    assert 'exp_avg' in next(iter(states.values()))
    name = 'backbone.layer1.0.conv1.weight'
    assert not torch.equal(
        checkpoint['state_dict'][name], checkpoint['ema_state_dict'][f'module.{name}']
    )
    code, log = call(TEST, config, 'ema/epoch_2.pth', '--out', 'native.pkl', cwd=folder)
    assert code == 0, log
    assert 'Top-1 Accuracy' in log and 'confusion_matrix/result' in log
    assert 'has label' not in log and 'trained with' not in log

    videos = (folder / 'data/arrow/test.txt').read_text().splitlines()
    path, frames, label = videos[0].split()
    (folder / 'doubtful.txt').write_text(
        '\n'.join([*videos, f'{path} {frames} {(int(label) + 1) % 4}'])
    )
    arguments = ['--out', 'doubtful.pkl', '--cfg-options']
    arguments += [
        'data.test.ann_file=doubtful.txt',
        'model.backbone.running_stats=shared',
        'model.backbone.backend=plain',
    ]
    code, log = call(TEST, config, 'ema/epoch_2.pth', *arguments, cwd=folder)
    assert code == 0 and f'doubtful.txt, line {len(videos) + 1}: ' in log, log
    warning = "running_stats='shared', and trained with 'grouped'\n"
    assert f'ema/epoch_2.pth is tested with model.backbone.{warning}' in log, log

    code, log = call(
        TRAIN,
        config,
        '--work_dir',
        'again',
        '--resume_from',
        'ema/epoch_1.pth',
        cwd=folder,
    )
    assert code == 0, log
    again = torch.load(folder / 'again' / 'epoch_2.pth', weights_only=True)
    assert again['ema_state_dict']['steps'] == checkpoint['ema_state_dict']['steps']


def test_averaged_weights_of_two_processes(folder):
    """Their running statistics are those of validation, the mean over processes; the
    best checkpoint is kept, as docs/mmaction2.md says."""
    best = "dict(type='CheckpointHook', interval=-1, save_best='acc/top1', "
    hooks = (
        f"dict(type='EMAHook', momentum=0.5), {best}rule='greater', save_last=False)"
    )
    config = write(folder, f'dict(custom_hooks=[{hooks}])', 'ema.py')
    arguments = [config, '--work_dir', 'two', '--seed', 0, '--validate']
    run(LAUNCH, TRAIN, 2, *arguments, '--launcher', 'pytorch', cwd=folder)
    checkpoint = torch.load(folder / 'two' / 'epoch_1.pth', weights_only=True)
    trained = checkpoint['ema_state_dict']
    names = [name for name in checkpoint['state_dict'] if '.running_' in name]
    assert len(names) > 8
    for name in names:
        averaged = checkpoint['state_dict'][name]
        assert torch.equal(averaged, trained[f'module.{name}']), name
    assert len(list((folder / 'two').glob('best_acc_top1_epoch_*.pth'))) == 1


@pytest.mark.parametrize(
    'native, message',
    [
        ('[1]', 'native=[1] should be a dict'),
        ('dict(custom_hook=[])', 'custom_hook: nothing reads it; did you mean custom_'),
        ("dict(work_dir='x')", 'native.work_dir: set work_dir, or --work_dir instead'),
        ('dict(randomness=dict(seed=1))', 'native.randomness: set --seed instead'),
        (
            'dict(find_unused_parameters=True)',
            'native.find_unused_parameters: set find_unused_parameters instead',
        ),
        ('dict(default_hooks=dict(_delete_=True))', 'keep checkpoints whole'),
        ('dict(optim_wrapper=3)', 'native.optim_wrapper=3 should be a dict'),
    ],
)
def test_what_does_not_merge(tmp_path, native, message):
    v1 = load_config(str(tmp_path / write(tmp_path, native)))
    with pytest.raises(HostError, match=re.escape(message)):
        translate(v1)


@pytest.mark.parametrize(
    'native, message',
    [
        (
            dict(custom_hooks=[dict(type='EMAHok')]),
            "native.custom_hooks.0.type='EMAHok' is not in the registry HOOKS; did you "
            'mean EMAHook?',
        ),
        (
            dict(train_dataloader=dict(dataset=dict(pipeline=[dict(type='Resise')]))),
            'dataset.pipeline.0.type=',
        ),
        (
            dict(visualizer=dict(vis_backends=[dict(type='TensorboardBackend')])),
            'did you mean TensorboardVisBackend?',
        ),
    ],
)
def test_types(native, message):
    cfg = translate(load_config(DEMO, dict(native=native)))
    import_components(cfg)
    with pytest.raises(HostError, match=re.escape(message)):
        check_types(cfg)


def test_ours_are_all_there():
    cfg = translate(load_config(DEMO), validate=True)
    import_components(cfg)
    check_types(cfg)


@pytest.mark.parametrize(
    'native, message',
    [
        ("dict(custom_hooks=[dict(type='EMAHook', momentun=1)])", 'momentun'),
        full('dict(train_dataloader=dict(batch_sise=3))', 'batch_sise'),
        full(
            "dict(train_dataloader=dict(sampler=dict(type='InfiniteSampler')))",
            'batch_size',
        ),
        ("dict(model=dict(backbone=dict(type='ResNet')))", "backbone.type='ResNet'"),
        full("dict(custom_imports=dict(imports=['no_such_module']))", 'no_such_module'),
    ],
)
def test_what_cannot_be_built(folder, native, message):
    """One line before the first step."""
    config = write(folder, native, 'wrong.py')
    code, log = call(TRAIN, config, '--work_dir', 'wrong', cwd=folder)
    assert str(code).startswith('error: ') and message in code, (code, log)
    assert '\n' not in code
    assert 'Epoch(train)' not in log
