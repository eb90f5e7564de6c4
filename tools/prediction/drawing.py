"""Predictions as pictures: on the video's frames, and as curves."""

import bisect
import contextlib
import os.path as osp
import warnings
from fractions import Fraction

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from video_files import Video
from whole_files import replacing

from .windows import stretches

TICKS = 90_000  # a second, of the videos that are written


class VideoWriter:
    """Writes frames as H.264; made by :func:`writing_video`.

    Args:
        file (av.container.OutputContainer): open.
        rate (float | None): frames a second, about; each has a time of its own.
    """

    def __init__(self, file, rate):
        self._file, self._rate = file, Fraction(rate or 25).limit_denominator(1000)
        self._stream, self._last = None, -1

    def write(self, seconds, image):
        """Write a frame.

        Args:
            seconds (float): when it is shown; after the one before.
            image (np.ndarray): (height, width, 3) uint8, BGR; of one size.
        """
        height, width = image.shape[:2]
        # The format halves the colours' size.
        image = cv2.copyMakeBorder(
            image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE
        )
        if self._stream is None:
            stream = self._file.add_stream('libx264', rate=self._rate)
            stream.height, stream.width = image.shape[:2]
            stream.pix_fmt = 'yuv420p'
            stream.options = dict(preset='veryfast', crf='20')
            stream.codec_context.time_base = Fraction(1, TICKS)
            self._stream = stream
        frame = av.VideoFrame.from_ndarray(image, 'bgr24')
        self._last = max(round(seconds * TICKS), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._file.mux(self._stream.encode(frame))

    def finish(self):
        """Write the frames that the encoder still has."""
        if self._stream:
            self._file.mux(self._stream.encode(None))


@contextlib.contextmanager
def writing_video(path, rate):
    """Write an MP4 file, whole or not at all.

    Args:
        path (str): the file.
        rate (float | None): frames a second, about.

    Yields:
        VideoWriter

    Raises:
        OSError: it cannot be written; with path as its filename.
    """
    options = dict(movflags='faststart')
    with replacing(path) as temporary:
        try:
            with av.open(temporary, 'w', format='mp4', options=options) as file:
                writer = VideoWriter(file, rate)
                yield writer
                writer.finish()
        except av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror, path) from error


class Caption:
    """Classes with their probabilities, drawn on images of one size.

    Args:
        top (list[dict]): name and probability, as Prediction.top gives them.
        height, width (int): of the images.
    """

    def __init__(self, top, height, width):
        size = max(9, height // 18)
        font = _font(size)
        texts = [f'{item["probability"]:6.1%}  {item["name"]}' for item in top]
        wide = max(int(font.getlength(text)) for text in texts) + size
        line = size * 4 // 3
        panel = Image.new('RGB', (min(wide, width), min(line * len(top) + 4, height)))
        draw = ImageDraw.Draw(panel)
        for number, (item, text) in enumerate(zip(top, texts)):
            bar = round(item['probability'] * (panel.width - 1))
            box = (0, 2 + number * line, bar, 1 + (number + 1) * line)
            draw.rectangle(box, fill=(40, 110, 40))
            draw.text((size // 2, 2 + number * line), text, (255, 255, 255), font)
        self._panel = np.array(panel)[:, :, ::-1]

    def draw(self, image):
        """Draw on an image, in place.

        Args:
            image (np.ndarray): (height, width, 3) uint8, BGR.
        """
        height, width = self._panel.shape[:2]
        corner = image[:height, :width]
        corner[:] = cv2.addWeighted(corner, 0.3, self._panel, 0.7, 0)


def _font(size):
    """matplotlib's own, which has most of the world's letters."""
    from matplotlib import get_data_path

    return ImageFont.truetype(
        osp.join(get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'), size
    )


def render(path, target, predictions, topk, threads):
    """Write a video with the classes drawn on it; without its sound.

    Args:
        path (str): the video.
        target (str): MP4 file to write.
        predictions (list[Prediction]): of its windows, in order, or one of it
            all.
        topk (int): classes to draw.
        threads (int): that decode.

    Raises:
        VideoError: the video cannot be read.
        OSError: the file cannot be written.
    """
    begins = [0.0]
    if len(predictions) > 1:
        begins = [start for start, _ in stretches(predictions)]
    captions = {}
    with Video(path) as video, writing_video(target, video.rate) as writer:
        for seconds, image in zip(video.seconds.tolist(), video.frames(threads)):
            image = np.ascontiguousarray(image())
            place = max(0, bisect.bisect_right(begins, seconds + 1e-6) - 1)
            if place not in captions:
                top = predictions[place].top(topk)
                captions = {place: Caption(top, *image.shape[:2])}
            captions[place].draw(image)
            writer.write(seconds, image)


def draw_curve(target, windows, topk):
    """Draw the probabilities of the highest classes over time, as a PNG file.

    Args:
        target (str): the file.
        windows (list[Prediction]): of a video, in order.
        topk (int): classes to draw: those whose highest probability is
            highest.

    Raises:
        PlotError: the file cannot be written.
    """
    from analysis.plotting import plt, put_legend, save

    probabilities = np.array([window.probabilities for window in windows])
    labels = np.argsort(-probabilities.max(0), kind='stable')[:topk]
    seconds = [(window.start + window.end) / 2 for window in windows]
    figure, (axes, strip) = plt.subplots(
        2, sharex=True, figsize=(9, 4), height_ratios=(12, 1), layout='constrained'
    )
    lines = {}
    for label in labels:
        (lines[label],) = axes.plot(
            seconds,
            probabilities[:, label],
            '.-' if len(windows) < 100 else '-',
        )
    axes.set(ylabel='probability', ylim=(-0.02, 1.02))
    axes.set_title(osp.basename(windows[0].video))
    names = [windows[0].classes[label] for label in lines]
    place = dict(loc='upper left', bbox_to_anchor=(1, 1))
    put_legend(axes, list(lines.values()), names, frameon=False, **place)
    for label, (start, end) in zip(probabilities.argmax(1), stretches(windows)):
        colour = lines[label].get_color() if label in lines else 'lightgrey'
        strip.axvspan(start, end, color=colour, lw=0)
    strip.set(xlabel='seconds', yticks=[], ylabel='first')
    end = max(window.end for window in windows)
    if end > windows[0].start:  # not of a video of one frame
        strip.set_xlim(windows[0].start, end)
    # Letters that the font does not have are drawn as boxes.
    warnings.filterwarnings('ignore', 'Glyph .* missing')
    save(figure, target, '--curve')
