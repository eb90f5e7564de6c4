"""mmengine's Runner, with a checked backbone and a checkpoint that was read.

Imported when a Runner is built, and not by the scripts at their start:
mmengine.runner takes two seconds.
"""

import contextlib
import functools
import inspect
import re
import sys
import warnings

from checkpoint_files import init_backbone, local_file, read_checkpoint
from mmaction.registry import MODELS
from mmengine.device import get_device
from mmengine.runner import CheckpointLoader, Runner

from add_dnr import WithDNR, add_dnr
from resnet_dnr import ResNet_DNR

from . import HostError
from .backbones import network_of
from .checks import check_backend
from .mmaction2_components import FastWithDNR
from .options import check_arguments, nearest
from .resuming import put_back, settings_of
from .speed import OF_BACKBONE, FastBackbone


class CheckedBackbone(FastBackbone, ResNet_DNR):
    """The backbone, whose `pretrained` is read as all checkpoints are."""

    def init_weights(self):
        init_backbone(self, super().init_weights)


def say_once(handler):
    """Have a handler of logs say once that it cannot write, and not for each line.

    Args:
        handler (logging.Handler): of a file or a terminal.
    """

    def handle_error(record):
        handler.handleError = lambda record: None
        with contextlib.suppress(OSError):
            error = sys.exc_info()[1]
            print(f'note: lines of the log are lost: {error}', file=sys.stderr)

    handler.handleError = handle_error


class CheckedRunner(Runner):
    """A Runner whose backbone is built once, with errors that name a key."""

    started = False  # the first step

    def call_hook(self, fn_name, **kwargs):
        """Call the hooks, and note that a step begins."""
        self.started |= fn_name == 'before_train_iter'
        super().call_hook(fn_name, **kwargs)

    def build_logger(self, *args, **kwargs):
        """Build the logger, whose handlers say once that they cannot write."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            say_once(handler)
        return logger

    def build_model(self, model):
        """Build the recognizer, as the function of this name does."""
        return build_model(model)

    def wrap_model(self, model_wrapper_cfg, model):
        """Make the model ready for several processes, as mmengine does.

        But for a CUDA graph, whose steps average the gradients by themselves:
        DistributedDataParallel has them accumulated on the default stream, which
        cannot be captured. The Runner gives all processes the same weights.
        """
        if (self.cfg.get('train_cfg') or {}).get('cuda_graph'):
            return model.to(get_device())
        return super().wrap_model(model_wrapper_cfg, model)

    def resume(self, filename, *args, **kwargs):
        """Go on from a checkpoint with the settings of this Runner's config.

        Args:
            filename (str): the checkpoint.
            *args, **kwargs: of Runner.resume.
        """
        optimizer = self.optim_wrapper.optimizer
        settings = settings_of(optimizer)
        super().resume(filename, *args, resume_param_scheduler=False, **kwargs)
        put_back(optimizer, settings)
        loop, length = self.train_loop, len(self.train_dataloader)
        # Iterations are counted in batches of now: Runner.resume sets the
        # same attribute.
        loop._iter = loop.epoch * length
        replay(self.param_schedulers, loop.epoch, length)


def replay(schedulers, epochs, epoch_length):
    """Bring schedulers to where a training from the start would have them.

    They are recursive: each step goes on from the rate of the one before.

    Args:
        schedulers (list): as a Runner builds them, at their beginning.
        epochs (int): behind the training.
        epoch_length (int): iterations an epoch.
    """
    by_epoch = [scheduler for scheduler in schedulers if scheduler.by_epoch]
    by_iteration = [scheduler for scheduler in schedulers if not scheduler.by_epoch]
    with warnings.catch_warnings():
        # Each warns of a step without one of the optimizer's.
        warnings.filterwarnings('ignore', 'Detected call of `scheduler.step')
        for _ in range(epochs):
            for _ in range(epoch_length):
                for scheduler in by_iteration:
                    scheduler.step()
            for scheduler in by_epoch:
                scheduler.step()


def build_model(model):
    """Build a recognizer.

    Args:
        model (dict): of the native config.

    Returns:
        nn.Module

    Raises:
        HostError: the backbone does not take its arguments, the head does
            not fit it, or its pretrained weights are not there.
    """
    backbone = build_backbone(model)
    return MODELS.build(dict(model, backbone=dict(type=lambda: backbone)))


def build_backbone(model):
    """The backbone of a model, which its head must fit.

    Args:
        model (dict): of the native config.

    Returns:
        CheckedBackbone

    Raises:
        HostError: as :func:`build_model` does.
    """
    arguments = dict(model['backbone'])
    kind = arguments.pop('type')
    network = network_of(model['backbone'])
    fast = {name: arguments.pop(name) for name in OF_BACKBONE if name in arguments}
    if kind in ('WithDNR', 'FastWithDNR'):
        given = ('network',)  # by WithDNR, of its own argument
        options = {k: v for k, v in arguments.items() if k != 'backbone'}
        check_arguments('model.backbone', add_dnr, options, given)
        _check_network(network)
        build = functools.partial(FastWithDNR, **fast) if fast else WithDNR
    elif kind in ('ResNet_DNR', 'FastResNet_DNR'):
        check_arguments('model.backbone', ResNet_DNR, arguments)
        build = functools.partial(CheckedBackbone, **fast)
    else:
        raise HostError(
            f'native.model.backbone.type={kind!r}: the scripts train ResNet_DNR and '
            f'WithDNR; tools/convert_config.py writes a config for other tools'
        )
    check_backend(arguments)
    try:
        backbone = build(**arguments)
    except (
        AssertionError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise HostError(f'model.backbone: {reason}') from error
    # feat_dim is that of the last stage; each has twice the channels.
    stages_after = len(backbone.res_layers) - 1 - backbone.out_indices[0]
    channels = backbone.feat_dim >> stages_after
    in_channels = model['cls_head']['in_channels']
    if in_channels != channels:
        raise HostError(
            f'model.cls_head.in_channels={in_channels}, but '
            f'the backbone of depth={network["depth"]} and '
            f'out_indices={backbone.out_indices} gives {channels} channels'
        )
    if network.get('pretrained') is not None:
        try:  # before data sets are read, which takes longer
            local_file(network['pretrained'])
        except HostError as error:
            raise HostError(f'model.backbone.pretrained: {error}') from error
    return backbone


def _check_network(network):
    """A network of mmaction2 takes its arguments, some through **kwargs.

    Args:
        network (dict): its config.

    Raises:
        HostError: it does not.
    """
    cls = MODELS.get(network['type'])
    known = {
        name
        for base in cls.__mro__
        if '__init__' in vars(base)
        for name in inspect.signature(base.__init__).parameters
    } - {'self', 'args', 'kwargs'}
    for key, value in network.items():
        if key != 'type' and key not in known:
            raise HostError(
                f'model.backbone.backbone.{key}={value!r} is unknown; '
                f'{nearest(key, known)}'
            )


def hand_over(checkpoint, path):
    """Let the Runner have a checkpoint that was read, in place of the file.

    A Runner is told a path to load or to resume from.

    Args:
        checkpoint (dict): what :func:`read_checkpoint` returned.
        path (str): where it is from. The Runner gets the checkpoint when it
            loads from there first, and the file's content after that.
    """
    given = [checkpoint]

    def load_from_memory(filename, map_location):
        return given.pop() if given else read_checkpoint(filename)

    CheckpointLoader.register_scheme(
        re.escape(path) + '$', load_from_memory, force=True
    )
