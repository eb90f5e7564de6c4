"""Steps of backbones by the clock, device busy and memory: benchmark.py."""

import gc
import json
import os
import tempfile
import time
import warnings
from collections import defaultdict

import torch

from analysis.benchmark_backbones import (
    build,
    first_line,
    make_input,
    make_step,
    set_precision,
    synchronize,
)
from analysis.benchmark_report import Report, combinations

COLUMNS = {
    'median_ms': ('ms', '.2f'),
    'p10_ms': ('p10', '.2f'),
    'p90_ms': ('p90', '.2f'),
    'ratio': ('ratio', '.3f'),
    'peak_gib': ('peak GiB', '.2f'),
    'device_ops': ('device ops', 'd'),
    'device_busy_ms': ('busy ms', '.2f'),
}


def prepare(setting, device):
    """Set what torch may use, and make the input."""
    set_precision(setting)
    torch.backends.cudnn.benchmark = True
    return make_input(setting, device)


def build_step(name, setting, args, x):
    """A backbone, and a function that runs a step of it; see make_step."""
    model = build(name, setting, args)
    return model, make_step(model, x, setting)


def measure_times(setting, names, args, build_step=build_step):
    """Time the backbones of one combination in turns.

    Args:
        setting (dict): a value for each of SETTINGS.
        names (list[str]): backbones, the reference first.
        build_step (callable): as :func:`build_step`.

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
        _, steps[name] = build_step(name, setting, args, x)
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


def measure_alone(name, setting, args, build_step=build_step):
    """Memory and device operations of a step, nothing else on the device.

    Args:
        name (str): of MODELS or MORE_MODELS.
        setting (dict): a value for each of SETTINGS.
        build_step (callable): as :func:`build_step`.

    Returns:
        dict: peak_gib, and what :func:`profile` gives. peak_gib is None with
        reduce-overhead, whose CUDA graphs keep memory of their own.
    """
    x = prepare(setting, args.device)
    model, step = build_step(name, setting, args, x)
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


def time_steps(args):
    """Measure all combinations.

    Raises:
        HostError: a measurement failed; after all of them.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device.type == 'cuda':
        torch.cuda.set_device(args.device)
    settings = combinations(args)
    report = Report(
        'backbones',
        COLUMNS,
        ('median_ms', 'ratio'),
        settings,
        args,
        repeats=args.repeats,
        warmup=args.warmup,
    )
    for setting in settings:
        report.add(setting, measure_times(setting, report.names, args))
        free(setting, args.device)
    if args.device.type == 'cuda':
        measure_all_alone(report, args)
    report.end()


def measure_all_alone(report, args, build_step=build_step):
    """Add memory and device operations to all rows.

    After all times: a profiler that ran once slows launching down.

    Args:
        report (Report): is written again after each row.
        build_step (callable): as :func:`build_step`.
    """
    for number, (setting, row) in enumerate(zip(report.settings, report.rows), 1):
        for name, result in row['models'].items():
            if 'error' in result:
                continue
            try:
                result.update(measure_alone(name, setting, args, build_step))
            except Exception as error:  # the times stay
                result['error'] = first_line(error)
            free(setting, args.device)
        report.write()
        print(
            f'[{number}/{len(report.settings)}] memory and device operations',
            flush=True,
        )
