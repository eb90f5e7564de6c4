#!/usr/bin/env python3
"""Make the arrow-of-time data set: JPEG frames and mmaction v1 lists.

A clip shows a few coloured shapes before a drifting texture. Five of their
properties can change: brightness, size, spread, place and angle. One goes a
long way, steadily, from the first frame to the last; the others drift a
little. The classes are that property going up and going down.

A clip of the second class of a pair is drawn as one of the first class,
nuisances included (drift, camera jitter, flicker, noise), and its list of
frames is then reversed. So the frames of the two classes, as sets, have the
same distribution, and whoever cannot see their order guesses within a pair.
Every clip has a seed of its own: no clip is the twin of another, reversed
or not, within a split or between two.

    OUT/rawframes/{train,val,test}/CLASS/CLIP/image_00001.jpg ...
    OUT/{train,val,test}.txt   a line a clip: CLASS/CLIP num_frames label
    OUT/classes.txt            a name a line; 2k and 2k+1 are a pair
    OUT/dataset.json           the settings that it was made with

Two settings of a config would give the order away or spoil it:

* A mirrored clip that moves right moves left: set flip_ratio to 0.
* v1 steps through a clip without ever reaching its last frame. With one
  segment of 8 frames it takes the middle 8 of 10 frames at step 1 (the
  default here), and at step 2 every second one of 17 (--frames 17). With
  random_shift=False, in validation and in testing these lie evenly about
  the middle of the clip. Those of a clip of 8 do not: the set of frames
  itself then tells the direction a little.
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.side_by_side import side_by_side  # noqa: E402

# The easiest first. A pair is named after what happens in its first class.
PAIRS = {
    'brighten': ('brighten', 'dim'),
    'grow': ('grow', 'shrink'),
    'move': ('move_right', 'move_left'),
    'scatter': ('scatter', 'gather'),
    'rotate': ('rotate_clockwise', 'rotate_counterclockwise'),
}
SPLITS = ('train', 'val', 'test')
VERSION = 1  # to be raised whenever the same settings draw other clips


def draw_background(rng, size):
    """Draw a greyish random texture, twice as wide as a frame.

    Args:
        rng (np.random.Generator): Source of all randomness.
        size (int): Width and height of a frame in pixels.

    Returns:
        np.ndarray: (2 * size, 2 * size, 3) float32, about 0.1 to 0.7.
    """
    texture = np.ones((2 * size, 2 * size, 1)) * rng.uniform(0.3, 0.5, 3)
    for _ in range(3):
        # From broad patches to fine grain; unequal sides make stripes.
        cells = np.exp(rng.uniform(np.log(4), np.log(40), 2)).astype(int)
        noise = (
            cv2.resize(
                rng.random(cells), (2 * size, 2 * size), interpolation=cv2.INTER_CUBIC
            )
            - 0.5
        )
        texture += noise[..., None] * rng.normal(0.2, 0.04, 3)
    return texture.astype(np.float32)


def draw_clip(pair, backward, frames, size, rng):
    """Draw one clip.

    Args:
        pair (str): Key of PAIRS.
        backward (bool): False for the first class of the pair. True for
            the second: the same clip, its frames in reverse order.
        frames (int): Number of frames.
        size (int): Width and height of a frame in pixels.
        rng (np.random.Generator): Source of all randomness.

    Returns:
        np.ndarray: (frames, size, size, 3) uint8, BGR.
    """

    def column(values):
        return np.reshape(values, (-1, 1, 1)).astype(np.float32)

    # A property runs along 0 to 1: the pair's own most of the way, the
    # others little and not to the ends, so that frames show which pair.
    time = np.linspace(-0.5, 0.5, frames)
    path = {}
    for name in PAIRS:
        reach, ends = rng.uniform(-0.1, 0.1), 0.3
        if name == pair:
            reach = rng.uniform(0.65, 1)
            ends = reach / 2
        path[name] = rng.uniform(ends, 1 - ends) + reach * time
    light = 0.4 * 3 ** path['brighten']
    radius = column(0.055 * 3 ** path['grow'])
    spread = 0.06 + 0.28 * path['scatter']
    # Shapes point to the left at 0, up halfway and to the right at 1.
    turn = np.pi * (1 + path['rotate']) + rng.uniform(-0.2, 0.2)
    jitter = rng.normal(0, 0.006, (frames, 2))
    centre_x = 0.26 + 0.48 * path['move'] + jitter[:, 0]
    centre_y = rng.uniform(0.35, 0.65) + rng.uniform(-0.05, 0.05) * time + jitter[:, 1]

    texture = draw_background(rng, size)
    shift = rng.uniform(-0.25, 0.25, 2) * time[:, None] + jitter - 0.5
    clip = np.stack(
        [
            cv2.warpAffine(texture, np.float64([[1, 0, x], [0, 1, y]]), (size, size))
            for x, y in shift * size
        ]
    )

    # Shapes on a ring that turns, widens and moves as a whole. They are
    # lopsided and pale at the tail, so that they show which way they point.
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    count = rng.integers(3, 6)
    first = rng.random()
    for place in np.arange(count) + rng.uniform(-0.25, 0.25, count):
        around = turn + 2 * np.pi * (first + place / count)
        distance = spread * rng.uniform(0.85, 1.15)
        right = (x - column(centre_x + distance * np.cos(around))) / radius
        down = (y - column(centre_y + distance * np.sin(around))) / radius
        angle = np.arctan2(down, right) - column(turn)
        away = np.hypot(right, down)
        outline = (
            0.95 + 0.15 * np.cos(angle) + 0.2 * np.cos(int(rng.integers(2, 6)) * angle)
        )
        colour = rng.permutation([rng.uniform(0.8, 1), rng.uniform(0, 0.8), 0])
        tail = (-3 * away * np.cos(angle)).clip(0, 1)[..., None]
        paint = colour.astype(np.float32) * (1 - tail) + 0.9 * tail
        # Pixels inside the outline, fading over one pixel at the edge.
        mask = ((outline - away) * radius * size + 0.5).clip(0, 1)
        clip += mask[..., None] * (paint - clip)

    light = light * rng.normal(1, 0.02, frames)
    clip *= column(light)[..., None]
    clip += rng.uniform(0.005, 0.03) * rng.standard_normal(clip.shape, dtype=np.float32)
    clip = (clip * 255).clip(0, 255).astype(np.uint8)
    return clip[::-1] if backward else clip


def write_clip(clip):
    """Draw one clip and write its frames as image_00001.jpg and so on.

    Args:
        clip (tuple): folder, seed, pair, backward, frames, size; but for the first
            two, arguments of :func:`draw_clip`.
    """
    folder, seed, pair, backward, frames, size = clip
    rng = np.random.default_rng(seed)
    images = draw_clip(pair, backward, frames, size, rng)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))]
    folder.mkdir(parents=True)
    for number, image in enumerate(images, 1):
        # Not imwrite, which does not say why it failed.
        data = cv2.imencode('.jpg', image, quality)[1]
        (folder / f'image_{number:05d}.jpg').write_bytes(data.tobytes())


def write_lists(root, settings):
    """Write the annotation lists and list the clips to be drawn.

    Args:
        root (Path): Folder of the data set.
        settings (dict): What dataset.json records.

    Returns:
        list[tuple]: For every clip, the argument of write_clip.
    """
    clips, classes = [], []
    lines = {split: [] for split in SPLITS}
    frames = settings['frames']
    for pair in settings['pairs']:
        for backward, name in enumerate(PAIRS[pair]):
            for number, split in enumerate(SPLITS):
                for index in range(settings[split]):
                    # The same clip whichever other pairs are drawn.
                    seed = (
                        settings['seed'],
                        number,
                        list(PAIRS).index(pair),
                        backward,
                        index,
                    )
                    path = f'{name}/{index:05d}'
                    lines[split].append(f'{path} {frames} {len(classes)}\n')
                    clips.append(
                        (
                            root / 'rawframes' / split / path,
                            seed,
                            pair,
                            bool(backward),
                            frames,
                            settings['size'],
                        )
                    )
            classes.append(name)
    for split in SPLITS:
        (root / f'{split}.txt').write_text(''.join(lines[split]))
    (root / 'classes.txt').write_text('\n'.join(classes) + '\n')
    (root / 'dataset.json').write_text(json.dumps(settings, indent=2) + '\n')
    return clips


def make_dataset(out, settings, workers):
    """Make the data set beside its place and move it there when whole.

    Args:
        out (Path): Where it goes: nothing, or an empty folder.
        settings (dict): What dataset.json records.
        workers (int): Number of processes. They do not change the result.

    Raises:
        OSError: It could not be written.
        ValueError: Another run is making the same data set.
    """
    partial = out.with_name(out.name + '.partial')
    new_parents = [path for path in out.parents if not path.exists()]
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with open(partial / 'lock', 'w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f'another run is making {out}') from None
            try:
                fill_and_move(partial / 'data', out, settings, workers)
            finally:
                shutil.rmtree(partial / 'data', ignore_errors=True)
                (partial / 'lock').unlink()
    finally:
        for path in (partial, *new_parents):
            with suppress(OSError):  # kept where something is in it
                path.rmdir()


def fill_and_move(data, out, settings, workers):
    """Draw all clips in a folder `data`, then rename it to `out`."""
    if data.exists():
        shutil.rmtree(data)  # of a run that was killed
    data.mkdir()
    clips = write_lists(data, settings)
    for _ in side_by_side(write_clip, clips, workers, f'{len(clips)} clips'):
        pass
    data.rename(out)


def is_made(out, settings):
    """Tell whether a data set with these settings is already there.

    Args:
        out (Path): Where it would be.
        settings (dict): What dataset.json would record.

    Returns:
        bool: False if there is nothing, or an empty folder.

    Raises:
        ValueError: Something else is there.
    """
    advice = 'remove it or give another OUT'
    try:
        found = json.loads((out / 'dataset.json').read_text())
        differing = [
            f'{key} {found[key]}, not {wanted}'
            for key, wanted in settings.items()
            if found[key] != wanted
        ]
    except FileNotFoundError:
        if out.exists() and any(out.iterdir()):
            raise ValueError(f'{out} holds something else: {advice}') from None
        return False
    except (NotADirectoryError, TypeError, KeyError, ValueError):
        raise ValueError(f'{out} is no arrow data set: {advice}') from None
    if differing:
        raise ValueError(
            f'{out} was made with other settings ({"; ".join(differing)}): {advice}'
        )
    return True


def parse_args(args=None):
    """Read the command line.

    Args:
        args (list[str] | None): The arguments; those of the process if None.

    Returns:
        tuple[Path, dict, int]: OUT, what dataset.json records, workers.

    Raises:
        ValueError: An argument is out of range.
    """
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('out', metavar='OUT', help='folder of the data set')
    parser.add_argument(
        '--pairs',
        default=str(len(PAIRS)),
        help='pairs of classes: how many, the easiest first, '
        f'or which, with commas, of {", ".join(PAIRS)}',
    )
    for split, clips in zip(SPLITS, (200, 50, 50)):
        parser.add_argument(
            f'--{split}', type=int, default=clips, help=f'clips a class in {split}.txt'
        )
    parser.add_argument(
        '--size', type=int, default=112, help='width and height of a frame in pixels'
    )
    parser.add_argument(
        '--frames',
        type=int,
        default=10,
        help='frames a clip: 10 for 8 frames of step 1, 17 for 8 of step 2',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='the same seed gives the same files'
    )
    parser.add_argument(
        '--workers', type=int, default=len(os.sched_getaffinity(0)), help='processes'
    )
    args = parser.parse_args(args)

    least = dict(train=1, val=1, test=1, size=32, frames=2, seed=0, workers=1)
    for name, low in least.items():
        if getattr(args, name) < low:
            raise ValueError(f'--{name} must be at least {low}')
    pairs = args.pairs.split(',')
    if args.pairs in map(str, range(1, len(PAIRS) + 1)):
        pairs = list(PAIRS)[: int(args.pairs)]
    for pair in pairs:
        if pair not in PAIRS:
            raise ValueError(
                f'--pairs: "{pair}" is neither 1 to '
                f'{len(PAIRS)} nor one of {", ".join(PAIRS)}'
            )
    settings = {'version': VERSION, 'pairs': [pair for pair in PAIRS if pair in pairs]}
    for name in (*SPLITS, 'size', 'frames', 'seed'):
        settings[name] = getattr(args, name)
    return Path(os.path.realpath(args.out)), settings, args.workers


def main():
    # An ordinary kill is a failure like any other: tidy up, then stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
    try:
        out, settings, workers = parse_args()
        if is_made(out, settings):
            print(f'{out} is already there, with the same settings')
            return
        make_dataset(out, settings, workers)
    except ValueError as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        sys.exit(f'error: cannot write {out}: {error.strerror}')
    except BrokenProcessPool:
        sys.exit('error: a worker process was killed; out of memory?')
    except KeyboardInterrupt:
        sys.exit('interrupted')
    print(f'made {out}')


if __name__ == '__main__':
    main()
