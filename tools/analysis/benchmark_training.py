"""The training loop of tools/train_recognizer.py by the clock: benchmark.py --e2e."""

import argparse
import os
import tempfile
import time

import torch
from analysis.benchmark_backbones import synchronize
from hosts import HostError
from run_description import describe_run
from whole_files import write_json


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
