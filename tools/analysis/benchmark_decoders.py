#!/usr/bin/env python
"""Compare libraries that decode video files: PyAV, OpenCV and torchcodec.

    python tools/analysis/benchmark_decoders.py --videos "MY CLIPS=FOLDER" \
        --out results/decoders.json

Each runs with one thread, as in a process that loads data, and makes images
of all frames that are asked for. Seconds are those that a core has worked, so
that other programs do not count. By set of videos:

    frames_per_second  all frames in order
    clip_ms            open a file and read a training clip of it: 8 frames,
                       every 8th, from a random place
    seek_ms            one random frame of an open file
    wrong_frames       share of those whose image is not that of the frame of
                       that number, decoded in order by the same library

PyAV is measured as tools/video_files.py uses it, OpenCV as mmaction v1 does.
A library that cannot be imported is left out; the table says why. Videos of
340 x 256 (H.264, 300 frames; a key frame every 250, and every 12, frames) are
made here.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'tools')]

import av  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from hosts import HostError, run  # noqa: E402
from hosts.checks import check_out  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402
from run_description import describe_run  # noqa: E402
from video_files import ENDINGS, Video  # noqa: E402
from whole_files import write_json  # noqa: E402

COLUMNS = ('frames_per_second', 'clip_ms', 'seek_ms', 'wrong_frames')
FRAMES, STEP = 8, 8  # of a clip


class PyAV:
    """As the mmaction2 host reads a file."""

    version = av.__version__

    def __init__(self, path):
        self.video = Video(path)
        self.length = len(self.video)

    def read(self, numbers):
        """The images of frames, by number from 0."""
        images = self.video.read(numbers)
        return [images[number] for number in numbers]

    def all(self):
        return [image() for image in self.video]


class OpenCV:
    """As mmaction v1 reads a file: through mmcv's VideoReader, or its like."""

    version = cv2.__version__

    def __init__(self, path):
        threads = [cv2.CAP_PROP_N_THREADS, 1]
        self.video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, threads)
        self.length = int(self.video.get(cv2.CAP_PROP_FRAME_COUNT))

    def read(self, numbers):
        images = []
        for number in numbers:
            if number != self.video.get(cv2.CAP_PROP_POS_FRAMES):
                self.video.set(cv2.CAP_PROP_POS_FRAMES, number)
                for _ in range(number - round(self.video.get(cv2.CAP_PROP_POS_FRAMES))):
                    self.video.read()
            images.append(self.video.read()[1])
        return images

    def all(self):
        return [self.video.read()[1] for _ in range(self.length)]


class TorchCodec:
    def __init__(self, path):
        from torchcodec.decoders import VideoDecoder

        self.video = VideoDecoder(
            str(path), dimension_order='NHWC', num_ffmpeg_threads=1
        )
        self.length = len(self.video)

    def read(self, numbers):
        return list(self.video.get_frames_at(list(numbers)).data.numpy())

    def all(self):
        return self.read(range(self.length))


def make_videos(folder, key_frames, count=8, size=(340, 256), frames=300, first=0):
    """Videos of H.264: smooth noise that moves.

    Args:
        folder (Path): it is made.
        key_frames (int): frames from one key frame to the next.
        count (int): of videos.
        size (tuple[int, int]): width and height.
        frames (int): of each.
        first (int): seed of the first; the others' follow.
    """
    folder.mkdir()
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        base = rng.uniform(0, 255, (12, 16, 3)).astype(np.float32)
        with av.open(str(folder / f'{seed}.mp4'), 'w') as file:
            options = dict(g=str(key_frames), threads='1')
            stream = file.add_stream('libx264', rate=30, options=options)
            stream.width, stream.height = size
            stream.pix_fmt = 'yuv420p'
            for _ in range(frames):
                base += rng.normal(0, 6, base.shape)
                image = cv2.resize(base, size, interpolation=cv2.INTER_CUBIC)
                image += rng.normal(0, 4, image.shape)  # grain
                image = image.clip(0, 255).astype(np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(image, 'bgr24')))
            file.mux(stream.encode(None))


def measure(library, paths, repeats):
    """Time a library on a set of videos.

    Args:
        library (type): of those above.
        paths (list[Path]): the videos.
        repeats (int): clips and seeks a video.

    Returns:
        dict: COLUMNS, and the number of frames.
    """
    rng = np.random.default_rng(0)
    seconds, frames, clips, seeks, wrong = 0, 0, [], [], []
    for path in track(paths, library.__name__, disable=not sys.stderr.isatty()):
        start = time.process_time()
        images = library(path).all()
        seconds += time.process_time() - start
        frames += len(images)
        span = (FRAMES - 1) * STEP + 1
        for _ in range(repeats):
            first = rng.integers(max(len(images) - span, 0) + 1)
            numbers = (first + STEP * np.arange(FRAMES)).clip(max=len(images) - 1)
            numbers = [int(number) for number in np.unique(numbers)]
            start = time.process_time()
            library(path).read(numbers)
            clips.append(time.process_time() - start)
        reader = library(path)
        for number in rng.integers(len(images), size=repeats):
            start = time.process_time()
            (image,) = reader.read([int(number)])
            seeks.append(time.process_time() - start)
            wrong.append(not np.array_equal(image, images[number]))
    return dict(
        frames=frames,
        frames_per_second=round(frames / seconds),
        clip_ms=round(1000 * float(np.mean(clips)), 2),
        seek_ms=round(1000 * float(np.mean(seeks)), 2),
        wrong_frames=round(float(np.mean(wrong)), 3),
    )


def sets_of(args, folder):
    """The sets of videos by name: those of the command line, and made ones."""
    sets = {}
    for text in args.videos:
        name, _, path = text.partition('=')
        found = [p for p in Path(path).rglob('*') if p.suffix[1:].lower() in ENDINGS]
        if not found:
            raise HostError(
                f'--videos {text}: should be NAME=FOLDER, with videos in it'
            )
        sets[name] = sorted(found)[:: -(-len(found) // args.at_most)]
    for key_frames in (250, 12):
        path = folder / str(key_frames)
        make_videos(path, key_frames, args.made)
        sets[f'340x256 H.264, a key frame every {key_frames}'] = sorted(path.iterdir())
    return sets


def benchmark(args):
    """Measure, print a table and write the file."""
    check_out(args.out, ('.json',))
    libraries, missing = [PyAV, OpenCV], {}
    try:
        import torchcodec

        TorchCodec.version = torchcodec.__version__
        import torchcodec.decoders  # noqa: F401

        libraries.append(TorchCodec)
    except Exception as error:  # the libraries of FFmpeg that it wants, too
        missing['TorchCodec'] = str(error).strip().splitlines()[0]
    results = []
    table = Table('videos', 'library', *(name.replace('_', ' ') for name in COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        for name, paths in sets_of(args, Path(folder)).items():
            for library in libraries:
                row = measure(library, paths, args.repeats)
                results.append(
                    dict(videos=name, files=len(paths), library=library.__name__, **row)
                )
                table.add_row(
                    name, library.__name__, *(str(row[column]) for column in COLUMNS)
                )
    Console(width=120).print(table)
    for name, why in missing.items():
        print(f'{name} was left out: {why}')
    versions = {library.__name__: library.version for library in libraries}
    description = describe_run(
        torch.device('cpu'), ffmpeg_of_PyAV=av.ffmpeg_version_info, **versions
    )
    write_json(args.out, dict(**description, left_out=missing, results=results))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--videos',
        nargs='+',
        default=[],
        metavar='NAME=FOLDER',
        help='more sets of videos',
    )
    parser.add_argument(
        '--at-most', type=int, default=24, help='videos of a set (default: %(default)s)'
    )
    parser.add_argument(
        '--made',
        type=int,
        default=3,
        help='videos that are made (default: %(default)s)',
    )
    parser.add_argument(
        '--repeats',
        type=int,
        default=10,
        help='clips, and seeks, of a video (default: %(default)s)',
    )
    parser.add_argument('--out', required=True, help='the JSON that is written')
    return parser.parse_args()


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    run(benchmark, parse_args())
