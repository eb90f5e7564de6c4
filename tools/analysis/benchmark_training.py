"""The training loop of tools/train_recognizer.py by the clock: benchmark.py --e2e."""

import argparse
import gc
import os
import shutil
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import cv2
import torch
from hosts import HostError
from hosts.options import add_cfg_options
from hosts.processes import on_first_rank
from run_description import describe_run
from video_files import Video
from whole_files import write_json, write_whole

from analysis.benchmark_backbones import synchronize

# The words of --settings, as keys of a config.
SETTINGS = {
    'plain': {},
    'bf16': dict(amp='bf16'),
    'fp16': dict(amp='fp16'),
    'channels-last': dict(channels_last=True),
    'compile': dict(compile='default'),
    'reduce-overhead': dict(compile='reduce-overhead'),
    'cuda-graph': dict(cuda_graph=True),
    'all': dict(amp='bf16', channels_last=True, compile='default', cuda_graph=True),
    'cudnn': dict(cudnn_benchmark=True),
    'bn': {'model.backbone.dnr': 'none'},
}
DATA = ('config', 'frames', 'videos')


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


def settings_of(words):
    """The keys of a config that --settings has words for.

    Args:
        words (str): of SETTINGS, with + between them.

    Returns:
        dict: by dotted names.

    Raises:
        HostError: a word is none of them.
    """
    options = {}
    for word in words.split('+'):
        if word not in SETTINGS:
            raise HostError(
                f'--settings {words}: {word!r} is none of {", ".join(SETTINGS)}'
            )
        options.update(SETTINGS[word])
    return options


def make_data(folder, count=24, frames=300, repeats=100):
    """Frames and videos of 340 x 256 in a folder, where they are not there yet.

    Args:
        folder (Path): frames/N/image_00001.jpg and so on, videos/N.mp4, and the
            lists frames.txt and videos.txt, which repeat them.
        count (int): of videos; half of them with a key frame every 12 frames,
            the others with one every 250.
        frames (int): of each.
        repeats (int): of each in the lists.
    """
    from analysis.benchmark_decoders import make_videos

    if (folder / 'videos.txt').exists():
        return
    print(f'making {count} videos of {frames} frames, and their JPEG, in {folder}')
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        made, names = Path(made), [str(n) for n in range(count)]
        (made / 'videos').mkdir()
        (made / 'frames').mkdir()
        jobs = [
            (made / name, 250 if n % 2 else 12, 1, (340, 256), frames, n)
            for n, name in enumerate(names)
        ]
        with get_context('spawn').Pool(min(count, os.cpu_count())) as pool:
            pool.starmap(make_videos, jobs)
            pool.map(cut_frames, [made / name for name in names])
        for part in ('videos', 'frames'):
            shutil.rmtree(folder / part, ignore_errors=True)
            os.replace(made / part, folder / part)
    for part, form in (('frames', f'{{}} {frames} 0\n'), ('videos', '{} 0\n')):
        text = ''.join(map(form.format, names)) * repeats
        write_whole(folder / f'{part}.txt', text)


def cut_frames(folder):
    """Put the video of a folder and its frames to where make_data wants them."""
    (path,) = folder.glob('*.mp4')
    target = folder.parent / 'frames' / folder.name
    target.mkdir()
    for number, image in enumerate(Video(path), 1):
        cv2.imwrite(str(target / f'image_{number:05d}.jpg'), image())
    os.replace(path, folder.parent / 'videos' / f'{folder.name}.mp4')


def read_made(cfg, data, folder):
    """Have a config train on what :func:`make_data` has made.

    Args:
        cfg (mmengine.Config): in v1's schema.
        data (str): 'frames' or 'videos'.
        folder (Path): of make_data.
    """
    train = cfg.data.train
    for key in ('video_ext', 'use_decord', 'skip_broken', 'image_tmpl'):
        train.pop(key, None)
    train.ann_file, train.img_prefix = str(folder / f'{data}.txt'), str(folder / data)
    train.type = 'VideoDataset'
    if data == 'frames':
        train.type, train.image_tmpl = 'RawFramesDataset', 'image_{:05d}.jpg'


def time_training(args):
    """Time the training loop that a config describes, by settings and data."""
    if os.environ.get('MMACTION_ROOT'):
        raise HostError('--e2e times the loop of mmaction2: unset MMACTION_ROOT')
    from hosts import mmaction2

    on_cuda = torch.cuda.is_available()
    iters = args.iters or (50 if on_cuda else 5)
    options = {}
    if args.cfg_options:
        parser = argparse.ArgumentParser()
        add_cfg_options(parser)
        options = parser.parse_args(['--cfg-options', *args.cfg_options]).cfg_options
    jobs = []
    for data in args.data:
        for words in args.settings:
            v1 = mmaction2.load_config(args.e2e, dict(options, **settings_of(words)))
            if data != 'config':
                read_made(v1, data, args.folder)
            cfg = mmaction2.translate(v1, splits=('train',))
            cfg.default_hooks.checkpoint = None
            # While the network compiles, each loader makes two batches ready: they
            # must be used up, or a loop that waits for data seems not to.
            ready = 4 * cfg.train_dataloader.num_workers
            warmup = args.warmup or (max(10, ready) if on_cuda else 1)
            cfg.train_cfg.max_epochs = warmup + 2 * iters  # of an iteration or more
            cfg.experiment_name = f'{data}_{words}'
            jobs.append((data, words, cfg))
    if set(args.data) != {'config'}:
        mmaction2.join_group(cfg, args.launcher)
        on_first_rank(lambda: make_data(args.folder))
    content = None
    for data, words, cfg in jobs:
        row, processes, rank, device = time_loop(cfg, args.launcher, warmup, iters)
        if rank == 0:
            content = content or dict(
                benchmark='training',
                config=args.e2e,
                cfg_options=args.cfg_options,
                processes=processes,
                iters=iters,
                warmup=warmup,
                **describe_run(device),
                rows=[],
            )
            content['rows'].append(dict(data=data, settings=words, **row))
            report_loop(content)
            if args.out:
                write_json(args.out, content)
    mmaction2.leave_group()
    if content and args.out:
        print(f'wrote {args.out}')


def time_loop(cfg, launcher, warmup, iters):
    """Time the training loop of a native config.

    Returns:
        tuple: the row of results (dict), the number of processes, this one's
        rank, and its device.
    """
    from hosts import mmaction2

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = mmaction2.build_runner(cfg, launcher)
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
    clips = cfg.train_dataloader.batch_size
    images = clips * ready['inputs'].shape[1] * processes
    row = dict(
        clips=clips,
        clips_per_s=iters * processes * clips / timer.seconds,
        images_per_s=iters * images / timer.seconds,
        on_device_clips_per_s=iters * processes * clips / seconds,
        fraction=seconds / timer.seconds,
        parts_ms={part: value / iters * 1000 for part, value in timer.laps.items()},
        until_timed_s=timer.start - began,
    )
    del runner, model, ready, batch  # before the next one is built
    torch.compiler.reset()
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
    return row, processes, rank, device


def report_loop(content):
    """Print the last row, beside the first one of the same data.

    Args:
        content (dict): what is written, so far.
    """
    row = content['rows'][-1]
    first = next(other for other in content['rows'] if other['data'] == row['data'])
    parts = ', '.join(f'{part} {value:.1f}' for part, value in row['parts_ms'].items())
    print(
        f'\n{row["settings"]}, data of {row["data"]}: {content["device"]}, '
        f'{content["processes"]} process(es), {row["clips"]} clips a step and '
        f'process, {content["iters"]} iterations'
    )
    print(
        f'training loop        {row["clips_per_s"]:10.1f} clips/s, '
        f'{row["images_per_s"]:.0f} images/s, '
        f'{row["clips_per_s"] / first["clips_per_s"]:.2f} x {first["settings"]}'
    )
    print(f'one batch on device  {row["on_device_clips_per_s"]:10.1f} clips/s')
    print(f'loop / device        {row["fraction"]:10.3f}')
    print(f'parts of a step      {parts} ms (synchronized, mean)', flush=True)
