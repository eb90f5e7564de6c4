"""The mmaction2 host: trains and tests on an mmengine Runner.

mmaction2_config.py makes a native config of one in mmaction v1's schema, and
mmaction2_components.py has what of v1's rules mmaction2 lacks. Training,
testing, launching, resuming, logging and checkpoints are mmengine's.
"""

import importlib.util
import logging
import warnings

import torch
from checkpoint_files import choose_fitting, fill_model, read_checkpoint

from . import HostError, ignore_torch_warnings
from .backbones import backbone_warning, check_pretrained, leave_out_pretrained
from .checks import check_fcn_testing, check_gpus, check_out, check_unused_stages
from .locks import FolderLock
from .mmaction2_config import load_config, translate
from .mmaction2_native import check_types, naming_native
from .processes import interruptible, variables_of
from .resuming import begin, choose_seed, is_done
from .speed import FUSED, config_options, fuse
from .training_state import naming_folder

__all__ = [
    'build_runner',
    'import_components',
    'join_group',
    'leave_group',
    'load_config',
    'model_of',
    'test',
    'train',
    'translate',
]


def train(args):
    """Train by the arguments of tools/train_recognizer.py."""
    v1 = load_config(args.config, config_options(args))
    if args.work_dir is not None:
        v1.work_dir = args.work_dir
    cfg = translate(v1, args.validate)
    check_gpus(args)
    check_pretrained(cfg.model.backbone)
    if args.launcher != 'none':
        unused = cfg.model_wrapper_cfg.get('find_unused_parameters', False)
        graph = cfg.train_cfg.get('cuda_graph', False)  # averages what gradients exist
        check_unused_stages(v1.model.backbone, unused or graph)
    join_group(cfg, args.launcher)
    lock = FolderLock(cfg.work_dir)
    asked = args.resume_from or v1.get('resume_from')
    try:
        start = begin(lock, asked, args.resume)
        if start.path:
            if is_done(
                start.checkpoint,
                start.path,
                v1.total_epochs,
                ('optimizer', 'param_schedulers', 'message_hub'),
                asked=start.path == asked,
            ):
                leave_group()
                return
            cfg.load_from, cfg.resume = start.path, True
            leave_out_pretrained(cfg.model.backbone)  # of the start alone
            args.seed = choose_seed(args.seed, start.checkpoint, start.path)
        elif cfg.load_from:
            start.checkpoint = read_checkpoint(cfg.load_from)
        if args.seed is not None:
            cfg.randomness = dict(seed=args.seed)
        with naming_folder(cfg.work_dir, start.path), naming_native(v1.get('native')):
            runner = build_runner(cfg, args.launcher)
        if start.path:  # the Runner, which fills the model again, is not strict
            fill_model(model_of(runner), start.checkpoint['state_dict'], start.path)
        elif cfg.load_from:
            start.checkpoint['state_dict'] = choose_fitting(
                model_of(runner), start.checkpoint['state_dict'], cfg.load_from
            )
        if cfg.load_from:
            from .mmaction2_runner import hand_over

            hand_over(start.checkpoint, cfg.load_from)
            start.checkpoint = None  # the Runner lets it go
        with naming_folder(cfg.work_dir, start.path):
            with naming_native(v1.get('native'), runner):
                runner.train()
    finally:
        lock.release()
    leave_group()


def join_group(cfg, launcher):
    """Join the process group of a launch; without a launcher there is none.

    Args:
        cfg (mmengine.Config): from :func:`translate`.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.

    Raises:
        HostError: the launcher needs CUDA, or has not started this process.
    """
    if launcher == 'none' or torch.distributed.is_initialized():
        return
    if launcher != 'pytorch' and not torch.cuda.is_available():
        raise HostError(
            f'--launcher {launcher} needs CUDA; on a CPU use '
            f'the shell scripts, which use torchrun'
        )
    variables_of(launcher)
    ignore_torch_warnings()
    with interruptible():
        if torch.cuda.is_available():
            from mmengine.dist import init_dist
            from mmengine.utils.dl_utils import set_multi_processing

            # As the Runner does, before it; init_dist would set another.
            set_multi_processing(**cfg.env_cfg.mp_cfg, distributed=True)
            init_dist(launcher, **cfg.env_cfg.dist_cfg)
        else:  # mmengine's launchers want CUDA devices
            torch.distributed.init_process_group('gloo')


def test(args):
    """Test by the arguments of tools/test_recognizer.py."""
    check_out(args.out)
    check_fcn_testing(args)
    v1 = load_config(args.config, config_options(args))
    cfg = translate(v1, splits=('test',))
    checkpoint = read_checkpoint(args.checkpoint)
    cfg.load_from = None  # of the training's start, as is what follows
    leave_out_pretrained(cfg.model.backbone)
    results = dict(type='V1Results', out=args.out, use_softmax=args.use_softmax)
    native = v1.get('native') or dict()
    others = native.get('test_evaluator', [])
    cfg.test_evaluator = [results, *([others] if isinstance(others, dict) else others)]
    with naming_native(native):
        runner = build_runner(cfg, args.launcher)
    fill_model(model_of(runner), checkpoint['state_dict'], args.checkpoint)
    warning = backbone_warning(checkpoint, args.checkpoint, cfg.model.backbone)
    if warning:
        runner.logger.warning(warning)
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
    check_types(cfg)
    from .mmaction2_runner import CheckedRunner

    for backend in cfg.visualizer.vis_backends:
        if (
            backend.type == 'TensorboardVisBackend'
            and importlib.util.find_spec('tensorboard') is None
        ):
            raise HostError(
                'log_config has TensorboardLoggerHook: pip install tensorboard'
            )
    join_group(cfg, launcher)
    if launcher != 'none' and not torch.cuda.is_available():
        cfg.env_cfg.dist_cfg.backend = 'gloo'
        cfg.model_wrapper_cfg.device_ids = None
    if not torch.cuda.is_available():
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if cfg.get(loader):
                cfg[loader].pin_memory = False  # or torch warns
    cfg.launcher = launcher
    fused = cfg.get('optim_wrapper') and fuse(
        cfg.optim_wrapper.optimizer, cfg.model.backbone
    )
    runner = CheckedRunner.from_cfg(cfg)
    if fused:
        runner.logger.info(FUSED)
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
