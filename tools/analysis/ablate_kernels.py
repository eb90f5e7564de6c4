#!/usr/bin/env python
"""Time a training step with each trick of the kernels taken away, on a GPU.

    python tools/analysis/ablate_kernels.py --clips 1 8 --out FILE.json

ResNet-50 in bf16 and channels last, as tools/analysis/benchmark.py times it:
the variants take turns in one process, and the BatchNorm ResNet is the
reference. A trick is taken away by a function or a number of
resnet_dnr_fused.py that is replaced while its variant runs.
"""

import argparse
import functools
import sys
from pathlib import Path
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

from hosts import HostError, run  # noqa: E402
from hosts.checks import check_out  # noqa: E402

import resnet_dnr_fused as fused  # noqa: E402
from analysis import benchmark_steps  # noqa: E402
from analysis.benchmark_backbones import SETTINGS  # noqa: E402
from analysis.benchmark_report import Report  # noqa: E402


class ByName(fused._Launch):
    """Launched as ``kernel[grid](...)``, which finds the compiled kernel each time."""

    def __call__(self, stream, *tensors_and_flags):
        self.kernel[self.grid](*tensors_and_flags, *self.numbers, **self.options)


class WithTensors(fused._Launch):
    """Launched with tensors, on a stream that Triton asks for at each launch."""

    def __call__(self, stream, *tensors_and_flags):
        self.run(*tensors_and_flags, *self.numbers)


# What is replaced in resnet_dnr_fused.py, by what a variant is without.
VARIANTS = {
    'nothing': {},
    "teams: one program runs a clip's relay": dict(_team=lambda *_: (1, False)),
    'few long programs: 32 a processor': dict(PROGRAMS=32),
    'plans: kernel[grid] looks for each kernel': dict(_Launch=ByName),
    'pointers and one stream a pass': dict(_Launch=WithTensors),
    'one vector of weights a stage': dict(join=lambda relay, x: relay),
    'kernels: torch operations, aten': dict(choose=lambda *_: 'aten'),
    'kernels: torch operations, plain': dict(choose=lambda *_: 'plain'),
}


@functools.lru_cache(None)
def plans_of(name):
    """A variant's cache of plans, in place of resnet_dnr_fused.py's."""
    return functools.lru_cache(None)(fused._Plan)


def without(name):
    """The context in which a variant runs."""
    return mock.patch.multiple(fused, _cached_plan=plans_of(name), **VARIANTS[name])


def build_step(name, setting, args, x):
    """As benchmark_steps.build_step, of the reference or of a variant."""
    if name == 'none':
        return benchmark_steps.build_step(name, setting, args, x)
    model, step = benchmark_steps.build_step('dnr', setting, args, x)

    def step_without():
        with without(name):
            step()

    return model, step_without


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--out', metavar='FILE.json', help='write the results')
    parser.add_argument(
        '--clips', nargs='+', type=int, default=[8], help='N, clips a step (default: 8)'
    )
    parser.add_argument('--repeats', type=int, default=10, help='rounds of three steps')
    args = parser.parse_args()
    if min(args.clips) < 1 or args.repeats < 1:
        parser.error('--clips and --repeats are at least 1')
    return args


def ablate(args):
    """Measure, print and write.

    Raises:
        HostError: there is no GPU that Triton's kernels run on.
    """
    if args.out is not None:
        check_out(args.out, ('.json',))
    why_not = fused.why_not_triton('cuda', torch.bfloat16, torch.float32, 64)
    if not torch.cuda.is_available() or why_not:
        raise HostError(f'the kernels need a GPU: {why_not or "there is no CUDA"}')
    args.device = torch.device('cuda', torch.cuda.current_device())
    args.warmup, args.compare, args.threads = 3, ['none', *VARIANTS], None
    args.against = args.root = None
    fixed = dict(
        mode='train',
        precision='bf16',
        layout='channels_last',
        compile='off',
        depth=50,
        frames=8,
        groups=4,
        size=224,
    )
    settings = [
        {key: dict(fixed, clips=clips)[key] for key in SETTINGS} for clips in args.clips
    ]
    columns = benchmark_steps.COLUMNS
    report = Report(
        'ablation',
        columns,
        ('median_ms', 'ratio'),
        settings,
        args,
        repeats=args.repeats,
        warmup=args.warmup,
    )
    for setting in settings:
        results = benchmark_steps.measure_times(setting, report.names, args, build_step)
        report.add(setting, results)
        benchmark_steps.free(setting, args.device)
    benchmark_steps.measure_all_alone(report, args, build_step)
    report.end()


if __name__ == '__main__':
    run(ablate, parse_args())
