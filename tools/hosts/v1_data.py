"""Guards of mmaction v1's data sets: faults that v1 has on any stack.

`guard` wraps them where they are wrong or silent. It has to run in every
process that loads data; importing mmaction_v1 calls it.
"""

import copy
import functools
import inspect
import os
import sys

import numpy as np

from . import HostError, videos
from .checks import check_frame_size
from .lists import FORM, VIDEO_FORM, read_list

# What a line of a list has, by the data set.
FORMS = dict(RawFramesDataset=FORM, VideoDataset=VIDEO_FORM, LMDBFramesDataset=FORM)


def guard():
    """Wrap v1's data sets and crops."""
    from mmaction import datasets

    for name, form in FORMS.items():
        cls = getattr(datasets, name)
        guard_list(cls, form)
        guard_item(cls)
    add_flip_label_map(datasets.RawFramesDataset)
    add_flip_label_map(datasets.VideoDataset)
    guard_frame_files(datasets.RawFramesDataset)
    guard_sizes(datasets.RawFramesDataset)
    guard_videos(datasets.VideoDataset)
    add_video_keys(datasets.VideoDataset)
    guard_crops()


def guard_list(cls, form):
    """v1 takes any line of a list, and fails later, without a name."""
    record = sys.modules[cls.__module__].RawFramesRecord

    def load_annotations(self, ann_file):
        return [
            record([str(field) for field in row]) for row in read_list(ann_file, form)
        ]

    cls.load_annotations = load_annotations


def guard_item(cls):
    """v1's errors do not say which video they are about."""
    get = cls.__getitem__

    @functools.wraps(get)
    def __getitem__(self, index):
        path = self.video_infos[index].path
        try:
            return get(self, index)
        except HostError as error:
            if f'{path}/' in str(error):  # it names a frame's file
                raise
            raise type(error)(f'video {path}: {error}') from error
        except Exception as error:
            raise HostError(
                f'video {path} cannot be loaded: {type(error).__name__}: {error}'
            ) from error

    cls.__getitem__ = __getitem__


def guard_frame_files(cls):
    """A frame that cannot be read stops the job without saying which."""
    load = cls._load_image

    @functools.wraps(load)
    def load_image(self, directory, image_tmpl, modality, idx):
        try:
            images = load(self, directory, image_tmpl, modality, idx)
            reason = 'not an image'
        except Exception as error:
            images, reason = [None], error
        if any(image is None for image in images):
            index = ('x', idx) if modality == 'Flow' else (idx,)
            path = os.path.join(directory, image_tmpl.format(*index))
            raise HostError(f'cannot read frame {path}: {reason}')
        return images

    cls._load_image = load_image


def guard_sizes(cls):
    """v1 cannot stack frames of different sizes, and does not say which."""
    get = cls._get_frames

    @functools.wraps(get)
    def get_frames(self, record, *args):
        images = get(self, record, *args)
        sizes = sorted({image.shape[1::-1] for image in images})
        if len(sizes) > 1:
            listed = ', '.join(f'{width} x {height}' for width, height in sizes)
            raise HostError(f'frames of several sizes: {listed}')
        return images

    cls._get_frames = get_frames


class DecordFrames:
    """A reader of decord's that gives frames as mmcv's does: BGR, by number.

    Args:
        reader (decord.VideoReader): which gives RGB.
    """

    def __init__(self, reader):
        self.reader = reader

    def __getitem__(self, index):
        return np.ascontiguousarray(self.reader[int(index)].asnumpy()[..., ::-1])


def guard_videos(cls):
    """Videos that cannot be read; and decord, of which v1 makes wrong clips.

    With use_decord=True v1 reads on for jittered frames alone: all frames of
    a clip are one. And it takes decord's RGB for BGR.
    """
    get, load = cls._get_frames, cls._load_image

    @functools.wraps(get)
    def get_frames(self, record, reader, *args):
        if record.num_frames < 1:
            raise videos.BrokenVideo('no frame can be read')
        if self.use_decord:
            self, reader = copy.copy(self), DecordFrames(reader)
            self.use_decord = False
        return get(self, record, reader, *args)

    @functools.wraps(load)
    def load_image(self, reader, directory, modality, idx):
        images = load(self, reader, directory, modality, idx)
        if any(image is None for image in images):
            raise videos.BrokenVideo(f'cannot read frame {idx}')
        return images

    cls._get_frames, cls._load_image = get_frames, load_image


def add_key(cls, name, default):
    """A data set of v1 takes a key more, and keeps it as an attribute."""
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        setattr(self, name, kwargs.pop(name, default))
        init(self, *args, **kwargs)

    signature = inspect.signature(init)
    key = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
    __init__.__signature__ = signature.replace(
        parameters=[*signature.parameters.values(), key]
    )
    cls.__init__ = __init__


def add_flip_label_map(cls):
    """Labels of mirrored videos, of which v1 knows nothing."""
    get = cls.__getitem__

    @functools.wraps(get)
    def __getitem__(self, index):
        data = get(self, index)
        if self.flip_label_map and data['img_meta'].data['flip']:
            label = data['gt_label'].data
            label.fill_(self.flip_label_map.get(int(label), int(label)))
        return data

    add_key(cls, 'flip_label_map', None)
    cls.__getitem__ = __getitem__


def add_video_keys(cls):
    """Lists with endings (video_ext=None), and skip_broken."""
    get = cls.__getitem__

    def load(self, index):
        record, view = self.video_infos[index], self
        where = f'{self.ann_file}, line {index + 1}'
        if self.video_ext is None:  # v1 puts a dot and an ending after the path
            view = copy.copy(self)
            stem, dot, view.video_ext = record.path.rpartition('.')
            if not dot:
                raise HostError(f'{where}: {record.path} has no ending')
            view.video_infos = {index: type(record)([stem, record.label])}
        path = view.video_infos[index].path
        file = os.path.join(self.img_prefix, f'{path}.{view.video_ext}')
        if not os.path.isfile(file):
            raise videos.BrokenVideo(f'{where}: {file} does not exist')
        try:
            return get(view, index)
        except HostError as error:
            raise type(error)(f'{where}: {error}') from error

    @functools.wraps(get)
    def __getitem__(self, index):
        if not self.skip_broken:
            return load(self, index)
        return self.replacements.first_good(
            index, functools.partial(load, self), lambda text: print(text, flush=True)
        )

    init = cls.__init__

    @functools.wraps(init)
    def __init__(self, ann_file, *args, **kwargs):
        self.ann_file = ann_file
        init(self, ann_file, *args, **kwargs)
        self.replacements = videos.Replacements(len(self), ann_file)

    cls.__init__, cls.__getitem__ = __init__, __getitem__
    add_key(cls, 'skip_broken', False)


def guard_crops():
    """v1 crops what is not there: a sliver, or a fault at another place."""
    from mmaction.datasets import transforms

    for name, kind in (
        ('Group3CropSample', 'three_crop'),
        ('GroupOverSample', 'ten_crop'),
        ('GroupMultiScaleCrop', 'multiscale_crop'),
        ('GroupCenterCrop', 'center_crop'),
    ):
        guard_crop(getattr(transforms, name), kind)


def guard_crop(cls, kind):
    call = cls.__call__

    @functools.wraps(call)
    def __call__(self, img_group, is_flow=False):
        height, width = img_group[0].shape[:2]
        named = vars(self)  # each class has a name of its own for the size
        size = named.get('crop_size') or named.get('size') or named['input_size']
        check_frame_size(width, height, kind, tuple(size), named.get('scales', (1,)))
        return call(self, img_group, is_flow)

    cls.__call__ = __call__
