"""The first minute that a user has: benchmark.py --cold.

Each backbone of a row has a process of its own (this file, run as a script),
whose kernel caches are empty folders of its own; nothing of it is in the
process that asks. In it, seconds by the clock, each from synchronized to
synchronized:

    start       the device's context, and one small convolution, forward and
                backward: what any program waits for, of whatever backbone
    build       importing the backbone's file, with the host that is installed,
                and the model on the device
    first       the first training step
    second      another one like it
    shape       the first training step of another shape: half the clips, 5/7
                of the size, by default 4 clips of 160 x 160
    evaluation  the first evaluation of a video: 10 segments, 3 crops, 8/7 of
                the size, by default 240 images of 256 x 256

With torch.compile, those up to the second step; with reduce-overhead, the
second is that which records the CUDA graph. cudnn.benchmark is off, as it
is in training unless a config says otherwise. `kernels` is the number that
Triton compiled, by the binaries in the caches: in all, and by phase.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == '__main__':  # the process that measures
    sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

import torch  # noqa: E402
from whole_files import write_json  # noqa: E402

from analysis.benchmark_backbones import (  # noqa: E402
    SETTINGS,
    autocast,
    build,
    first_line,
    make_input,
    make_step,
    memory_format,
    set_precision,
    synchronize,
)
from analysis.benchmark_report import Report, combinations  # noqa: E402

COLUMNS = {
    'start_s': ('start s', '.2f'),
    'build_s': ('build', '.2f'),
    'first_s': ('first step', '.2f'),
    'second_s': ('second', '.3f'),
    'shape_s': ('other shape', '.2f'),
    'evaluation_s': ('evaluation', '.2f'),
    'kernels': ('kernels', 'd'),
}
CACHES = ('TRITON_CACHE_DIR', 'TORCHINDUCTOR_CACHE_DIR')
BINARIES = ('*.cubin', '*.hsaco')  # of Triton, in its cache: a kernel each
KEYS = tuple(key for key in SETTINGS if key != 'mode')
CROPS, SEGMENTS = 3, 10  # of a video in evaluation, of `frames` images each


def other_shape(setting):
    """The same, of half the clips and 5/7 of the size, a multiple of 32."""
    return dict(
        setting,
        clips=setting['clips'] // 2 or 2,
        size=max(32, setting['size'] * 5 // 7 // 32 * 32),
    )


def evaluation(setting):
    """The same, of a video's crops at 8/7 of the size, a multiple of 32."""
    return dict(
        setting,
        mode='eval',
        clips=CROPS * SEGMENTS,
        size=max(32, setting['size'] * 8 // 7 // 32 * 32),
    )


def cold_settings(args):
    """The rows.

    --precision is of all; by default, tf32 without a compiler and bf16 with it.
    """
    return [
        setting
        for mode in args.compile
        for setting in combinations(
            Namespace(
                **dict(
                    vars(args),
                    compile=[mode],
                    precision=args.precision or ['tf32' if mode == 'off' else 'bf16'],
                )
            ),
            KEYS,
        )
    ]


def time_cold(args):
    """Measure all combinations.

    Raises:
        HostError: a measurement failed; after all of them.
    """
    settings = cold_settings(args)
    report = Report('cold', COLUMNS, ('first_s',), settings, args)
    for setting in settings:
        results = {}
        for name in report.names:
            results[name] = measure(dict(setting, mode='train'), name, args)
        images = {
            key: [of['clips'] * of['frames'], of['size']]
            for key, of in (
                ('first_s', setting),
                ('shape_s', other_shape(setting)),
                ('evaluation_s', evaluation(setting)),
            )
        }
        report.add(setting, results, images=images)
    report.end()


def measure(setting, name, args):
    """One backbone in a process of its own.

    Args:
        setting (dict): a value for each of SETTINGS.
        name (str): of the backbone.
        args (argparse.Namespace): of the command line.

    Returns:
        dict: of COLUMNS' keys, None for what was not measured, and
        'kernels_by_phase'; and 'error' where it failed, beside what it had
        measured by then.
    """
    folder = Path(tempfile.mkdtemp())
    try:
        return measure_in(folder, setting, name, args)
    finally:  # a compiler's own processes may still be writing there
        shutil.rmtree(folder, ignore_errors=True)


def measure_in(folder, setting, name, args):
    """The same, with the files of the process in a folder."""
    caches = {name: str(folder / 'caches' / name) for name in CACHES}
    for path in caches.values():
        os.makedirs(path)
    task = dict(
        setting=setting,
        name=name,
        device=str(args.device),
        threads=args.threads,
        against=args.against,
        root=args.root,
    )
    write_json(folder / 'task.json', task)
    with open(folder / 'log', 'w') as log:
        process = subprocess.run(
            [sys.executable, __file__, str(folder)],
            env=dict(os.environ, **caches),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    result = dict.fromkeys(COLUMNS)
    path = folder / 'result.json'
    if path.exists():
        result.update(json.loads(path.read_text()))
    if process.returncode and 'error' not in result:
        with open(folder / 'log', errors='replace') as log:
            last = ''.join(deque(log, 1)).strip()
        result['error'] = f'exit status {process.returncode}: {last}'
    return result


class Phases:
    """Times the phases of this process, and writes each when it is over.

    Args:
        device (torch.device): to synchronize with.
        folder (Path): has the caches, and gets result.json.
    """

    def __init__(self, device, folder):
        self.device, self.folder = device, folder
        self.result = dict(kernels=0, kernels_by_phase={})

    def time(self, name, task):
        """Do a task, a phase of that name.

        Returns:
            what the task returns.
        """
        start = time.perf_counter()
        returned = task()
        synchronize(self.device)
        self.result[f'{name}_s'] = time.perf_counter() - start
        kernels = self.count_kernels()
        self.result['kernels_by_phase'][name] = kernels - self.result['kernels']
        self.result['kernels'] = kernels
        self.write()
        return returned

    def count_kernels(self):
        """The binaries that Triton has compiled so far.

        Each is in a folder named by a hash; a copy, in a cache of the
        compiler's own, counts once.
        """
        return len(
            {
                path.parts[-2:]
                for pattern in BINARIES
                for path in (self.folder / 'caches').rglob(pattern)
            }
        )

    def write(self):
        write_json(self.folder / 'result.json', self.result)


def start_device(setting, device):
    """A small convolution, forward and backward."""
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    x = torch.randn(2, 3, 32, 32, device=device)
    convolution = torch.nn.Conv2d(3, 8, 3).to(
        device, memory_format=memory_format(setting)
    )
    with autocast(setting, device):
        out = convolution(x.to(memory_format=memory_format(setting)))
    out.sum().backward()


def run_phases(phases, setting, name, args):
    """Do all phases of a backbone in this process.

    Args:
        phases (Phases): times them.
        setting (dict): a value for each of SETTINGS.
        name (str): of the backbone.
        args (argparse.Namespace): has device, against and root.
    """
    set_precision(setting)
    phases.time('start', lambda: start_device(setting, args.device))
    model = phases.time('build', lambda: build(name, setting, args))

    def step_of(setting):
        model.train(setting['mode'] == 'train')
        x = make_input(setting, args.device)
        synchronize(args.device)
        return make_step(model, x, setting)

    train = step_of(setting)
    phases.time('first', train)
    phases.time('second', train)
    if setting['compile'] == 'off':
        phases.time('shape', step_of(other_shape(setting)))
        phases.time('evaluation', step_of(evaluation(setting)))


def main(folder):
    """What the process of a backbone does, by the folder's task.json."""
    task = Namespace(**json.loads((folder / 'task.json').read_text()))
    task.device = torch.device(task.device)
    if task.threads:
        torch.set_num_threads(task.threads)
    phases = Phases(task.device, folder)
    try:
        run_phases(phases, task.setting, task.name, task)
    except Exception as error:  # the other backbones go on
        phases.result['error'] = first_line(error)
        phases.write()
        raise


if __name__ == '__main__':
    main(Path(sys.argv[1]))
