"""Frames of video files, decoded by PyAV, which brings its own FFmpeg.

A frame's number is its place in the order of display, from 0: found by the
time stamps of the packets, whatever the frame rate, and not by multiplying
seconds. Images are what OpenCV makes of the same file, which mmaction v1 reads
with: BGR by the matrix of BT.601, rotated where the file says that the camera
was. They are the same to the bit, but for an odd height: there the two
libraries round the colours differently, by a few levels of 256.
"""

import bisect
import contextlib
import os

import av
import av.video.reformatter
import cv2
import numpy as np

# Of an angle that FFmpeg gives, counterclockwise.
ROTATIONS = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_CLOCKWISE,
}
# Names of files that are taken for videos, in small letters.
ENDINGS = ('avi', 'flv', 'm4v', 'mkv', 'mov', 'mp4', 'mpeg', 'mpg', 'ts', 'webm', 'wmv')


class VideoError(Exception):
    """What is wrong with a video file; the text does not name the file."""


@contextlib.contextmanager
def faults():
    """What PyAV raises about a file, as a VideoError.

    Raises:
        VideoError: for FFmpeg's and the system's errors.
    """
    try:
        yield
    except FileNotFoundError:
        raise VideoError('there is no such file') from None
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(error.strerror or str(error)) from error


class Video:
    """An open video file: its number of frames, and any of them.

    ``len(video)`` is the number of its frames. Use it as a context manager,
    which closes the file.

    Args:
        path (str | Path): the file.

    Raises:
        VideoError: it cannot be read, or holds no video, or no frame, or
            fewer frames than its header says, or ends long before the
            time that a Matroska header says.
    """

    def __init__(self, path):
        self.path = str(path)
        # One a video: a forked process that has its parent's waits for ever.
        self._reformatter = av.video.reformatter.VideoReformatter()
        with faults():
            try:
                self._file = av.open(self.path)
            except av.error.InvalidDataError as error:
                if os.path.getsize(self.path) == 0:
                    raise VideoError('the file is empty') from None
                reason = 'it is no video, or only a part of one'
                raise VideoError(f'{error.strerror}: {reason}') from None
        try:
            with faults():
                self._read_index()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __len__(self):
        return self._length

    def _read_index(self):
        """The packets' time stamps; nothing is decoded."""
        kind = self._file.format.name
        # FFmpeg draws a text, and shows a picture once.
        if kind in ('tty', 'image2') or kind.endswith('_pipe'):
            what = 'a text' if kind == 'tty' else 'a picture'
            raise VideoError(f'it is {what}, and no video')
        self._stream = video_stream(self._file)
        # Matroska, and so WebM, says no number of frames, but how long the longest
        # stream is. Other containers without a number leave FFmpeg to guess that.
        matroska = 'matroska' in self._file.format.name
        seconds = (self._file.duration or 0) / av.time_base if matroska else 0
        streams = self._file.streams if seconds else [self._stream]
        packets, stamps, keys, end = 0, [], [], 0
        for packet in self._file.demux(*streams):
            if not packet.size:  # the end
                continue
            if packet.pts is not None:
                last = packet.pts + (packet.duration or 0)
                end = max(end, last * packet.time_base)
            if packet.stream.index != self._stream.index:
                continue
            packets += 1
            if packet.is_discard:  # before the cut that an edit list makes
                continue
            stamps.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
        if not stamps:
            raise VideoError('it has no frames')
        header = self._stream.frames  # 0 where a container does not say
        if packets < header:
            raise VideoError(
                f'it ends after {packets} of the {header} frames that its header says'
            )
        if end < 0.9 * seconds:
            raise VideoError(
                f'it ends after {float(end):.1f} of the {seconds:.1f} s that its '
                f'header says'
            )
        self._length = len(stamps)
        self._stamps = None  # frames can only be counted from the start
        # AVI has no times of display; FFmpeg guesses them.
        guessed = self._file.format.name == 'avi' or None in stamps
        if not guessed and len(set(stamps)) == len(stamps):
            self._stamps, self._keys = sorted(stamps), sorted(keys)

    @property
    def rate(self):
        """float | None: frames a second on average, where the file says."""
        rate = self._stream.average_rate
        return float(rate) if rate else None

    @property
    def seconds(self):
        """np.ndarray: (frames,) float64, when each is shown; the first at 0.

        Raises:
            VideoError: the file does not say it.
        """
        if self._stamps:
            stamps = np.array(self._stamps, np.float64)
            return (stamps - stamps[0]) * float(self._stream.time_base)
        if not self.rate:
            raise VideoError('it does not say when its frames are shown')
        return np.arange(self._length) / self.rate

    def read(self, numbers):
        """Decode some frames.

        Args:
            numbers (iterable of int): which, from 0.

        Returns:
            dict: number to image, (height, width, 3) uint8, BGR.

        Raises:
            VideoError: a frame cannot be decoded.
        """
        numbers = sorted({int(number) for number in numbers})
        if numbers[0] < 0 or numbers[-1] >= self._length:
            raise VideoError(
                f'frames {numbers[0]} to {numbers[-1]} are wanted of {self._length}'
            )
        with faults():
            if self._stamps:
                images = self._read_by_stamp(numbers)
                if len(images) == len(numbers):
                    return images
            # Seeking did not find them, or there is nothing to seek by.
            images, number = {}, -1
            for number, image in enumerate(self):
                if number in numbers:
                    images[number] = image()
                if number == numbers[-1]:
                    return images
        raise VideoError(
            f'only {number + 1} of its {self._length} frames can be decoded'
        )

    def __iter__(self):
        return self.frames()

    def frames(self, threads=1):
        """All frames from the first, each as a function that makes its image.

        Args:
            threads (int): that decode; 1 where processes work side by side.

        Raises:
            VideoError: a frame cannot be decoded.
        """
        # Opened again: not every container can be set back to its start.
        with faults(), av.open(self.path) as file:
            stream = video_stream(file)
            if threads > 1:
                stream.thread_type = 'AUTO'
                stream.codec_context.thread_count = threads
            for number, frame in enumerate(file.decode(stream)):
                self._check(frame, number)
                yield lambda frame=frame: image_of(frame, self._reformatter)

    def _check(self, frame, number):
        context = self._stream.codec_context
        if frame.is_corrupt:
            raise VideoError(f'frame {number + 1} is damaged')
        if (frame.width, frame.height) != (context.width, context.height):
            raise VideoError(
                f'frame {number + 1} is {frame.width} x {frame.height}, others are '
                f'{context.width} x {context.height}'
            )

    def _read_by_stamp(self, numbers):
        """The images that are found, from the key frame before each on."""
        wanted = {self._stamps[number]: number for number in numbers}
        left = sorted(wanted, reverse=True)
        images = {}
        while left:
            before = len(left)
            self._file.seek(self._key_before(left[-1]), stream=self._stream)
            for frame in self._frames_from_here(wanted):
                if frame.pts in wanted:
                    self._check(frame, wanted[frame.pts])
                    images[wanted[frame.pts]] = image_of(frame, self._reformatter)
                while left and left[-1] <= frame.pts:
                    left.pop()
                # Nothing more, or a seek leaps over some frames.
                if not left or (
                    len(left) < before and self._key_before(left[-1]) > frame.pts
                ):
                    break
            if len(left) == before:
                break  # the end, without any of them
        return images

    def _key_before(self, stamp):
        """The time stamp of the last key frame up to one."""
        place = bisect.bisect_right(self._keys, stamp) - 1
        return self._keys[place] if place >= 0 else self._stamps[0]

    def _frames_from_here(self, wanted):
        """Frames in order; of those that are not wanted, some are left out.

        A frame that no other is predicted from need not be decoded.
        """
        context = self._stream.codec_context
        try:
            for packet in self._file.demux(self._stream):
                skip = packet.size and packet.pts not in wanted
                context.skip_frame = 'NONREF' if skip else 'DEFAULT'
                yield from packet.decode()
        finally:
            context.skip_frame = 'DEFAULT'


def video_stream(file):
    """A container's first video stream, to be decoded by one thread.

    Side by side run the processes that load data.

    Args:
        file (av.container.InputContainer): an open file.

    Returns:
        av.video.stream.VideoStream

    Raises:
        VideoError: there is none.
    """
    if not file.streams.video:
        raise VideoError('it has no video stream')
    stream = file.streams.video[0]
    stream.codec_context.thread_count = 1
    return stream


def image_of(frame, reformatter):
    """A decoded frame as OpenCV shows it.

    Args:
        frame (av.VideoFrame): of any pixel format.
        reformatter (av.video.reformatter.VideoReformatter): of the video.

    Returns:
        np.ndarray: (height, width, 3) uint8, BGR.
    """
    image = reformatter.reformat(
        frame,
        format='bgr24',
        src_colorspace='ITU601',
        dst_colorspace='ITU601',
        interpolation='BICUBIC',
    ).to_ndarray()
    rotation = ROTATIONS.get(frame.rotation % 360)
    return image if rotation is None else cv2.rotate(image, rotation)
