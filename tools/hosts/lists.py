"""The lists of videos that a config names: one reader for both hosts.

A line is a path and its numbers, with spaces or tabs between. The path may
have spaces itself. Every fault is an error that names the file and the line.
"""

import codecs
import io
import os
import re

from . import HostError

FORM = 'path num_frames label'
VIDEO_FORM = 'path label'
LISTED = dict(
    RawFramesDataset=FORM,
    V1RawFrames=FORM,
    VideoDataset=VIDEO_FORM,
    V1Videos=VIDEO_FORM,
)
# What a file of another encoding begins with; UTF-8's mark is taken off, too.
MARKS = (
    (codecs.BOM_UTF8, 'utf-8'),
    (codecs.BOM_UTF32_LE, 'utf-32'),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, 'utf-32'),
    (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'),
)


def read_list(path, form=FORM, num_classes=None):
    """Read a list of videos.

    Args:
        path (str): the list. UTF-8, or UTF-16 or UTF-32 with a byte order mark.
            Blank lines at the end do not count.
        form (str): the names of a line's fields, the path first: 'path
            num_frames label' for frames, 'path label' for video files.
        num_classes (int | None): which labels must be below, None for any.

    Returns:
        list[tuple]: for each line the path (str) and its numbers (int).

    Raises:
        HostError: the list cannot be read, a line has another form, or a
            number cannot be right; the text names the file and the line.
    """
    if not os.path.isfile(path):
        raise HostError(
            f'annotation file {path} does not exist (ann_file in the config)'
        )
    names = form.split()
    # At most nine digits: numbers that arrays of int can hold.
    line_form = re.compile(r'(.*?\S)' + r'[ \t]+(-?[0-9]{1,9})' * (len(names) - 1))
    lines = _lines_of(path)
    if not lines:
        raise HostError(f'{path} lists no video')
    videos = []
    for number, line in enumerate(lines, 1):
        where = f'{path}, line {number}'
        fields = line_form.fullmatch(line)
        if not fields:
            raise HostError(
                f'{where}: {line!r} should be "{form}", with a number for '
                f'{" and ".join(names[1:])}'
            )
        video, *numbers = fields.groups()
        numbers = list(map(int, numbers))
        values = dict(zip(names[1:], numbers))
        if values.get('num_frames', 1) < 1:
            raise HostError(f'{where}: a video of {values["num_frames"]} frames')
        label = values['label']
        if label < 0 or (num_classes is not None and label >= num_classes):
            classes = 'classes' if num_classes is None else f'{num_classes} classes'
            raise HostError(
                f'{where}: label {label} is not one of the {classes} '
                f'(num_classes of the head, labels count from 0)'
            )
        videos.append((video, *numbers))
    return videos


def _lines_of(path):
    """A list's lines, without blank ones at its end."""
    lines = [line.strip(' \t\n') for line in io.StringIO(read_text(path), newline=None)]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def doubts(*lists):
    """What is probably a mistake in lists of videos, and is not refused.

    Args:
        *lists (tuple): the path of each, and for each of its lines the video (str) and
            its label (int).

    Returns:
        list[str]: a line on each list that has a video with two labels, and one on each
        two that share videos.
    """
    lines, earlier = [], []
    for path, videos in lists:
        first, fault = {}, None
        for number, (video, label) in enumerate(videos, 1):
            known = first.setdefault(video, (number, label))
            if label != known[1] and fault is None:
                fault = (
                    f'{path}, line {number}: {video} has label {label}, but in line '
                    f'{known[0]} it has {known[1]}'
                )
        lines += [fault] if fault else []
        for other, others in earlier:
            shared = [video for video in first if video in others]
            if shared:
                lines.append(
                    f'{path}, line {first[shared[0]][0]}: {shared[0]} is in {other}, '
                    f'too, as {len(shared)} of its {len(first)} videos are: accuracy '
                    'on videos that are trained on is too good'
                )
        earlier.append((path, first))
    return lines


def doubts_of(*datasets):
    """The same, of data sets.

    Args:
        *datasets (tuple): of each, its type in a config of either host (str); its list,
            which read_list has taken; and the folder of the paths (str | None).

    Returns:
        list[str]: on those of frames or of video files.
    """
    lists = []
    for kind, ann_file, folder in datasets:
        if kind in LISTED:
            folder = os.path.normpath(folder or '.')
            fields = LISTED[kind].count(' ')
            # Not by read_list again: that takes a second of Kinetics.
            rows = (line.rsplit(None, fields) for line in _lines_of(ann_file))
            videos = [(f'{folder}/{row[0]}', int(row[-1])) for row in rows]
            lists.append((ann_file, videos))
    return doubts(*lists)


def read_labels(path, num_classes):
    """The names of the classes, one a line, as tools/data/ writes them.

    Args:
        path (str): classes.txt, encoded as a list may be.
        num_classes (int): of the network.

    Returns:
        list[str]: by label.

    Raises:
        HostError: the file cannot be read, or has not one name a class.
    """
    names = [name.strip() for name in read_text(path).splitlines()]
    while names and not names[-1]:
        names.pop()
    if '' in names:
        raise HostError(f'{path}, line {names.index("") + 1}: there is no name')
    if len(names) != num_classes:
        raise HostError(
            f'{path} names {len(names)} classes, but the network has {num_classes} '
            f'(model.cls_head.num_classes of the config)'
        )
    return names


def read_text(path):
    """A text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Args:
        path (str | Path): the file.

    Returns:
        str: without the mark.

    Raises:
        HostError: it is not there, or is in another encoding.
    """
    try:
        with open(path, 'rb') as file:
            content = file.read()
    except OSError as error:
        raise HostError(f'cannot read {path}: {error.strerror}') from error
    encoding = 'utf-8'
    for mark, name in MARKS:
        if content.startswith(mark):
            encoding = name
            content = content[len(mark) :] if name == 'utf-8' else content
            break
    try:
        text = content.decode(encoding)
        fault = text.find('\0')  # UTF-16 without its mark, or no text at all
        if fault < 0:
            return text
        before, what = text[:fault], 'a NUL character'
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(encoding, 'ignore')
        what = f'the byte 0x{content[error.start]:02x}'
    line = len(list(io.StringIO(before + what, newline=None)))
    raise HostError(
        f'{path}, line {line}: {what} is not '
        f'{encoding.upper()}. Save the file as UTF-8, for example by: '
        f'iconv -f LATIN1 -t UTF-8'
    )


def check_template(template, split, modality='RGB'):
    """A frame's file name depends on its number.

    Args:
        template (str): image_tmpl of the config.
        split (str): 'train', 'val' or 'test'.
        modality (str): of the config; of Flow, the name has the direction, x
            or y, before the number.

    Raises:
        HostError: it cannot be filled in, or gives two frames one name.
    """
    frames = [(1,), (2,)]
    wanted = "one place for a frame's number, such as 'image_{:05d}.jpg'"
    if modality == 'Flow':
        frames = [('x', 1), ('y', 1), ('x', 2)]
        wanted = "places for x or y and a number, such as 'flow_{}_{:05d}.jpg'"
    try:
        good = len({template.format(*frame) for frame in frames}) == len(frames)
    except (AttributeError, IndexError, KeyError, ValueError):
        good = False
    if not good:
        raise HostError(f'data.{split}.image_tmpl={template!r} should have {wanted}')
