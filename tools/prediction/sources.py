"""What the arguments of tools/predict.py name: videos, frames, a camera."""

import dataclasses
import glob
import os
import os.path as osp
from collections import Counter

from data.video_sets import is_video
from hosts import HostError
from video_files import ENDINGS

from .camera import is_camera


@dataclasses.dataclass
class Source:
    """Something to predict.

    Attributes:
        path (str): a file or a folder; a camera's number or URL.
        kind (str): 'video', 'frames' or 'camera'.
        name (str): of files that are written about it, without ending; may
            have folders in it.
    """

    path: str
    kind: str
    name: str = ''

    @property
    def stamp(self):
        """list | None: what changes when the source does; None if it is gone."""
        try:
            state = os.stat(self.path)
        except OSError:
            return None
        return [state.st_size, state.st_mtime_ns]


def find_sources(arguments, template):
    """The videos that arguments name.

    Args:
        arguments (list[str]): files, folders, patterns such as 'a/*.mp4', or
            one camera. Of a folder, all video files in it and in the folders
            in it, and all folders of frames.
        template (str): names of frames, by their number.

    Returns:
        list[Source]: in order, each once.

    Raises:
        HostError: there is no such file, or nothing in a folder.
    """
    found = {}
    for argument in arguments:
        if not osp.exists(argument) and is_camera(argument):
            if len(arguments) > 1:
                raise HostError(f'camera {argument}: give a camera alone')
            return [Source(argument, 'camera', 'camera')]
        for path in _paths(argument):
            for source in _sources(path, template):
                found.setdefault(osp.realpath(source.path), source)
    sources = list(found.values())
    for source in sources:
        try:
            source.path.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(source.path)
            raise HostError(f'{shown}: the name is not UTF-8: rename it') from None
    _give_names(sources)
    return sources


def _paths(argument):
    """The files and folders of an argument."""
    if osp.exists(argument):
        return [argument]
    if not glob.has_magic(argument):
        raise HostError(f'{argument} does not exist')
    paths = sorted(glob.glob(argument, recursive=True))
    if not paths:
        raise HostError(f'{argument}: nothing fits this pattern')
    return paths


def _sources(path, template):
    """The sources of a file or folder."""
    if not osp.isdir(path):
        return [Source(path, 'video')]
    found = []

    def refuse(error):
        raise error

    for folder, folders, names in os.walk(path, onerror=refuse, followlinks=True):
        folders.sort()
        if template.format(1) in names:
            found.append(Source(folder, 'frames'))
        found += [
            Source(osp.join(folder, name), 'video')
            for name in sorted(names)
            if is_video(name)
        ]
    if not found:
        raise HostError(
            f'{path} has no videos: no files that end in {", ".join(ENDINGS)}, and '
            f'no folders of frames with a {template.format(1)}'
        )
    return found


def _give_names(sources):
    """Names from paths in the folder that has all; with endings if need be."""
    paths = [osp.abspath(source.path) for source in sources]
    shared = osp.commonpath([osp.dirname(path) for path in paths])
    names = [osp.relpath(path, shared) for path in paths]
    short = [
        osp.splitext(name)[0] if source.kind == 'video' else name
        for name, source in zip(names, sources)
    ]
    counts = Counter(name.lower() for name in short)
    mixed = [a if counts[a.lower()] == 1 else b for a, b in zip(short, names)]
    if len({name.lower() for name in mixed}) == len(mixed):
        names = mixed
    for name, source in zip(names, sources):
        source.name = name
