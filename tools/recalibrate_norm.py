#!/usr/bin/env python
"""Estimate a checkpoint's running statistics anew, from training clips.

    tools/recalibrate_norm.py CONFIG CHECKPOINT OUT

For checkpoints whose statistics are not those that training normalized by: of
the published code, which kept one pair a layer for all groups of frames, or
with a moving average that lags behind the weights. OUT is CHECKPOINT, the
optimizer included, with other running_mean and running_var; a dynamic
normalization's have shape (G, C), unless running_stats='shared'. Prints the
accuracy on data.val before and after.

Every normalization runs on its batch's own statistics, as in training; the
rest of the network (dropout) as in evaluation. bn_eval=True is overruled.
Those of frozen_stages alone stay as they are: training itself used their
running statistics, so the weights above fit these.

A statistic is the exact population mean and variance of what a layer saw in
all batches (precise batch normalization: Wu and Johnson, "Rethinking 'Batch'
in BatchNorm", 2021). What libraries have does not fit: mmengine 0.10 and
mmaction2 1.1 have none; torch.optim.swa_utils.update_bn and fvcore's
update_bn_stats see nn.BatchNorm alone, and the former averages the variances
within batches, which leaves out the variance between them.

Batches are of data.videos_per_gpu clips by the training pipeline, drawn with
a fixed seed: a second run writes the same statistics. Batch number b goes to
process b modulo the number of processes, so that without random crops and
flips their number does not matter either.
"""

import argparse
import functools
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hosts import HostError, need_mmaction2, run  # noqa: E402

need_mmaction2('tools/recalibrate_norm.py')

from hosts.processes import end_quietly, end_with_launcher  # noqa: E402

if __name__ == '__main__':  # and before imports that take seconds
    end_quietly()
    end_with_launcher()

import torch  # noqa: E402
from checkpoint_files import (  # noqa: E402
    fill_model,
    local_file,
    read_checkpoint,
    write_checkpoint,
)
from hosts.checks import check_out  # noqa: E402
from hosts.mmaction2 import (  # noqa: E402
    build_runner,
    leave_group,
    load_config,
    model_of,
    translate,
)
from hosts.options import add_cfg_options  # noqa: E402
from rich.progress import track  # noqa: E402
from torch.nn.modules.batchnorm import _BatchNorm  # noqa: E402

from resnet_dnr import DynamicNorm, from_published_name  # noqa: E402

STATISTICS = ('running_mean', 'running_var')


def choose_norms(model):
    """The normalizations to estimate, put into training mode.

    Args:
        model (nn.Module): a recognizer with a ResNet_DNR as its backbone; all
            else in it is put into evaluation mode.

    Returns:
        dict[str, nn.Module]: by name; those of frozen stages are left out.
    """
    model.eval()
    backbone = model.backbone
    frozen = []
    if backbone.frozen_stages >= 0:
        frozen = ['backbone.bn1.'] + [
            f'backbone.{name}.'
            for name in backbone.res_layers[: backbone.frozen_stages]
        ]
    return {
        name: module.train()
        for name, module in model.named_modules()
        if isinstance(module, (DynamicNorm, _BatchNorm))
        and not f'{name}.'.startswith(tuple(frozen))
    }


def groups_of(norm):
    """Groups of frames that a normalization standardizes by themselves."""
    return norm.num_groups if isinstance(norm, DynamicNorm) else 1


def add_batch(total, norm, inputs):
    """Add a batch to a layer's sums; a forward pre-hook of the layer.

    Args:
        total (Tensor): (3, G, C) float64: the number of values, their sum,
            and the sum of their squares.
        norm (nn.Module): the layer, of G groups.
        inputs (tuple): its arguments; the first is (N * T, C, H, W).
    """
    x = inputs[0]
    groups = groups_of(norm)
    frames = norm.n_segment // groups if groups > 1 else 1
    # (N * T, C, H, W) -> (N, G, t, C, H, W)
    x = x.reshape(-1, groups, frames, *x.shape[1:])
    var, mean = torch.var_mean(x, dim=(0, 2, 4, 5), unbiased=False)
    var, mean = var.double(), mean.double()  # (G, C)
    count = x.numel() / mean.numel()
    total += count * torch.stack((torch.ones_like(mean), mean, var + mean.square()))


@torch.no_grad()
def estimate(model, norms, batches):
    """Mean and variance of what layers see, over the batches of all processes.

    Args:
        model (BaseModel): a recognizer whose norms are in training mode.
        norms (dict[str, nn.Module]): the layers, by name.
        batches (iterable): what a training data loader yields; processes may
            have different numbers of them, or none.

    Returns:
        dict[str, Tensor]: running_mean and running_var (biased, over all
        values) under their names in the state dict, shaped as the model's
        own, float64.

    Raises:
        HostError: a statistic is not finite.
    """
    from mmengine import dist

    totals, hooks = {}, []
    for name, norm in norms.items():
        totals[name] = torch.zeros(
            3,
            groups_of(norm),
            norm.running_mean.shape[-1],
            dtype=torch.float64,
            device=norm.running_mean.device,
        )
        hooks.append(
            norm.register_forward_pre_hook(functools.partial(add_batch, totals[name]))
        )
    for batch in batches:
        model(**model.data_preprocessor(batch, training=True), mode='tensor')
    for hook in hooks:
        hook.remove()
    statistics = {}
    for name, total in totals.items():
        dist.all_reduce(total)
        if norms[name].running_mean.dim() == 1:  # one for all groups
            total = total.sum(1)
        count, first, second = total
        mean = first / count
        # Rounding can bring the variance of a dead channel below 0.
        var = (second / count - mean.square()).clamp(min=0)
        for key, value in zip(STATISTICS, (mean, var)):
            if not value.isfinite().all():
                raise HostError(
                    f'the {key} of {name} is not finite: the weights have diverged'
                )
            statistics[f'{name}.{key}'] = value
    return statistics


def share_of_batches(clips, batch_size, count, rank, world_size):
    """The clips that one process sees.

    Args:
        clips (int): in the training set.
        batch_size (int): clips a batch.
        count (int): batches of all processes; not more than it takes to see
            every clip, for which the last batch is filled up.
        rank, world_size (int): this process, and how many there are.

    Returns:
        list[int]: numbers of clips, whole batches of them.
    """
    order = torch.randperm(clips, generator=torch.Generator().manual_seed(0)).tolist()
    order *= -(-batch_size // clips) + 1
    count = min(count, -(-clips // batch_size))
    return [
        clip
        for batch in range(rank, count, world_size)
        for clip in order[batch * batch_size : (batch + 1) * batch_size]
    ]


def build_batches(runner, loader, count):
    """The data loader of this process's share of the batches.

    Args:
        runner (Runner): mmengine's.
        loader (dict): train_dataloader of a native config.
        count (int): batches of all processes.

    Returns:
        DataLoader: yields what the training loop gets.
    """
    from mmengine.dist import get_dist_info

    def share(dataset, seed):
        """A sampler, as mmengine builds it for a data set."""
        return share_of_batches(
            len(dataset), loader.batch_size, count, *get_dist_info()
        )

    # mmengine copies what it gets: a config, since not every data set can be copied.
    return runner.build_dataloader(dict(loader, sampler=dict(type=share)), seed=0)


def replace_statistics(state, statistics):
    """Put statistics into a checkpoint's state dict, under its own names.

    Args:
        state (dict[str, Tensor]): changed in place; names may be the
            published code's and begin with 'module.'.
        statistics (dict[str, Tensor]): as :func:`estimate` returns them;
            float32 in the state dict.
    """
    names = {from_published_name(name.removeprefix('module.')): name for name in state}
    for name, value in statistics.items():
        state[names[name]] = value.float().cpu()


def write_out(out, checkpoint):
    """Write OUT whole, or nothing.

    Raises:
        HostError: it cannot be written.
    """
    try:
        write_checkpoint(out, checkpoint)
    except OSError as error:
        raise HostError(f'cannot write OUT {out}: {error.strerror}') from error


def check_files(checkpoint, out):
    """OUT can be written, and is not CHECKPOINT.

    Raises:
        HostError: it cannot, or is.
    """
    if os.path.realpath(out) == os.path.realpath(checkpoint):
        raise HostError(f'OUT {out} is CHECKPOINT itself: give another name')
    check_out(out, ('.pth', '.pt'), 'OUT')
    free = shutil.disk_usage(os.path.dirname(out) or '.').free
    needed = os.path.getsize(checkpoint)
    if free < needed:
        raise HostError(
            f'cannot write OUT {out}: it takes {needed >> 20} '
            f'MiB, {free >> 20} MiB are free there'
        )


def recalibrate(args):
    """Run the command.

    Args:
        args (argparse.Namespace): of :func:`parse_args`.

    Raises:
        HostError: what a user can mend.
    """
    if args.batches < 1:
        raise HostError(f'--batches {args.batches} should be at least 1')
    cfg = translate(
        load_config(args.config, args.cfg_options),
        validate=True,
        splits=('train', 'val'),
    )
    checkpoint = read_checkpoint(args.checkpoint)
    check_files(local_file(args.checkpoint), args.out)
    if cfg.model.backbone.type != 'ResNet_DNR':
        raise HostError(
            f'model.backbone.type={cfg.model.backbone.type!r} cannot be recalibrated, '
            'only ResNet_DNR'
        )
    cfg.load_from = cfg.model.backbone.pretrained = None  # of the training's start
    cfg.randomness = dict(seed=0)
    runner = build_runner(cfg, args.launcher)
    model = model_of(runner)
    fill_model(model, checkpoint['state_dict'], args.checkpoint)
    batches = build_batches(runner, cfg.train_dataloader, args.batches)

    before = runner.val()
    norms = choose_norms(model)
    statistics = estimate(
        model, norms, track(batches, 'Estimating', disable=runner.rank != 0)
    )
    replace_statistics(checkpoint['state_dict'], statistics)
    if runner.rank == 0:
        write_out(args.out, checkpoint)
    # What was written is what is evaluated.
    fill_model(model, checkpoint['state_dict'], args.out)
    after = runner.val()
    if runner.rank == 0:
        print(f'wrote {args.out}: statistics of {len(norms)} normalizations')
        for name, key in (
            ('Mean Class', 'mean1'),
            ('Top-1', 'top1'),
            ('Top-5', 'top5'),
        ):
            print(
                f'{name} Accuracy = {100 * before[f"acc/{key}"]:.02f} '
                f'before, {100 * after[f"acc/{key}"]:.02f} after'
            )
    leave_group()


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="config file, in mmaction v1's schema")
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('out', help='checkpoint to write, .pth')
    parser.add_argument(
        '--batches',
        type=int,
        default=200,
        metavar='N',
        help='batches of all processes together, once through '
        'the training clips at most (default: %(default)s)',
    )
    parser.add_argument(
        '--launcher', default='none', choices=['none', 'pytorch', 'slurm', 'mpi']
    )
    add_cfg_options(parser)
    return parser.parse_args()


if __name__ == '__main__':
    run(recalibrate, parse_args())
