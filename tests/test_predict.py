"""tools/predict.py: scores as in testing, files, long videos, cameras, faults."""

import csv
import json
import os
import pickle
import signal
import time
import warnings
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch
import video_inputs
from conftest import ROOT
from hosts import HostError
from hosts.videos import BrokenVideo
from hypothesis import example, given, settings
from hypothesis import strategies as st
from predict import Recognizer
from prediction import camera, outputs
from prediction.ahead import ahead, in_thread
from prediction.windows import plan, segments, stretches
from script_calls import call, run, small_files, start
from video_files import Video
from videos import make_audio, make_video, rotate_video

PREDICT = ROOT / 'tools' / 'predict.py'
TEST = ROOT / 'tools' / 'test_recognizer.py'
NAMES = ['wave', 'große Geste', 'down']
DENSE = {
    'data.test.num_segments': 2,
    'data.test.new_length': 8,
    'data.test.new_step': 2,
    'data.test.oversample': 'ten_crop',
}
FRAMES = {
    'data.test.type': 'RawFramesDataset',
    'data.test.ann_file': 'frames.txt',
    'data.test.img_prefix': 'frames',
    'data.test.image_tmpl': 'image_{:05d}.jpg',
}


def options(values):
    """Arguments of --cfg-options."""
    return ['--cfg-options', *(f'{key}={value}' for key, value in values.items())]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Three videos, one of them as frames, a config, a checkpoint, labels."""
    folder = tmp_path_factory.mktemp('predict')
    (folder / 'videos' / 'a b').mkdir(parents=True)
    make_video(folder / 'videos/a b/ä 日本.mp4', frames=40, size=(96, 72), seed=1)
    odd = dict(frames=3, size=(65, 97), codec='mpeg4')  # H.264 wants even
    make_video(folder / 'videos/short.mp4', seed=2, **odd)
    make_video(folder / 'videos/turned.mp4', frames=12, size=(96, 72), seed=3)
    rotate_video(folder / 'videos/turned.mp4', 90)
    (folder / 'test.txt').write_text('a b/ä 日本 0\nshort 1\nturned 2\n')
    (folder / 'frames/clip').mkdir(parents=True)
    with Video(folder / 'videos/a b/ä 日本.mp4') as video:
        for number, image in enumerate(video, 1):
            cv2.imwrite(str(folder / f'frames/clip/image_{number:05d}.jpg'), image())
    (folder / 'frames.txt').write_text('clip 40 0\n')
    (folder / 'classes.txt').write_text('\n'.join(NAMES) + '\n')
    (folder / 'config.py').write_text(
        f'_base_ = {str(ROOT / "configs/DNR_resnet18_own_videos_cpu.py")!r}\n'
        'model = dict(cls_head=dict(num_classes=3))\n'
        "data = dict(test=dict(ann_file='test.txt', img_prefix='videos'))\n"
    )
    torch.manual_seed(0)
    network = video_inputs.build_recognizer(
        video_inputs.testing_config(str(folder / 'config.py'))
    )
    network.init_weights()
    network.cls_head.fc_cls.weight.data *= 30  # scores that differ
    torch.save(dict(state_dict=network.state_dict()), folder / 'model.pth')
    return folder


@pytest.fixture(scope='module')
def recognizer(folder):
    return Recognizer(
        str(folder / 'config.py'),
        str(folder / 'model.pth'),
        labels=str(folder / 'classes.txt'),
        device='cpu',
    )


def predict(folder, *arguments, code=0):
    """Run the command in this process; what it printed, without the bar."""
    given = ['config.py', 'model.pth', *arguments]
    done, output = call(PREDICT, *given, cwd=folder)
    output = f'{output}{done}' if isinstance(done, str) else output
    assert (1 if isinstance(done, str) else done) == code, output
    return output


def results(path):
    return json.loads(path.read_text())


# ---- scores


@pytest.mark.parametrize(
    'values, inputs',
    [
        ({}, ['videos/a b/ä 日本.mp4', 'videos/short.mp4', 'videos/turned.mp4']),
        pytest.param(FRAMES, ['frames/clip'], marks=pytest.mark.full),
        pytest.param(DENSE, ['videos/a b/ä 日本.mp4'], marks=pytest.mark.full),
    ],
    ids=['videos', 'frames', 'dense, ten crops'],
)
def test_scores_of_testing(folder, tmp_path, values, inputs):
    """Scores are those of tools/test_recognizer.py, alone and in a batch."""
    if values is DENSE:
        (folder / 'one.txt').write_text('a b/ä 日本 0\n')
        values = {**values, 'data.test.ann_file': 'one.txt'}
    scores = tmp_path / 'scores.pkl'
    values = options(values) if values else []
    arguments = ['config.py', 'model.pth', '--out', scores, *values]
    code, output = call(TEST, *arguments, cwd=folder)
    assert code == 0, output
    expected = np.concatenate(pickle.loads(scores.read_bytes()))
    assert len(expected) == len(inputs)
    assert len(inputs) == 1 or np.ptp(expected, 0).max() > 1e-2
    for batch in 1, 2:
        out = tmp_path / f'{batch}.json'
        given = ['--device', 'cpu', '--batch', batch, '--out', out]
        predict(folder, *inputs, *given, *values)
        videos = results(out)['videos']
        assert [video['video'] for video in videos] == inputs
        found = np.array([video['scores'] for video in videos])
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_top_and_features(folder, recognizer):
    """Classes by name, probabilities, and the features that scores are made of."""
    prediction = recognizer.predict(folder / 'videos/short.mp4')
    top = prediction.top(2)
    order = prediction.scores.argsort()[::-1]
    assert [item['label'] for item in top] == order[:2].tolist()
    assert [item['name'] for item in top] == [NAMES[label] for label in order[:2]]
    softmax = torch.from_numpy(prediction.scores).softmax(0).numpy()
    np.testing.assert_allclose(prediction.probabilities, softmax, rtol=1e-5)
    assert prediction.features.shape == (512,)
    with torch.no_grad():
        layer = recognizer.network.cls_head.fc_cls
        scores = layer(torch.from_numpy(prediction.features))
    np.testing.assert_allclose(prediction.scores, scores, atol=1e-5)


@pytest.mark.parametrize('speed', [dict(amp='bf16'), dict(channels_last=True)], ids=str)
def test_speed_options(folder, recognizer, speed):
    """Scores are those without the option, to its rounding, and not the same."""
    video = folder / 'videos/a b/ä 日本.mp4'
    expected = recognizer.predict(video).scores
    files = [str(folder / name) for name in ('config.py', 'model.pth')]
    fast = Recognizer(*files, device='cpu', **speed)
    scores = fast.predict(video).scores
    spread = np.ptp(expected)
    assert np.abs(scores - expected).max() < (0.1 if 'amp' in speed else 1e-4) * spread
    assert fast.classes == ['0', '1', '2']
    if 'amp' in speed:
        assert np.abs(scores - expected).max() > 0
    else:
        weight = fast.network.backbone.conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)


# ---- windows


def cut(path, target, first, last):
    """Some frames of a video, as a file of their own, to the bit."""
    with av.open(str(path)) as file, av.open(str(target), 'w') as out:
        stream = out.add_stream('ffv1', rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 72, 'yuv420p'
        for number, frame in enumerate(file.decode(video=0)):
            if first <= number < last:
                frame.pts, frame.time_base = number - first, Fraction(1, 25)
                out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def test_windows(folder, recognizer, tmp_path):
    """A window is scored as a video of its frames; a camera gives the same."""
    path = folder / 'videos/a b/ä 日本.mp4'  # 40 frames, 25 a second
    windows = list(recognizer.windows(path, 0.4, 0.8))
    frames = [(0, 20), (10, 30), (20, 40)]
    times = [(window.start, window.end) for window in windows]
    np.testing.assert_allclose(times, np.array(frames) / 25, atol=1e-9)
    for number, ((first, last), window) in enumerate(zip(frames, windows)):
        cut(path, tmp_path / f'{number}.mkv', first, last)
        alone = recognizer.predict(tmp_path / f'{number}.mkv')
        np.testing.assert_allclose(window.scores, alone.scores, atol=1e-5)
    watched = list(recognizer.watch(f'file://{path}', 0.4, 0.8))
    assert len(watched) in (2, 3)  # the last is over when the next frame comes
    for live, window in zip(watched, windows):
        assert (live.start, live.end) == pytest.approx((window.start, window.end))
        np.testing.assert_allclose(live.scores, window.scores, atol=1e-5)


@settings(max_examples=500)
@example([1, 1, 1, 3, 1], 3, 3)  # of the last two, one has a frame more
@given(
    st.lists(st.floats(0.001, 3), min_size=1, max_size=60),
    st.floats(0.01, 5),
    st.floats(0.01, 5),
)
def test_plan(gaps, every, length):
    """Whatever the times of frames: windows have frames, and reach the end."""
    seconds = np.cumsum([0, *gaps[1:]])
    windows = plan(seconds, every, length)
    assert windows[0].start == 0 and windows[-1].last == len(seconds)
    for window in windows:
        assert 0 <= window.first < window.last <= len(seconds)
        assert window.end - window.start <= length + 1e-9
        inside = (seconds >= window.start) & (seconds < window.end - 1e-5)
        assert set(np.flatnonzero(inside)) <= set(range(window.first, window.last))
    if length >= every:
        covered = set().union(*(range(w.first, w.last) for w in windows))
        assert covered == set(range(len(seconds)))
    parts = stretches(windows)
    assert parts[0][0] == 0 and parts[-1][1] == windows[-1].end
    assert all(a[1] == b[0] for a, b in zip(parts, parts[1:]))


def test_segments(recognizer, folder):
    windows = list(recognizer.windows(folder / 'videos/a b/ä 日本.mp4', 0.4))
    for window, scores in zip(windows, ([5, 0, 0], [4, 0, 0], [0, 0, 9], [0, 1, 0])):
        window.scores = np.array(scores, np.float32)
    found = segments(windows)
    assert [part['name'] for part in found] == ['wave', 'down', 'große Geste']
    times = [(part['start'], part['end']) for part in found]
    np.testing.assert_allclose(times, [(0, 0.8), (0.8, 1.2), (1.2, 1.6)], atol=1e-9)
    mean = (windows[0].probabilities[0] + windows[1].probabilities[0]) / 2
    assert found[0]['probability'] == pytest.approx(mean)


def test_files_of_windows(folder, tmp_path):
    """The curve, the segments, features and the table of --every."""
    video = 'videos/a b/ä 日本.mp4'
    given = ['--every', 0.5, '--window', 0.8, '--labels', 'classes.txt']
    files = ['--curve', tmp_path / 'curves', '--features', tmp_path / 'x.npy']
    out = tmp_path / 'r.json'
    output = predict(folder, video, *given, *files, '--out', out)
    (entry,) = results(out)['videos']
    assert [(w['start'], w['end']) for w in entry['windows']] == [
        (0, 0.8),
        (0.5, 1.3),
        (0.8, 1.6),
    ]
    assert entry['segments'][0]['name'] in output and 'is the limit' in output
    curve = cv2.imread(str(tmp_path / 'curves/ä 日本.png'))
    assert curve.shape[0] > 300 and curve.std() > 10
    assert np.load(tmp_path / 'x.npy').shape == (3, 512)
    table = tmp_path / 'r.csv'
    predict(folder, video, *given, '--topk', 2, '--out', table)
    with open(table, encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 and {row['rank'] for row in rows} == {'1', '2'}
    assert float(rows[2]['start']) == 0.5 and rows[2]['video'] == video
    best = entry['windows'][1]['top'][0]
    assert rows[2]['name'] == best['name']
    assert float(rows[2]['score']) == pytest.approx(best['score'], abs=1e-5)


def test_curve_of_one_frame(tmp_path):
    """Such a video has no length: nothing is said of it."""
    from predict import Prediction
    from prediction.drawing import draw_curve

    scores = np.array([0, 1], np.float32)
    window = Prediction('a.mp4', ['x', '_y'], scores, start=0.0, end=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        draw_curve(str(tmp_path / 'a.png'), [window], 5)
    assert cv2.imread(str(tmp_path / 'a.png')).std() > 10


# ---- many videos


@pytest.fixture
def many(folder, tmp_path):
    """The folder's config beside eight good videos, and four that are not."""
    for name in ('config.py', 'model.pth', 'classes.txt'):
        (tmp_path / name).symlink_to(folder / name)
    for number in range(8):
        target = tmp_path / f'many/{number % 3}/clip {number}.mp4'
        target.parent.mkdir(parents=True, exist_ok=True)
        make_video(target, size=(96, 72), seed=number, frames=8 + number)
    (tmp_path / 'many/0/empty.mp4').write_bytes(b'')
    (tmp_path / 'many/1/broken.mp4').write_bytes(b'no video' * 100)
    make_audio(tmp_path / 'many/2/sound.mp4')
    whole = (tmp_path / 'many/0/clip 0.mp4').read_bytes()
    (tmp_path / 'many/2/half.mp4').write_bytes(whole[: len(whole) // 2])
    return tmp_path


def test_broken_among_many(many):
    """The others are done, each is named, the exit code says so; and again."""
    given = ['many', '--out', 'r.json', '--features', 'f', '--batch', 5]
    (many / 'many/0/gone.mp4').symlink_to('nowhere.mp4')
    output = predict(many, *given, code=3)
    entries = {entry['video']: entry for entry in results(many / 'r.json')['videos']}
    assert len(entries) == 13
    bad = {name for name, entry in entries.items() if 'error' in entry}
    expected = ('0/empty', '0/gone', '1/broken', '2/sound', '2/half')
    assert bad == {f'many/{name}.mp4' for name in expected}
    for name in bad:
        assert output.count(f'error: {name} cannot be read: ') == 1
        assert 'scores' not in entries[name]
    assert '5 of 13 videos have errors' in output
    assert 'it has no video stream' in entries['many/2/sound.mp4']['error']
    assert np.load(many / 'f/0/clip 3.npy').shape == (1, 512)
    # A second run reads the bad ones alone, and a file that is new or gone.
    (many / 'f/0/clip 3.npy').unlink()
    make_video(many / 'many/1/broken.mp4', size=(96, 72))
    output = predict(many, *given, code=3)
    assert '7 of 13 videos are done already' in output
    again = {entry['video']: entry for entry in results(many / 'r.json')['videos']}
    assert list(again) == list(entries) and 'scores' in again['many/1/broken.mp4']
    for name in set(entries) - bad:
        np.testing.assert_allclose(
            again[name]['scores'], entries[name]['scores'], atol=1e-5
        )
    assert (many / 'f/0/clip 3.npy').exists()
    # Another checkpoint: nothing of it holds.
    checkpoint = torch.load(many / 'model.pth')
    checkpoint['state_dict']['cls_head.fc_cls.bias'] += 1
    (many / 'model.pth').unlink()
    torch.save(checkpoint, many / 'model.pth')
    output = predict(many, *given, code=3)
    assert 'r.json.done is of another checkpoint' in output
    changed = {entry['video']: entry for entry in results(many / 'r.json')['videos']}
    difference = np.subtract(
        changed['many/0/clip 3.mp4']['scores'], entries['many/0/clip 3.mp4']['scores']
    )
    np.testing.assert_allclose(difference, 1, atol=1e-5)


@pytest.mark.full
def test_killed(many):
    """A run that was killed in the middle goes on, to the same results."""
    given = ['many/0', 'many/1', 'many/2', '--batch', 1, '--topk', 2]
    command = [PREDICT, 'config.py', 'model.pth', *given, '--out', 'r.csv']
    journal = many / 'r.csv.done'
    with start(*command, cwd=many) as process:
        while not journal.exists() or journal.read_bytes().count(b'\n') < 4:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = journal.read_bytes().count(b'\n') - 1
    assert 3 <= done < 12 and not (many / 'r.csv').exists()
    with open(journal, 'a') as file:
        file.write('["many/2/clip 11.mp4", [1')  # as a kill may leave it
    output = predict(many, *given, '--out', 'r.csv', code=3)
    assert f'{done} of 12' in output or f'{done - 1} of 12' in output  # one is bad
    predict(many, *given, '--out', 'whole.csv', code=3)
    assert (many / 'r.csv').read_text() == (many / 'whole.csv').read_text()


def test_full_disk(many):
    """One line, and what is finished is kept."""
    given = ['many/0/clip 0.mp4', 'many/0/clip 3.mp4', '--out', 'r.json', '--batch', 1]
    given += ['--render', 'drawn']
    make_video(many / 'many/0/clip 3.mp4', size=(192, 144), frames=90)
    with small_files(20_000):
        output = predict(many, *given, code=1)
    assert 'error: drawn/clip 3.mp4: File too large' in output
    assert 'Traceback' not in output
    assert os.listdir(many / 'drawn') == ['clip 0.mp4']
    with small_files(100), pytest.raises(OSError) as fault:
        outputs.Journal(str(many / 'o.done'), dict(checkpoint='0' * 100))
    assert fault.value.filename == str(many / 'o.done')
    assert '1 of 2 videos are done already' in predict(many, *given)
    assert len(results(many / 'r.json')['videos']) == 2


def test_two_at_once(many):
    """A second run on the same results is refused."""
    import fcntl

    with open(many / 'r.json.done', 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        output = predict(many, 'many', '--out', 'r.json', code=1)
    assert 'error: r.json.done: another process is writing it' in output


def test_patterns(many):
    """Patterns, and files of one name in two folders."""
    make_video(many / 'many/1/clip 0.mp4', size=(96, 72))
    make_video(many / 'many/1/clip 0.avi', size=(96, 72), codec='mpeg4')
    given = ['many/*/clip 0.*', 'many/0/clip 0.mp4', '--features', 'f.npy']
    output = predict(many, *given, '--out', 'r.json', '--render', 'drawn')
    assert 'wrote r.json' in output
    videos = [entry['video'] for entry in results(many / 'r.json')['videos']]
    assert videos == [f'many/{n}' for n in ('0/clip 0.mp4', '1/clip 0.avi')] + [
        'many/1/clip 0.mp4'
    ]
    assert np.load(many / 'f.npy').shape == (3, 512)
    drawn = sorted(path.relative_to(many) for path in many.glob('drawn/**/*.mp4'))
    assert [str(path) for path in drawn] == [
        'drawn/0/clip 0.mp4',
        'drawn/1/clip 0.avi.mp4',
        'drawn/1/clip 0.mp4.mp4',
    ]
    # Features of what is done already are not lost.
    first = np.load(many / 'f.npy')
    (many / 'f.npy').unlink()
    assert '3 of 3 videos are done' in predict(
        many, *given, '--out', 'r.json', '--render', 'drawn'
    )
    assert np.array_equal(np.load(many / 'f.npy'), first)


# ---- pictures


@pytest.mark.parametrize('name', ['a b/ä 日本', 'short', 'turned'])
def test_render(folder, tmp_path, name):
    """All frames at their times, turned as they are shown, with classes on them."""
    video = folder / f'videos/{name}.mp4'
    predict(folder, video, '--labels', 'classes.txt', '--render', tmp_path)
    with Video(video) as before, Video(tmp_path / f'{video.stem}.mp4') as after:
        np.testing.assert_allclose(after.seconds, before.seconds, atol=1e-4)
        for one, other in zip(before, after):
            one, other = one(), other()
            height, width = one.shape[:2]
            assert other.shape[:2] == (height + height % 2, width + width % 2)
            difference = np.abs(one.astype(int) - other[:height, :width])
            assert difference[-height // 3 :].mean() < 12  # as the encoder has it
            assert difference[2:12, :20].mean() > 20


# ---- faults, before any work


@pytest.mark.parametrize(
    'arguments, fault',
    [
        (['gone.mp4'], 'gone.mp4 does not exist'),
        (['videos/*.avi'], 'nothing fits this pattern'),
        (['void'], 'void has no videos'),
        (['videos', '--labels', 'two.txt'], 'names 2 classes, but the network has 3'),
        (['videos', '--labels', 'gap.txt'], 'gap.txt, line 2: there is no name'),
        (['videos', '--labels', 'gone.txt'], 'cannot read gone.txt'),
        (['videos', '--topk', 0], '--topk 0 should be at least 1'),
        (['videos', '--batch', 0], '--batch 0 should be at least 1'),
        (['videos', '--window', 2], '--window needs --every'),
        (['videos', '--curve', 'x'], '--curve needs --every'),
        (['videos', '--every', 0], '--every 0 should be seconds'),
        (['videos', '--every', 'nan'], '--every nan should be seconds'),
        (['videos', '--out', 'x.txt'], 'should end in .json or .csv'),
        (['videos', '--out', 'config.py/x.json'], 'cannot write --out'),
        (['videos', '--features', 'config.py'], 'cannot write to --features'),
        (['videos', '--render', 'videos'], '--render videos would replace'),
        (['videos', '--every', 1, '--features', 'x.npy'], 'name a folder'),
        (['frames/clip', '--every', 1], 'frames/clip is a folder of frames'),
        (['frames', '--render', 'x'], 'frames/clip is a folder of frames'),
        (['99'], 'a camera needs --every'),
        (['99', '--every', 1], 'is there a /dev/video99?'),
        (['99', 'videos', '--every', 1], 'give a camera alone'),
        (['file://gone.mp4', '--every', 1], 'file://gone.mp4 cannot be opened'),
        (['videos', '--device', 'gpu'], '--device gpu cannot be used'),
        (['videos', '--device', 'cuda:77'], '--device cuda:77 cannot be used'),
        (['videos', '--amp', 'fp16', '--device', 'cpu'], 'on a CPU, use bf16'),
        (
            ['videos', *options({'model.cls_head.num_classes': 4})],
            'cls_head.fc_cls.bias is (3,) there, (4,) here; set model.cls_head.num_',
        ),
        (
            ['videos', *options({'model.backbone.depth': 50})],
            'model.cls_head.in_channels=512',
        ),
    ],
    ids=str,
)
def test_refused(folder, arguments, fault):
    """One line says what is wrong, and nothing is left."""
    (folder / 'void').mkdir(exist_ok=True)
    (folder / 'two.txt').write_text('a\nb\n')
    (folder / 'gap.txt').write_text('a\n\nb\n')
    before = sorted(folder.rglob('*'))
    output = predict(folder, *arguments, code=1)
    assert fault in output and 'error: ' in output
    assert 'Traceback' not in output
    after = [path for path in folder.rglob('*') if path.is_file()]
    assert after == [path for path in after if path in before]


def test_mmaction_v1(folder, monkeypatch):
    """The other host is refused by name."""
    monkeypatch.setenv('MMACTION_ROOT', str(folder))
    assert 'runs on mmaction2 alone' in predict(folder, 'videos', code=1)


def test_scores_that_are_not_finite(folder, recognizer, monkeypatch):
    bias = torch.full((3,), float('nan'))
    monkeypatch.setattr(recognizer.network.cls_head.fc_cls.bias, 'data', bias)
    with pytest.raises(HostError, match='scores are not finite'):
        recognizer.predict(folder / 'videos/short.mp4')


def test_broken_in_the_middle(folder, recognizer, tmp_path):
    """The windows before a damaged place are there, and then the fault."""
    path = tmp_path / 'half.ts'
    make_video(path, frames=100, size=(96, 72))
    with Video(path) as video:
        frames = video.frames
        with pytest.MonkeyPatch.context() as patch:

            def some(self, threads):
                from video_files import VideoError

                for number, image in enumerate(frames(threads)):
                    if number == 60:
                        raise VideoError('frame 61 is damaged')
                    yield image

            patch.setattr(Video, 'frames', some)
            windows = []
            with pytest.raises(HostError, match=r'half.ts .*frame 61 is damaged'):
                windows += recognizer.windows(path, 1)
                pytest.fail('no fault')
            found = recognizer.windows(path, 1)
            assert next(found).end == 1 and next(found).end == 2
            with pytest.raises(HostError):
                next(found)


def test_frames_that_do_not_fit(folder, recognizer, monkeypatch):
    """What is wrong with one video's frames is that video's fault alone."""

    def refuse(images, video):
        raise HostError(f'{video}: too small')

    monkeypatch.setattr(recognizer._clips, 'of_images', refuse)
    with pytest.raises(BrokenVideo, match='short.mp4: too small'):
        list(recognizer.windows(folder / 'videos/short.mp4', 1))


# ---- cameras


def test_camera(folder, tmp_path):
    """A file stands in for a camera; its password is told to nobody."""
    name = f'file://{folder}/videos/a b/ä 日本.mp4'
    out = tmp_path / 'r.json'
    given = [name, '--every', 0.4, '--labels', 'classes.txt', '--out', out]
    output = predict(folder, *given, '--render', tmp_path, '--curve', tmp_path)
    (entry,) = results(out)['videos']
    assert len(entry['windows']) >= 3 and output.count(' s  ') >= 3
    assert (tmp_path / 'camera.png').is_file()
    with Video(tmp_path / 'camera.mp4') as video:
        assert len(video) == 40
    url = 'rtsp://me:secret@10.0.0.1/live'
    assert camera.is_camera(url) and camera.is_camera('0')
    assert not camera.is_camera('clip.mp4')
    assert camera.without_password(url) == 'rtsp://10.0.0.1/live'


def test_live_camera_leaves_windows_out():
    """A slow taker gets the newest, and the thread is never held up."""
    taken, produced = [], []

    def items():
        for number in range(20):
            produced.append(number)
            yield number
            time.sleep(0.01)

    for number in in_thread(items(), 1, drop_oldest=True):
        taken.append(number)
        time.sleep(0.1)
    assert produced == list(range(20)) and len(taken) < 10
    assert taken == sorted(taken) and taken[-1] == 19


def test_ahead():
    """Results in order, no more ahead than asked for; a fault in its place."""
    begun = []

    def double(item):
        begun.append(item)
        if item == 7:
            raise ValueError(item)
        return 2 * item

    found = ahead(double, iter(range(100)), 3, 4)
    assert [next(found) for _ in range(7)] == [0, 2, 4, 6, 8, 10, 12]
    time.sleep(0.05)
    assert max(begun) <= 10
    with pytest.raises(ValueError):
        next(found)


@pytest.mark.full
def test_memory_is_flat(folder, tmp_path):
    """An hour takes no more memory than two minutes."""
    peaks = []
    for minutes in 2, 60:
        path = tmp_path / f'{minutes}.mp4'
        make_long(path, minutes)
        script = tmp_path / 'script.py'
        script.write_text(
            f'import resource, sys\n'
            f'sys.path.insert(0, {str(ROOT / "tools")!r})\n'
            f'from predict import Recognizer\n'
            f'recognizer = Recognizer({str(folder / "config.py")!r}, '
            f"{str(folder / 'model.pth')!r}, device='cpu')\n"
            f'count = sum(1 for _ in recognizer.windows({str(path)!r}, 15))\n'
            f'print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n'
        )
        count, peak = map(int, run(script, cwd=tmp_path).split()[-2:])
        assert count == minutes * 4
        peaks.append(peak / 1024)
    assert peaks[1] - peaks[0] < 40, peaks  # MiB; all its frames have 2.6 GiB


def make_long(path, minutes):
    """A video of 10 frames a second, 192 x 128."""
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('mpeg4', rate=10)
        stream.width, stream.height, stream.pix_fmt = 192, 128, 'yuv420p'
        image = np.zeros((128, 192, 3), np.uint8)
        for number in range(minutes * 600):
            image[:] = number % 256
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, 'bgr24')))
        file.mux(stream.encode(None))
