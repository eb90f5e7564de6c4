"""mmaction v1's frame-index rule: which frames of a video make a clip.

It is that of v1's RawFramesDataset: segments begin at random places, or at
even ones, and the frames of a segment are so many steps apart.
"""

import numpy as np


def frame_indices(
    total,
    num_segments,
    new_length,
    new_step,
    random_shift,
    temporal_jitter,
    test_mode,
):
    """Numbers of the frames of a clip, drawn from np.random in v1's order.

    A segment is new_length frames, every new_step-th. Where a video is too
    short, its last reachable frame stands for those beyond.

    Args:
        total (int): frames of the video.
        num_segments (int): segments a video.
        new_length (int): frames a segment.
        new_step (int): distance of a segment's frames.
        random_shift (bool): place each segment at random in its part of the
            video; otherwise in the middle. Not used with test_mode.
        temporal_jitter (bool): shift each frame by up to new_step - 1.
        test_mode (bool): the rule of testing, which differs from the middle
            rule where a video is hardly longer than a segment.

    Returns:
        np.ndarray: (num_segments * new_length,) of int, counted from 1, the
        frames of a segment together.
    """
    span = new_length * new_step
    if random_shift and not test_mode:
        starts = _random_starts(total, num_segments, span)
    else:
        least = 0 if test_mode else num_segments
        starts = _middle_starts(total, num_segments, span, least)
    jitter = np.zeros(new_length, int)
    if temporal_jitter:
        jitter = np.random.randint(new_step, size=new_length)
    frames = []
    for frame in starts + 1:
        for shift in jitter:
            frames.append(frame + shift if frame + shift <= total else frame)
            if frame + new_step < total:
                frame += new_step
    return np.array(frames)


def _random_starts(total, num_segments, span):
    """Where segments begin, counted from 0: each at random in its part."""
    places = total - span + 1  # where a segment can begin
    part = places // num_segments
    if part > 0:
        return np.arange(num_segments) * part + np.random.randint(
            part, size=num_segments
        )
    if total > max(num_segments, span):
        return np.sort(np.random.randint(places, size=num_segments))
    return np.zeros(num_segments, int)


def _middle_starts(total, num_segments, span, least):
    """Where segments begin, counted from 0: in the middles of equal parts.

    All begin at 0 unless there are more than `least` places to begin.
    """
    places = total - span + 1
    if places <= least:
        return np.zeros(num_segments, int)
    part = places / num_segments
    return (part / 2 + part * np.arange(num_segments)).astype(int)
