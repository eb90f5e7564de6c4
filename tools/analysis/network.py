"""A recognizer on plain tensors, and the arguments that its tools share."""

import argparse

from hosts import HostError
from hosts.options import add_cfg_options
from torch import nn


class Network(nn.Module):
    """Clips to class scores, or to the backbone's features, in one module.

    Args:
        recognizer (nn.Module): mmaction2's, 2D or 3D, in evaluation mode. Its
            normalizations compute by their plain backend from now on, which
            tracers can follow.
        backbone_only (bool): without the normalization of images and the head.

    forward takes clips (N, T, 3, H, W): images as the test pipeline gives them,
    BGR from 0 to 255 of any dtype, and returns raw scores (N, classes); or, with
    backbone_only, normalized images of float32, and returns (N * T, C, h, w), or
    (N, C, t, h, w) of a 3D network.
    """

    def __init__(self, recognizer, backbone_only=False):
        super().__init__()
        self.backbone = recognizer.backbone
        for module in self.backbone.modules():
            if hasattr(module, 'backend'):
                module.backend = 'plain'
        self.head = None if backbone_only else recognizer.cls_head
        images = recognizer.data_preprocessor
        self.to_rgb, self.is_3d = images.to_rgb, images.mean.ndim == 4
        for name in ('mean', 'std'):
            values = getattr(images, name).reshape(3, 1, 1).clone()
            self.register_buffer(name, values, persistent=False)
        self.eval()

    def forward(self, clips):
        if self.head is not None:
            clips = clips.float()
            if self.to_rgb:
                clips = clips[:, :, [2, 1, 0]]
            clips = (clips - self.mean) / self.std
        frames = clips.shape[1]
        clips = clips.transpose(1, 2) if self.is_3d else clips.flatten(0, 1)
        features = self.backbone(clips)
        if self.head is None:
            return features
        return self.head(features) if self.is_3d else self.head(features, frames)


def clip_shape(config):
    """The shape of a clip in testing.

    Args:
        config (mmengine.Config): of video_inputs.testing_config.

    Returns:
        tuple[int]: T, 3, H, W.
    """
    for step in reversed(config.test_dataloader.dataset.pipeline):
        if 'crop_size' in step:
            width, height = step.crop_size
            return config.model.backbone.get('n_segment', 8), 3, height, width
    raise HostError('data.test crops no images')


def config_parser(doc, checkpoint=True):
    """A parser of CONFIG, CHECKPOINT and --cfg-options.

    Args:
        doc (str): of the script.
        checkpoint (bool): whether it takes one.

    Returns:
        argparse.ArgumentParser
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="config file, in mmaction v1's schema")
    if checkpoint:
        parser.add_argument('checkpoint', help='checkpoint file, or its URL')
    add_cfg_options(parser)
    return parser
