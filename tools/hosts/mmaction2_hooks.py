"""Hooks of mmengine that keep a training's checkpoints whole and finite.

The native configs of mmaction2_config.py name this module in
``custom_imports``.
"""

import os.path as osp

from mmaction.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from .checkpoint_folder import record_last, remove_old
from .resuming import batch_warning, check_optimizer, describe_batch
from .training_state import (
    check_loss,
    check_state,
    last_finite,
    note_launch,
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
    """A loss is finite, and a resumed epoch draws what it would have drawn.

    Notes in each checkpoint the batch and the launch, for resuming.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        # With the first batch: making a data loader draws a number, which
        # happens only once in a training that is not resumed.
        if batch_idx == 0:
            seed_epoch(runner.seed, runner.epoch, runner.rank)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        check_loss(
            outputs['loss'].item(),
            runner.epoch + 1,
            batch_idx + 1,
            len(runner.train_dataloader),
            lambda: describe_last(runner),
        )

    def after_load_checkpoint(self, runner, checkpoint):
        if not runner.cfg.get('resume'):
            return
        path = runner.cfg.load_from
        groups = runner.optim_wrapper.optimizer.param_groups
        check_optimizer(
            dict(runner.cfg.optim_wrapper.optimizer), groups, checkpoint, path
        )
        length = len(runner.train_dataloader)
        warning = batch_warning(checkpoint, path, batch_of(runner), length)
        if warning:
            runner.logger.warning(warning)

    def before_save_checkpoint(self, runner, checkpoint):
        note_launch(checkpoint['meta'], batch_of(runner))


def describe_last(runner):
    """Which finite checkpoint a Runner has left."""
    return last_finite(
        runner.work_dir, runner.cfg.load_from if runner.cfg.get('resume') else None
    )


def batch_of(runner):
    """The batch of a Runner, as resuming.describe_batch has it."""
    return describe_batch(runner.world_size, runner.cfg.train_dataloader['batch_size'])
