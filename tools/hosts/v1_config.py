"""A config for mmaction v1's own scripts, checked before they take it.

What v1 would ignore, or stumble on hours later, is an error that names the key.
"""

import importlib.util
import inspect

from . import HostError
from .checks import (
    check_backend,
    check_class_names,
    check_clips,
    check_fcn_testing,
    check_mirrored,
    check_output,
    check_scale,
    check_testing,
    check_unused_stages,
)
from .lists import check_template, read_list
from .options import check_arguments, nearest, read_config
from .resuming import check_settings
from .speed import of_backbone, rate_scale, speed_of
from .v1_data import FORMS
from .videos import check_flip_label_map, check_skip_broken, video_files

# What v1's scripts read without asking whether it is there.
NEEDED = dict(
    train='model data train_cfg test_cfg optimizer optimizer_config lr_config '
    'checkpoint_config log_config log_level workflow total_epochs work_dir '
    'dist_params load_from resume_from',
    test='model data test_cfg dist_params',
)
# The parts of a recognizer, and v1's registries of them.
PARTS = dict(
    backbone='BACKBONES',
    spatial_temporal_module='SPATIAL_TEMPORAL_MODULES',
    segmental_consensus='SEGMENTAL_CONSENSUSES',
    cls_head='HEADS',
)


def load_config(path, cfg_options=None):
    """Read a config file for v1, with --cfg-options, which v1 does not know.

    Args:
        path (str): the file.
        cfg_options (dict | None): values to set, by dotted keys.

    Returns:
        mmcv.Config: its text, which v1 puts into checkpoints, has the options.

    Raises:
        HostError: as :func:`read_config` does.
    """
    import mmcv

    cfg = read_config(mmcv.Config, path, cfg_options)
    if not cfg_options:
        return cfg
    values = cfg.to_dict()
    # Not mmcv's pretty_text, which cannot write a text with a quote in it.
    text = ''.join(f'{name} = {value!r}\n' for name, value in values.items())
    return mmcv.Config(values, text, path)


def check_config(cfg, args):
    """The config is whole, and v1 honours what is in it.

    Args:
        cfg (mmcv.Config): from :func:`load_config`. data.test.oversample,
            which v1 wants to be there, is set to its default.
        args (argparse.Namespace): of the training or testing.

    Raises:
        HostError: a key is missing, unknown, or cannot be honoured.
    """
    task = 'test' if hasattr(args, 'checkpoint') else 'train'
    for key in NEEDED[task].split():
        if key not in cfg:
            raise HostError(f'the config has no {key}')
    splits = ['test'] if task == 'test' else ['train']
    if getattr(args, 'validate', False):
        splits.append('val')
    known = 'videos_per_gpu workers_per_gpu train val test'.split()
    for key in cfg.data:
        if key not in known:
            raise HostError(f'data.{key} is unknown; {nearest(key, known)}')
    for key in ('videos_per_gpu', 'workers_per_gpu', *splits):
        if key not in cfg.data:
            raise HostError(f'data.{key} is missing')
    _check_model(cfg.model)
    _check_speed(cfg, task)
    names = check_class_names(
        cfg, (cfg.model.get('cls_head') or {}).get('num_classes', 101)
    )
    if task == 'test':
        cfg.data.test.setdefault('oversample', None)
        check_testing(cfg.data.test)
        if cfg.model.type == 'TSN2D':
            check_fcn_testing(args)
    else:
        check_settings(cfg.optimizer)
        _check_hooks(cfg)
        if 'val' in splits:
            check_testing(cfg.data.val, 'val')
        check_mirrored(cfg, names)
    for split in splits:
        _check_split(split, cfg.data[split], cfg.model)
    backbone = cfg.model.backbone
    if backbone.type in ('ResNet_DNR', 'WithDNR'):
        check_output(backbone)
        check_backend(backbone)
        if task == 'train':  # v1 trains one process as it does several
            check_unused_stages(backbone, cfg.get('find_unused_parameters', False))


def _check_speed(cfg, task):
    """Of speed, v1 honours what is the backbone's; of mmengine, nothing."""
    instead = 'on mmaction v1: unset MMACTION_ROOT to run on mmaction2'
    if cfg.get('native'):
        raise HostError(f'native, which is for mmengine, cannot be honoured {instead}')
    speed = speed_of(cfg, training=task == 'train')
    rate_scale(cfg)
    if speed['amp'] == 'fp16':
        raise HostError(
            f'amp=fp16 scales the loss, which cannot be honoured {instead}, or use bf16'
        )
    for name, value in (('accumulate', 1), ('cuda_graph', False)):
        if speed[name] != value:
            raise HostError(f'{name}={speed[name]} cannot be honoured {instead}')
    for name in of_backbone(speed):
        if cfg.model.backbone.type != 'ResNet_DNR':
            raise HostError(
                f'{name}={speed[name]!r} needs model.backbone.type=ResNet_DNR, not '
                f'{cfg.model.backbone.type!r}'
            )


def _check_model(model):
    """The recognizer and its parts take their arguments."""
    from mmaction.models import registry

    if not model.get('backbone'):
        raise HostError('model.backbone is missing')
    parts = [('model', 'RECOGNIZERS', model)]
    parts += [(f'model.{key}', name, model.get(key)) for key, name in PARTS.items()]
    for name, kind, values in parts:
        if not values:
            continue
        classes = getattr(registry, kind).module_dict
        if values.get('type') not in classes:
            raise HostError(
                f'{name}.type={values.get("type")!r} is unknown; '
                f'{nearest(str(values.get("type")), classes)}'
            )
        check_arguments(name, classes[values.type], values)


def _check_hooks(cfg):
    """mmcv can make the hooks of a training, which v1 does after its data."""
    from mmaction.core import DistOptimizerHook
    from mmcv.runner import HOOKS
    from mmcv.utils import build_from_cfg

    schedule = dict(cfg.lr_config or {})
    policy, end = str(schedule.pop('policy', None)), 'LrUpdaterHook'
    # As mmcv spells the names of its classes.
    name = (policy.title() if policy == policy.lower() else policy) + end
    if name not in HOOKS.module_dict:
        known = [kind[: -len(end)] for kind in HOOKS.module_dict if kind.endswith(end)]
        raise HostError(
            f'lr_config.policy={policy!r} is unknown; {nearest(policy.title(), known)}'
        )
    check_arguments('optimizer_config', DistOptimizerHook, cfg.optimizer_config or {})
    hooks = [('lr_config', dict(schedule, type=name))]
    saving = cfg.checkpoint_config
    if saving is not None:
        # It takes any name, and keeps it for a function that may not.
        *known, _ = inspect.signature(HOOKS.get('CheckpointHook')).parameters
        for key in saving:
            if key not in known:
                raise HostError(
                    f'checkpoint_config.{key} is unknown; {nearest(key, known)}'
                )
        hooks.append(('checkpoint_config', dict(saving, type='CheckpointHook')))
    log = cfg.log_config
    for key in ('interval', 'hooks'):
        if log is not None and key not in log:
            raise HostError(f'log_config.{key} is missing')
    hooks += [('log_config.hooks', hook) for hook in (log or dict(hooks=[]))['hooks']]
    for key, values in hooks:
        try:
            build_from_cfg(dict(values), HOOKS)
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise HostError(f'{key}: {error.args[0]}') from error


def _check_split(split, data, model):
    """A split's data set is one that v1 can use here, with clips that fit."""
    from mmaction import datasets

    kind = data.get('type')
    usable = [name for name in FORMS if split == 'test' or 'LMDB' not in name]
    if kind not in usable:
        # v1 trains on img_prefix, which LMDB has not, and leaves validation
        # of other data sets out without a word.
        raise HostError(
            f'data.{split}.type={kind!r} cannot be used by mmaction v1 here, '
            f'which takes {" or ".join(usable)}'
        )
    check_arguments(f'data.{split}', getattr(datasets, kind), data)
    for key in ('ann_file', 'lmdb_prefix' if 'LMDB' in kind else 'img_prefix'):
        if not isinstance(data.get(key), str):
            raise HostError(
                f'data.{split}.{key} should be one path, got {data.get(key)!r}'
            )
    if data.get('use_decord') and importlib.util.find_spec('decord') is None:
        raise HostError(
            f'data.{split}.use_decord=True needs decord: pip install decord, or '
            f'set use_decord=False to read videos with OpenCV'
        )
    if kind == 'RawFramesDataset' and isinstance(data.get('image_tmpl', ''), str):
        template = data.get('image_tmpl', 'img_{}.jpg')
        check_template(template, split, data.get('modality', 'RGB'))
    num_classes = (model.get('cls_head') or {}).get('num_classes', 101)
    check_flip_label_map(split, data, num_classes)
    if kind == 'VideoDataset':
        check_skip_broken(split, data)
        video_files(
            data.ann_file,
            data.img_prefix,
            data.get('video_ext', 'mp4'),
            num_classes,
            data.get('skip_broken', False),
        )
    else:
        read_list(data.ann_file, FORMS[kind], num_classes)
    check_scale(split, data)
    if model.backbone.type in ('ResNet_DNR', 'WithDNR'):
        check_clips(split, data, model.backbone, model.get('in_channels', 3))
