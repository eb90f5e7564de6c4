"""What both hosts check of a running training, and note in its checkpoints."""

import contextlib
import errno
import math

import numpy as np
import torch
import torch.distributed as dist

from . import HostError
from .backbones import unseen_of
from .checkpoint_folder import newest_checkpoint, training_id
from .processes import launch_id

# A full disk, a quota, a limit of the size of files, and a disk that fails.
UNWRITABLE = errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO


def check_loss(loss, epoch, iteration, epoch_length, fallback):
    """A loss is a finite number.

    Args:
        loss (float): of one iteration, on this process.
        epoch, iteration (int): of it, counted from 1.
        epoch_length (int): iterations an epoch.
        fallback (callable): gives what :func:`last_finite` returns.

    Raises:
        HostError: it is not.
    """
    if not math.isfinite(loss):
        raise HostError(
            f'the loss is {loss} in epoch {epoch}, iteration {iteration} of '
            f'{epoch_length}. {fallback()}. A lower optimizer.lr or a longer '
            f'lr_config.warmup_iters may help'
        )


def check_state(model, epoch, fallback):
    """Weights and running statistics are finite, before they are saved.

    Args:
        model (nn.Module): trained.
        epoch (int): counted from 1.
        fallback (callable): gives what :func:`last_finite` returns.

    Raises:
        HostError: a tensor is not; the text names it.
    """
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise HostError(
                f'{name} is not finite after epoch {epoch}, which is not '
                f'saved. {fallback()}. A lower optimizer.lr or a longer '
                f'lr_config.warmup_iters may help'
            )


def one_clip_warning(model, clips):
    """What to say of a training whose statistics are of single clips.

    docs/small_batches.md has what evaluation's running ones make of it.

    Args:
        model (nn.Module): to be trained, perhaps wrapped; set to training mode here,
            which leaves the layers in evaluation mode that a backbone freezes.
        clips (int): that a process takes together.

    Returns:
        str | None: None where there are several, or no layer takes their statistics.
    """
    synchronized = dist.is_initialized() and dist.get_world_size() > 1
    if clips > 1:
        return None
    model.train()
    names = [
        name
        for name, module in model.named_modules()
        if module.training
        and getattr(module, 'running_mean', None) is not None
        and not (synchronized and isinstance(module, torch.nn.SyncBatchNorm))
    ]
    if not names:
        return None
    return (
        f'data.videos_per_gpu=1: {len(names)} layers, the first '
        f'{names[0].removeprefix("module.")}, take their statistics of a single clip. '
        'The running statistics of evaluation differ from these, so an evaluation can '
        'fail although the network has learned: use 2 clips or more'
    )


def last_finite(work_dir, begun_from):
    """Which checkpoint a training that must stop has left.

    Args:
        work_dir (str | Path): of the training.
        begun_from (str | None): the checkpoint that it was resumed from.

    Returns:
        str: a sentence without its full stop. What is saved is finite.
    """
    path = None
    with contextlib.suppress(HostError):  # it has some, and none is whole
        path, _ = newest_checkpoint(work_dir, say=lambda line: None)
    path = path or begun_from
    if path is None:
        return 'No checkpoint has been written yet'
    return f'The last checkpoint with finite weights is {path}'


@contextlib.contextmanager
def naming_folder(work_dir, begun_from):
    """Say which folder cannot be written, and what is safe in it.

    Args:
        work_dir (str | Path): of the training in the block.
        begun_from (str | None): the checkpoint that it was resumed from.

    Raises:
        HostError: in place of an OSError that says that a disk is full, or
            cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise HostError(
            f'cannot write {error.filename or f"in {work_dir}"}: '
            f'{error.strerror}. {last_finite(work_dir, begun_from)}'
        ) from error


def check_scores(scores, path=None):
    """The scores of a test are finite.

    Args:
        scores (list[np.ndarray]): one a video, in the order of the list.
        path (str | None): the file that they are from; None: of the model.

    Raises:
        HostError: some are not; the text has the first one's place.
    """
    bad = [n for n, score in enumerate(scores, 1) if not np.isfinite(score).all()]
    if bad:
        raise HostError(
            (f'{path}: ' if path else '')
            + f'the scores of {len(bad)} of {len(scores)} videos are not finite, '
            f'first of video {bad[0]} of the list'
            + (
                ''
                if path
                else ': there are no results to write. The weights of the '
                'checkpoint may be the reason'
            )
        )


def seed_epoch(seed, epoch, rank):
    """Seed PyTorch for an epoch, so that a resumed training draws the same.

    Args:
        seed (int): of the training.
        epoch (int): counted from 0.
        rank (int): of the process.
    """
    torch.manual_seed(drawn_seed(seed, epoch, rank))


def drawn_seed(*parts):
    """One seed out of several numbers.

    Args:
        *parts (int): not negative.

    Returns:
        int: below 2 ** 32.
    """
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def note_launch(meta, work_dir, train_list, batch, speed, backbone, seed=None):
    """Note in a checkpoint's meta what resuming and testing it want to know.

    Args:
        meta (dict): of the checkpoint.
        work_dir (str | Path): where it goes.
        train_list (str | None): of resuming.list_digest.
        batch (dict): of resuming.describe_batch.
        speed (dict): of speed.speed_of.
        backbone (dict): model.backbone of the config.
        seed (int | None): of the training; None where meta has it.
    """
    meta.update(
        batch,
        speed=speed,
        launch=launch_id(),
        training=training_id(work_dir),
        train_list=train_list,
        backbone=unseen_of(backbone),
    )
    if seed is not None:
        meta['seed'] = seed
