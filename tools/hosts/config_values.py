"""What the values of a config in mmaction v1's schema can be, on both hosts.

A value that cannot be would end a run with a traceback, or hours later, or
would be taken for something else.
"""

import math

from . import HostError


def is_number(value):
    """Whether a value is a finite number; True and False are none."""
    return type(value) in (int, float) and math.isfinite(value)


def whole(least):
    """Whole numbers of at least so many: what they are called, and the check."""
    return (
        f'a whole number of at least {least}',
        lambda value: type(value) is int and value >= least,
    )


def one_of(*names):
    """Some texts: what they are called, and the check."""
    return f'one of {", ".join(names)}', lambda value: value in names


def is_size(value):
    """Whether a value is a number of pixels, or a width and a height."""
    sides = value if isinstance(value, (list, tuple)) else [value]
    return len(sides) in (1, 2) and all(whole(1)[1](side) for side in sides)


def wholes(least):
    """Lists of whole numbers: what they are called, and the check."""
    return (
        f'a list of whole numbers of at least {least}',
        lambda value: (
            isinstance(value, (list, tuple)) and all(map(whole(least)[1], value))
        ),
    )


SIZE = 'a number of pixels, or a width and a height', is_size
YES_OR_NO = 'True or False', lambda value: type(value) is bool
NUMBERS = (
    'a list of numbers',
    lambda value: isinstance(value, (list, tuple)) and all(map(is_number, value)),
)
DICT = 'a dict', lambda value: isinstance(value, dict)
DICT_OR_NONE = 'a dict, or None', lambda value: value is None or isinstance(value, dict)
SHARE = 'a number from 0 to 1', lambda value: is_number(value) and 0 <= value <= 1
POSITIVE = 'a number above 0', lambda value: is_number(value) and value > 0
NOT_NEGATIVE = 'a number of at least 0', lambda value: is_number(value) and value >= 0
PATH = 'a path', lambda value: isinstance(value, str) and value.strip()
PATH_OR_NONE = 'a path, or None', lambda value: value is None or PATH[1](value)

# By the dotted keys of a config, of which each may be missing. A star is each
# split. Outer ones come first.
VALUES = {
    'total_epochs': whole(1),
    'work_dir': PATH,
    'load_from': PATH_OR_NONE,
    'resume_from': PATH_OR_NONE,
    'class_names': PATH_OR_NONE,
    'cudnn_benchmark': YES_OR_NO,
    'find_unused_parameters': YES_OR_NO,
    'workflow': (
        "a list such as [('train', 1)]",
        lambda value: (
            isinstance(value, (list, tuple))
            and all(isinstance(flow, (list, tuple)) for flow in value)
        ),
    ),
    'log_level': one_of('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'),
    'dist_params': DICT_OR_NONE,
    'dist_params.backend': one_of('nccl', 'gloo', 'mpi'),
    'model': DICT,
    'model.backbone': DICT,
    'model.backbone.pretrained': PATH_OR_NONE,
    **dict.fromkeys(
        (
            f'model.backbone.{name}'
            for name in 'depth n_segment num_groups num_stages'.split()
        ),
        whole(1),
    ),
    'model.backbone.frozen_stages': whole(-1),
    'model.backbone.out_indices': wholes(0),
    'model.backbone.strides': wholes(1),
    'model.backbone.dilations': wholes(1),
    'model.cls_head.num_classes': whole(1),
    'model.cls_head.dropout_ratio': SHARE,
    'model.cls_head.init_std': NOT_NEGATIVE,
    'data': DICT,
    'data.videos_per_gpu': whole(1),
    'data.workers_per_gpu': whole(0),
    'data.*': DICT,
    'data.*.num_segments': whole(1),
    'data.*.new_length': whole(1),
    'data.*.new_step': whole(1),
    'data.*.input_size': SIZE,
    'data.*.img_scale': SIZE,
    'data.*.scales': (
        'a list of numbers above 0, or None',
        lambda value: value is None or NUMBERS[1](value) and all(n > 0 for n in value),
    ),
    'data.*.img_norm_cfg': DICT,
    'data.*.img_norm_cfg.mean': NUMBERS,
    'data.*.img_norm_cfg.std': (
        'a list of numbers above 0',
        lambda value: NUMBERS[1](value) and all(n > 0 for n in value),
    ),
    'data.*.flip_ratio': SHARE,
    **dict.fromkeys(
        (
            f'data.*.{name}'
            for name in (
                'random_shift temporal_jitter resize_keep_ratio multiscale_crop '
                'random_crop more_fix_crop test_mode'
            ).split()
        ),
        YES_OR_NO,
    ),
    'optimizer': DICT,
    'optimizer.lr': NOT_NEGATIVE,
    'optimizer.momentum': NOT_NEGATIVE,
    'optimizer.weight_decay': NOT_NEGATIVE,
    'optimizer_config': DICT_OR_NONE,
    'optimizer_config.grad_clip': DICT_OR_NONE,
    'optimizer_config.grad_clip.max_norm': POSITIVE,
    'optimizer_config.grad_clip.norm_type': (
        "a number above 0, or 'inf'",
        lambda value: value in ('inf', math.inf) or POSITIVE[1](value),
    ),
    'lr_config': DICT_OR_NONE,
    'lr_config.warmup_iters': whole(0),
    'lr_config.warmup_ratio': POSITIVE,
    'lr_config.gamma': NOT_NEGATIVE,
    'lr_config.step': (
        'a number of epochs, or a list of them',
        lambda value: all(
            map(whole(1)[1], value if isinstance(value, (list, tuple)) else [value])
        ),
    ),
    'checkpoint_config': DICT_OR_NONE,
    'checkpoint_config.interval': whole(1),
    'checkpoint_config.max_keep_ckpts': (
        'a whole number; -1 keeps all',
        lambda value: type(value) is int,
    ),
    'checkpoint_config.save_optimizer': YES_OR_NO,
    'log_config': DICT_OR_NONE,
    'log_config.interval': whole(1),
    'log_config.hooks': (
        "a list such as [dict(type='TextLoggerHook')]",
        lambda value: isinstance(value, (list, tuple)) and all(map(DICT[1], value)),
    ),
}


def check_values(cfg):
    """The values of a config are of the kinds that its keys take.

    Args:
        cfg (mapping): of a config file, with --cfg-options.

    Raises:
        HostError: one is not; the text names the first key and its value, and
            says what would be right.
    """
    whole_config = {name: cfg[name] for name in cfg}
    for pattern, (words, is_right) in VALUES.items():
        for key in _spelled_out(pattern):
            value = whole_config
            for part in key.split('.'):
                if not (isinstance(value, dict) and part in value):
                    break
                value = value[part]
            else:
                if not is_right(value):
                    raise HostError(f'{key}={value!r} should be {words}')


def _spelled_out(pattern):
    """The keys that a pattern stands for."""
    return [pattern.replace('*', split) for split in ('train', 'val', 'test')][
        : 3 if '*' in pattern else 1
    ]
