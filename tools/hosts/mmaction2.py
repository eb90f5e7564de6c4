"""The mmaction2 host: trains and tests on an mmengine Runner.

mmaction2_config.py makes a native config of one in mmaction v1's schema, and
mmaction2_components.py has what of v1's rules mmaction2 lacks. Training,
testing, launching, resuming, logging and checkpoints are mmengine's.
"""

import importlib.util
import logging
import os
import warnings

import torch
from checkpoint_files import fill_model, read_checkpoint

from . import HostError, ignore_torch_warnings
from .checks import check_fcn_testing, check_gpus, check_out, check_unused_stages
from .mmaction2_config import load_config, translate
from .options import DictAction

__all__ = [
    'DictAction',
    'build_runner',
    'import_components',
    'leave_group',
    'load_config',
    'model_of',
    'test',
    'train',
    'translate',
]


def train(args):
    """Train by the arguments of tools/train_recognizer.py."""
    v1 = load_config(args.config, args.cfg_options)
    if args.work_dir is not None:
        v1.work_dir = args.work_dir
    cfg = translate(v1, args.validate)
    check_gpus(args)
    if args.launcher != 'none':
        check_unused_stages(v1.model.backbone, cfg.find_unused_parameters)
    if args.seed is not None:
        cfg.randomness = dict(seed=args.seed)
    try:
        os.makedirs(cfg.work_dir, exist_ok=True)
    except OSError as error:
        raise HostError(
            f'cannot make work_dir {cfg.work_dir}: {error.strerror}'
        ) from error
    resume_from = args.resume_from or v1.get('resume_from')
    if resume_from:
        checkpoint = read_checkpoint(resume_from)
        for key in ('optimizer', 'param_schedulers', 'message_hub'):
            if key not in checkpoint:
                raise HostError(
                    f'{resume_from} has no {key!r}: only a checkpoint of '
                    f'this training can be resumed. To start from its '
                    f'weights: --cfg-options load_from={resume_from}'
                )
        done = checkpoint['meta']['epoch']
        if done >= v1.total_epochs:
            raise HostError(
                f'{resume_from} has {done} of '
                f'total_epochs={v1.total_epochs} behind it: '
                f'there is nothing to go on with'
            )
        cfg.load_from, cfg.resume = resume_from, True
    elif cfg.load_from:
        checkpoint = read_checkpoint(cfg.load_from)
    runner = build_runner(cfg, args.launcher)
    if resume_from:  # the Runner, which fills the model again, is not strict
        fill_model(model_of(runner), checkpoint['state_dict'], resume_from)
    if cfg.load_from:
        from .mmaction2_runner import hand_over

        hand_over(checkpoint, cfg.load_from)
        del checkpoint  # the Runner lets it go
    runner.train()
    leave_group()


def test(args):
    """Test by the arguments of tools/test_recognizer.py."""
    check_out(args.out)
    check_fcn_testing(args)
    cfg = translate(load_config(args.config, args.cfg_options))
    checkpoint = read_checkpoint(args.checkpoint)
    cfg.load_from = None
    cfg.test_evaluator = dict(
        type='V1Results', out=args.out, use_softmax=args.use_softmax
    )
    runner = build_runner(cfg, args.launcher)
    fill_model(model_of(runner), checkpoint['state_dict'], args.checkpoint)
    runner.test()
    leave_group()


def model_of(runner):
    """A Runner's model, without the wrapper of several processes."""
    return getattr(runner.model, 'module', runner.model)


def build_runner(cfg, launcher):
    """A Runner with its model, in this process of the launch.

    Args:
        cfg (mmengine.Config): from :func:`translate`.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.

    Returns:
        mmengine.runner.Runner

    Raises:
        HostError: the launcher, the backbone or a logger cannot be had.
    """
    ignore_torch_warnings()
    import_components(cfg)
    from .mmaction2_runner import CheckedRunner

    for backend in cfg.visualizer.vis_backends:
        if (
            backend.type == 'TensorboardVisBackend'
            and importlib.util.find_spec('tensorboard') is None
        ):
            raise HostError(
                'log_config has TensorboardLoggerHook: pip install tensorboard'
            )
    if launcher != 'none' and not torch.cuda.is_available():
        # mmengine's launchers want CUDA devices.
        if launcher != 'pytorch':
            raise HostError(
                f'--launcher {launcher} needs CUDA; on a CPU use '
                f'the shell scripts, which use torchrun'
            )
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group('gloo')
        cfg.env_cfg.dist_cfg.backend = 'gloo'
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.find_unused_parameters,
        )
    if not torch.cuda.is_available():
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if cfg.get(loader):
                cfg[loader].pin_memory = False  # or torch warns
    cfg.launcher = launcher
    runner = CheckedRunner.from_cfg(cfg)
    # The backbone logs what it loads, through the run's own handlers.
    backbone_logger = logging.getLogger('resnet_dnr')
    backbone_logger.handlers = runner.logger.handlers
    backbone_logger.setLevel(logging.INFO)
    # These calls are mmengine's own.
    deprecated = '"FileClient" will be', '"HardDiskBackend" is'
    runner.logger.addFilter(
        lambda record: not record.getMessage().startswith(deprecated)
    )
    return runner


def import_components(cfg):
    """Import, and so register, what a native config names.

    Args:
        cfg (mmengine.Config): from :func:`translate`.
    """
    # A user can do nothing about it: mmcv-lite has no compiled operators,
    # which nothing here uses.
    warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeform')
    from mmengine.utils import import_modules_from_strings

    import_modules_from_strings(**cfg.custom_imports)


def leave_group():
    """Shut the process group down: NCCL warns of one left at exit."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
