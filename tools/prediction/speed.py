"""How fast a network is computed; its scores stay what they are, to rounding."""

import contextlib

import torch
from hosts import HostError

AMP = dict(bf16=torch.bfloat16, fp16=torch.float16)
COMPILE = ('default', 'reduce-overhead')


def add_options(parser):
    """The options --amp, --channels-last and --compile.

    Args:
        parser (argparse.ArgumentParser): gets them.
    """
    parser.add_argument(
        '--amp',
        nargs='?',
        const='bf16',
        choices=AMP,
        help='mixed precision, by default bf16',
    )
    parser.add_argument(
        '--channels-last', action='store_true', help='memory format of images'
    )
    parser.add_argument(
        '--compile',
        nargs='?',
        const='default',
        choices=COMPILE,
        help='have torch.compile compile the backbone',
    )


def set_speed(network, channels_last=False, compile=None):
    """Prepare a recognizer for speed, in place.

    Args:
        network (nn.Module): a recognizer, with its weights, on its device.
        channels_last (bool): lay images out so.
        compile (str | None): mode of torch.compile, of the backbone.
    """
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if compile:
        network.backbone.compile(mode=compile)


def precision(device, amp):
    """The context in which a network computes.

    Args:
        device (torch.device): the network's.
        amp (str | None): 'bf16', 'fp16', or None for the weights' own.

    Returns:
        a context manager.

    Raises:
        HostError: the device cannot compute so.
    """
    if amp is None:
        return contextlib.nullcontext()
    if device.type == 'cpu' and amp == 'fp16':
        raise HostError('--amp fp16 is for GPUs; a CPU takes --amp bf16')
    return torch.autocast(device.type, AMP[amp])
