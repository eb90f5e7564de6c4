"""Checks that both hosts make, before hours of work."""

import os
import os.path as osp

from whole_files import temporary_name

from . import HostError


def check_clips(split, data, backbone):
    """A clip of the data is what the network takes for one.

    Args:
        split (str): 'train', 'val' or 'test'.
        data (dict): data.SPLIT of a v1 config.
        backbone (dict): model.backbone of it.

    Raises:
        HostError: n_segment is not the number of frames that lie together.
    """
    new_length = data.get('new_length', 1)
    num_segments = data.get('num_segments', 3)
    n_segment = backbone.get('n_segment', 8)
    if n_segment != (new_length if new_length > 1 else num_segments):
        raise HostError(
            f'model.backbone.n_segment={n_segment} is not the clip of '
            f'data.{split}: new_length={new_length} frames in each of '
            f'num_segments={num_segments} segments'
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
    probe = temporary_name(path)
    try:
        os.makedirs(osp.dirname(path) or '.', exist_ok=True)
        open(probe, 'wb').close()
        os.remove(probe)
    except OSError as error:
        raise HostError(f'cannot write {name} {path}: {error.strerror}') from error
