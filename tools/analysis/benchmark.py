#!/usr/bin/env python
"""Time backbones side by side, or the training loop.

    python tools/analysis/benchmark.py --compare none dnr plain --precision tf32 bf16
    python tools/analysis/benchmark.py --e2e CONFIG
    torchrun --nproc_per_node 2 tools/analysis/benchmark.py --launcher pytorch --e2e ...

Backbones: none is the BatchNorm ResNet; dnr is ResNet_DNR; plain is it with
backend='plain'; torchvision is torchvision's ResNet without pooling and
classifier; --against FILE:CLASS adds any other. The first is the reference
of the ratios. Options that take several values are measured in all
combinations.

A step in training is forward and backward with a fixed random gradient of the
output, gradients set to None before it, no optimizer; in evaluation, a
forward without gradients. Input is random. The backbones of a combination
take turns, round after round in one process, so that a drift of clocks or
load meets all of them; times are by the clock of the host, around bursts of
steps that begin and end synchronized, so that launching counts. The ratio is
the median over the rounds of each round's own ratio. The peak of memory is
that of one step of a backbone alone, with its parameters, input, output and
gradients. --out has also how often each kernel ran in a step, and how long.

With --e2e, the training of tools/train_recognizer.py on mmaction2 runs for
--iters iterations after a warm-up, without checkpoints and validation, and
gives clips a second over all processes. As many more are taken apart, with a
synchronization after each part, and as many again repeat the step, hooks
included, on one batch that is ready on the device: what the loop would reach
if data cost nothing.
"""

import argparse
import gc
import importlib.util
import inspect
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

from hosts import HostError, run  # noqa: E402
from hosts.checks import check_out  # noqa: E402

from resnet_dnr import ResNet_DNR  # noqa: E402

MODELS = ('none', 'dnr', 'plain', 'torchvision')
PRECISIONS = ('tf32', 'bf16', 'fp32')
LAYOUTS = ('contiguous', 'channels_last')
COMPILE = ('off', 'default', 'reduce-overhead')
# What a combination is made of, in the order of the table's columns.
SETTINGS = (
    'mode',
    'precision',
    'layout',
    'compile',
    'depth',
    'clips',
    'frames',
    'groups',
    'size',
)
COLUMNS = {
    'median_ms': ('ms', '.2f'),
    'p10_ms': ('p10', '.2f'),
    'p90_ms': ('p90', '.2f'),
    'ratio': ('ratio', '.3f'),
    'peak_gib': ('peak GiB', '.2f'),
    'device_ops': ('device ops', 'd'),
    'device_busy_ms': ('busy ms', '.2f'),
}
WIDTH = 120  # of the table, in characters


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
        '--warmup',
        type=count,
        metavar='STEPS',
        help='untimed steps before (default: 5 on CUDA, 1 on a CPU)',
    )
    parser.add_argument(
        '--out',
        metavar='FILE.json',
        help='write the results; of backbones, again after each\ncombination',
    )

    group = parser.add_argument_group('backbones')
    backbones = [
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
    ]
    for name, choices, text in (
        ('mode', ('train', 'eval'), ''),
        (
            'precision',
            PRECISIONS,
            '; tf32 is float32 that may use TF32 '
            '(on a CPU, it is\nfp32); bf16 is autocast, with TF32 for the '
            'rest',
        ),
        ('layout', LAYOUTS, ''),
        ('compile', COMPILE, ''),
    ):
        backbones.append(
            group.add_argument(
                f'--{name}',
                nargs='+',
                choices=choices,
                default=[choices[0]],
                help=f'default: {choices[0]}{text}',
            )
        )
    for name, default, text in (
        ('depth', 50, '18, 34, 50, 101 or 152'),
        ('clips', 8, 'N, clips a step'),
        ('frames', 8, 'T, frames a clip'),
        ('groups', 4, 'G, groups of frames, a divisor of T'),
        ('size', 224, 'height and width in pixels'),
    ):
        backbones.append(
            group.add_argument(
                f'--{name}',
                nargs='+',
                type=count,
                default=[default],
                metavar='INT',
                help=f'{text} (default: {default})',
            )
        )
    backbones += [
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
        group.add_argument(
            '--repeats',
            type=count,
            metavar='INT',
            help='timed rounds (default: 30 of 3 steps on CUDA, 5 of 1 on a CPU)',
        ),
    ]

    group = parser.add_argument_group('the training loop')
    group.add_argument(
        '--e2e', metavar='CONFIG', help="config file, in mmaction v1's schema"
    )
    loop = [
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

    args = parser.parse_args()
    for action in backbones if args.e2e else loop:
        if getattr(args, action.dest) != action.default:
            parser.error(
                f'{action.option_strings[0]} is '
                + (
                    'not for --e2e, which takes what the config says'
                    if args.e2e
                    else 'for --e2e CONFIG alone'
                )
            )
    try:
        if args.out is not None:
            check_out(args.out, ('.json',))
        if not args.e2e:
            check(args)
    except HostError as error:
        parser.error(str(error))
    return args


def check(args):
    """What can be wrong before backbones are timed; fills in the defaults.

    Raises:
        HostError: what is wrong.
    """
    try:
        args.device = torch.device(args.device)
    except RuntimeError as error:
        raise HostError(
            f'--device {args.device} should be cpu, cuda or cuda:INDEX'
        ) from error
    if args.device.type not in ('cpu', 'cuda'):
        raise HostError(f'--device {args.device} should be cpu, cuda or cuda:INDEX')
    devices = torch.cuda.device_count()
    if args.device.type == 'cuda' and (args.device.index or 0) >= devices:
        raise HostError(f'--device {args.device}: there are {devices} CUDA devices')
    on_cuda = args.device.type == 'cuda'
    if on_cuda:
        args.device = torch.device('cuda', args.device.index or 0)
    args.repeats = args.repeats or (30 if on_cuda else 5)
    args.warmup = args.warmup or (5 if on_cuda else 1)
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
    args.against_class = load_class(args.against) if args.against else None


def import_torchvision():
    """The package.

    Raises:
        HostError: it is not installed, or is for another torch.
    """
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        raise HostError(
            f'torchvision cannot be imported ({first_line(error)}); install '
            f'the one for torch {torch.__version__}, or leave torchvision '
            f'out of --compare'
        ) from error
    return torchvision


def load_class(against):
    """The class that FILE:CLASS names.

    Raises:
        HostError: there is no such file or class, or the file cannot be
            imported on its own.
    """
    path, _, name = against.rpartition(':')
    if not path or not name:
        raise HostError(f'--against {against} should be FILE:CLASS')
    if not os.path.isfile(path) or not path.endswith('.py'):
        raise HostError(f'--against: {path} is no Python file')
    spec = importlib.util.spec_from_file_location('benchmarked', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it can be anything: it is the user's code
        raise HostError(
            f'--against: {path} cannot be imported on its own '
            f'({first_line(error)}). Relative imports, such as of a '
            f"framework's registry, must be taken out of a copy"
        ) from error
    cls = getattr(module, name, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        raise HostError(f'--against: {path} has no torch.nn.Module named {name}')
    return cls


def first_line(error):
    """The type and the first line of an exception's text.

    A line that ends in a colon, as torch.compile's first does, takes the next
    one along.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = ' '.join(lines[: 2 if lines and lines[0].endswith(':') else 1])
    return f'{type(error).__name__}: {text}'


def backbone_arguments(setting):
    """Keyword arguments of ResNet_DNR, or of a class like it."""
    return dict(
        depth=setting['depth'],
        out_indices=(3,),
        bn_eval=False,
        n_segment=setting['frames'],
        num_groups=setting['groups'],
    )


def not_taken(cls, setting):
    """Those of the keyword arguments that a class's signature lacks."""
    parameters = inspect.signature(cls).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {}
    names = {p.name for p in parameters}
    return {
        key: value
        for key, value in backbone_arguments(setting).items()
        if key not in names
    }


def build(name, setting, args):
    """A backbone with its initial weights, on the device and compiled.

    Args:
        name (str): of MODELS, or 'against'.
        setting (dict): a value for each of SETTINGS.

    Returns:
        nn.Module: takes (clips * frames, 3, size, size).
    """
    torch.manual_seed(0)
    if name == 'torchvision':
        resnet = getattr(import_torchvision().models, f'resnet{setting["depth"]}')()
        model = torch.nn.Sequential(*list(resnet.children())[:-2])
    elif name == 'against':
        left_out = not_taken(args.against_class, setting)
        model = args.against_class(
            **{
                key: value
                for key, value in backbone_arguments(setting).items()
                if key not in left_out
            }
        )
    else:
        model = ResNet_DNR(
            **backbone_arguments(setting),
            dnr='none' if name == 'none' else 'both',
            backend='plain' if name == 'plain' else 'auto',
        )
    if hasattr(model, 'init_weights'):
        model.init_weights()
    model.train(setting['mode'] == 'train')
    model.to(args.device, memory_format=memory_format(setting))
    if setting['compile'] != 'off':
        model = torch.compile(model, mode=setting['compile'], dynamic=False)
    return model


def memory_format(setting):
    return (
        torch.channels_last
        if setting['layout'] == 'channels_last'
        else torch.contiguous_format
    )


def make_step(model, x, setting):
    """A function of no arguments that runs one step.

    Args:
        model (nn.Module): takes x and returns one tensor.
        x (Tensor): (clips * frames, 3, size, size).
        setting (dict): a value for each of SETTINGS.
    """
    grad = None

    def forward():
        if setting['compile'] == 'reduce-overhead':
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(
            x.device.type, torch.bfloat16, enabled=setting['precision'] == 'bf16'
        ):
            out = model(x)
        if not isinstance(out, torch.Tensor):
            raise TypeError(
                f'the backbone returns a {type(out).__name__}, not one tensor'
            )
        return out

    def train():
        nonlocal grad
        model.zero_grad(set_to_none=True)
        out = forward()
        if grad is None:
            grad = torch.randn_like(out)
        out.backward(grad)

    @torch.no_grad()
    def evaluate():
        forward()

    return train if setting['mode'] == 'train' else evaluate


def synchronize(device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def prepare(setting, device):
    """Set what torch may use, and make the input.

    Returns:
        Tensor: (clips * frames, 3, size, size).
    """
    allow_tf32 = setting['precision'] != 'fp32'
    torch.set_float32_matmul_precision('high' if allow_tf32 else 'highest')
    torch.backends.cudnn.allow_tf32 = allow_tf32
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    x = torch.randn(
        setting['clips'] * setting['frames'],
        3,
        setting['size'],
        setting['size'],
        device=device,
    )
    return x.to(memory_format=memory_format(setting))


def measure_times(setting, names, args):
    """Time the backbones of one combination in turns.

    Args:
        setting (dict): a value for each of SETTINGS.
        names (list[str]): backbones, the reference first.

    Returns:
        dict: for each name a dict of COLUMNS' keys, those that
        :func:`measure_alone` measures None, or of 'error' alone. The ratio
        is None where the reference failed.
    """
    x = prepare(setting, args.device)
    steps, errors = {}, {}
    times = {name: [] for name in names}  # milliseconds a step

    def attempt(name, task):
        """Do a task of one backbone; where it fails, the others go on."""
        try:
            task()
            synchronize(args.device)
        except Exception as error:
            errors[name] = first_line(error)

    def warm_up():
        steps[name] = make_step(build(name, setting, args), x, setting)
        for _ in range(args.warmup):
            steps[name]()

    def time_burst():
        burst = 3 if args.device.type == 'cuda' else 1
        synchronize(args.device)
        start = time.perf_counter()
        for _ in range(burst):
            steps[name]()
        synchronize(args.device)
        times[name].append((time.perf_counter() - start) / burst * 1000)

    for name in names:
        attempt(name, warm_up)
    for _ in range(args.repeats):
        for name in names:
            if name not in errors:
                attempt(name, time_burst)
    results = {}
    for name in names:
        if name in errors:
            results[name] = dict(error=errors[name])
            continue
        own = torch.tensor(times[name], dtype=torch.float64)
        ratio = None
        if names[0] not in errors:
            reference = torch.tensor(times[names[0]], dtype=torch.float64)
            ratio = (own / reference).quantile(0.5).item()
        low, median, high = (own.quantile(q).item() for q in (0.1, 0.5, 0.9))
        results[name] = dict(
            median_ms=median,
            p10_ms=low,
            p90_ms=high,
            ratio=ratio,
            peak_gib=None,
            device_ops=None,
            device_busy_ms=None,
        )
    return results


def measure_alone(name, setting, args):
    """Memory and device operations of a step, nothing else on the device.

    Args:
        name (str): of MODELS, or 'against'.
        setting (dict): a value for each of SETTINGS.

    Returns:
        dict: peak_gib, and what :func:`profile` gives. peak_gib is None with
        reduce-overhead, whose CUDA graphs keep memory of their own.
    """
    x = prepare(setting, args.device)
    model = build(name, setting, args)
    step = make_step(model, x, setting)
    for _ in range(args.warmup):
        step()
    peak = None
    if setting['compile'] != 'reduce-overhead':
        model.zero_grad(set_to_none=True)
        synchronize(args.device)
        torch.cuda.reset_peak_memory_stats(args.device)
        step()
        synchronize(args.device)
        peak = torch.cuda.max_memory_allocated(args.device) / 2**30
    return dict(peak_gib=peak, **profile(step, args.device))


def profile(step, device):
    """What a step does on the device.

    Returns:
        dict: device_ops, the number of kernels, copies and fills;
        device_busy_ms, the sum of their durations in milliseconds; kernels,
        from the first 60 characters of their names, without the number that
        a compiler puts behind, to [number, milliseconds], the longest first.
        All None where the profiler sees no device.
    """
    from torch.profiler import ProfilerActivity

    # What torch 2.11 warns of, several cycles, is not done here.
    warnings.filterwarnings('ignore', 'Warning: Profiler clears events')
    with torch.profiler.profile(
        activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]
    ) as profiler:
        step()
        synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'trace.json')
        profiler.export_chrome_trace(path)
        with open(path) as file:
            events = json.load(file)['traceEvents']
    durations = defaultdict(list)  # in milliseconds
    for event in events:
        if event.get('cat') in ('kernel', 'gpu_memcpy', 'gpu_memset'):
            name = event['name'][:60].rstrip('_0123456789')
            durations[name].append(event['dur'] / 1000)
    if not durations:
        return dict(device_ops=None, device_busy_ms=None, kernels=None)
    kernels = {
        name: [len(times), round(sum(times), 4)] for name, times in durations.items()
    }
    return dict(
        device_ops=sum(map(len, durations.values())),
        device_busy_ms=sum(map(sum, durations.values())),
        kernels=dict(sorted(kernels.items(), key=lambda item: -item[1][1])),
    )


def free(setting, device):
    """Give back what a combination held."""
    if setting['compile'] != 'off':
        torch._dynamo.reset()
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()


def describe_run(device):
    """What a result is of: versions, device, date, commit, command line.

    And the host: its cores, and how many processes have been at work or waited
    for one in the last minute.
    """
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    commit = None
    if (ROOT / '.git').exists():
        git = subprocess.run(
            [
                'git',
                '-C',
                str(ROOT),
                'describe',
                '--always',
                '--dirty',
                '--abbrev=40',
                '--exclude=*',
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        commit = git.stdout.strip() or None
    return dict(
        command=shlex.join(sys.argv),
        date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
        commit=commit,
        device=(
            torch.cuda.get_device_name(device)
            if device.type == 'cuda'
            else f'CPU ({platform.machine()})'
        ),
        cores=os.cpu_count(),
        load_average=round(os.getloadavg()[0], 1),
        versions=dict(
            python=platform.python_version(),
            torch=torch.__version__,
            triton=triton_version,
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
        ),
    )


def write_json(path, content, indent=1):
    """Write to a temporary name beside path, then rename."""
    temporary = f'{path}.{os.getpid()}.tmp'
    with open(temporary, 'w') as file:
        json.dump(content, file, indent=indent)
        file.write('\n')
    os.replace(temporary, path)


def show(value, form):
    return '-' if value is None else format(value, form)


def print_table(rows):
    """Print what all rows have in common, and a line a backbone."""
    varying = [key for key in SETTINGS if len({row[key] for row in rows}) > 1]
    print(
        '\n'
        + ', '.join(f'{key} {rows[0][key]}' for key in SETTINGS if key not in varying)
    )
    lines = [[*varying, 'backbone', *(name for name, _ in COLUMNS.values())]]
    errors = {}
    for row in rows:
        for name, result in row['models'].items():
            line = [str(row[key]) for key in varying] + [name]
            if 'error' in result:
                errors[len(lines)] = result['error']
            else:
                line += [show(result[key], form) for key, (_, form) in COLUMNS.items()]
            lines.append(line)
    widths = [
        max(len(line[i]) for line in lines if i < len(line))
        for i in range(len(lines[0]))
    ]
    names = len(varying) + 1
    for number, line in enumerate(lines):
        text = '  '.join(
            cell.ljust(width) if i < names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        )
        if number in errors:
            text += f'  {errors[number]}'
        print(text[:WIDTH])


def time_backbones(args):
    """Measure all combinations.

    Raises:
        HostError: a measurement failed; after all of them.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device.type == 'cuda':
        torch.cuda.set_device(args.device)
    names = args.compare + (['against'] if args.against else [])
    content = dict(
        benchmark='backbones',
        reference=names[0],
        against=args.against,
        repeats=args.repeats,
        warmup=args.warmup,
        threads=torch.get_num_threads(),
        **describe_run(args.device),
        rows=[],
    )
    print(
        f'{content["device"]}, torch {torch.__version__}; '
        f'{args.repeats} rounds; the reference is {names[0]}',
        flush=True,
    )
    if args.against:
        print(f'against is {args.against}')
    settings = [
        dict(zip(SETTINGS, values))
        for values in itertools.product(*(getattr(args, key) for key in SETTINGS))
    ]
    for number, setting in enumerate(settings, 1):
        row = dict(setting)
        if args.against:
            row['against_not_taken'] = not_taken(args.against_class, setting)
            if row['against_not_taken']:
                print(
                    'note: against takes no '
                    + ', '.join(
                        f'{key}={value!r}'
                        for key, value in row['against_not_taken'].items()
                    )
                    + ' and has a value of its own',
                    flush=True,
                )
        row['models'] = measure_times(setting, names, args)
        free(setting, args.device)
        content['rows'].append(row)
        if args.out:
            write_json(args.out, content)
        print(
            f'[{number}/{len(settings)}] '
            + ' '.join(str(value) for value in setting.values())
            + ': '
            + ', '.join(
                f'{name} {r["error"]}'
                if 'error' in r
                else f'{name} {r["median_ms"]:.2f} ms ({show(r["ratio"], ".3f")})'
                for name, r in row['models'].items()
            ),
            flush=True,
        )
    if args.device.type == 'cuda':
        measure_all_alone(content, settings, args)
    print_table(content['rows'])
    if args.out:
        print(f'wrote {args.out}')
    failed = sum(
        'error' in result
        for row in content['rows']
        for result in row['models'].values()
    )
    if failed:
        raise HostError(f'{failed} measurement(s) failed, see above')


def measure_all_alone(content, settings, args):
    """Add memory and device operations to all rows.

    After all times: a profiler that ran once slows launching down.

    Args:
        content (dict): what --out gets, again after each row.
        settings (list[dict]): those of the rows.
    """
    for number, (setting, row) in enumerate(zip(settings, content['rows']), 1):
        for name, result in row['models'].items():
            if 'error' in result:
                continue
            try:
                result.update(measure_alone(name, setting, args))
            except Exception as error:  # the times stay
                result['error'] = first_line(error)
            free(setting, args.device)
        if args.out:
            write_json(args.out, content)
        print(f'[{number}/{len(settings)}] memory and device operations', flush=True)


class LoopDone(Exception):
    """Ends the training loop after the iterations wanted."""


class LoopTimer:
    """Times the iterations of a training loop, first whole, then in parts.

    The parts of an iteration are laps of one stopwatch: 'data', waiting for
    the loader; 'transfer', collation to the device and normalization;
    'compute', forward, backward and optimizer; and 'other', the hooks, such
    as logging.

    Args:
        warmup (int): iterations before.
        iters (int): iterations that are timed whole, then in parts.
        device (torch.device): synchronized with.
    """

    def __init__(self, warmup, iters, device):
        self.warmup = warmup
        self.iters = iters
        self.device = device
        self.done = 0  # iterations
        self.last = None  # time of the last lap, None outside of the parts
        self.laps = dict.fromkeys(('data', 'transfer', 'compute', 'other'), 0)

    def lap(self, part):
        """Add the time since the last lap to a part, in seconds."""
        if self.last is not None:
            synchronize(self.device)
            now = time.perf_counter()
            self.laps[part] += now - self.last
            self.last = now

    def end_iteration(self, batch):
        """Count an iteration.

        Raises:
            LoopDone: it was the last; holds the batch.
        """
        self.lap('other')
        self.done += 1
        if self.done == self.warmup:
            synchronize(self.device)
            self.start = time.perf_counter()
        elif self.done == self.warmup + self.iters:
            synchronize(self.device)
            self.last = time.perf_counter()
            self.seconds = self.last - self.start
        elif self.done == self.warmup + 2 * self.iters:
            self.last = None
            raise LoopDone(batch)


def add_timer(runner, preprocessor, timer):
    """Have a LoopTimer told where a Runner's loop stands.

    Args:
        runner (mmengine.runner.Runner): gets two hooks.
        preprocessor (nn.Module): of the runner's model.
        timer (LoopTimer): it.
    """
    from mmengine.hooks import Hook

    class FirstHook(Hook):
        """Before the other hooks."""

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            timer.lap('data')

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            timer.lap('compute')

    class LastHook(Hook):
        """After the other hooks."""

        def before_train_epoch(self, runner):
            timer.lap('other')

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            timer.end_iteration(data_batch)

    runner.register_hook(FirstHook(), priority='HIGHEST')
    runner.register_hook(LastHook(), priority='LOWEST')
    preprocessor.register_forward_pre_hook(lambda *_: timer.lap('other'))
    preprocessor.register_forward_hook(lambda *_: timer.lap('transfer'))


class Ready(torch.nn.Module):
    """Stands for a data preprocessor and returns what that has returned.

    Args:
        data (dict): a batch on the device.
    """

    def __init__(self, data):
        super().__init__()
        self.data = data

    def forward(self, data, training=False):
        return self.data


def time_training(args):
    """Time the training loop that a config describes."""
    if os.environ.get('MMACTION_ROOT'):
        raise HostError('--e2e times the loop of mmaction2: unset MMACTION_ROOT')
    from hosts import mmaction2

    on_cuda = torch.cuda.is_available()
    iters = args.iters or (50 if on_cuda else 5)
    warmup = args.warmup or (5 if on_cuda else 1)
    options = None
    if args.cfg_options:
        parser = argparse.ArgumentParser()
        parser.add_argument('--cfg-options', nargs='+', action=mmaction2.DictAction)
        options = parser.parse_args(['--cfg-options', *args.cfg_options]).cfg_options
    cfg = mmaction2.translate(mmaction2.load_config(args.e2e, options))
    cfg.default_hooks.checkpoint = None
    cfg.train_cfg.max_epochs = warmup + 2 * iters  # of an iteration or more
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = mmaction2.build_runner(cfg, args.launcher)
        model = getattr(runner.model, 'module', runner.model)
        device = next(model.parameters()).device
        timer = LoopTimer(warmup, iters, device)
        add_timer(runner, model.data_preprocessor, timer)
        try:
            runner.train()
        except LoopDone as end:
            batch = end.args[0]
        # Ends persistent workers, for which torch has no public way: they
        # would read on beside what is timed now, and the exit wait for them.
        runner.train_dataloader._iterator = None
        with torch.no_grad():
            ready = model.data_preprocessor(batch, True)
        model.data_preprocessor = Ready(ready)
        for done in range(warmup + iters):
            if done == warmup:
                synchronize(device)
                start = time.perf_counter()
            runner.train_loop.run_iter(done, batch)
        synchronize(device)
        seconds = time.perf_counter() - start
    processes, rank = runner.world_size, runner.rank
    mmaction2.leave_group()
    if rank == 0:
        report_training(
            args, timer, seconds, processes, cfg.train_dataloader.batch_size
        )


def report_training(args, timer, seconds, processes, clips):
    """Print and write what was measured.

    Args:
        timer (LoopTimer): after the loop.
        seconds (float): of timer.iters steps on a batch on the device.
        processes (int): how many trained.
        clips (int): a step and process.
    """
    total = timer.iters * processes * clips
    content = dict(
        benchmark='training',
        config=args.e2e,
        cfg_options=args.cfg_options,
        processes=processes,
        clips=clips,
        iters=timer.iters,
        warmup=timer.warmup,
        **describe_run(timer.device),
        clips_per_s=total / timer.seconds,
        on_device_clips_per_s=total / seconds,
        fraction=seconds / timer.seconds,
        parts_ms={
            part: value / timer.iters * 1000 for part, value in timer.laps.items()
        },
    )
    print(
        f'\n{content["device"]}, {processes} process(es), {clips} clips a '
        f'step and process, {timer.iters} iterations'
    )
    print(f'training loop        {content["clips_per_s"]:10.1f} clips/s')
    print(f'one batch on device  {content["on_device_clips_per_s"]:10.1f} clips/s')
    print(f'loop / device        {content["fraction"]:10.3f}')
    print(
        'parts of a step      '
        + ', '.join(
            f'{part} {value:.1f} ms' for part, value in content['parts_ms'].items()
        )
        + ' (synchronized, mean)'
    )
    if args.out:
        write_json(args.out, content)
        print(f'wrote {args.out}')


if __name__ == '__main__':
    args = parse_args()
    run(time_training if args.e2e else time_backbones, args)
