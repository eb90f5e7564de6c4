"""Checkpoints: read with care, written whole, and loaded strictly.

Every tool on either host reads, fills a model from and writes a checkpoint
through this module. A checkpoint is read as tensors and plain data alone:
nothing in it is run.
"""

import io
import os.path as osp
import pickle
import re

import torch
from hosts import HostError
from whole_files import write_whole

from resnet_dnr import MAP_NAMES


def read_checkpoint(path):
    """A checkpoint's content, of tensors and plain data alone.

    Args:
        path (str | Path): the file.

    Returns:
        dict: with a state dict under 'state_dict'; a bare state dict is put
        there. Its tensors are on the CPU.

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
        raise HostError(
            f'{refused} of tensors and plain data alone: '
            f'{reason_of(error) or "it is empty"}'
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


def reason_of(error):
    """Why torch could not load a file: the first line of what matters.

    torch's text is long and tells how to load the file unsafely.

    Args:
        error (Exception): of torch.load.

    Returns:
        str: may be empty.
    """
    reason = str(error).split('WeightsUnpickler error: ')[-1]
    return reason.strip().split('\n')[0]


def fill_model(model, state, path):
    """Load a state dict that fills the model, and has nothing else.

    A recognizer whose parts stay random, or that is cut out of a deeper one,
    would be tested without an error.

    Args:
        model (nn.Module): loaded in place.
        state (dict[str, Tensor]): names may begin with 'module.'.
        path (str | Path): where it is from.

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


def write_checkpoint(path, checkpoint):
    """Write a checkpoint whole, or nothing.

    Args:
        path (str | Path): the file.
        checkpoint (dict): what torch.save takes.

    Raises:
        OSError: as whole_files.write_whole does.
    """
    content = io.BytesIO()  # torch.save hides why a disk cannot be written
    torch.save(checkpoint, content)
    write_whole(path, content.getbuffer())


def to_published_names(state):
    """A state dict in the published code's names and shapes.

    Grouped running statistics (G, C) become their mean over the groups, (C,),
    as the published code has it. Its evaluation differs from the grouped one's.

    Args:
        state (dict[str, Tensor]): of a ResNet_DNR with dnr='both', or of a
            recognizer with one under 'backbone.'.

    Returns:
        dict[str, Tensor]: a new dict; tensors that do not change are shared.
    """
    published_state = {}
    for name, value in state.items():
        name = re.sub(r'\b(layer\d+)\.(\d+)\.', r'\1.ModuleList.\2.', name)
        for published, own in MAP_NAMES:
            name = name.replace(own, published)
        if name.endswith(('running_mean', 'running_var')) and value.dim() == 2:
            value = value.mean(0)
        published_state[name] = value
    return published_state
