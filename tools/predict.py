#!/usr/bin/env python
"""Say what videos show: classes with their scores.

    tools/predict.py CONFIG CHECKPOINT wave.mp4 --labels data/own/classes.txt
    tools/predict.py CONFIG CHECKPOINT my_videos --out results.json
    tools/predict.py CONFIG CHECKPOINT long.mp4 --every 1 --curve curves
    tools/predict.py CONFIG CHECKPOINT 0 --every 1

The scores are those of tools/test_recognizer.py. With --out, a run that was
ended goes on where it was, and a second run predicts new files alone. The exit
code is 0 where all videos could be read, 3 where some could not (each is named,
the others are done), 1 where nothing was begun, or a file could not be
written, and 130 after Ctrl-C.

In Python, with tools/ on the path:

    from predict import Recognizer

    recognizer = Recognizer(CONFIG, CHECKPOINT, labels='data/own/classes.txt')
    print(recognizer.predict('wave.mp4').top(3))
"""

import argparse
import contextlib
import os
import os.path as osp
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hosts import HostError, need_mmaction2, run  # noqa: E402
from hosts.processes import end_quietly  # noqa: E402

if __name__ == '__main__':  # before anything is imported for mmaction v1
    end_quietly()
    need_mmaction2('tools/predict.py')

import numpy as np  # noqa: E402
from hosts.checks import check_out, check_out_folder  # noqa: E402
from hosts.options import add_cfg_options  # noqa: E402
from hosts.speed import add_options  # noqa: E402
from hosts.videos import BrokenVideo  # noqa: E402
from prediction import camera, outputs  # noqa: E402
from prediction.recognizer import Prediction, Recognizer, mean_of  # noqa: E402
from prediction.sources import find_sources  # noqa: E402
from prediction.windows import check_times, segments  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402
from run_description import describe_run  # noqa: E402
from video_files import VideoError  # noqa: E402

__all__ = ['Prediction', 'Recognizer']
SOME_BROKEN = 3  # the exit code


def check_options(args):
    """Whatever can be refused before the network is built.

    Raises:
        HostError: options do not fit each other, or files cannot be written.
    """
    if args.topk < 1:
        raise HostError(f'--topk {args.topk} should be at least 1')
    if args.every is None:
        for name in ('window', 'curve'):
            if getattr(args, name) is not None:
                raise HostError(f'--{name} needs --every SECONDS')
    else:
        check_times(args.every, args.window)
    if args.out:
        check_out(args.out, ('.json', '.csv'))
    if args.features and args.features.endswith('.npy'):
        check_out(args.features, ('.npy',), '--features')
    for name in ('features', 'render', 'curve'):
        folder = getattr(args, name)
        if folder and not folder.endswith('.npy'):
            check_out_folder(folder, f'--{name}')


def check_sources(sources, args):
    """The options fit what is to be predicted.

    Raises:
        HostError: they do not.
    """
    frames = [source.path for source in sources if source.kind == 'frames']
    for name in ('every', 'render'):
        if frames and getattr(args, name):
            raise HostError(
                f'{frames[0]} is a folder of frames, which does not say when each '
                f'is shown: --{name} is for videos'
            )
    if sources[0].kind == 'camera' and args.every is None:
        raise HostError('a camera needs --every SECONDS')
    if args.every and len(sources) > 1 and (args.features or '').endswith('.npy'):
        raise HostError(
            '--features FILE.npy is of one video with --every: name a folder'
        )
    inputs = {osp.realpath(source.path) for source in sources}
    for source in sources:
        target = args.render and osp.realpath(file_of(args.render, source, '.mp4'))
        if target in inputs:
            raise HostError(f'--render {args.render} would replace {target}')


def file_of(folder, source, ending):
    """The file that is written about a source."""
    return osp.join(folder, source.name + ending)


def counted(number, word):
    """Such as '1 video' or '2 videos'."""
    return f'{number} {word}' + ('s' if number != 1 else '')


def described(top):
    """Classes with their probabilities, as a line has them."""
    return ', '.join(f'{item["name"]} {item["probability"]:.1%}' for item in top)


def entry_of(prediction, windows, topk):
    """What the results say of a video.

    Args:
        prediction (Prediction): of the video.
        windows (list[Prediction] | None): with --every.
        topk (int): classes to name.

    Returns:
        dict: as docs/use.md describes it.
    """
    entry = dict(video=prediction.video)
    if prediction.scores is not None:
        entry['scores'] = [outputs.short(score) for score in prediction.scores]
        entry['top'] = outputs.rounded(prediction.top(topk))
    if windows:
        entry['windows'] = [
            dict(
                start=round(window.start, 6),
                end=round(window.end, 6),
                top=outputs.rounded(window.top(topk)),
            )
            for window in windows
        ]
        entry['segments'] = [
            dict(
                segment,
                start=round(segment['start'], 6),
                end=round(segment['end'], 6),
                probability=outputs.short(segment['probability']),
            )
            for segment in segments(windows)
        ]
    if prediction.error:
        entry['error'] = prediction.error
    return entry


def tell(entry, topk):
    """Print what an entry says."""
    if 'segments' in entry:
        print(f'{entry["video"]}:')
        for part in entry['segments']:
            times = f'{part["start"]:8.1f} - {part["end"]:.1f} s'
            print(f'{times:>20}  {part["name"]} {part["probability"]:.1%}')
    elif 'top' in entry:
        print(f'{entry["video"]}: {described(entry["top"])}')
    if 'error' in entry:
        print(f'error: {entry["error"]}', file=sys.stderr)


def write_files(args, source, parts, entry, recognizer):
    """Write the files of one video, and note them in its entry.

    Args:
        source (Source): the video.
        parts (list[Prediction]): of its windows, or of it all.
        entry (dict): gets features, curve and rendered.
    """
    if args.features:
        features = np.stack([part.features for part in parts])
        if args.features.endswith('.npy'):
            entry['packed'] = outputs.pack(features)
        else:
            entry['features'] = file_of(args.features, source, '.npy')
            outputs.make_folder(entry['features'])
            outputs.write_features(entry['features'], features)
    if args.curve or args.render:
        from prediction.drawing import draw_curve, render
    if args.curve:
        entry['curve'] = file_of(args.curve, source, '.png')
        outputs.make_folder(entry['curve'])
        draw_curve(entry['curve'], parts, args.topk)
    if args.render and source.kind == 'video':
        target = file_of(args.render, source, '.mp4')
        outputs.make_folder(target)
        try:
            render(source.path, target, parts, args.topk, recognizer.workers)
            entry['rendered'] = target
        except VideoError as error:
            entry['error'] = f'{source.path} cannot be rendered: {error}'


def write_all(args, recognizer, entries):
    """Write the results of the whole run."""
    if args.features and args.features.endswith('.npy'):
        packed = [entry.get('packed') for entry in entries]
        channels = recognizer.config.model.cls_head.in_channels
        missing = np.full(channels, np.nan, np.float32)
        rows = [outputs.unpack(text) if text else missing for text in packed]
        outputs.write_features(
            args.features, np.concatenate(rows).reshape(-1, channels)
        )
    if args.out:
        videos = [
            {key: value for key, value in entry.items() if key != 'packed'}
            for entry in entries
        ]
        results = dict(
            describe_run(recognizer.device),
            command=camera.without_password(shlex.join(sys.argv)),
            config=args.config,
            checkpoint=args.checkpoint,
            classes=recognizer.classes,
            every=args.every,
            window=args.window or args.every,
            videos=videos,
        )
        outputs.write_results(args.out, results)
        print(f'wrote {args.out}')


def predictions_of(recognizer, sources, args, progress):
    """Predict sources, in order.

    Yields:
        tuple: the Prediction of a source, and those of its windows (None
        without --every).
    """
    if args.every is None:
        for prediction in recognizer.predict_all([s.path for s in sources]):
            yield prediction, None
        return
    for source in sources:
        bar = progress.add_task(osp.basename(source.path), total=None)
        windows, error = [], None
        found = recognizer.windows(
            source.path,
            args.every,
            args.window,
            lambda total, bar=bar: progress.update(bar, total=total),
        )
        try:
            for window in found:
                windows.append(window)
                progress.advance(bar)
        except BrokenVideo as fault:
            error = str(fault)
        progress.remove_task(bar)
        if windows:
            prediction = mean_of(windows)
        else:
            prediction = Prediction(source.path, recognizer.classes)
        prediction.error = error
        yield prediction, windows


def predict_files(args, recognizer, sources):
    """Predict videos and folders of frames; print and write what they show."""
    settings = outputs.settings_of(
        recognizer.config,
        args.checkpoint,
        classes=recognizer.classes,
        topk=args.topk,
        every=args.every,
        window=args.window,
        features=args.features,
        render=args.render,
        curve=args.curve,
    )
    journal = outputs.Journal(args.out and f'{args.out}.done', settings)
    if journal.restarted:
        print(
            f'{args.out}.done is of another {", ".join(journal.restarted)}: '
            f'all videos are predicted anew'
        )
    entries = {source.path: journal.entry(source) for source in sources}
    todo = [source for source in sources if entries[source.path] is None]
    if len(todo) < len(sources):
        print(f'{len(sources) - len(todo)} of {len(sources)} videos are done already')
    begin, windows_count = time.perf_counter(), 0
    with Progress(
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),
        disable=not todo,
    ) as progress:
        bar = progress.add_task(counted(len(todo), 'video'), total=len(todo))
        found = predictions_of(recognizer, todo, args, progress)
        for source, (prediction, windows) in zip(todo, found):
            entry = entry_of(prediction, windows, args.topk)
            parts = windows if windows is not None else [prediction]
            if parts and parts[0].scores is not None:
                with recognizer.times.of('files'):
                    write_files(args, source, parts, entry, recognizer)
            journal.add(source, entry)
            entries[source.path] = entry
            tell(entry, args.topk)
            windows_count += len(windows or ())
            progress.advance(bar)
    write_all(args, recognizer, [entries[source.path] for source in sources])
    journal.close()
    if todo:
        count = counted(len(todo), 'video')
        if windows_count:
            count += f', {counted(windows_count, "window")}'
        print(f'{count} in {time.perf_counter() - begin:.1f} s: {recognizer.times}')
    faults = [entry for entry in entries.values() if 'error' in entry]
    if faults:
        print(f'{len(faults)} of {len(sources)} videos have errors', file=sys.stderr)
        sys.exit(SOME_BROKEN)


def watch(args, recognizer, source):
    """Predict what a camera shows until it ends, or Ctrl-C ends it."""
    windows, lock, over = [], threading.Lock(), threading.Event()
    target = args.render and file_of(args.render, source, '.mp4')
    with contextlib.ExitStack() as stack:
        on_frame = None
        if args.render:
            from prediction.drawing import Caption, writing_video

            writer = stack.enter_context(writing_video(target, None))

            def on_frame(seconds, image):  # in the thread that reads the camera
                with lock:
                    if over.is_set():
                        return
                    if windows:
                        top = windows[-1].top(args.topk)
                        Caption(top, *image.shape[:2]).draw(image)
                    writer.write(seconds, image)

        try:
            for window in recognizer.watch(
                source.path, args.every, args.window, on_frame
            ):
                windows.append(window)
                times = f'{window.start:8.1f} - {window.end:.1f} s'
                print(f'{times:>20}  {described(window.top(args.topk))}', flush=True)
        except KeyboardInterrupt:  # so a camera's run is ended
            print()
        finally:
            with lock:
                over.set()
        if not windows:
            raise HostError(
                f'camera {camera.without_password(source.path)} ended before its '
                f'first window was over'
            )
    entry = entry_of(mean_of(windows), windows, args.topk)
    if target:
        entry['rendered'] = target
    write_files(args, source, windows, entry, recognizer)
    write_all(args, recognizer, [entry])


def predict(args):
    """Run the command.

    Args:
        args (argparse.Namespace): of :func:`parse_args`.

    Raises:
        HostError: what a user can mend.
    """
    check_options(args)
    recognizer = Recognizer(
        args.config,
        args.checkpoint,
        args.labels,
        args.device,
        args.cfg_options,
        args.amp,
        args.channels_last,
        args.compile,
        args.batch,
        args.workers,
    )
    template = recognizer.config.test_dataloader.dataset.get(
        'filename_tmpl', 'image_{:05d}.jpg'
    )
    sources = find_sources(args.videos, template)
    check_sources(sources, args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    if sources[0].kind == 'camera':
        watch(args, recognizer, sources[0])
        return
    try:
        predict_files(args, recognizer, sources)
    except KeyboardInterrupt:
        if args.out:
            print('interrupted; run the same command to go on', file=sys.stderr)
        raise


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="config file, in mmaction v1's schema")
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        'videos',
        nargs='+',
        metavar='VIDEO',
        help='video files, folders of videos or of frames, patterns in quotes; or a '
        'camera: its number, or a URL that OpenCV opens',
    )
    parser.add_argument('--labels', help='names of the classes, one a line')
    parser.add_argument(
        '--topk', type=int, default=5, help='classes to name (default: %(default)s)'
    )
    parser.add_argument('--out', metavar='FILE', help='results, .json or .csv')
    parser.add_argument(
        '--features',
        metavar='FILE|FOLDER',
        help="a row a video in FILE.npy, or a file a video: the last layer's inputs",
    )
    parser.add_argument(
        '--render', metavar='FOLDER', help='videos with the classes drawn on them'
    )
    parser.add_argument(
        '--every',
        type=float,
        metavar='SECONDS',
        help='score windows of a video that begin so many seconds apart',
    )
    parser.add_argument(
        '--window',
        type=float,
        metavar='SECONDS',
        help='length of a window (default: as --every)',
    )
    parser.add_argument(
        '--curve', metavar='FOLDER', help='pictures of the scores of the windows'
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1 (default: a GPU if any)')
    add_options(parser, training=False)
    parser.add_argument(
        '--batch', type=int, help='clips at a time (default: those of 64 images)'
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=len(os.sched_getaffinity(0)),
        help='threads that decode (default: %(default)s)',
    )
    add_cfg_options(parser)
    return parser.parse_args()


if __name__ == '__main__':
    run(predict, parse_args())
