#!/usr/bin/env python
"""Time backbones side by side, the first minute of one, or the training loop.

    python tools/analysis/benchmark.py --compare none dnr plain --precision tf32 bf16
    python tools/analysis/benchmark.py --root OTHER_CHECKOUT
    python tools/analysis/benchmark.py --cold
    python tools/analysis/benchmark.py --e2e CONFIG
    python tools/analysis/benchmark.py --e2e CONFIG --settings plain all bn bn+all
    torchrun --nproc_per_node 2 tools/analysis/benchmark.py --launcher pytorch --e2e ...

Backbones: none is the BatchNorm ResNet; dnr is ResNet_DNR; plain is it with
backend='plain'; torchvision is torchvision's ResNet without pooling and
classifier; --against FILE:CLASS adds any other, --root FOLDER the ResNet_DNR
of another checkout, such as of an older commit. The first is the reference of
the ratios. Options that take several values are measured in all combinations.

Steps (benchmark_steps.py). A step in training is forward and backward with a
fixed random gradient of the output, gradients set to None before it, no
optimizer; in evaluation, a forward without gradients. Input is random. The
backbones of a combination take turns, round after round in one process, so
that a drift of clocks or load meets all of them; times are by the clock of
the host, around bursts of steps that begin and end synchronized, so that
launching counts. The ratio is the median over the rounds of each round's own
ratio. The peak of memory is that of one step of a backbone alone, with its
parameters, input, output and gradients. --out has also how often each kernel
ran in a step, and how long.

With --cold (benchmark_cold.py), seconds that a user waits at first, with
empty kernel caches and each backbone in a fresh process: for the device
(start) and the model (build); for the first training step and a second one;
for the first step of another shape, half the clips of 5/7 of the size; for
the first evaluation, of 3 crops and 10 segments of a video, of 8/7 of the
size. With torch.compile (--compile MODE), in a process of its own, for the
first two training steps.

With --e2e (benchmark_training.py), the training of tools/train_recognizer.py
on mmaction2 runs for --iters iterations after a warm-up, without checkpoints
and validation, and gives clips a second over all processes. As many more are
taken apart, with a synchronization after each part, and as many again repeat
the step, hooks included, on one batch that is ready on the device: what the
loop would reach if data cost nothing. Each of --settings is words with + between
them: plain, bf16, fp16, channels-last, compile, reduce-overhead, cuda-graph, cudnn
(its search for the fastest algorithms), bn (the BatchNorm ResNet), and all, which is
bf16+channels-last+compile+cuda-graph and needs a GPU. --data frames and videos are of
340 x 256 (JPEG, H.264), made in --folder where they are not there yet. --out is
written after each.
"""

import argparse
import itertools
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

from hosts import HostError, run  # noqa: E402
from hosts.checks import check_out  # noqa: E402

from analysis.benchmark_backbones import (  # noqa: E402
    COMPILE,
    LAYOUTS,
    MODELS,
    PRECISIONS,
    import_torchvision,
    load_class,
    load_root,
)
from analysis.benchmark_cold import time_cold  # noqa: E402
from analysis.benchmark_steps import time_steps  # noqa: E402
from analysis.benchmark_training import (  # noqa: E402
    DATA,
    SETTINGS,
    settings_of,
    time_training,
)
from resnet_dnr import ResNet_DNR  # noqa: E402


def count(text):
    """An argparse type: an int of at least 1."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        '--out',
        metavar='FILE.json',
        help='write the results; of backbones, again after each\ncombination',
    )
    warmup = parser.add_argument(
        '--warmup',
        type=count,
        metavar='STEPS',
        help='untimed steps before (default: 5 on CUDA, 1 on a CPU)',
    )
    backbones = add_backbone_options(parser)
    steps = [warmup, *add_step_options(parser)]
    group = parser.add_argument_group('the first minute')
    group.add_argument(
        '--cold', action='store_true', help='fresh processes, empty kernel caches'
    )
    loop = add_loop_options(parser)

    args = parser.parse_args()
    for wrong, actions, text in (
        (args.e2e, backbones, 'not for --e2e, which takes what the config says'),
        (args.e2e, steps[1:], 'not for --e2e, which takes what the config says'),
        (args.cold, steps, 'not for --cold, which times first steps'),
        (args.cold and args.e2e, [loop[0]], 'not for --cold'),
        (not args.e2e, loop[1:], 'for --e2e CONFIG alone'),
    ):
        for action in actions if wrong else ():
            if getattr(args, action.dest) != action.default:
                parser.error(f'{action.option_strings[0]} is {text}')
    try:
        if args.out is not None:
            check_out(args.out, ('.json',))
        if not args.e2e:
            check(args)
        elif set(args.data) != {'config'} and not args.folder:
            raise HostError('--data frames and videos are made in --folder FOLDER')
        for words in args.settings:
            settings_of(words)
    except HostError as error:
        parser.error(str(error))
    return args


def add_backbone_options(parser):
    """What is built, and where it runs.

    Returns:
        list: of actions.
    """
    group = parser.add_argument_group('backbones')
    actions = [
        group.add_argument(
            '--compare',
            nargs='+',
            choices=MODELS,
            default=['none', 'dnr'],
            help='the first is the reference (default: none dnr)',
        ),
        group.add_argument(
            '--against',
            metavar='FILE:CLASS',
            help='one more, a class in a '
            'Python file; it gets those of depth,\nout_indices, bn_eval, '
            'n_segment, num_groups that it takes',
        ),
        group.add_argument(
            '--root',
            metavar='FOLDER',
            help='one more, ResNet_DNR of resnet_dnr.py in another checkout',
        ),
        group.add_argument(
            '--precision',
            nargs='+',
            choices=PRECISIONS,
            help='tf32 is float32 that may use TF32 (on a CPU, it is\n'
            'fp32); bf16 is autocast, with TF32 for the rest (default:\n'
            'tf32; with --cold and a compiler, bf16)',
        ),
        group.add_argument(
            '--layout',
            nargs='+',
            choices=LAYOUTS,
            default=LAYOUTS[:1],
            help=f'default: {LAYOUTS[0]}',
        ),
        group.add_argument(
            '--compile',
            nargs='+',
            choices=COMPILE,
            metavar='MODE',
            help=f'{", ".join(COMPILE)} (default: off; with --cold on CUDA,\n'
            'off reduce-overhead)',
        ),
    ]
    for name, default, text in (
        ('depth', 50, '18, 34, 50, 101 or 152'),
        ('clips', 8, 'N, clips a step'),
        ('frames', 8, 'T, frames a clip'),
        ('groups', 4, 'G, groups of frames, a divisor of T'),
        ('size', 224, 'height and width in pixels'),
    ):
        actions.append(
            group.add_argument(
                f'--{name}',
                nargs='+',
                type=count,
                default=[default],
                metavar='INT',
                help=f'{text} (default: {default})',
            )
        )
    actions += [
        group.add_argument(
            '--device',
            default='cuda' if torch.cuda.is_available() else 'cpu',
            help='cpu, cuda or cuda:INDEX (default: cuda where there is one)',
        ),
        group.add_argument(
            '--threads',
            type=count,
            metavar='INT',
            help="CPU threads (default: torch's)",
        ),
    ]
    return actions


def add_step_options(parser):
    """What steps alone have.

    Returns:
        list: of actions.
    """
    group = parser.add_argument_group('steps')
    return [
        group.add_argument(
            '--mode',
            nargs='+',
            choices=('train', 'eval'),
            default=['train'],
            help='default: train',
        ),
        group.add_argument(
            '--repeats',
            type=count,
            metavar='INT',
            help='timed rounds (default: 30 of 3 steps on CUDA, 5 of 1 on a CPU)',
        ),
    ]


def add_loop_options(parser):
    """What the training loop has.

    Returns:
        list: of actions, --e2e the first.
    """
    group = parser.add_argument_group('the training loop')
    return [
        group.add_argument(
            '--e2e', metavar='CONFIG', help="config file, in mmaction v1's schema"
        ),
        group.add_argument(
            '--settings',
            nargs='+',
            default=['plain'],
            metavar='WORDS',
            help=f'{", ".join(SETTINGS)},\nor several with + (default: plain)',
        ),
        group.add_argument(
            '--data',
            nargs='+',
            choices=DATA,
            default=DATA[:1],
            help="the config's, or made (default: config)",
        ),
        group.add_argument(
            '--folder',
            type=Path,
            help='of what is made, about 400 MB',
        ),
        group.add_argument(
            '--iters',
            type=count,
            metavar='INT',
            help='timed iterations, three times (default: 50 on CUDA, 5 on a CPU)',
        ),
        group.add_argument(
            '--cfg-options',
            nargs='+',
            metavar='KEY=VALUE',
            help='set values of the config',
        ),
        group.add_argument(
            '--launcher', default='none', choices=['none', 'pytorch', 'slurm', 'mpi']
        ),
    ]


def check(args):
    """What can be wrong before backbones are timed; fills in the defaults.

    Raises:
        HostError: what is wrong.
    """
    args.device = check_device(args.device)
    on_cuda = args.device.type == 'cuda'
    if args.cold:
        args.compile = args.compile or ['off', 'reduce-overhead'][: 1 + on_cuda]
    else:
        args.repeats = args.repeats or (30 if on_cuda else 5)
        args.warmup = args.warmup or (5 if on_cuda else 1)
        args.precision = args.precision or ['tf32']
        args.compile = args.compile or ['off']
    if len(set(args.compare)) < len(args.compare):
        raise HostError('--compare names a backbone twice')
    for depth in args.depth:
        if depth not in ResNet_DNR.arch_settings:
            raise HostError(
                f'--depth {depth} should be one of {list(ResNet_DNR.arch_settings)}'
            )
    for frames, groups in itertools.product(args.frames, args.groups):
        if frames % groups:
            raise HostError(
                f'--groups {groups} does not divide '
                f'--frames {frames}; all combinations of '
                f'the two are measured'
            )
    if 'torchvision' in args.compare:
        import_torchvision()
    if args.against:
        load_class(args.against)
    if args.root:
        load_root(args.root)


def check_device(name):
    """The device of that name, of those that there are.

    Returns:
        torch.device: on CUDA with an index.

    Raises:
        HostError: there is none.
    """
    wrong = f'--device {name} should be cpu, cuda or cuda:INDEX'
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise HostError(wrong) from error
    if device.type not in ('cpu', 'cuda'):
        raise HostError(wrong)
    if device.type == 'cpu':
        return device
    devices = torch.cuda.device_count()
    if (device.index or 0) >= devices:
        raise HostError(f'--device {name}: there are {devices} CUDA devices')
    return torch.device('cuda', device.index or 0)


if __name__ == '__main__':
    args = parse_args()
    run(
        time_cold if args.cold else time_training if args.e2e else time_steps,
        args,
    )
