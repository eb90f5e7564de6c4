"""tools/data/make_arrow_dataset.py: what it writes, and that only order tells."""

import hashlib
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from conftest import ROOT

SCRIPT = ROOT / 'tools' / 'data' / 'make_arrow_dataset.py'
SMALL = '--pairs 2 --train 3 --val 2 --test 1 --size 32'.split()

spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
arrow = importlib.util.module_from_spec(spec)
spec.loader.exec_module(arrow)


def make(out, *args, **kwargs):
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(out), *args],
        capture_output=True,
        text=True,
        **kwargs,
    )


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp('arrow') / 'data' / 'small'
    done = make(out, *SMALL, '--workers', '1')
    assert done.returncode == 0, done.stderr
    assert '\x1b' not in done.stdout, 'control codes in a pipe'
    assert '\r' not in done.stdout
    return out


def test_layout(small):
    names = ['brighten', 'dim', 'grow', 'shrink']
    assert (small / 'classes.txt').read_text().split('\n') == names + ['']
    assert sorted(os.listdir(small)) == [
        'classes.txt',
        'dataset.json',
        'rawframes',
        'test.txt',
        'train.txt',
        'val.txt',
    ]
    assert os.listdir(small.parent) == ['small']
    for split, clips in (('train', 3), ('val', 2), ('test', 1)):
        lines = (small / f'{split}.txt').read_text().splitlines()
        assert lines == [
            f'{name}/{index:05d} 10 {label}'
            for label, name in enumerate(names)
            for index in range(clips)
        ]
        for line in lines:
            clip = small / 'rawframes' / split / line.split()[0]
            assert sorted(os.listdir(clip)) == [
                f'image_{number:05d}.jpg' for number in range(1, 11)
            ]
            image = cv2.imread(str(clip / 'image_00010.jpg'))
            assert image.shape == (32, 32, 3)


def test_workers_do_not_change_a_byte(small, tmp_path):
    assert make(tmp_path / 'b', *SMALL, '--workers', '3').returncode == 0
    assert digests(tmp_path / 'b') == digests(small)


def test_a_clip_does_not_depend_on_the_others(small, tmp_path):
    args = '--pairs grow --train 2 --val 1 --test 2 --size 32'.split()
    assert make(tmp_path / 'b', *args).returncode == 0
    ours, theirs = digests(tmp_path / 'b'), digests(small)
    shared = [name for name in ours if name in theirs and 'image' in name]
    assert len(shared) == 2 * 10 * (2 + 1 + 1)
    assert all(ours[name] == theirs[name] for name in shared)


def test_no_two_clips_are_alike(small):
    frames = [
        digest for name, digest in digests(small).items() if name.endswith('.jpg')
    ]
    assert len(frames) == len(set(frames)) == 4 * 10 * (3 + 2 + 1)


def test_another_seed_gives_other_clips(small, tmp_path):
    assert make(tmp_path / 'b', *SMALL, '--seed', '1').returncode == 0
    ours, theirs = digests(tmp_path / 'b'), digests(small)
    assert not {ours[name] for name in ours if 'image' in name} & set(theirs.values())


def test_second_run_keeps_what_is_there(small):
    image = small / 'rawframes/val/dim/00001/image_00003.jpg'
    before = image.stat().st_mtime_ns, image.stat().st_ino
    done = make(small, *SMALL, '--workers', '2')
    assert done.returncode == 0
    assert 'already there' in done.stdout
    assert (image.stat().st_mtime_ns, image.stat().st_ino) == before


def one_line_error(done):
    assert done.returncode != 0
    assert done.stderr.startswith('error: ')
    assert done.stderr.count('\n') == 1, done.stderr
    return done.stderr


def test_other_settings_are_named(small):
    before = digests(small)
    error = one_line_error(make(small, *SMALL, '--size', '48', '--seed', '7'))
    assert 'size 32, not 48' in error and 'seed 0, not 7' in error
    assert 'remove it or give another OUT' in error
    assert digests(small) == before


@pytest.mark.parametrize(
    'args, message',
    [
        ('--train 0', '--train must be at least 1'),
        ('--val -1', '--val must be at least 1'),
        ('--test 0', '--test must be at least 1'),
        ('--size 31', '--size must be at least 32'),
        ('--frames 1', '--frames must be at least 2'),
        ('--workers 0', '--workers must be at least 1'),
        ('--pairs 0', '"0" is neither 1 to 5 nor one of brighten, grow'),
        ('--pairs 6', '"6" is neither 1 to 5'),
        ('--pairs grow,fly', '--pairs: "fly" is neither'),
        ('--pairs=', 'is neither'),
    ],
)
def test_bad_arguments(args, message, monkeypatch, tmp_path):
    out = tmp_path / 'new' / 'b'
    monkeypatch.setattr(sys, 'argv', ['script', str(out), *args.split()])
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    with pytest.raises(SystemExit, match=message):
        arrow.main()
    assert not os.listdir(tmp_path)


def test_failures_leave_nothing(tmp_path):
    # A limit on the size of a file stands for a full disk: the lists fit,
    # the first frame does not. The empty folder "new" is not left either.
    done = make(
        tmp_path / 'new' / 'b',
        *SMALL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)),
    )
    assert 'File too large' in one_line_error(done)
    assert not os.listdir(tmp_path)

    (tmp_path / 'file').write_text('mine')
    for out in (tmp_path / 'file', tmp_path / 'file' / 'b'):
        one_line_error(make(out, *SMALL))
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').write_text('mine')
    error = one_line_error(make(tmp_path / 'full', *SMALL))
    assert 'holds something else' in error
    assert sorted(os.listdir(tmp_path)) == ['file', 'full']
    assert os.listdir(tmp_path / 'full') == ['file']


def test_unwritable_path():
    error = one_line_error(make('/proc/arrow/b', *SMALL))
    assert 'cannot write /proc/arrow/b' in error


def start_and_wait_for_frames(out):
    """Start a long run, and return it when it has written some frames."""
    run = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(out), '--size', '64'],
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # A shell's background job, as tests may be, ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    partial = out.with_name(out.name + '.partial')
    until = time.time() + 60
    while not any(partial.rglob('*.jpg')):
        assert run.poll() is None and time.time() < until
        time.sleep(0.05)
    return run


def test_killed_run(tmp_path):
    out = tmp_path / 'b'
    with start_and_wait_for_frames(out) as run:
        error = one_line_error(make(out, *SMALL))
        assert 'another run is making' in error
        run.kill()
        # Its workers share its stderr, which closes when they end as well.
        run.communicate(timeout=30)
    assert not out.exists()

    assert make(out, *SMALL).returncode == 0
    assert os.listdir(tmp_path) == ['b']
    assert json.loads((out / 'dataset.json').read_text())['size'] == 32
    assert len(list(out.rglob('*.jpg'))) == 4 * 10 * (3 + 2 + 1)


@pytest.mark.parametrize(
    'stop, message',
    [
        (lambda pid: os.kill(pid, signal.SIGTERM), 'stopped\n'),
        # Ctrl-C reaches the workers too.
        (lambda pid: os.killpg(pid, signal.SIGINT), 'interrupted\n'),
    ],
    ids=['kill', 'ctrl-c'],
)
def test_stopped_run_tidies_up(tmp_path, stop, message):
    with start_and_wait_for_frames(tmp_path / 'b') as run:
        stop(run.pid)
        error = run.stderr.read()
    assert run.returncode == 1
    assert error == message
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize('pair', arrow.PAIRS)
def test_second_class_is_the_first_reversed(pair):
    first, second = (
        arrow.draw_clip(pair, backward, 10, 32, np.random.default_rng(3))
        for backward in (False, True)
    )
    assert first.shape == (10, 32, 32, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, second[::-1])


@pytest.mark.parametrize('frames, step', [(10, 1), (17, 2)])
def test_v1_reads_frames_even_about_the_middle(frames, step):
    # v1 without random shift, one segment of 8 frames.
    window = 8 * step
    index = int((frames - window + 1) / 2) + 1
    read = []
    for _ in range(8):
        read.append(index)
        if index + step < frames:
            index += step
    assert len(set(read)) == 8
    assert read[0] - 1 == frames - read[-1]


def features(clip):
    """Measure a clip in the order of its frames, and regardless of it.

    Args:
        clip (np.ndarray): (frames, size, size, 3) uint8.

    Returns:
        tuple[np.ndarray, np.ndarray]: What depends on the order: how the
            light, the shapes' area, place, spread and angle change; and
            what does not: mean and deviation of a frame's features.
    """
    clip = clip.astype(np.float32)
    light = clip.mean((1, 2, 3))
    # Shapes are colourful, backgrounds greyish.
    shapes = (clip.max(3) - clip.min(3)) / light[:, None, None] - 0.6
    shapes = shapes.clip(0)
    area = shapes.mean((1, 2)) + 1e-6
    y, x = np.mgrid[: 1 : 1j * clip.shape[1], : 1 : 1j * clip.shape[2]]
    moments = [
        (shapes * weight).mean((1, 2)) / area for weight in (x, y, x * x, x * y, y * y)
    ]
    frames = np.stack([light, clip.std((1, 2, 3)), area, *moments], axis=1)
    unordered = np.concatenate([frames.mean(0), frames.std(0)])

    # How well does a shift, a widening and a turn about the shapes' centre
    # explain what changes from a frame to the next?
    middle, change = (shapes[1:] + shapes[:-1]) / 2, np.diff(shapes, axis=0)
    slope_y, slope_x = np.gradient(middle, axis=(1, 2))
    right = x - moments[0][1:, None, None]
    down = y - moments[1][1:, None, None]
    ordered = [np.log(light[-1] / light[0]), np.log(area[-1] / area[0])]
    for flow_x, flow_y in ((1, 0), (0, 1), (right, down), (-down, right)):
        model = -(flow_x * slope_x + flow_y * slope_y)
        ordered.append((change * model).sum() / (slope_x**2).sum())
    return np.array(ordered), unordered


def measured(pair, clips=80):
    """Measure the middle 8 frames of some clips of both classes."""
    ordered, unordered, labels = [], [], []
    for index in range(clips):
        for backward in (0, 1):
            rng = np.random.default_rng((index, backward))
            clip = arrow.draw_clip(pair, backward, 10, 32, rng)[1:-1]
            for values, kind in zip(features(clip), (ordered, unordered)):
                kind.append(values)
            labels.append(backward)
    return np.array(ordered), np.array(unordered), np.array(labels)


def accuracy(values, labels):
    """Fit a linear classifier to one half, and score it on the other."""
    values = (values - values.mean(0)) / values.std(0)
    values = np.column_stack([values, np.ones(len(values))])
    half = len(values) // 2
    weight = np.linalg.lstsq(values[:half], 2 * labels[:half] - 1, rcond=None)[0]
    return ((values[half:] @ weight > 0) == labels[half:]).mean()


@pytest.mark.parametrize(
    'pair',
    [
        pytest.param(pair, marks=[] if pair == 'move' else pytest.mark.full)
        for pair in arrow.PAIRS
    ],
)
def test_only_order_tells_a_pair_apart(pair):
    ordered, unordered, labels = measured(pair)
    assert accuracy(ordered, labels) > 0.95
    # 80 clips at chance: 0.5, give or take 0.056.
    assert 0.33 < accuracy(unordered, labels) < 0.67
    # Nor does any one feature differ by more than chance allows.
    first, second = unordered[labels == 0], unordered[labels == 1]
    deviation = np.sqrt((first.var(0) + second.var(0)) / len(first))
    assert np.all(np.abs(first.mean(0) - second.mean(0)) < 4 * deviation)


@pytest.mark.full
@pytest.mark.parametrize('pair', arrow.PAIRS)
def test_the_process_never_turns_back(pair):
    # Its own measure of the first half of a clip, of the second, and of
    # every second frame, all tell the direction as the whole clip does.
    column = {'brighten': 0, 'grow': 1, 'move': 2, 'scatter': 4, 'rotate': 5}
    right = []
    for index in range(40):
        clip = arrow.draw_clip(pair, False, 10, 64, np.random.default_rng(index))
        for part in (clip[:5], clip[5:], clip[::2]):
            right.append(features(part)[0][column[pair]] > 0)
    assert np.mean(right) > 0.9
