"""Checks that both hosts make, before hours of work."""

import os
import os.path as osp
import pickle

import torch

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
    probe = f'{path}.{os.getpid()}.tmp'
    try:
        os.makedirs(osp.dirname(path) or '.', exist_ok=True)
        open(probe, 'wb').close()
        os.remove(probe)
    except OSError as error:
        raise HostError(f'cannot write {name} {path}: {error.strerror}') from error


def read_checkpoint(path):
    """A checkpoint's content, of tensors and plain data alone.

    Args:
        path (str): the file.

    Returns:
        dict: with a state dict under 'state_dict'; a bare state dict is put
        there.

    Raises:
        HostError: there is no such file, or it is none that can be loaded.
    """
    if not osp.isfile(path):
        raise HostError(
            f'checkpoint {path} '
            + ('is a folder' if osp.isdir(path) else 'does not exist')
        )
    refused = f'{path} cannot be loaded as a checkpoint'
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        # torch's text is long and tells how to load it unsafely.
        reason = str(error).split('WeightsUnpickler error: ')[-1]
        reason = reason.strip().split('\n')[0]
        raise HostError(
            f'{refused} of tensors and plain data alone: {reason or "it is empty"}'
        ) from error
    if not isinstance(checkpoint, dict):
        raise HostError(f'{refused}: it holds a {type(checkpoint).__name__}')
    if 'state_dict' not in checkpoint:
        checkpoint = dict(state_dict=checkpoint)
    if not isinstance(checkpoint['state_dict'], dict):
        raise HostError(
            f'{refused}: its state_dict is a {type(checkpoint["state_dict"]).__name__}'
        )
    return checkpoint


def fill_model(model, state, path):
    """Load a state dict that fills the model, and has nothing else.

    A recognizer whose parts stay random, or that is cut out of a deeper one,
    would be tested without an error.

    Args:
        model (nn.Module): loaded in place.
        state (dict[str, Tensor]): names may begin with 'module.'.
        path (str): where it is from.

    Raises:
        HostError: it leaves a tensor of the model unset, has one that the
            model has not, or one of another shape.
    """
    state = {
        name[len('module.') :] if name.startswith('module.') else name: value
        for name, value in state.items()
    }
    refused = f'{path} is no checkpoint of this model'
    try:
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a line for each shape that differs
        raise HostError(f'{refused}: {shorten(str(error).splitlines())}') from error
    missing = [k for k in missing if not k.endswith('num_batches_tracked')]
    if missing:
        raise HostError(
            f'{refused}, parts of which would stay random. It has no {shorten(missing)}'
        )
    if unknown:
        raise HostError(f'{refused}, which has no {shorten(unknown)}')


def shorten(items, count=5):
    """The first few items of a list, and how many more there are."""
    more = len(items) - count
    return ', '.join(item.strip('\t.: ') for item in items[:count]) + (
        f' and {more} more' if more > 0 else ''
    )
