"""Lists and frames: read, or one line that names the file and the line.

Of mmaction v1's side, which shares these checks, hosts/test_mmaction_v1_host.py
and hosts/test_v1_faults.py have the tests.
"""

import codecs
import random

import cv2
import numpy as np
import pytest
from conftest import ROOT
from hosts import HostError
from hosts.checks import check_frame_size, check_scale
from hosts.lists import check_template, doubts, read_list
from hosts.mmaction2_config import IMPORTS, load_config, translate
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from script_calls import call, make_clips

DEMO = str(ROOT / 'configs' / 'DNR_resnet18_arrow_demo.py')
quick = settings(max_examples=50)


# ---- lists


def as_list(tmp_path, content):
    path = tmp_path / 'a list.txt'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


TEXT = 'clips/a 10 0\nmy clips/b c 9 3\n'
VIDEOS = [('clips/a', 10, 0), ('my clips/b c', 9, 3)]


@pytest.mark.parametrize(
    'content',
    [
        TEXT,
        TEXT.rstrip('\n'),
        TEXT + '\n\n  \n',
        TEXT.replace('\n', '\r\n'),
        TEXT.replace('\n', '\r'),
        TEXT.replace(' 10', '\t10').replace(' 9', '   9'),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode('utf-16'),
        TEXT.encode('utf-32'),
        codecs.BOM_UTF16_BE + TEXT.encode('utf-16-be'),
    ],
)
def test_lists_that_are_read(tmp_path, content):
    assert read_list(as_list(tmp_path, content), num_classes=4) == VIDEOS


def test_a_list_of_video_files(tmp_path):
    path = as_list(tmp_path, 'a/b.mp4 0\nmy video 2\n')
    assert read_list(path, 'path label') == [('a/b.mp4', 0), ('my video', 2)]
    with pytest.raises(HostError, match='line 1: .* should be "path label"'):
        read_list(as_list(tmp_path, 'a.mp4\n'), 'path label')


@pytest.mark.parametrize(
    'content, message',
    [
        ('', ' lists no video'),
        ('\n\n', ' lists no video'),
        ('a 1 0\n\nb 1 0\n', ', line 2: \'\' should be "path num_frames label"'),
        ('a 1 0\nb 1\n', ", line 2: 'b 1' should be"),
        ('a 1 0\nb one 1\n', ", line 2: 'b one 1' should be"),
        ('a 1.0 0\n', ', line 1: '),
        ('a 1_0 0\n', ', line 1: '),
        ('a ١ 0\n', ', line 1: '),
        ('a 99999999999999999999 0\n', ', line 1: '),
        ('a 0 0\n', ', line 1: a video of 0 frames'),
        ('a -3 0\n', ', line 1: a video of -3 frames'),
        ('a 5 4\n', ', line 1: label 4 is not one of the 4 classes'),
        ('a 5 -1\n', ', line 1: label -1 is not one of the 4 classes'),
        (b'a 1 0\ncaf\xe9 1 0\n', ', line 2: the byte 0xe9 is not UTF-8. Save'),
        (TEXT.encode('utf-16-le'), ', line 1: a NUL character is not UTF-8'),
        (TEXT.encode('utf-16')[:-1], ', line 2: the byte 0x0a is not UTF-16'),
        (b'a 1 0\n\xe9 1 0\n', ', line 2: the byte 0xe9'),
        (b'a 1 0\r\xe9 1 0\r', ', line 2: the byte 0xe9'),
        (b'\x89PNG\r\n\x1a\n\x00', ', line 1: the byte 0x89'),
    ],
)
def test_lists_that_are_refused(tmp_path, content, message):
    path = as_list(tmp_path, content)
    with pytest.raises(HostError) as error:
        read_list(path, num_classes=4)
    assert str(error.value).startswith(path + message)
    assert '\n' not in str(error.value)


def test_doubts():
    train = 'train.txt', [('a', 0), ('b', 1), ('a', 0), ('b', 0), ('a', 1)]
    val = 'val.txt', [('c', 0), ('a', 0), ('b', 1)]
    two_labels = 'train.txt, line 4: b has label 0, but in line 2 it has 1'
    assert doubts(train) == [two_labels]
    first, shared = doubts(train, val)
    assert first == two_labels
    assert shared.startswith('val.txt, line 2: a is in train.txt, too, as 2 of its 3 ')
    assert not doubts(val, ('test.txt', [('d', 0)]))


def test_lists_that_are_not_there(tmp_path):
    with pytest.raises(HostError, match='does not exist .ann_file in the config'):
        read_list(str(tmp_path / 'none.txt'))
    with pytest.raises(HostError, match='does not exist'):
        read_list(str(tmp_path))


names = st.text(
    st.characters(blacklist_categories=['Cs', 'Cc', 'Zl', 'Zp']), min_size=1
).filter(lambda text: text == text.strip())
row = st.tuples(names, st.integers(1, 10**9 - 1), st.integers(0, 9))


@quick
@given(
    st.lists(row, min_size=1),
    st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16', 'utf-32']),
    st.sampled_from(['\n', '\r\n', '\r']),
    st.sampled_from([' ', '\t', '  ']),
    st.integers(0, 3),
)
def test_any_list_is_read(tmp_path_factory, videos, encoding, end, gap, blank):
    text = end.join(gap.join(map(str, video)) for video in videos) + end * blank
    path = as_list(tmp_path_factory.getbasetemp(), text.encode(encoding))
    assert read_list(path, num_classes=10) == videos


@quick
@given(st.binary(max_size=60))
@example(b'\xff\xfe')
@example(b'a 1 0\n\x00')
def test_any_bytes_are_a_list_or_refused_by_name(tmp_path_factory, content):
    path = as_list(tmp_path_factory.getbasetemp(), content)
    try:
        videos = read_list(path, num_classes=10)
    except HostError as error:
        assert str(error).startswith(path) and '\n' not in str(error)
    else:
        assert all(count > 0 <= label < 10 for _, count, label in videos)


def test_templates():
    check_template('image_{:05d}.jpg', 'train')
    check_template('flow_{}_{:05d}.jpg', 'train', 'Flow')
    for template in ('image.jpg', '{:05x', '{}_{}.jpg', '{name}', None, 'a{0:d}{1}'):
        with pytest.raises(HostError, match='data.val.image_tmpl='):
            check_template(template, 'val')
    for template in ('flow_{:05d}.jpg', 'flow_{1:05d}.jpg', 'flow_{}.jpg'):
        with pytest.raises(HostError, match='places for x or y and a number'):
            check_template(template, 'val', 'Flow')


# ---- sizes


@pytest.fixture
def video(tmp_path):
    """A function that makes a video of one size and gives its list and folder."""

    def make(width, height, count=10):
        folder = tmp_path / f'{width} x {height}'
        folder.mkdir()
        image = np.zeros((height, width, 3), np.uint8)
        for number in range(1, count + 1):
            cv2.imwrite(str(folder / f'image_{number:05d}.jpg'), image)
        (tmp_path / 'list.txt').write_text(f'{folder.name} {count} 0\n')
        return folder

    return make


CROPS = {
    'center_crop': {},
    'multiscale_crop': dict(multiscale_crop=True, scales=[1, 0.9]),
    'random multiscale_crop': dict(multiscale_crop=True, random_crop=True),
    'three_crop': dict(oversample='three_crop'),
    'ten_crop': dict(oversample='ten_crop'),
}


def clip(tmp_path, **options):
    """A clip of the list, of 32 x 32 in training, through the pipeline."""
    import_modules_from_strings(IMPORTS)
    init_default_scope('mmaction')
    from mmaction.registry import DATASETS

    v1 = load_config(DEMO)
    v1.data.train.update(
        ann_file=str(tmp_path / 'list.txt'), img_prefix=str(tmp_path), **options
    )
    loader = translate(v1).train_dataloader
    return DATASETS.build(loader.dataset)[0]['inputs']


@pytest.mark.parametrize('name', CROPS)
@pytest.mark.parametrize(
    'width, height, scale, fits',
    [
        (40, 36, 32, True),
        (36, 40, 32, True),
        (32, 32, (32, 32), True),
        (200, 10, (40, 32), False),  # 40 x 2
        (10, 200, (40, 32), False),
        (40, 31, (40, 31), False),
    ],
)
def test_frames_and_crops(tmp_path, video, name, width, height, scale, fits):
    folder = video(width, height)
    options = dict(CROPS[name], img_scale=scale)
    # A multiscale crop is of the frame's size, and enlarged: a side of 31 is
    # all but the 32 that it takes instead.
    fits = fits or ('multiscale' in name and height != 31)
    if fits:
        assert clip(tmp_path, **options).shape[2:] == (32, 32)
        return
    with pytest.raises(HostError) as error:
        clip(tmp_path, **options)
    kind = name.split()[-1]
    # Where no frame fits, the config says so already.
    where = 'data.train.img_scale=(40, 31)' if height == 31 else folder
    assert str(error.value).startswith(f'{where}: frames of ')
    assert f'do not fit {kind} of 32 x 32 (input_size): ' in str(error.value)
    assert 'img_scale=32' in str(error.value)


@quick
@given(
    st.integers(8, 60),
    st.integers(8, 60),
    st.sampled_from(sorted(CROPS)),
    st.integers(8, 40),
    st.integers(8, 40),
    st.integers(0, 10**6),
)
def test_what_passes_is_cropped_whole(width, height, name, crop_w, crop_h, seed):
    """mmaction2's own crops give the size that was asked for, or it was refused."""
    import_modules_from_strings(IMPORTS)
    from mmaction.datasets import transforms

    options = CROPS[name]
    kind = name.split()[-1]
    scales = tuple(options.get('scales', (1, 0.875, 0.75, 0.66)))
    size = (crop_w, crop_h)
    try:
        check_frame_size(width, height, kind, size, scales)
    except HostError:
        # Rightly: a side of the frame is shorter, or three_crop has no side.
        fits = width >= crop_w and height >= crop_h
        if kind == 'three_crop':
            assert not (fits and (width == crop_w or height == crop_h))
        elif kind == 'multiscale_crop':
            assert min(width, height) < max(size)
        else:
            assert not fits
        return
    random.seed(seed)
    results = dict(
        imgs=[np.zeros((height, width, 3), np.uint8)],
        img_shape=(height, width),
        modality='RGB',
        num_clips=1,
        clip_len=1,
    )
    if kind == 'multiscale_crop':
        crop = transforms.MultiScaleCrop(
            size, scales, 1, random_crop='random' in name, num_fixed_crops=13
        )
        sides = [int(min(width, height) * scale) for scale in scales]
        images = crop(results)['imgs']
        for image in images:
            for side, wanted in zip(image.shape[1::-1], size):
                assert side in (*sides, wanted)
    else:
        crop = dict(
            center_crop=transforms.CenterCrop,
            three_crop=transforms.ThreeCrop,
            ten_crop=transforms.TenCrop,
        )[kind](size)
        for image in crop(results)['imgs']:
            assert image.shape[1::-1] == size


@quick
@given(st.integers(8, 60), st.integers(8, 60), st.sampled_from(sorted(CROPS)))
def test_what_the_message_says_is_right(width, height, name):
    """img_scale as told: a frame of any shape fits a square crop."""
    crop = 24
    scale = crop / min(width, height)
    resized = [int(side * scale + 0.5) for side in (width, height)]
    check_frame_size(*resized, name.split()[-1], (crop, crop), (1, 0.9))
    check_scale('train', dict(CROPS[name], img_scale=crop, input_size=crop))


# ---- the command


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp('data'), 'data/arrow', 1, 1, 1)


@pytest.mark.parametrize(
    'content, message',
    [
        (b'caf\xe9 10 0\n', 'line 1: the byte 0xe9 is not UTF-8'),
        (b'a b 10 3\n', 'should be the first frame of the first video'),
    ],
)
def test_training_refuses_the_list(data, tmp_path, content, message):
    path = as_list(tmp_path, content)
    options = [f'data.train.ann_file={path}', 'data.workers_per_gpu=0']
    code, _ = call(
        ROOT / 'tools/train_recognizer.py',
        DEMO,
        '--work_dir',
        tmp_path / 'work',
        '--cfg-options',
        *options,
        cwd=data,
    )
    assert code.startswith('error: ') and message in code and path in code
    assert not list(tmp_path.glob('work/*.pth'))


@pytest.mark.full
def test_training_warns_of_videos_that_are_in_both_lists(data, tmp_path):
    """By their folders: a name that both lists have says nothing."""
    text = (data / 'data/arrow/train.txt').read_text()
    path = as_list(tmp_path, text)
    command = (
        ROOT / 'tools/train_recognizer.py',
        ROOT / 'tests/three_stages.py',
        '--validate',
        '--work_dir',
        tmp_path / 'work',
        '--cfg-options',
        'data.videos_per_gpu=2',
        'total_epochs=1',
        'data.workers_per_gpu=0',
    )
    shared = (
        f'data.val.ann_file={path}',
        'data.val.img_prefix=data/arrow/rawframes/train',
    )
    for options, count in (((), 0), (shared, 1)):
        code, output = call(*command, *options, cwd=data)
        assert code == 0
        assert output.count('accuracy on videos that are trained on') == count


def test_training_names_the_video_that_is_too_small(data, tmp_path, video):
    """And reads a list with a mark, of paths with spaces."""
    folder = video(200, 10)
    lines = f'{folder.name} 10 0\r\n\r\n'
    path = as_list(tmp_path, codecs.BOM_UTF8 + lines.encode())
    code, _ = call(
        ROOT / 'tools/train_recognizer.py',
        DEMO,
        '--work_dir',
        tmp_path / 'my work',
        '--cfg-options',
        f'data.train.ann_file={path}',
        f'data.train.img_prefix={tmp_path}',
        'data.train.img_scale=(40, 32)',
        'data.workers_per_gpu=0',
        cwd=data,
    )
    assert code.startswith(f'error: {folder}: frames of 40 x 2 after resizing')
    assert (tmp_path / 'my work').is_dir()
    assert not list(tmp_path.rglob('*.pth'))
