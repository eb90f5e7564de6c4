"""mmaction v1's learning-rate rule, for mmengine: schedule and warm-up.

The regular rate of a config's lr_config changes by epoch: it is cosine, step
or fixed. During the first warmup_iters iterations a factor multiplies it,
which is warmup_ratio throughout (constant) or grows from that to 1 (linear).
"""

from . import HostError
from .config_keys import Keys


def schedulers_of(lr_config, epochs):
    """v1's rule as mmengine's schedulers, whose factors multiply.

    Args:
        lr_config (dict): of a v1 config; an empty one is a fixed rate.
        epochs (int): of the training.

    Returns:
        list[dict]: param_scheduler of a native config.

    Raises:
        HostError: a key that is missing or cannot be honoured.
    """
    lr = Keys('lr_config', lr_config)
    policy = lr.expect(
        'policy', ['cosine', 'CosineAnnealing', 'step', 'fixed'], 'fixed'
    )
    by_epoch = lr.take('by_epoch', True)
    warmup = _warmup(lr)
    schedulers = warmup + _regular(lr, policy, by_epoch, epochs, bool(warmup))
    lr.finish()
    return schedulers


def _warmup(lr):
    """The factor of the first iterations, as a list of at most one."""
    warmup = lr.expect('warmup', [None, 'linear', 'constant'], None)
    if not warmup:
        for key in ('warmup_iters', 'warmup_ratio', 'warmup_by_epoch'):
            lr.take(key, None)  # without effect in v1
        return []
    lr.expect('warmup_by_epoch', [False], False)
    iters = lr.take('warmup_iters')
    ratio = lr.take('warmup_ratio', 0.1)
    if not (isinstance(iters, int) and iters > 0 and 0 < ratio <= 1):
        raise HostError(
            f'lr_config.warmup_iters={iters!r} should be a positive int '
            f'and warmup_ratio={ratio!r} in (0, 1]'
        )
    factor = (
        dict(type='LinearLR', start_factor=ratio)
        if warmup == 'linear'
        else dict(type='ConstantLR', factor=ratio)
    )
    # The factor is 1 from iteration `iters` on, as in v1.
    return [dict(factor, by_epoch=False, begin=0, end=iters + 1)]


def _regular(lr, policy, by_epoch, epochs, has_warmup):
    """The rate by epoch, as a list of at most one."""
    if policy in ('cosine', 'CosineAnnealing'):
        # A rate above 0 at the end does not multiply with a warm-up.
        key = 'min_lr' if policy == 'CosineAnnealing' else 'target_lr'
        min_lr = lr.take(key, 0)
        if has_warmup and min_lr:
            raise HostError(
                f'lr_config.{key}={min_lr} cannot be honoured '
                f'together with a warm-up on mmaction2, only 0'
            )
        return [
            dict(
                type='CosineAnnealingLR',
                T_max=epochs,
                eta_min=min_lr,
                begin=0,
                end=epochs,
                by_epoch=True,
                convert_to_iter_based=not by_epoch,
            )
        ]
    if policy == 'step':
        lr.expect('by_epoch', [True], by_epoch)
        step, gamma = lr.take('step'), lr.take('gamma', 0.1)
        return [
            dict(type='StepLR', step_size=step, gamma=gamma)
            if isinstance(step, int)
            else dict(type='MultiStepLR', milestones=list(step), gamma=gamma)
        ]
    return []
