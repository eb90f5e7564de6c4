"""Translation of v1 configs: v1's rules hold, other keys are errors."""

import math
import random

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from hosts import HostError
from hosts.mmaction2 import build_runner, model_of
from hosts.mmaction2_config import IMPORTS, load_config, translate
from hosts.mmaction2_runner import build_backbone, hand_over
from hosts.speed import FUSED
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader, Runner
from mmengine.utils import import_modules_from_strings

from resnet_dnr import ResNet_DNR

CONFIGS = ROOT / 'configs'
KINETICS = str(CONFIGS / 'DNR_resnet50_kinetics400_rgb_seg1_f8s8.py')
DEMO = str(CONFIGS / 'DNR_resnet18_arrow_demo.py')


@pytest.fixture(autouse=True)
def mmaction_scope():
    import_modules_from_strings(IMPORTS)
    init_default_scope('mmaction')


@pytest.mark.parametrize(
    'name, dnr',
    [
        ('DNR', 'both'),
        ('DNR_cross_temporal', 'cross_temporal'),
        ('DNR_cross_layer', 'cross_layer'),
        ('BN', 'none'),
    ],
)
def test_kinetics_configs(name, dnr):
    """What the issue of the published recipe is, number by number."""
    v1 = load_config(str(CONFIGS / f'{name}_resnet50_kinetics400_rgb_seg1_f8s8.py'))
    cfg = translate(v1, validate=True)
    assert cfg.model.backbone.dnr == dnr
    assert cfg.model.backbone.depth == 50
    assert not cfg.model.backbone.bn_eval
    assert cfg.model.cls_head.dropout_ratio == 0.4
    assert cfg.model.cls_head.num_classes == 400
    assert cfg.train_dataloader.batch_size == 8
    assert cfg.val_dataloader.batch_size == 8  # one crop a video
    assert cfg.test_dataloader.batch_size == 1  # of 30 crops
    assert cfg.train_cfg.max_epochs == 196
    assert cfg.optim_wrapper.optimizer == dict(
        type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4
    )
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=40, norm_type=2)
    assert cfg.work_dir == (f'./work_dirs/{name}_r50_kinetics400_rgb_seg1_8x8_scratch')
    assert [t['type'] for t in cfg.test_dataloader.dataset.pipeline] == [
        'V1SampleFrames',
        'V1ReadFrames',
        'Resize',
        'V1FrameSize',
        'ThreeCrop',
        'FormatShape',
        'PackActionInputs',
    ]
    assert [t['type'] for t in cfg.train_dataloader.dataset.pipeline] == [
        'V1SampleFrames',
        'V1ReadFrames',
        'Resize',
        'V1FrameSize',
        'MultiScaleCrop',
        'Resize',
        'Flip',
        'FormatShape',
        'PackActionInputs',
    ]
    # The published schedule's length: 8 GPUs x 8 videos.
    assert v1.lr_config.warmup_iters == 127840


def v1_learning_rates(base, epochs, length, policy, warmup, iters, ratio):
    """The rate of every iteration by mmcv 1.x's rule."""
    rates = []
    for step in range(epochs * length):
        epoch = step // length
        if policy == 'cosine':
            rate = base * (1 + math.cos(math.pi * epoch / epochs)) / 2
        elif policy == 'step':
            rate = base * 0.1 ** sum(epoch >= s for s in (2, 5))
        else:
            rate = base
        if warmup == 'linear' and step < iters:
            rate *= 1 - (1 - step / iters) * (1 - ratio)
        elif warmup == 'constant' and step < iters:
            rate *= ratio
        rates.append(rate)
    return rates


@pytest.mark.parametrize('warmup', ['linear', 'constant', None])
@pytest.mark.parametrize(
    'policy',
    [
        dict(policy='CosineAnnealing', min_lr=0),
        dict(policy='cosine'),
        dict(policy='step', step=[2, 5]),
        dict(policy='fixed'),
    ],
)
def test_learning_rates(policy, warmup, tmp_path):
    """The optimizer's rate at every iteration of a run of 7 epochs."""
    lr_config = dict(policy)
    if warmup:
        lr_config.update(warmup=warmup, warmup_iters=13, warmup_ratio=0.01)
    v1 = load_config(DEMO)
    v1.lr_config = Config(lr_config)._cfg_dict
    v1.total_epochs = 7
    v1.work_dir = str(tmp_path)
    cfg = translate(v1)
    seen = []

    class Toy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def train_step(self, data, optim_wrapper):
            seen.append(optim_wrapper.param_groups[0]['lr'])
            optim_wrapper.update_params(self.weight.sum())
            return {}

    runner = Runner(
        Toy(),
        work_dir=str(tmp_path),
        train_cfg=cfg.train_cfg,
        train_dataloader=torch.utils.data.DataLoader(range(5)),
        optim_wrapper=cfg.optim_wrapper,
        param_scheduler=cfg.param_scheduler,
        default_hooks=dict(logger=None, checkpoint=None, sampler_seed=None),
        default_scope='mmaction',
        log_level='ERROR',
        experiment_name=f'{policy["policy"]}-{warmup}',
    )
    runner.train()
    name = 'cosine' if 'osine' in policy['policy'] else policy['policy']
    assert np.allclose(
        seen,
        v1_learning_rates(0.05, 7, 5, name, warmup, 13, 0.01),
        rtol=1e-9,
        atol=1e-15,
    )


def frames(tmp_path, width, height, count=8):
    """A video of frames with a gradient, and its list file."""
    folder = tmp_path / 'video'
    folder.mkdir()
    y, x = np.mgrid[:height, :width]
    for i in range(count):
        image = np.stack(
            [x * 255 / width, y * 255 / height, np.full(x.shape, 30 * i)], -1
        )
        cv2.imwrite(
            str(folder / f'image_{i + 1:05d}.jpg'),
            image,
            [cv2.IMWRITE_JPEG_QUALITY, 100],
        )
    (tmp_path / 'list.txt').write_text(f'video {count} 2\n')
    return [cv2.imread(str(folder / f'image_{i + 1:05d}.jpg')) for i in range(count)]


def sample(tmp_path, split, **options):
    """The images (M, 3, H, W) that a split's pipeline gives, normalized."""
    v1 = load_config(KINETICS)
    v1.data[split].update(
        ann_file=str(tmp_path / 'list.txt'),
        img_prefix=str(tmp_path),
        new_step=1,
        **options,
    )
    cfg = translate(v1)
    from mmaction.registry import DATASETS, MODELS

    loader = cfg.get(f'{split}_dataloader')
    data = DATASETS.build(loader.dataset)[0]
    preprocess = MODELS.build(cfg.model.data_preprocessor)
    out = preprocess(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))
    assert int(out['data_samples'][0].gt_labels.item) == 2
    return out['inputs'][0]


def normalized(image):
    """An image (H, W, BGR) as v1 normalizes it, (3, H, W)."""
    rgb = image[..., ::-1].astype(np.float32)
    rgb = (rgb - np.float32([123.675, 116.28, 103.53])) / np.float32(
        [58.395, 57.12, 57.375]
    )
    return torch.from_numpy(rgb.transpose(2, 0, 1))


@pytest.mark.parametrize('width, height', [(340, 256), (320, 240), (120, 300)])
def test_test_images(tmp_path, width, height):
    """Short side 256, left, right and middle crop of 8 frames each."""
    images = frames(tmp_path, width, height, 8)
    out = sample(tmp_path, 'test', num_segments=1)
    scale = 256 / min(width, height)
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    images = [cv2.resize(image, size) for image in images]
    step = (max(size) - 256) // 2
    wanted = []
    for offset in (0, 2 * step, step):
        for image in images:
            crop = (
                image[:, offset : offset + 256]
                if size[0] > size[1]
                else image[offset : offset + 256]
            )
            wanted.append(normalized(crop))
    # The 8th frame is out of v1's reach in a clip of 8: the 7th again.
    for crop in range(3):
        wanted[8 * crop + 7] = wanted[8 * crop + 6]
    assert out.shape == (24, 3, 256, 256)
    assert torch.allclose(out, torch.stack(wanted), atol=1e-5)


def test_ten_crop(tmp_path):
    frames(tmp_path, 340, 256)
    out = sample(
        tmp_path,
        'test',
        num_segments=1,
        oversample='ten_crop',
        input_size=224,
        img_scale=256,
    )
    assert out.shape == (80, 3, 224, 224)


@pytest.mark.full
def test_training_images(tmp_path):
    """Every crop is one of v1's 65 boxes, resized, flipped or not."""
    images = frames(tmp_path, 340, 256)
    sizes = [256, 224, 192, 168]
    wanted = []
    for i, h in enumerate(sizes):
        for j, w in enumerate(sizes):
            if abs(i - j) > 1:
                continue
            dx, dy = (340 - w) // 4, (256 - h) // 4
            for x, y in ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)):
                crop = images[0][y * dy : y * dy + h, x * dx : x * dx + w]
                crop = cv2.resize(crop, (224, 224))
                wanted += [normalized(crop), normalized(crop[:, ::-1])]
    wanted = torch.stack(wanted)
    random.seed(0)
    np.random.seed(0)
    seen = set()
    for _ in range(12):
        out = sample(tmp_path, 'train')
        assert out.shape == (8, 3, 224, 224)
        error = (wanted - out[0]).abs().amax((1, 2, 3))
        assert error.min() < 1e-5
        seen.add(int(error.argmin()))
    assert len(seen) > 6
    assert {index % 2 for index in seen} == {0, 1}


@pytest.mark.parametrize(
    'options, message',
    [
        (
            {'model.type': 'TSN3D'},
            "model.backbone.type='ResNet_DNR' cannot be honoured",
        ),
        ({'model.backbone.type': 'ResNet'}, 'model.backbone.type'),
        ({'model.modality': 'Flow'}, 'model.modality'),
        ({'model.neck': 1, 'model.a': 2}, 'model.neck=1, model.a=2 is unknown'),
        ({'model.backbone.out_indices': (0, 3)}, 'should name the one stage'),
        ({'model.cls_head.with_avg_pool': True}, 'model.cls_head.with_avg_pool'),
        (
            {'model.backbone.n_segment': 4},
            'n_segment=4 is not the clip of data.train: new_length=8',
        ),
        (
            {'data.val.num_segments': 3, 'data.val.new_length': 1},
            'is not the clip of data.val',
        ),
        ({'data.train.type': 'SSNDataset'}, 'data.train.type'),
        ({'data.train.resize_crop': True}, 'data.train.resize_crop=True'),
        ({'data.train.div_255': True}, 'data.train.div_255'),
        ({'data.train.typo': 1}, 'data.train.typo=1 is unknown'),
        (
            {'data.train.input_size': 256},
            'data.train.input_size=256 x 256 gives 8 x 8 features',
        ),
        ({'data.test.input_size': 224}, 'use an input_size of 256'),
        ({'data.val.img_norm_cfg.mean': [0, 0, 0]}, 'img_norm_cfg must be'),
        ({'lr_config.policy': 'poly'}, "lr_config.policy='poly'"),
        ({'lr_config.min_lr': 0.1}, 'lr_config.min_lr=0.1'),
        ({'lr_config.warmup_by_epoch': True}, 'lr_config.warmup_by_epoch'),
        ({'lr_config.warmup_ratio': 0}, 'warmup_ratio=0'),
        ({'optimizer_config.typo': 1}, 'optimizer_config.typo'),
        ({'checkpoint_config.typo': 1}, 'checkpoint_config.typo'),
        ({'log_config.hooks.0.type': 'WandbHook'}, 'log_config.hooks.type'),
        ({'workflow': [('train', 1), ('val', 1)]}, 'workflow='),
        ({'test_cfg': dict(a=1)}, 'test_cfg='),
        ({'dist_params.port': 1}, 'dist_params.port'),
    ],
)
def test_keys_that_cannot_be_honoured(options, message):
    with pytest.raises(HostError) as error:
        translate(load_config(KINETICS, options), validate=True)
    assert message in str(error.value)


def test_missing_keys():
    v1 = load_config(KINETICS)
    v1.pop('optimizer')
    with pytest.raises(HostError, match='the config has no optimizer'):
        translate(v1)
    v1 = load_config(KINETICS)
    del v1.data['videos_per_gpu']
    with pytest.raises(HostError, match='data.videos_per_gpu is missing'):
        translate(v1)
    with pytest.raises(HostError, match='no-config.py does not exist'):
        load_config('no-config.py')


def build(tmp_path, options=None):
    """A Runner by the demo's config, in this process."""
    v1 = load_config(DEMO, options)
    v1.work_dir = str(tmp_path / 'work')
    cfg = translate(v1)
    cfg.experiment_name = tmp_path.name  # by its second, it could be another test's
    return build_runner(cfg, 'none')


def test_a_fused_optimizer_is_used_and_said(tmp_path, monkeypatch):
    def fuse(optimizer, backbone):
        assert backbone.compile == 'default'
        optimizer.fused = True
        return True

    monkeypatch.setattr('hosts.mmaction2.fuse', fuse)
    runner = build(tmp_path, dict(compile='default'))
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    assert wrapper.optimizer.param_groups[0]['fused']
    (log,) = tmp_path.glob('work/*/*.log')
    assert FUSED in log.read_text()


def test_how_batches_are_collated():
    cfg = translate(load_config(DEMO), validate=True)
    loaders = cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader
    assert [loader.collate_fn.type for loader in loaders] == [
        'collate_labelled',  # whose labels V1Preprocessor makes samples of
        'default_collate',
        'default_collate',
    ]
    assert cfg.model.data_preprocessor.type == 'V1Preprocessor'
    other = {'native.model.data_preprocessor.type': 'ActionDataPreprocessor'}
    cfg = translate(load_config(DEMO, other))
    assert cfg.model.data_preprocessor.type == 'ActionDataPreprocessor'
    assert cfg.train_dataloader.collate_fn.type == 'default_collate'


def test_the_backbone_is_built_once(tmp_path, monkeypatch):
    built = []
    init = ResNet_DNR.__init__

    def count(self, *args, **kwargs):
        built.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(ResNet_DNR, '__init__', count)
    assert [model_of(build(tmp_path)).backbone] == built


@pytest.mark.parametrize('depth, stage, channels', [(18, 1, 128), (50, 2, 1024)])
def test_a_head_that_does_not_fit(tmp_path, depth, stage, channels):
    """The channels that the error names are those of the stage's output."""
    model = translate(load_config(DEMO)).model
    model.backbone.update(depth=depth, out_indices=(stage,))
    model.cls_head.in_channels = channels
    out = build_backbone(model)(torch.zeros(8, 3, 64, 64))
    assert out.size(1) == channels
    model.cls_head.in_channels = 7
    with pytest.raises(HostError, match=f'in_channels=7, but .* gives {channels} ch'):
        build_backbone(model)


def test_a_checkpoint_is_handed_over_once(tmp_path):
    path = str(tmp_path / 'a+b (1).pth')
    file = dict(state_dict=dict(x=torch.ones(1)))
    torch.save(file, path)
    given = dict(state_dict=dict(x=2))
    hand_over(given, path)
    assert CheckpointLoader.load_checkpoint(path, 'cpu') is given
    for name in (path, path + '.pth'):
        torch.save(file, name)
        assert CheckpointLoader.load_checkpoint(name, 'cpu') == file
