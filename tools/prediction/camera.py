"""Whatever OpenCV opens: a camera by its number, a stream by its URL."""

import collections
import contextlib
import re
import time

import cv2
from hosts import HostError
from hosts.frame_indices import frame_indices

from .windows import TINY, Window


def is_camera(name):
    """Whether an argument is a camera's number or a stream's URL."""
    return bool(re.fullmatch(r'\d+|[a-z0-9+.-]{2,}://.*', name, re.I))


def without_password(name):
    """A URL without the user and the password that it may have."""
    return re.sub(r'(?<=://)[^/@]*@', '', name)


class Camera:
    """An open camera or stream.

    What has an end, a recording behind a URL, is read frame by frame, and its
    times are its own. What has none is live: times are the clock's, and frames
    that nobody has taken in time are gone.

    Args:
        source (str): a number, as of /dev/video0, or a URL.

    Raises:
        HostError: OpenCV cannot open it.
    """

    def __init__(self, source):
        self.name = without_password(source)
        cv2.setLogLevel(0)  # what is wrong is said below
        self._capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
        if not self._capture.isOpened():
            raise HostError(
                f'camera {self.name} cannot be opened'
                + (f': is there a /dev/video{source}?' if source.isdigit() else '')
            )
        self.is_live = self._capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 0

    def frames(self):
        """All frames.

        Yields:
            tuple: seconds since the first frame (float), and the image,
            (height, width, 3) uint8, BGR.
        """
        begin = None
        with contextlib.closing(self):
            while True:
                there, image = self._capture.read()
                if not there:
                    return
                now = time.monotonic()
                if not self.is_live:
                    now = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                begin = now if begin is None else begin
                yield now - begin, image

    def close(self):
        """Let the camera go."""
        self._capture.release()


def stream(camera, every, length, clips, on_frame=None):
    """The windows of a camera, as soon as each is over, and their clips.

    In memory are all frames of one window, at the size that the network's are
    cut from.

    Args:
        camera (Camera): open.
        every (float): seconds from one window to the next.
        length (float): seconds of a window.
        clips (Clips): which frames the network sees, and how.
        on_frame (callable | None): called with each frame's seconds and image.

    Yields:
        tuple: the Window, and its clip, (images, 3, H, W) uint8.

    Raises:
        HostError: the frames do not fit the crop.
    """
    kept, start = collections.deque(), 0.0
    for number, (seconds, image) in enumerate(camera.frames()):
        if seconds >= start + length - TINY:
            while kept and kept[0][1] < start - TINY:
                kept.popleft()
            if kept:
                end = start + length
                window = Window(start, end, kept[0][0], number)
                numbers = frame_indices(len(kept), **clips.rule) - 1
                yield (
                    window,
                    clips.of_images([kept[n][2] for n in numbers], camera.name),
                )
            while seconds >= start + length - TINY:  # some may have been missed
                start += every
        if on_frame:
            on_frame(seconds, image)
        kept.append((number, seconds, clips.small(image)))
        while kept[0][1] < start - TINY and len(kept) > 1:
            kept.popleft()
