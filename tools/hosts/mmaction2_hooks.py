"""What mmengine's training lacks: hooks, and how checkpoints come and go.

Checkpoints are whole, finite and of plain data.

The native configs of mmaction2_config.py name this module in
``custom_imports``.
"""

import os
import os.path as osp

import numpy as np
import torch
from checkpoint_files import read_checkpoint
from mmaction.registry import HOOKS
from mmengine.dist import all_reduce, all_reduce_params, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import EMAHook, Hook, SyncBuffersHook
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from whole_files import write_whole

from . import HostError
from .checkpoint_folder import begin_training, record_last, remove_old
from .lists import doubts_of
from .resuming import (
    batch_warning,
    check_optimizer,
    describe_batch,
    list_digest,
    list_warning,
)
from .speed import changes
from .training_state import (
    check_state,
    last_finite,
    note_launch,
    one_clip_warning,
    seed_epoch,
)


@HOOKS.register_module()
class V1CheckpointHook(Hook):
    """Save a checkpoint, say so in last_checkpoint, then remove old ones.

    In that order: a kill or a full disk leaves the older checkpoint, and
    last_checkpoint names a file that is there. Nothing is saved that is not
    finite.

    Args:
        interval (int): save after each so many epochs, and after the last.
        max_keep_ckpts (int): keep the newest so many; all, where below 1.
        save_optimizer (bool): with what resuming needs.
    """

    priority = 'VERY_LOW'

    def __init__(self, interval=1, max_keep_ckpts=-1, save_optimizer=True):
        self.interval = interval
        self.max_keep_ckpts = max_keep_ckpts
        self.save_optimizer = save_optimizer

    def before_train(self, runner):
        runner.logger.info(f'Checkpoints will be saved to {runner.work_dir}.')

    def after_train_epoch(self, runner):
        epoch = runner.epoch + 1
        if epoch % self.interval and not self.is_last_train_epoch(runner):
            return
        model = getattr(runner.model, 'module', runner.model)
        check_state(model, epoch, lambda: describe_last(runner))
        runner.logger.info(f'Saving checkpoint at {epoch} epochs')
        name = f'epoch_{epoch}.pth'
        runner.save_checkpoint(
            runner.work_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_optimizer,
            meta=dict(epoch=epoch, iter=runner.iter),
            backend_args=dict(backend='whole_file'),
        )
        if is_main_process():
            record_last(osp.join(runner.work_dir, name))
            remove_old(runner.work_dir, epoch, self.max_keep_ckpts)


@HOOKS.register_module()
class FaithfulTrainingHook(Hook):
    """A resumed epoch draws what it would have drawn.

    Notes in each checkpoint the batch, the list of videos, the launch and the settings
    of speed, for resuming.

    Args:
        speed (dict): of speed.speed_of.
        notes (list[str]): lines for the log.
    """

    priority = 'VERY_HIGH'

    def __init__(self, speed, notes=()):
        self.speed = dict(speed)
        self.notes = notes
        self.resumed = self.meta = None  # a checkpoint, and what it has noted
        self.begun = False

    def before_run(self, runner):
        for line in self.notes:
            runner.logger.info(line)

    def before_train(self, runner):
        self.train_list = list_digest(list_of(runner))
        warning = one_clip_warning(runner.model, clips_of(runner, self.speed))
        for line in [warning] * bool(warning) + doubts_of(*datasets_of(runner)):
            runner.logger.warning(line)

    def before_test(self, runner):
        for line in doubts_of(*datasets_of(runner, ['test'])):
            runner.logger.warning(line)

    def after_train_iter(self, runner, *args, **kwargs):
        if not self.begun and is_main_process():
            begin_training(runner.work_dir, self.resumed, self.meta)
        self.begun = True

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        # With the first batch: making a data loader draws a number, which
        # happens only once in a training that is not resumed.
        if batch_idx == 0:
            seed_epoch(runner.seed, runner.epoch, runner.rank)

    def after_load_checkpoint(self, runner, checkpoint):
        if not runner.cfg.get('resume'):
            return
        path = runner.cfg.load_from
        self.resumed, self.meta = path, dict(checkpoint['meta'])
        groups = runner.optim_wrapper.optimizer.param_groups
        check_optimizer(
            dict(runner.cfg.optim_wrapper.optimizer), groups, checkpoint, path
        )
        length = len(runner.train_dataloader)
        for warning in (
            batch_warning(checkpoint, path, batch_of(runner, self.speed), length),
            list_warning(checkpoint, path, list_of(runner)),
            changes(self.speed, checkpoint['meta'], path),
        ):
            if warning:
                runner.logger.warning(warning)

    def before_save_checkpoint(self, runner, checkpoint):
        note_launch(
            checkpoint['meta'],
            runner.work_dir,
            self.train_list,
            batch_of(runner, self.speed),
            self.speed,
            runner.cfg.model.backbone,
        )


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Keep checkpoints to tensors and plain data.

    mmengine pickles its log histories with their methods, and NumPy scalars,
    which ``torch.load(..., weights_only=True)`` refuses. Histories are saved
    as tensors and restored on resuming.
    """

    def before_save_checkpoint(self, runner, checkpoint):
        hub = checkpoint['message_hub']
        hub['log_scalars'] = {
            name: [torch.from_numpy(values) for values in history.data]
            for name, history in hub['log_scalars'].items()
        }
        hub['runtime_info'] = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in hub['runtime_info'].items()
        }

    def after_load_checkpoint(self, runner, checkpoint):
        if not runner.cfg.get('resume'):
            return  # what is logged begins anew
        hub, path = checkpoint['message_hub'], runner.cfg.load_from
        for key in ('log_scalars', 'runtime_info', 'resumed_keys'):
            if not isinstance(hub.get(key), dict):
                raise HostError(
                    f"{path} cannot be resumed: 'message_hub.{key}' in it is "
                    f'{hub.get(key)!r:.60}, and should be a dict'
                )
        scalars = hub['log_scalars']
        for name, history in scalars.items():
            try:
                values, counts = (part.numpy() for part in history)
                scalars[name] = HistoryBuffer(values, counts)
                scalars[name].mean()
            except (AssertionError, AttributeError, TypeError, ValueError) as error:
                raise HostError(
                    f'{path} cannot be resumed: the history of {name!r} in its '
                    f'message_hub is none'
                ) from error


@HOOKS.register_module()
class SyncAllBuffersHook(SyncBuffersHook):
    """Averages running statistics over processes, those of averaged weights, too.

    EMAHook has copied a process's own before, and its copy is what a checkpoint gets.
    """

    def after_train_epoch(self, runner):
        super().after_train_epoch(runner)
        for hook in runner.hooks:
            if self.distributed and isinstance(hook, EMAHook):
                all_reduce_params(hook.ema_model.buffers(), op='mean')


@HOOKS.register_module()
class CountReplacedHook(Hook):
    """Logs after each epoch how many videos were replaced, in all processes."""

    def after_train_epoch(self, runner):
        count = runner.train_dataloader.dataset.replacements.take_count()
        count = torch.tensor(count)
        all_reduce(count)
        runner.logger.info(
            f'broken videos were replaced {int(count)} times in this epoch '
            '(skip_broken)'
        )


def describe_last(runner):
    """Which finite checkpoint a Runner has left."""
    return last_finite(
        runner.work_dir, runner.cfg.load_from if runner.cfg.get('resume') else None
    )


def list_of(runner):
    """The list of a Runner's training, where its data set has one."""
    return runner.cfg.train_dataloader['dataset'].get('ann_file')


def datasets_of(runner, splits=('train', 'val')):
    """What lists.doubts_of takes, of some of a Runner's data sets."""
    loaders = (runner.cfg.get(f'{split}_dataloader') for split in splits)
    for dataset in (loader['dataset'] for loader in loaders if loader):
        folder = dataset.get('data_prefix', {}).get('img')
        yield dataset.get('type'), dataset.get('ann_file'), folder


def batch_of(runner, speed):
    """The batch of a Runner, as resuming.describe_batch has it."""
    clips, parts = clips_of(runner, speed), speed['accumulate']
    return describe_batch(runner.world_size, clips, parts)


def clips_of(runner, speed):
    """Clips that a process of a Runner takes together."""
    return runner.cfg.train_dataloader['batch_size'] // speed['accumulate']


class WholeFileBackend(LocalBackend):
    """Local files, each written whole: a kill leaves no half checkpoint."""

    def put(self, obj, filepath):
        os.makedirs(osp.dirname(filepath) or '.', exist_ok=True)
        write_whole(filepath, obj)


register_backend('whole_file', WholeFileBackend, force=True)


def load_from_checked(filename, map_location):
    """A checkpoint for mmengine's Runner, by :func:`read_checkpoint`.

    mmengine's own loaders of URLs run what is in a file, and its Runner the
    text of a config in it.
    """
    return read_checkpoint(filename)


CheckpointLoader.register_scheme(  # in place of all that mmengine has
    [
        *('', 'http://', 'https://', 'pavi://', 'mmcls://'),
        *(r'(\S+\:)?s3://', r'(\S+\:)?petrel://'),
        *('modelzoo://', 'torchvision://', 'open-mmlab://', 'openmmlab://'),
    ],
    load_from_checked,
    force=True,
)
