"""Tiny video files for tests."""

import struct
from fractions import Fraction

import av
import cv2
import numpy as np


def make_video(
    path,
    frames=12,
    size=(64, 48),
    codec='libx264',
    stamps=None,
    seed=0,
    key_frames=5,
    index_first=False,
):
    """Write a video of smooth noise that moves.

    Args:
        path (Path): the file; its ending says the container.
        frames (int): their number.
        size (tuple[int, int]): width and height.
        codec (str): FFmpeg's name of it.
        stamps (list[int] | None): milliseconds of the frames; None for 25 a second.
        seed (int): of the noise.
        key_frames (int): frames from one key frame to the next.
        index_first (bool): an MP4's index comes before its packets.
    """
    rng = np.random.default_rng(seed)
    base = rng.uniform(0, 255, (6, 6, 3)).astype(np.float32)
    unit = Fraction(1, 1000 if stamps else 25)
    options = dict(g=str(key_frames), threads='1')
    container = dict(movflags='faststart') if index_first else {}
    with av.open(str(path), 'w', options=container) as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = 'yuv420p'
        stream.codec_context.time_base = unit
        for number in range(frames):
            base += rng.normal(0, 12, base.shape)
            image = cv2.resize(base, size, interpolation=cv2.INTER_CUBIC)
            image = image.clip(0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(image, 'bgr24')
            frame.pts, frame.time_base = stamps[number] if stamps else number, unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def rotate_video(path, angle):
    """Set the flag of an MP4 file that says how to turn it.

    Args:
        path (Path): the file.
        angle (int): 90, 180 or 270 degrees clockwise.
    """
    one = 1 << 16
    a, b = {90: (0, one), 180: (-one, 0), 270: (0, -one)}[angle]
    content = bytearray(path.read_bytes())
    place = content.index(b'tkhd') + 44  # of its matrix, in version 0
    content[place : place + 36] = struct.pack('>9i', a, b, 0, -b, a, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def make_audio(path):
    """Write a file that has sound and no video."""
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('aac', rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format='fltp', layout='mono'
        )
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
