"""A trained recognizer, and one video as testing shows it to the network.

    config = testing_config('configs/DNR_resnet18_own_videos_cpu.py')
    model = load_recognizer(config, 'work_dirs/DNR_r18_own_videos_cpu/epoch_100.pth')
    clip = clip_inputs(config, 'wave.mp4')
    images = clip['inputs']  # (images, 3, H, W) uint8, BGR

What is shown is what tools/test_recognizer.py scores: frames, size, crops and
normalization are those of data.test of the config. All of it runs on mmaction2.
"""

import os
import os.path as osp
import re

import torch
from checkpoint_files import fill_model, read_checkpoint
from hosts import HostError
from hosts.backbones import leave_out_pretrained
from hosts.lists import read_labels
from hosts.mmaction2 import import_components, load_config, translate

# How a native pipeline begins: with the frames of a video file, or of a folder.
FROM_VIDEO, FROM_FRAMES = 'V1VideoClip', 'V1SampleFrames'


def testing_config(path, cfg_options=None):
    """What a config says of the network and of testing.

    Args:
        path (str): the config, in mmaction v1's schema.
        cfg_options (dict | None): values to set, by dotted keys.

    Returns:
        mmengine.Config: native, see hosts.mmaction2_config.translate; and
        class_names, of the config.

    Raises:
        HostError: it cannot be honoured.
    """
    v1 = load_config(path, cfg_options)
    config = translate(v1, splits=('test',))
    config.load_from = None  # of a training's start, as is what follows
    leave_out_pretrained(config.model.backbone)
    config.class_names = v1.get('class_names')
    return config


def class_names(config, labels=None):
    """The names of the classes.

    Args:
        config (mmengine.Config): of :func:`testing_config`.
        labels (str | None): file of names, see hosts.lists.read_labels. None:
            class_names of the config, or without that, the classes' numbers.

    Returns:
        list[str]: by label.

    Raises:
        HostError: the file cannot be read, or has not one name a class.
    """
    count = config.model.cls_head.num_classes
    labels = labels or config.class_names
    return read_labels(labels, count) if labels else list(map(str, range(count)))


def build_recognizer(config):
    """The recognizer of a config, with random weights, in evaluation mode.

    Args:
        config (mmengine.Config): of :func:`testing_config`.

    Returns:
        nn.Module: mmaction2's Recognizer2D, on the CPU.

    Raises:
        HostError: the backbone cannot be had, or does not fit the head.
    """
    import_components(config)
    from hosts.mmaction2_runner import build_model
    from mmengine.registry import init_default_scope

    init_default_scope(config.default_scope)
    return build_model(config.model).eval()


def load_recognizer(config, checkpoint, device=None):
    """The recognizer of a config with a checkpoint's weights.

    Args:
        config (mmengine.Config): of :func:`testing_config`.
        checkpoint (str): file or http(s) URL.
        device (str | torch.device | None): where to; None for the GPU if there
            is one.

    Returns:
        nn.Module: mmaction2's Recognizer2D, in evaluation mode.

    Raises:
        HostError: the checkpoint cannot be read, or is of another network.
    """
    state = read_checkpoint(checkpoint)['state_dict']
    model = build_recognizer(config)
    fill_model(model, state, checkpoint)
    return model.to(device or ('cuda' if torch.cuda.is_available() else 'cpu'))


def clip_inputs(config, video, frames=None):
    """One video as testing shows it to the network.

    Args:
        config (mmengine.Config): of :func:`testing_config`. It may be one of
            video files or of frames, whichever the video is.
        video (str): a video file, or a folder of frames: image files that are
            named as data.test.image_tmpl says, or image_00001.jpg and so on,
            numbered from 1 without a gap.
        frames (int | None): how many a folder has, where a list says it.

    Returns:
        dict: inputs, (images, 3, H, W) uint8, BGR, or (clips, 3, T, H, W) for a
        3D network, and data_samples. A list of these, through mmengine's
        pseudo_collate, is what test_step of a recognizer takes.

    Raises:
        HostError: it cannot be read, or its frames do not fit the crop.
    """
    import_components(config)
    from hosts.mmaction2_videos import V1VideoClip  # noqa: F401, registered so
    from mmengine.dataset import Compose
    from mmengine.registry import init_default_scope

    init_default_scope(config.default_scope)
    dataset = config.test_dataloader.dataset
    first, *rest = dataset.pipeline
    rule = {key: value for key, value in first.items() if key != 'type'}
    rest = [step for step in rest if step.type != 'V1ReadFrames']
    if osp.isdir(video):
        template = dataset.get('filename_tmpl', 'image_{:05d}.jpg')
        source = dict(
            frame_dir=video,
            filename_tmpl=template,
            total_frames=frames or _count_frames(video, template),
        )
        begin = [dict(type=FROM_FRAMES, **rule), dict(type='V1ReadFrames')]
    else:
        source = dict(filename=video)
        begin = [dict(type=FROM_VIDEO, **rule)]
    return Compose([*begin, *rest])(source)


def images_of(clip):
    """What a clip shows, image after image.

    Args:
        clip (dict): of :func:`clip_inputs`; of a 3D network, its inputs are
            (clips, 3, T, H, W).

    Returns:
        Tensor: (images, 3, H, W) uint8, BGR.
    """
    images = clip['inputs']
    return images.transpose(1, 2).flatten(0, 1) if images.ndim == 5 else images


def _count_frames(folder, template):
    """The number of frames in a folder.

    Raises:
        HostError: there is none, or a number is missing.
    """
    names = set(os.listdir(folder))
    count = 0
    while template.format(count + 1) in names:
        count += 1
    if not count:
        raise HostError(
            f'{folder} has no {template.format(1)}: it should be the first frame '
            f'(image_tmpl in the config)'
        )
    # Names that a number fills in; number 0 is not used in testing either.
    form = re.sub(r'\\\{[^{}]*\\\}', '[0-9]+', re.escape(template))
    names.discard(template.format(0))
    total = sum(bool(re.fullmatch(form, name)) for name in names)
    if total > count:
        raise HostError(
            f'{folder} has {total} frames, but no {template.format(count + 1)}'
        )
    return count
