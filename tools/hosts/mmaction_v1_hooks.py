"""What mmaction v1's training lacks, as hooks of mmcv's Runner.

Installed before v1's script makes its Runner, by replacing three of its
methods, as v1's script leaves no other way in.
"""

import functools
import os

import mmcv
import torch
import torch.distributed as dist
from mmcv.runner import EpochBasedRunner, Hook
from whole_files import replacing

from .checkpoint_folder import begin_training, link_latest
from .lists import doubts_of
from .resuming import (
    batch_warning,
    check_optimizer,
    describe_batch,
    list_digest,
    list_warning,
    put_back,
    settings_of,
)
from .speed import changes, speed_of
from .training_state import (
    check_loss,
    check_state,
    last_finite,
    note_launch,
    one_clip_warning,
    seed_epoch,
)


class FaithfulTrainingHook(Hook):
    """Nothing is saved that is not finite, and a resumed epoch draws the same.

    Args:
        seed (int | None): of the training; None seeds nothing.
        resumed (str | None): the checkpoint that was resumed.
        meta (dict | None): what it has noted.
    """

    def __init__(self, seed, resumed, meta):
        self.seed = seed
        self.resumed, self.meta = resumed, meta
        self.begun = False

    def before_train_epoch(self, runner):
        if self.seed is not None:  # the loader's workers are seeded by this
            seed_epoch(self.seed, runner.epoch, runner.rank)

    def after_train_iter(self, runner):
        if not self.begun and runner.rank == 0:
            begin_training(runner.work_dir, self.resumed, self.meta)
        self.begun = True
        check_loss(
            runner.outputs['log_vars']['loss'],
            runner.epoch + 1,
            runner.inner_iter + 1,
            len(runner.data_loader),
            lambda: last_finite(runner.work_dir, self.resumed),
        )

    def after_train_epoch(self, runner):
        check_state(
            runner.model.module,
            runner.epoch + 1,
            lambda: last_finite(runner.work_dir, self.resumed),
        )


class CountReplacedHook(Hook):
    """Logs after each epoch how many videos were replaced, in all processes."""

    def after_train_epoch(self, runner):
        count = torch.tensor(runner.data_loader.dataset.replacements.take_count())
        if torch.cuda.is_available():
            count = count.cuda()
        dist.all_reduce(count)
        runner.logger.info(
            f'broken videos were replaced {int(count)} times in this epoch '
            '(skip_broken)'
        )


def install(cfg, seed, resumed, checkpoint, validate):
    """Have the training of v1's script keep what both hosts promise.

    Args:
        cfg (mmcv.Config): of the training, in mmaction v1's schema.
        seed (int | None): of the training.
        resumed (str | None): the checkpoint that it resumes.
        checkpoint (dict | None): what read_checkpoint returned of it.
        validate (bool): whether epochs are validated.
    """
    from mmcv.runner import epoch_based_runner

    batch = describe_batch(dist.get_world_size(), cfg.data.videos_per_gpu)
    ann_file = cfg.data.train.get('ann_file')
    train_list = list_digest(ann_file)
    speed = speed_of(cfg)
    resume, run = EpochBasedRunner.resume, EpochBasedRunner.run
    save = epoch_based_runner.save_checkpoint
    if checkpoint:  # without the weights, which go when they are loaded
        noted = {name: checkpoint[name] for name in ('meta', 'optimizer')}
        noted['meta'] = dict(noted['meta'])

    @functools.wraps(resume)
    def resume_settings(self, *args, **kwargs):
        settings = settings_of(self.optimizer)
        check_optimizer(
            dict(cfg.optimizer), self.optimizer.param_groups, noted, resumed
        )
        resume(self, *args, **kwargs)
        put_back(self.optimizer, settings)
        # Else the checkpoint's would be saved as those of the epochs to come.
        self.meta = None

    @functools.wraps(run)
    def run_checked(self, data_loaders, *args, **kwargs):
        meta = noted['meta'] if resumed else None
        hook = FaithfulTrainingHook(seed, resumed, meta)
        self.register_hook(hook, priority='VERY_HIGH')
        if getattr(data_loaders[0].dataset, 'skip_broken', False):
            self.register_hook(CountReplacedHook())
        length = len(data_loaders[0])
        warning = one_clip_warning(self.model, cfg.data.videos_per_gpu)
        if warning:
            self.logger.warning(warning)
        datasets = [cfg.data.train] + [cfg.data.val] * validate
        for line in doubts_of(
            *(
                (data.type, data.get('ann_file'), data.get('img_prefix'))
                for data in datasets
            )
        ):
            self.logger.warning(line)
        if resumed:
            for warning in (
                batch_warning(noted, resumed, batch, length),
                list_warning(noted, resumed, ann_file),
                changes(speed, noted['meta'], resumed),
            ):
                if warning:
                    self.logger.warning(warning)
            # Iterations are counted in batches of now: Runner.resume sets the
            # same attribute.
            self._iter = self.epoch * length
        run(self, data_loaders, *args, **kwargs)

    @functools.wraps(save)
    def save_whole(model, filename, *args, meta=None, **kwargs):
        meta = dict(meta or {})
        folder = os.path.dirname(filename)
        note_launch(meta, folder, train_list, batch, speed, cfg.model.backbone, seed)
        with replacing(filename) as temporary:
            save(model, temporary, *args, meta=meta, **kwargs)

    EpochBasedRunner.resume, EpochBasedRunner.run = resume_settings, run_checked
    epoch_based_runner.save_checkpoint = save_whole
    mmcv.symlink = link_latest
