"""Checks that both hosts make, before hours of work."""

import os
import os.path as osp

from whole_files import temporary_name

from . import HostError
from .backbones import network_of
from .lists import read_labels
from .videos import mirrored_labels


def check_clips(split, data, backbone, in_channels=3):
    """A clip of the data is what the network takes for one.

    Args:
        split (str): 'train', 'val' or 'test'.
        data (dict): data.SPLIT of a v1 config.
        backbone (dict): model.backbone of it.
        in_channels (int): model.in_channels of it, channels an image.

    Raises:
        HostError: n_segment is not the number of images that lie together.
    """
    new_length = data.get('new_length', 1)
    num_segments = data.get('num_segments', 3)
    n_segment = backbone.get('n_segment', 8)
    # v1 cuts the channels of a segment, two or three a frame, into images.
    channels = new_length * (2 if data.get('modality') == 'Flow' else 3)
    images, rest = divmod(channels, in_channels)
    if rest:
        raise HostError(
            f'data.{split}: the {channels} channels of new_length={new_length} '
            f'frames are no whole images of model.in_channels={in_channels}'
        )
    if n_segment != (images if images > 1 else num_segments):
        each = (
            '' if in_channels == 3 else f', {images} images of {in_channels} channels,'
        )
        raise HostError(
            f'model.backbone.n_segment={n_segment} is not the clip of '
            f'data.{split}: new_length={new_length} frames{each} in each of '
            f'num_segments={num_segments} segments'
        )


def crop_of(data):
    """How a split crops its frames, by mmaction v1's precedence.

    Args:
        data (dict): data.SPLIT of a v1 config.

    Returns:
        dict: the arguments of :func:`check_frame_size` after the frame's.
    """
    size = data.get('input_size', 224)
    kind = data.get('oversample') or next(
        (
            name
            for name in ('resize_crop', 'rescale_crop', 'multiscale_crop')
            if data.get(name)
        ),
        'center_crop',
    )
    return dict(
        kind=kind,
        size=(size, size) if isinstance(size, int) else tuple(size),
        scales=tuple(data.get('scales') or (1, 0.875, 0.75, 0.66)),
    )


def check_frame_size(width, height, kind, size, scales=(1,)):
    """A frame, after resizing, has room for the crop.

    Cropping itself does not look: what it gives then is a sliver.

    Args:
        width, height (int): of the frame, in pixels.
        kind (str): 'center_crop', 'three_crop', 'ten_crop',
            'multiscale_crop', 'rescale_crop' or 'resize_crop'.
        size (tuple[int]): width and height of the crop.
        scales (tuple[float]): of a multiscale crop: sides by the short side.

    Raises:
        HostError: it has not. The text does not name the video.
    """
    crop_width, crop_height = size
    room = width >= crop_width and height >= crop_height
    right = f'img_scale={max(size)}, the short side, is enough'
    if kind == 'three_crop':
        room = room and (width == crop_width or height == crop_height)
        right = f"three_crop wants one side that is the crop's: img_scale={min(size)}"
        if crop_width != crop_height:
            right += f', or img_scale={size} and resize_keep_ratio=False'
    elif kind == 'multiscale_crop':
        sides = [int(min(width, height) * scale) for scale in scales]
        # A side that is all but the crop's becomes the crop's.
        room = all(
            0 < (wanted if abs(side - wanted) < 3 else side) <= there
            for side in sides
            for wanted, there in ((crop_width, width), (crop_height, height))
        )
        right += ', with scales of at most 1'
    elif kind == 'resize_crop':  # takes a part of any size, and resizes that
        room = True
    if not room:
        raise HostError(
            f'frames of {width} x {height} after resizing do not fit '
            f'{kind} of {crop_width} x {crop_height} (input_size): {right}'
        )


def check_scale(split, data):
    """There are frames that fit the crop after resizing.

    Args:
        split (str): 'train', 'val' or 'test'.
        data (dict): data.SPLIT of a v1 config.

    Raises:
        HostError: there are none, so no video can be used.
    """
    crop = crop_of(data)
    scale = data.get('img_scale', 256)
    if crop['kind'] == 'rescale_crop':
        scale = 256  # at least; v1 draws it itself
    elif data.get('img_scale_file'):
        return
    any_length = 10**6
    best = (any_length, scale) if isinstance(scale, int) else tuple(scale)
    frames = [best]
    if data.get('resize_keep_ratio', True):
        frames = [(max(best), min(best)), (min(best), max(best))]
    faults = []
    for width, height in frames:
        try:
            check_frame_size(width, height, **crop)
            return
        except HostError as error:
            faults.append(str(error).replace(str(any_length), 'any'))
    raise HostError(f'data.{split}.img_scale={scale}: {faults[0]}')


def check_testing(data, split='test'):
    """Two tests, or validations, of one checkpoint are the same.

    test_mode has no say: mmaction v1's test script sets it, and so do we.

    Args:
        data (dict): data.SPLIT of a v1 config.
        split (str): 'test' or 'val'.

    Raises:
        HostError: it changes clips at random.
    """
    of = 'test' if split == 'test' else 'validation'
    wanted = dict(temporal_jitter=False, resize_crop=False, rescale_crop=False)
    if not data.get('oversample'):
        wanted['multiscale_crop'] = False
    for key, right in wanted.items():
        if data.get(key):
            raise HostError(
                f'data.{split}.{key}={data[key]!r} makes every {of} different: '
                f'set it to {right}'
            )
    if 0 < data.get('flip_ratio', 0.5) < 1:
        raise HostError(
            f'data.{split}.flip_ratio={data.get("flip_ratio", 0.5)}'
            + ('' if 'flip_ratio' in data else ', the default,')
            + f' makes every {of} different: set it to 0'
        )


def check_output(backbone):
    """The backbone has one output, which the head sees.

    Args:
        backbone (dict): model.backbone of a v1 config.

    Raises:
        HostError: it has none or several.
    """
    if len(network_of(backbone).get('out_indices', ())) != 1:
        raise HostError(
            'model.backbone.out_indices, or that of the network in WithDNR, should '
            'name the one stage that the head sees, such as (3, )'
        )


def check_backend(backbone):
    """What is to compute the normalizations by its name can do so here.

    Without this, the first iteration ends in an error of the backbone's.

    Args:
        backbone (dict): model.backbone of a v1 config; RESNET_DNR_BACKEND
            overrules it.

    Raises:
        HostError: it cannot; the text says why.
    """
    wanted = os.environ.get('RESNET_DNR_BACKEND', backbone.get('backend'))
    if wanted != 'triton':
        return
    import torch

    from resnet_dnr_fused import why_not_triton

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    why_not = why_not_triton(device, torch.float32, torch.float32, 64)
    if why_not:
        raise HostError(
            f"model.backbone.backend='triton' (or RESNET_DNR_BACKEND) cannot be "
            f"used: {why_not}. 'auto' takes what can"
        )


def check_class_names(cfg, num_classes):
    """The file of names that a config has is of the model's classes.

    Args:
        cfg (mmengine.Config | mmcv.Config): in v1's schema. class_names is the
            path of a file with a name a line, by label.
        num_classes (int): of the head.

    Returns:
        list[str]: the names by label; empty without a file.

    Raises:
        HostError: it cannot be read, or has another number of names.
    """
    path = cfg.get('class_names')
    if path is None:
        return []
    try:
        return read_labels(path, num_classes)
    except HostError as error:
        raise HostError(f'class_names: {error}') from error


def check_mirrored(cfg, names):
    """A training that mirrors clips swaps the labels of left and right.

    Args:
        cfg (mmengine.Config | mmcv.Config): in v1's schema.
        names (list[str]): of its classes, see :func:`check_class_names`.

    Raises:
        HostError: by their names, some classes are others' mirror images, and
            data.train mirrors clips without a flip_label_map.
    """
    train, pairs = cfg.data.train, mirrored_labels(names)
    flip_ratio = train.get('flip_ratio', 0.5)
    if pairs and flip_ratio and not train.get('flip_label_map'):
        raise HostError(
            f'data.train.flip_ratio={flip_ratio} mirrors clips, and a mirror swaps '
            f'classes of {cfg.class_names}: set data.train.flip_label_map={pairs}, or '
            'flip_ratio=0'
        )


def check_unused_stages(backbone, find_unused_parameters):
    """DistributedDataParallel waits for the gradient of every parameter.

    Args:
        backbone (dict): model.backbone of a v1 config.
        find_unused_parameters (bool): of the config.

    Raises:
        HostError: stages after the last output have none, which would end the
            training in its second iteration.
    """
    network = network_of(backbone)
    used = max(network['out_indices']) + 1
    stages = network.get('num_stages', 4)
    if used < stages and not find_unused_parameters:
        raise HostError(
            f'model.backbone.out_indices={tuple(network["out_indices"])} leaves '
            f'stages of {stages} unused, which several processes wait for: '
            f'--cfg-options model.backbone.num_stages={used} builds none, '
            f'find_unused_parameters=True builds and ignores them'
        )


def check_fcn_testing(args):
    """Fully convolutional testing is of 3D recognizers.

    Args:
        args (argparse.Namespace): of tools/test_recognizer.py.

    Raises:
        HostError: it is asked for.
    """
    if args.fcn_testing:
        raise HostError(
            '--fcn_testing is for 3D recognizers; TSN2D, of '
            'which ResNet_DNR is a backbone, has none'
        )


def check_gpus(args):
    """A process trains on one GPU.

    Args:
        args (argparse.Namespace): launcher and gpus.

    Raises:
        HostError: it should train on several.
    """
    if args.launcher == 'none' and args.gpus != 1:
        raise HostError(
            f'--gpus {args.gpus} needs a process a GPU: '
            f'tools/dist_train_recognizer.sh CONFIG {args.gpus}'
        )


def check_out(path, endings=('.pkl', '.pickle'), name='--out'):
    """Results can be written at path; its folder is made.

    Args:
        path (str): the file.
        endings (tuple[str]): what its name may end in.
        name (str): of the argument that has it.

    Raises:
        HostError: it cannot, or path has another ending.
    """
    if not path.endswith(endings):
        raise HostError(f'{name} {path} should end in {" or ".join(endings)}')
    if osp.isdir(path):
        raise HostError(f'cannot write {name} {path}: it is a folder')
    _probe(osp.dirname(path), osp.basename(path), f'{name} {path}')


def check_out_folder(path, name):
    """Files can be written in a folder, which is made.

    Args:
        path (str): the folder.
        name (str): of the argument that has it.

    Raises:
        HostError: they cannot.
    """
    _probe(path, 'probe', f'to {name} {path}')


def _probe(folder, file, what):
    """Write a file of another name, and remove it."""
    probe = temporary_name(osp.join(folder, file))
    try:
        os.makedirs(folder or '.', exist_ok=True)
        open(probe, 'wb').close()
        os.remove(probe)
    except OSError as error:
        raise HostError(f'cannot write {what}: {error.strerror}') from error
