"""Windows over a long video: each is scored as a video of its frames alone.

A video is streamed. In memory are the frames that the windows of the moment
need, at the size that the network's are cut from.
"""

import collections
import dataclasses

import numpy as np
from hosts import HostError
from hosts.frame_indices import frame_indices
from video_files import Video, VideoError

TINY = 1e-6  # seconds; times are rounded
SHORTEST = 0.01  # seconds; or there are far more windows than frames


@dataclasses.dataclass
class Window:
    """A part of a video.

    Attributes:
        start, end (float): seconds from the video's first frame.
        first, last (int): its frames, from 0; the last one is not in it.
    """

    start: float
    end: float
    first: int
    last: int


def check_times(every, length):
    """The distance and the length of windows, in seconds.

    Args:
        every (float): from one window's start to the next one's.
        length (float | None): of a window; None for the same.

    Returns:
        tuple: both, as float.

    Raises:
        HostError: one is below SHORTEST.
    """
    length = every if length is None else length
    for name, value in ('every', every), ('window', length):
        if not SHORTEST <= value < float('inf'):
            raise HostError(
                f'--{name} {value:g} should be seconds, at least {SHORTEST}'
            )
    return float(every), float(length)


def plan(seconds, every, length):
    """The windows of a video.

    They begin every so many seconds. The last one ends with the video, so
    that each frame is in one; a shorter video is one window.

    Args:
        seconds (np.ndarray): (frames,), when each frame is shown, from 0.
        every, length (float): seconds.

    Returns:
        list[Window]: in order.
    """
    count = len(seconds)
    gap = seconds[-1] / (count - 1) if count > 1 else 0
    end = float(seconds[-1] + gap)  # a frame is shown until the next one
    latest = max(0.0, end - length)
    starts = [*np.arange(0, latest - TINY, every).tolist(), latest]
    windows = []
    for start in starts:
        stop = min(start + length, end)
        first, last = np.searchsorted(seconds, [start - TINY, stop - TINY])
        if first == last:  # the frame before is shown all the while
            first = max(0, first - 1)
        windows.append(Window(start, stop, int(first), max(int(last), int(first) + 1)))
    frames = [(window.first, window.last) for window in windows]
    if len(windows) > 1 and frames[-1] == frames[-2]:
        windows.pop()
    return windows


def clips_of(video, windows, clips, threads):
    """The windows' clips, from one pass over the video.

    Args:
        video (Video): open.
        windows (list[Window]): in order.
        clips (Clips): which frames the network sees, and how.
        threads (int): that decode.

    Yields:
        tuple: the window, and its clip, (images, 3, H, W) uint8.

    Raises:
        VideoError: a frame cannot be decoded.
        HostError: its frames do not fit the crop.
    """
    ahead = iter(windows)
    coming = next(ahead)
    opened, images, count = collections.deque(), {}, 0
    for number, image in enumerate(video.frames(threads)):
        count = number + 1
        while coming and coming.first <= number:
            total = coming.last - coming.first
            numbers = coming.first + frame_indices(total, **clips.rule) - 1
            opened.append((coming, numbers, set(numbers.tolist())))
            coming = next(ahead, None)
        if any(number in wanted for _, _, wanted in opened):
            images[number] = clips.small(image())
        while opened and max(opened[0][2]) <= number:
            window, numbers, _ = opened.popleft()
            yield window, clips.of_images([images[n] for n in numbers], video.path)
            kept = set().union(*(wanted for _, _, wanted in opened))
            images = {n: image for n, image in images.items() if n in kept}
        if coming is None and not opened:
            return
    raise VideoError(f'only {count} of its {len(video)} frames can be decoded')


def stream(path, every, length, clips, threads, tell_total=None):
    """The windows of a video file, and their clips.

    Args:
        path (str): the file.
        every, length (float): as :func:`plan` takes them.
        clips, threads: as :func:`clips_of` takes them.
        tell_total (callable | None): called with the number of windows.

    Yields:
        tuple: as of :func:`clips_of`.

    Raises:
        as :func:`clips_of`.
    """
    with Video(path) as video:
        windows = plan(video.seconds, every, length)
        if tell_total:
            tell_total(len(windows))
        yield from clips_of(video, windows, clips, threads)


def stretches(windows):
    """What each window stands for, where windows overlap or leave gaps.

    A moment belongs to the window whose middle is nearest.

    Args:
        windows (list): each has start and end, in seconds; in order.

    Returns:
        list[tuple]: start and end, one for each, without gaps between them.
    """
    middles = [(window.start + window.end) / 2 for window in windows]
    borders = [(a + b) / 2 for a, b in zip(middles, middles[1:])]
    return list(
        zip([windows[0].start, *borders], [*borders, max(w.end for w in windows)])
    )


def segments(windows):
    """Stretches of one class: neighbouring windows with the same first class.

    Args:
        windows (list[Prediction]): in order.

    Returns:
        list[dict]: start, end (float, seconds), label (int), name (str) and
        probability (float): the mean over the windows.
    """
    found = []
    for window, (start, end) in zip(windows, stretches(windows)):
        best = window.top(1)[0]
        if found and found[-1]['label'] == best['label']:
            found[-1]['end'] = end
            found[-1]['probability'].append(best['probability'])
        else:
            found.append(
                dict(
                    start=start,
                    end=end,
                    label=best['label'],
                    name=best['name'],
                    probability=[best['probability']],
                )
            )
    for segment in found:
        segment['probability'] = float(np.mean(segment['probability']))
    return found
