"""mmengine's Runner, with a checked backbone and a checkpoint that was read.

Imported when a Runner is built, and not by the scripts at their start:
mmengine.runner takes two seconds.
"""

import os.path as osp
import re

from checkpoint_files import read_checkpoint
from mmengine.runner import CheckpointLoader, Runner

from . import HostError
from .options import check_arguments


class CheckedRunner(Runner):
    """A Runner whose backbone is built once, with errors that name a key."""

    def build_model(self, model):
        """Build the recognizer.

        Args:
            model (dict): of the native config.

        Returns:
            nn.Module

        Raises:
            HostError: the backbone does not take its arguments, the head does
                not fit it, or its pretrained weights are not there.
        """
        backbone = build_backbone(model)
        return super().build_model(dict(model, backbone=dict(type=lambda: backbone)))


def build_backbone(model):
    """The backbone of a model, which its head must fit.

    Args:
        model (dict): of the native config.

    Returns:
        ResNet_DNR

    Raises:
        HostError: as CheckedRunner.build_model does.
    """
    from resnet_dnr import ResNet_DNR

    arguments = dict(model['backbone'])
    del arguments['type']
    check_arguments('model.backbone', ResNet_DNR, arguments)
    try:
        backbone = ResNet_DNR(**arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise HostError(f'model.backbone: {error.args[0]}') from error
    # feat_dim is that of the last stage; each has twice the channels.
    stages_after = len(backbone.res_layers) - 1 - backbone.out_indices[0]
    channels = backbone.feat_dim >> stages_after
    in_channels = model['cls_head']['in_channels']
    if in_channels != channels:
        raise HostError(
            f'model.cls_head.in_channels={in_channels}, but '
            f'the backbone of depth={backbone.depth} and '
            f'out_indices={backbone.out_indices} gives {channels} channels'
        )
    pretrained = backbone.pretrained
    if not (
        pretrained is None
        or osp.isfile(pretrained)
        or pretrained.startswith(('http://', 'https://'))
    ):
        raise HostError(
            f'model.backbone.pretrained={pretrained} is neither '
            f'a file nor an http(s) URL'
        )
    return backbone


def hand_over(checkpoint, path):
    """Let the Runner have a checkpoint that was read, in place of the file.

    A Runner is told a path to load or to resume from.

    Args:
        checkpoint (dict): what :func:`read_checkpoint` returned.
        path (str): where it is from. The Runner gets the checkpoint when it
            loads from there first, and the file's content after that.
    """
    given = [checkpoint]

    def load_from_memory(filename, map_location):
        return given.pop() if given else read_checkpoint(filename)

    CheckpointLoader.register_scheme(
        re.escape(path) + '$', load_from_memory, force=True
    )
