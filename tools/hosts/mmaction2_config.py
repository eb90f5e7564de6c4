"""A config in mmaction v1's schema as a native mmaction2 config.

:func:`translate` keeps v1's rules: the same frames, crops, normalization,
learning rates and averaging. A key that cannot be honoured is an error that
names it.
"""

from mmengine.config import Config

from . import HostError
from .backbones import network_of, strides_of
from .checks import (
    check_class_names,
    check_clips,
    check_mirrored,
    check_output,
    check_scale,
    check_testing,
    crop_of,
)
from .config_keys import Keys
from .learning_rate import schedulers_of
from .lists import check_template
from .mmaction2_native import merge_native
from .options import read_config
from .resuming import check_settings
from .speed import describe, of_backbone, rate_scale, speed_of
from .videos import check_flip_label_map, check_skip_broken

# What the native config imports: the backbone, and v1's rules.
IMPORTS = [
    'resnet_dnr',
    'hosts.mmaction2_components',
    'hosts.mmaction2_hooks',
    'hosts.mmaction2_training',
]
VIDEO_IMPORTS = ['hosts.mmaction2_videos']  # where it has video files
SPLITS = ('train', 'val', 'test')
LABELLED = dict(type='collate_labelled')  # whose batches V1Preprocessor takes
# By v1's recognizer: of the images or clips that the network takes the format, what
# v1 pools with, mmaction2's recognizer and head, and the networks for WithDNR.
KINDS = dict(
    TSN2D=(
        'NCHW',
        'SimpleSpatialModule',
        ('Recognizer2D', 'V1Head'),
        ('ResNet', 'ResNetTSM'),
    ),
    TSN3D=(
        'NCTHW',
        'SimpleSpatialTemporalModule',
        ('Recognizer3D', 'V1Head3D'),
        ('ResNet3d', 'ResNet3dSlowOnly', 'ResNet2Plus1d'),
    ),
)


def load_config(path, cfg_options=None):
    """Read a config file in v1's schema.

    Args:
        path (str): the file.
        cfg_options (dict | None): values to set, by dotted keys.

    Returns:
        mmengine.Config

    Raises:
        HostError: as :func:`read_config` does.
    """
    return read_config(Config, path, cfg_options)


def translate(v1, validate=False, splits=SPLITS):
    """A v1 config as a native mmaction2 config.

    Args:
        v1 (mmengine.Config): in mmaction v1's schema.
        validate (bool): validate after every epoch on data.val.
        splits (tuple[str]): what is read of data; the others may be wrong.

    Returns:
        mmengine.Config: for mmengine's Runner, with the parts for training,
        validation where wanted, and testing, of the splits that are read.

    Raises:
        HostError: a key that is missing or cannot be honoured.
    """
    for key in ('model', 'data', 'total_epochs', 'optimizer', 'work_dir'):
        if key not in v1:
            raise HostError(f'the config has no {key}')
    for key in ('train_cfg', 'test_cfg'):
        if v1.get(key):
            raise HostError(f'{key}={v1[key]!r} cannot be honoured: TSN2D takes none')
    if [tuple(flow) for flow in v1.get('workflow', [('train', 1)])] != [('train', 1)]:
        raise HostError(
            f'workflow={v1.workflow!r} cannot be honoured, only '
            f"[('train', 1)]; --validate validates"
        )
    speed = speed_of(v1, training='train' in splits)
    model, input_format, pool_size = _model(v1.model, speed)
    data = Keys('data', v1.data)
    videos_per_gpu = data.take('videos_per_gpu')
    workers_per_gpu = data.take('workers_per_gpu')
    num_classes = model['cls_head']['num_classes']
    loaders, norms = {}, {}
    for split in SPLITS:
        if split not in splits:
            data.take(split, None)
            continue
        loaders[split], norms[split] = _dataloader(
            split,
            data.take(split),
            v1.model.backbone,
            input_format,
            pool_size,
            num_classes,
            videos_per_gpu,
            workers_per_gpu,
            speed['accumulate'],
        )
    data.finish()
    norm, *others = norms.values()
    if any(other != norm for other in others):
        raise HostError(
            'img_norm_cfg must be the same in data.train, '
            'data.val and data.test: mmaction2 normalizes in the '
            'model'
        )
    model['data_preprocessor'] = dict(
        type='V1Preprocessor', format_shape=input_format, **norm
    )
    names = check_class_names(v1, num_classes)
    if 'train' in splits:
        check_mirrored(v1, names)
    epochs = v1.total_epochs
    cfg = dict(
        default_scope='mmaction',
        custom_imports=dict(imports=IMPORTS, allow_failed_imports=False),
        work_dir=v1.work_dir,
        model=model,
        load_from=v1.get('load_from'),
        resume=False,
        model_wrapper_cfg=dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=v1.get('find_unused_parameters', False),
            gradient_as_bucket_view=True,  # gradients are not copied to be averaged
        ),
        log_level=v1.get('log_level', 'INFO'),
    )
    if 'train' in splits:
        cfg.update(
            train_dataloader=loaders['train'],
            train_cfg=dict(
                type='V1TrainLoop',
                max_epochs=epochs,
                val_interval=1,
                accumulate=speed['accumulate'],
                cuda_graph=speed['cuda_graph'],
            ),
            auto_scale_lr=rate_scale(v1),
            optim_wrapper=_optim_wrapper(v1, speed),
            param_scheduler=schedulers_of(v1.get('lr_config') or dict(), epochs),
        )
    if 'test' in splits:
        cfg.update(
            test_dataloader=loaders['test'],
            test_cfg=dict(type='TestLoop'),
            test_evaluator=dict(type='V1AccMetric'),
        )
    if validate:
        cfg.update(
            val_dataloader=loaders['val'],
            val_cfg=dict(type='ValLoop'),
            val_evaluator=dict(type='V1AccMetric'),
        )
    cfg.update(_runtime(v1, speed))
    types = {loader['dataset']['type'] for loader in loaders.values()}
    if 'V1Videos' in types:
        cfg['custom_imports']['imports'] = IMPORTS + VIDEO_IMPORTS
    if 'train' in splits and loaders['train']['dataset'].get('skip_broken'):
        cfg['default_hooks']['count_replaced'] = dict(type='CountReplacedHook')
    cfg = Config(cfg)
    merge_native(cfg, v1.get('native'))
    graph = (cfg.get('train_cfg') or {}).get('cuda_graph', False)
    if graph != speed['cuda_graph']:
        raise HostError(
            f'native.train_cfg leaves cuda_graph at {graph}, and the config has '
            f'{speed["cuda_graph"]}: set cuda_graph there, and keep V1TrainLoop'
        )
    if cfg.get('train_dataloader', {}).get('collate_fn') == LABELLED:
        preprocessor = cfg.model.get('data_preprocessor') or {}
        if preprocessor.get('type') != 'V1Preprocessor':  # native's takes samples
            cfg.train_dataloader.collate_fn.type = 'default_collate'
    if 'test' in splits:  # for mmaction2's inference_recognizer
        cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    return cfg


def _model(values, speed):
    """The recognizer, its input's format, and the (time, space) that v1 pools."""
    model = Keys('model', values)
    kind = model.expect('type', list(KINDS))
    input_format, pooling, (recognizer, head_type), networks = KINDS[kind]
    backbone = dict(model.take('backbone'))
    if kind == 'TSN2D':
        model.expect('modality', ['RGB'], 'RGB')
        model.expect('in_channels', [3], 3)
        Keys('model.backbone', backbone).expect('type', ['ResNet_DNR', 'WithDNR'])
    else:
        model.expect('fcn_testing', [False], False)
        Keys('model.backbone', backbone).expect('type', ['WithDNR'])
    if backbone['type'] == 'WithDNR':
        network = network_of(backbone)
        Keys('model.backbone.backbone', network).expect('type', networks)
    check_output(backbone)
    if of_backbone(speed):
        backbone.update(of_backbone(speed), type=f'Fast{backbone["type"]}')
    spatial = Keys(
        'model.spatial_temporal_module', model.take('spatial_temporal_module')
    )
    spatial.expect('type', [pooling])
    spatial.expect('spatial_type', ['avg'], 'avg')
    temporal_size = spatial.take('temporal_size', 1) if kind == 'TSN3D' else None
    pool_size = temporal_size, spatial.take('spatial_size', 7)
    spatial.finish()
    consensus = Keys('model.segmental_consensus', model.take('segmental_consensus'))
    consensus.expect('type', ['SimpleConsensus'])
    consensus.expect('consensus_type', ['avg'])
    consensus.expect('dim', [1], 1)
    consensus.finish()
    head = Keys('model.cls_head', model.take('cls_head'))
    model.finish()
    head.expect('type', ['ClsHead'])
    head.expect('with_avg_pool', [False], True)
    head.expect('temporal_feature_size', [1], 1)
    head.expect('spatial_feature_size', [1], 7)
    head.expect('fcn_testing', [False], False)
    num_classes = head.take('num_classes', 101)
    translated = dict(
        type=recognizer,
        backbone=backbone,
        cls_head=dict(
            type=head_type,
            num_classes=num_classes,
            in_channels=head.take('in_channels', 2048),
            dropout_ratio=head.take('dropout_ratio', 0.8),
            init_std=head.take('init_std', 0.01),
            topk=(1, 5) if num_classes >= 5 else (1,),
            average_clips='score',
        ),
    )
    head.finish()
    return translated, input_format, pool_size


def _dataloader(
    split,
    values,
    backbone,
    input_format,
    pool_size,
    num_classes,
    videos_per_gpu,
    workers_per_gpu,
    accumulate,
):
    """The loader of a split's data set, and its normalization."""
    data = Keys(f'data.{split}', values)
    kind = data.expect('type', ['RawFramesDataset', 'VideoDataset'])
    data.expect('modality', ['RGB'], 'RGB')
    data.expect('input_format', [input_format], 'NCHW')
    for key, default in (
        ('div_255', False),
        ('resize_crop', False),
        ('rescale_crop', False),
        ('pre_mean_npy', None),
        ('img_scale_file', None),
        ('proposal_file', None),
    ):
        data.expect(key, [default], default)
    for key in ('size_divisor', 'num_max_proposals', 'resize_ratio'):
        data.take(key, None)  # v1 takes these and does nothing with them
    norm = Keys(f'data.{split}.img_norm_cfg', data.take('img_norm_cfg'))
    normalization = dict(
        mean=list(norm.take('mean')),
        std=list(norm.take('std')),
        to_rgb=norm.take('to_rgb', True),
    )
    norm.finish()

    training = split == 'train'
    test_mode = data.take('test_mode', not training)
    if not training:
        check_testing(values, split)
    if split == 'test':
        test_mode = True  # as v1's test script sets it
    check_clips(split, values, backbone)
    num_segments = data.take('num_segments', 3)
    new_length = data.take('new_length', 1)
    if input_format == 'NCTHW':
        _check_length(split, new_length, num_segments, backbone, pool_size[0])
    input_size = data.take('input_size', 224)
    width, height = (
        (input_size, input_size) if isinstance(input_size, int) else input_size
    )
    oversample = data.expect('oversample', [None, 'three_crop', 'ten_crop'], None)
    _check_feature_size(split, width, height, backbone, pool_size[1], oversample)
    check_scale(split, values)
    scale = data.take('img_scale', 256)
    keep_ratio = data.take('resize_keep_ratio', True)
    if isinstance(scale, int):
        if not keep_ratio:
            raise HostError(
                f'data.{split}.img_scale={scale} is a short side: with '
                f'resize_keep_ratio=False give (width, height)'
            )
        scale = (-1, scale)

    rule = dict(
        num_segments=num_segments,
        new_length=new_length,
        new_step=data.take('new_step', 1),
        random_shift=data.take('random_shift', True),
        temporal_jitter=data.take('temporal_jitter', False),
        test_mode=test_mode,
    )
    if kind == 'VideoDataset':
        pipeline = [dict(type='V1VideoClip', **rule)]
    else:
        pipeline = [dict(type='V1SampleFrames', **rule), dict(type='V1ReadFrames')]
    pipeline += [
        dict(type='Resize', scale=tuple(scale), keep_ratio=keep_ratio),
        dict(type='V1FrameSize', **crop_of(values)),
    ]
    multiscale = data.take('multiscale_crop', False)
    random_crop = data.take('random_crop', False)
    more_fix_crop = data.take('more_fix_crop', False)
    scales = data.take('scales', None) or [1, 0.875, 0.75, 0.66]
    max_distort = data.take('max_distort', 1)
    if oversample:
        crop = 'ThreeCrop' if oversample == 'three_crop' else 'TenCrop'
        pipeline.append(dict(type=crop, crop_size=(width, height)))
    elif multiscale:
        pipeline += [
            dict(
                type='MultiScaleCrop',
                input_size=(width, height),
                scales=tuple(scales),
                max_wh_scale_gap=max_distort,
                random_crop=random_crop,
                num_fixed_crops=13 if more_fix_crop else 5,
            ),
            dict(type='Resize', scale=(width, height), keep_ratio=False),
        ]
    else:
        pipeline.append(dict(type='CenterCrop', crop_size=(width, height)))
    flip_label_map = check_flip_label_map(split, values, num_classes)
    data.take('flip_label_map', None)
    flip_ratio = data.take('flip_ratio', 0.5)
    if flip_ratio:
        pipeline.append(
            dict(type='Flip', flip_ratio=flip_ratio, flip_label_map=flip_label_map)
        )
    pipeline += [
        dict(type='FormatShape', input_format=input_format),
        dict(type='PackActionInputs'),
    ]

    dataset = dict(
        ann_file=data.take('ann_file'),
        data_prefix=dict(img=data.take('img_prefix')),
        num_classes=num_classes,
        test_mode=not training,
        pipeline=pipeline,
    )
    template = data.take('image_tmpl', 'img_{}.jpg')
    if kind == 'VideoDataset':  # v1's takes a template, too, and does not use it
        data.expect('use_decord', [False], False)
        check_skip_broken(split, values)
        dataset.update(
            type='V1Videos',
            video_ext=data.take('video_ext', 'mp4'),
            skip_broken=data.take('skip_broken', False),
        )
    else:
        check_template(template, split)
        dataset.update(type='V1RawFrames', filename_tmpl=template)
    data.finish()
    for key, value in (
        ('ann_file', dataset['ann_file']),
        ('img_prefix', dataset['data_prefix']['img']),
    ):
        if not isinstance(value, str):
            raise HostError(f'data.{split}.{key} should be one path, got {value!r}')
    if training:
        batch_size = videos_per_gpu * accumulate  # V1TrainLoop cuts it
        sampler = dict(type='FullBatchSampler', batch_size=batch_size)
    else:
        # v1 takes one video at a time, and one process to load them. The
        # scores are the same; where a video has fewer images than a batch in
        # training, a batch has no more.
        crops = {None: 1, 'three_crop': 3, 'ten_crop': 10}[oversample]
        images = num_segments * new_length * crops
        batch_size = max(1, videos_per_gpu * backbone.get('n_segment', 8) // images)
        sampler = dict(type='DefaultSampler', shuffle=False)
    return dict(
        batch_size=batch_size,
        num_workers=workers_per_gpu,
        persistent_workers=workers_per_gpu > 0,
        # Batches are stacked by the loaders and received beside the
        # computation.
        collate_fn=dict(LABELLED if training else dict(type='default_collate')),
        pin_memory=True,
        sampler=sampler,
        dataset=dataset,
    ), normalization


def _check_feature_size(split, width, height, backbone, spatial_size, oversample):
    """v1 pools exactly spatial_size x spatial_size features."""
    if split == 'test' and oversample == 'three_crop':
        spatial_size = 8  # v1's test script sets it
    stride, _ = strides_of(backbone)
    features = -(-height // stride), -(-width // stride)
    if features != (spatial_size, spatial_size):
        raise HostError(
            f'data.{split}.input_size={width} x {height} gives '
            f'{features[1]} x {features[0]} features, but '
            + (
                "three_crop in testing pools 8 x 8, as mmaction v1's test "
                'script sets it: use an input_size of 256'
                if split == 'test' and oversample == 'three_crop'
                else f'model.spatial_temporal_module.spatial_size={spatial_size}'
            )
        )


def _check_length(split, new_length, num_segments, backbone, temporal_size):
    """v1 pools exactly temporal_size frames of features, and trains on one clip."""
    length = new_length
    for stride in strides_of(backbone)[1]:
        length = -(-length // stride)
    if length != temporal_size:
        raise HostError(
            f'data.{split}.new_length={new_length} gives {length} frames of features, '
            f'but model.spatial_temporal_module.temporal_size={temporal_size}'
        )
    if split == 'train' and num_segments != 1:
        raise HostError(
            f'data.train.num_segments={num_segments} cannot be honoured on mmaction2: '
            'a 3D network trains on one clip a video, num_segments=1'
        )


def _optim_wrapper(v1, speed):
    optimizer = dict(v1.optimizer)
    check_settings(optimizer)
    if speed['cuda_graph']:
        optimizer.setdefault('fused', True)  # reads the rate from the device
    wrapper = dict(
        type='V1OptimWrapper',
        optimizer=optimizer,
        accumulative_counts=speed['accumulate'],
        keep_gradients=(
            speed['accumulate'] > 1 and speed['compile'] == 'reduce-overhead'
        ),
    )
    if speed['amp'] == 'fp16':  # bfloat16 has float32's range: its loss is not scaled
        wrapper.update(type='V1AmpOptimWrapper', dtype='float16')
    if 'paramwise_cfg' in optimizer:
        wrapper['paramwise_cfg'] = optimizer.pop('paramwise_cfg')
    config = Keys('optimizer_config', v1.get('optimizer_config') or dict())
    grad_clip = config.take('grad_clip', None)
    if grad_clip:
        wrapper['clip_grad'] = dict(grad_clip)
    config.finish()
    return wrapper


def _runtime(v1, speed):
    """Hooks, logging and distribution."""
    checkpoint = Keys(
        'checkpoint_config',
        v1.get('checkpoint_config') or dict(interval=v1.total_epochs),
    )
    checkpoint_hook = dict(
        type='V1CheckpointHook',
        interval=checkpoint.take('interval', 1),
        max_keep_ckpts=checkpoint.take('max_keep_ckpts', -1),
        save_optimizer=checkpoint.take('save_optimizer', True),
    )
    checkpoint.expect('by_epoch', [True], True)
    checkpoint.finish()
    log = Keys('log_config', v1.get('log_config') or dict())
    interval = log.take('interval', 10)
    backends = [dict(type='LocalVisBackend')]
    for hook in log.take('hooks', []):
        hook = Keys('log_config.hooks', hook)
        if (
            hook.expect('type', ['TextLoggerHook', 'TensorboardLoggerHook'])
            == 'TensorboardLoggerHook'
        ):
            backends.append(dict(type='TensorboardVisBackend'))
        hook.finish()
    log.finish()
    dist = Keys('dist_params', v1.get('dist_params') or dict())
    backend = dist.take('backend', 'nccl')
    dist.finish()
    return dict(
        default_hooks=dict(
            runtime_info=dict(type='V1RuntimeInfoHook'),
            timer=dict(type='IterTimerHook'),
            logger=dict(type='LoggerHook', interval=interval),
            param_scheduler=dict(type='ParamSchedulerHook'),
            checkpoint=checkpoint_hook,
            sampler_seed=dict(type='DistSamplerSeedHook'),
            # Processes evaluate, and the checkpoint holds, the mean of
            # their running statistics.
            sync_buffers=dict(type='SyncAllBuffersHook'),
            plain_checkpoint=dict(type='PlainCheckpointHook'),
            faithful_training=dict(
                type='FaithfulTrainingHook', speed=speed, notes=describe(speed)
            ),
        ),
        log_processor=dict(type='LogProcessor', window_size=interval),
        visualizer=dict(type='ActionVisualizer', vis_backends=backends),
        env_cfg=dict(
            cudnn_benchmark=v1.get('cudnn_benchmark', False),
            mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
            dist_cfg=dict(backend=backend),
        ),
    )
