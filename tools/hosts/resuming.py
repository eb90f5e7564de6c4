"""Going on with a training, by one rule on both hosts.

What counts comes from the checkpoint: weights, running statistics, the
optimizer's averages, the number of epochs behind it. What is set comes from
the command and the config: rates, schedule, number of epochs, batch. A
resumed training has the rates that a training from the start with the same
settings has at that epoch.
"""

import functools
import hashlib
import os

import torch
from checkpoint_files import check_resumable, read_checkpoint
from whole_files import remove_unfinished

from . import HostError
from .checkpoint_folder import checkpoints_in, newest_checkpoint
from .config_values import is_number
from .options import SEEDS, check_arguments, is_seed
from .processes import launch_id, may_restart, on_first_rank


class Resumption:
    """What a training goes on from, if anything.

    Args:
        path (str | None): the checkpoint.
        checkpoint (dict | None): what read_checkpoint returned, where it has
            been read.
    """

    def __init__(self, path=None, checkpoint=None):
        self.path = path
        self.checkpoint = checkpoint


def begin(lock, resume_from, resume):
    """Begin a training in its work_dir, which is made and locked.

    Args:
        lock (FolderLock): on the work_dir.
        resume_from (str | None): the checkpoint that the command names.
        resume (bool): go on from the newest whole checkpoint in work_dir.

    Returns:
        Resumption: the same path in every process, with the checkpoint read.

    Raises:
        HostError: the work_dir cannot be had, another training has it, or
            there is no such checkpoint.
    """
    own = Resumption()

    def on_first():
        try:
            os.makedirs(lock.folder, exist_ok=True)
        except OSError as error:
            raise HostError(
                f'cannot make work_dir {lock.folder}: {error.strerror}'
            ) from error
        lock.acquire()
        remove_unfinished(lock.folder)
        nonlocal own
        own = choose_checkpoint(lock.folder, resume_from, resume)
        if own.path and own.checkpoint is None:  # before anything is said of it
            own = Resumption(own.path, read_checkpoint(own.path))
        _tell_earlier(lock.folder, own.path)
        return own.path

    path = on_first_rank(on_first)
    if path and own.checkpoint is None:
        own = Resumption(path, read_checkpoint(path))
    return own


def _tell_earlier(work_dir, path):
    """Say that a training, which goes on from path, writes over another one's."""
    earlier = list(checkpoints_in(work_dir).values())
    folder = os.path.realpath(os.path.dirname(path)) if path else None
    if earlier and folder != os.path.realpath(work_dir):
        print(
            f'{work_dir} has checkpoints of an earlier training, up to '
            f'{os.path.basename(earlier[-1])}: this one replaces those of its epochs '
            'and leaves the others. From its first step on, --resume goes on with this '
            'one',
            flush=True,
        )


def choose_checkpoint(work_dir, resume_from, resume):
    """What a training goes on from. Reads it only to choose.

    With resume, and after a restart for what this launch has written, that is
    the newest whole checkpoint in work_dir. Without one, it is resume_from.

    Args:
        work_dir (str | Path): of the training.
        resume_from (str | None): the checkpoint that the command names.
        resume (bool): go on from the newest whole checkpoint in work_dir.

    Returns:
        Resumption

    Raises:
        HostError: work_dir holds checkpoints and none is whole.
    """
    again = launch_id() is not None and may_restart()
    if not (resume or again):
        return Resumption(resume_from)
    try:
        path, checkpoint = newest_checkpoint(work_dir)
    except HostError:
        if resume:
            raise
        path, checkpoint = None, None  # it was not asked to go on from those
    ours = path and checkpoint.get('meta', {}).get('launch') == launch_id()
    if path is None and resume and not resume_from:
        print(
            f'{work_dir} holds no checkpoint to go on from: training starts at its '
            'beginning'
        )
    if path is None or not (resume or (again and ours)):
        return Resumption(resume_from)
    print(f'resuming from {path}', flush=True)
    return Resumption(path, checkpoint)


def is_done(checkpoint, path, total_epochs, keys, asked):
    """Whether a checkpoint, which must be one to go on from, is the last.

    Args:
        checkpoint (dict): what read_checkpoint returned.
        path (str): where it is from.
        total_epochs (int): of the training.
        keys (tuple[str]): what it must have besides the weights.
        asked (bool): the command names this checkpoint.

    Returns:
        bool: True where nothing is left to do, and path was not asked for.

    Raises:
        HostError: it lacks something, or has as many epochs behind it and
            was asked for, or has more.
    """
    check_resumable(checkpoint, path, keys)
    done = checkpoint['meta']['epoch']
    if done > total_epochs or (asked and done == total_epochs):
        raise HostError(
            f'{path} has {done} of total_epochs={total_epochs} behind it: '
            f'there is nothing to go on with'
        )
    if done == total_epochs:
        print(f'all {done} epochs are done: {path}', flush=True)
    return done == total_epochs


def choose_seed(asked, checkpoint, path):
    """The seed of a training that goes on: the one that it began with.

    Args:
        asked (int | None): --seed.
        checkpoint (dict): what read_checkpoint returned.
        path (str): where it is from.

    Returns:
        int | None: None where neither has one.

    Raises:
        HostError: the two differ, or the checkpoint's is none.
    """
    began = checkpoint['meta'].get('seed')
    if began is not None and not is_seed(began):
        raise HostError(
            f"{path} cannot be resumed: its 'meta.seed' is {began!r:.60}, "
            f'and should be {SEEDS}'
        )
    if None not in (asked, began) and asked != began:
        raise HostError(
            f'--seed {asked} cannot take effect: {path} was trained with '
            f'--seed {began}, which orders its epochs. Leave --seed out'
        )
    return began if asked is None else asked


def describe_batch(processes, videos_per_gpu, accumulate=1):
    """The batch, as checkpoints note it under meta.

    Args:
        processes (int): of the training.
        videos_per_gpu (int): clips a process.
        accumulate (int): batches a step.

    Returns:
        dict
    """
    return dict(
        processes=processes, videos_per_gpu=videos_per_gpu, accumulate=accumulate
    )


def _words(batch):
    text = '{processes} x {videos_per_gpu} clips'.format(**batch)
    parts = batch.get('accumulate', 1)  # older checkpoints have none
    return text if parts == 1 else f'{text}, {parts} times a step'


def batch_warning(checkpoint, path, batch, epoch_length):
    """What to say where the batch is not that of the checkpoint.

    Args:
        checkpoint (dict): what read_checkpoint returned.
        path (str): where it is from.
        batch (dict): of :func:`describe_batch`, now.
        epoch_length (int): iterations of an epoch, now.

    Returns:
        str | None
    """
    meta = checkpoint['meta']
    now = _words(batch)
    if all(key in meta for key in ('processes', 'videos_per_gpu')):
        before = _words({key: meta[key] for key in batch if key in meta})
        if before == now:
            return None
        changed = f'the batch is {now}, and that of {path} was {before}'
    elif meta.get('iter') not in (None, meta['epoch'] * epoch_length):
        before = round(meta['iter'] / meta['epoch'])
        changed = (
            f'an epoch has {epoch_length} iterations, and those of {path} '
            f'had {before}: the batch or the data are others'
        )
    else:
        return None
    return (
        f'{changed}. optimizer.lr and lr_config.warmup_iters are taken as the '
        f'config has them, for the batch of now'
    )


def list_digest(path):
    """What changes with a list of videos, as checkpoints note it under meta.

    Args:
        path (str | None): of the list.

    Returns:
        str | None: of its content; None where it cannot be read as a file.
    """
    try:
        with open(path, 'rb') as file:
            return hashlib.sha256(file.read()).hexdigest()
    except (OSError, TypeError):
        return None


def list_warning(checkpoint, path, ann_file):
    """What to say where the training's list is not that of the checkpoint.

    Args:
        checkpoint (dict): what read_checkpoint returned.
        path (str): where it is from.
        ann_file (str | None): the list, now.

    Returns:
        str | None
    """
    before = checkpoint['meta'].get('train_list')
    if before in (None, list_digest(ann_file)):
        return None
    return (
        f'{ann_file} has another content than the list that {path} was trained on: '
        'the epochs to come have other clips, or other labels'
    )


def settings_of(optimizer):
    """An optimizer's settings, to be put back after its state is loaded.

    Args:
        optimizer (torch.optim.Optimizer): as the config makes it.

    Returns:
        list[dict]: of each group of parameters.
    """
    return [
        {name: value for name, value in group.items() if name != 'params'}
        for group in optimizer.param_groups
    ]


def put_back(optimizer, settings):
    """Undo what loading a state has done to an optimizer's settings.

    Args:
        optimizer (torch.optim.Optimizer): a state is loaded into it.
        settings (list[dict]): of :func:`settings_of`.
    """
    for group, values in zip(optimizer.param_groups, settings):
        for name in set(group) - set(values) - {'params'}:
            del group[name]
        group.update(values)
        # Loading has put the number of steps where the state's settings want it.
        on_device = values.get('fused') or values.get('capturable')
        for parameter in group['params']:
            state = optimizer.state.get(parameter, {})
            if torch.is_tensor(state.get('step')):
                device = parameter.device if on_device else 'cpu'
                state['step'] = state['step'].to(device)


def check_optimizer(config, groups, checkpoint, path):
    """A checkpoint's optimizer is of the config's kind.

    Another rate or another weight decay is. Another type is not: its averages
    cannot be gone on with.

    Args:
        config (dict): the optimizer of a v1 config.
        groups (list[dict]): of the optimizer that it makes.
        checkpoint (dict): what read_checkpoint returned, with an optimizer.
        path (str): where it is from.

    Raises:
        HostError: it is of another kind, or for other parameters.
    """
    state = checkpoint['optimizer']
    start = f'To start from its weights: --cfg-options load_from={path}'
    try:
        sizes = [len(group['params']) for group in state['param_groups']]
        kept = {
            name
            for values in state['state'].values()
            for name, value in values.items()
            if value is not None
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise HostError(f'{path} has no state of an optimizer. {start}') from error
    if sizes != [len(group['params']) for group in groups]:
        raise HostError(
            f'the optimizer of {path} has other groups of parameters than '
            f'optimizer.paramwise_cfg makes. {start}'
        )
    needed = set(_kept_by(config))
    if kept != needed:
        raise HostError(
            f'optimizer.type={config["type"]!r} with these settings keeps '
            f'{_list(needed)} for each parameter, and {path} has '
            f'{_list(kept)}: it was trained with another optimizer. {start}'
        )
    fault = _state_fault(config, groups, state)
    if fault:
        raise HostError(f'the optimizer of {path} does not fit: {fault}. {start}')


def _state_fault(config, groups, state):
    """What of an optimizer's state its parameters cannot go on with.

    Args:
        config (dict): the optimizer of a v1 config.
        groups (list[dict]): of the optimizer that it makes.
        state (dict): of a checkpoint, with as many parameters in each group.

    Returns:
        str | None
    """
    parameters = {}
    for group, saved in zip(groups, state['param_groups']):
        parameters.update(zip(map(repr, saved['params']), group['params']))
    shapes = functools.lru_cache(None)(functools.partial(_kept_by, config))
    for number, values in state['state'].items():
        parameter = parameters.get(repr(number))
        if parameter is None:
            return f'it has a state of parameter {number!r}, which is in no group'
        needed = shapes(parameter.shape)
        for name, value in values.items():
            if value is None:
                continue
            tensor = torch.is_tensor(value)
            shape = value.shape if tensor else () if is_number(value) else None
            where = f'{name} of parameter {number}'
            if shape is None or tuple(shape) != needed[name]:
                what = f'a tensor of {tuple(shape)}' if tensor else repr(value)[:60]
                return f'{where} is {what}, and should have shape {needed[name]}'
            if tensor and not bool(torch.isfinite(value).all()):
                return f'{where} is not finite'
    return None


def check_settings(config):
    """An optimizer is one of PyTorch's, and can be made with its settings.

    Args:
        config (dict): the optimizer of a v1 config.

    Raises:
        HostError: it cannot; the text says why.
    """
    if not hasattr(torch.optim, config.get('type', '')):
        raise HostError(
            f'optimizer.type={config.get("type")!r} is no optimizer of PyTorch'
        )
    kind = getattr(torch.optim, config['type'])
    check_arguments('optimizer', kind, _arguments(config), given=('params',))
    try:
        _kept_by(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise HostError(
            f'optimizer={dict(config)!r} cannot be made: {error}'
        ) from error


def _arguments(config):
    """An optimizer's arguments, without those of the hosts."""
    return {
        name: value
        for name, value in config.items()
        if name not in ('type', 'paramwise_cfg')
    }


def _kept_by(config, shape=(1,)):
    """What an optimizer keeps for a parameter of a shape.

    Args:
        config (dict): the optimizer of a v1 config.
        shape (tuple[int]): of the parameter.

    Returns:
        dict[str, tuple[int]]: the shape of each, by name; () for a number.
    """
    parameter = torch.nn.Parameter(torch.zeros(shape))
    parameter.grad = torch.zeros(shape)
    optimizer = getattr(torch.optim, config['type'])([parameter], **_arguments(config))
    optimizer.step()
    state = optimizer.state[parameter]
    return {
        name: tuple(getattr(value, 'shape', ()))
        for name, value in state.items()
        if value is not None
    }


def _list(names):
    return ' and '.join(sorted(names)) or 'nothing'
