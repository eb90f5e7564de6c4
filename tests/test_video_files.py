"""tools/video_files.py: the frames that OpenCV shows, by number; bad files."""

import cv2
import numpy as np
import pytest
from video_files import Video, VideoError
from videos import make_audio, make_video, rotate_video

VARIABLE = [int(t) for t in np.cumsum([40, 13, 77, 25, 60, 12, 90, 33, 20, 71, 44, 18])]
# (file, arguments of make_video, degrees that it is turned)
FILES = [
    ('plain.mp4', {}, 0),
    ('one.mp4', dict(frames=1), 0),
    ('variable rate.mp4', dict(stamps=VARIABLE), 0),
    ('turned.mp4', {}, 90),
    ('upside down.mp4', {}, 180),
    ('ä 日本.mkv', {}, 0),
    ('stream.ts', {}, 0),
    ('old.avi', dict(codec='mpeg4'), 0),
    ('b-frames.avi', {}, 0),
    ('odd.avi', dict(codec='mpeg4', size=(65, 48)), 0),
    ('web.webm', dict(codec='libvpx-vp9'), 0),
]


def frames_of_opencv(path):
    reader = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, image = reader.read()
        if not there:
            return frames
        frames.append(image)


@pytest.mark.parametrize('name, arguments, angle', FILES)
def test_frames(tmp_path, name, arguments, angle):
    """Each frame, in order and in any order, is OpenCV's to the bit."""
    path = tmp_path / name
    make_video(path, **arguments)
    if angle:
        rotate_video(path, angle)
    expected = frames_of_opencv(path)
    with Video(path) as video:
        assert len(video) == len(expected) == arguments.get('frames', 12)
        for image, wanted in zip([image() for image in video], expected):
            assert np.array_equal(image, wanted)
        rng = np.random.default_rng(0)
        for _ in range(10):
            numbers = rng.integers(len(video), size=rng.integers(1, 9))
            images = video.read(numbers)
            assert set(images) == set(numbers)
            for number, image in images.items():
                assert image.dtype == np.uint8
                assert np.array_equal(image, expected[number])
    if angle == 90:
        assert expected[0].shape == (64, 48, 3)


def test_odd_height(tmp_path):
    """The two libraries' FFmpeg round the colours of it differently."""
    path = tmp_path / 'odd.avi'
    make_video(path, codec='mpeg4', size=(64, 47))
    (first, *_) = frames_of_opencv(path)
    with Video(path) as video:
        image = video.read([0])[0]
    assert image.shape == first.shape == (47, 64, 3)
    assert np.abs(image.astype(int) - first).mean() < 4  # of 256


def test_too_many(tmp_path):
    make_video(tmp_path / 'a.mp4')
    with Video(tmp_path / 'a.mp4') as video:
        with pytest.raises(VideoError, match='frames 3 to 12 are wanted of 12'):
            video.read([3, 12])


def half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damage(path):
    """Overwrite what is in the packets, and leave their places as they are."""
    content = bytearray(path.read_bytes())
    place = content.index(b'mdat') + 4
    length = int.from_bytes(content[place - 8 : place - 4], 'big') - 8
    content[place : place + length] = bytes(length)
    path.write_bytes(content)


def make_picture(path):
    _, content = cv2.imencode('.png', np.zeros((32, 48, 3), np.uint8))
    path.write_bytes(content.tobytes())


@pytest.mark.parametrize(
    'spoil, fault',
    [
        (lambda path: path.unlink(), 'there is no such file'),
        (lambda path: path.write_bytes(b''), 'the file is empty'),
        (
            lambda path: path.write_bytes(b'no video\n' * 99),
            'it is no video, or only a',
        ),
        (half, 'Invalid data.*only a part of one'),  # the index is at the end
        (make_audio, 'it has no video stream'),
        (make_picture, 'it is a picture, and no video'),
        (damage, 'Invalid data|frame|frames can be decoded'),
    ],
)
def test_bad_files(tmp_path, spoil, fault):
    path = tmp_path / 'bad.mp4'
    make_video(path)
    spoil(path)
    with pytest.raises(VideoError, match=fault) as error, Video(path) as video:
        video.read(range(len(video)))
    assert '\n' not in str(error.value)


def test_a_text(tmp_path):
    """FFmpeg draws one that is named .txt, such as a list of videos."""
    path = tmp_path / 'test.txt'
    path.write_text('videos/a/b 1\n' * 300)
    with pytest.raises(VideoError, match='it is a text, and no video'):
        Video(path)


def test_fewer_frames_than_the_header_says(tmp_path):
    path = tmp_path / 'cut.mp4'
    make_video(path, frames=40, index_first=True)
    half(path)
    with pytest.raises(VideoError, match=r'ends after \d+ of the 40 frames'):
        Video(path)


@pytest.mark.parametrize(
    'name, codec', [('a.mkv', 'libx264'), ('a.webm', 'libvpx-vp9')]
)
def test_less_time_than_the_header_says(tmp_path, name, codec):
    """Matroska does not say how many frames there are."""
    path = tmp_path / name
    make_video(path, codec=codec, frames=40)
    with Video(path) as video:
        assert len(video) == 40
    half(path)
    with pytest.raises(VideoError, match=r'ends after 0\.\d of the 1\.6 s that its'):
        Video(path)
