"""ResNet-DNR: a 2D ResNet with dynamic normalization and relay.

Cai, Yao, Chen: "Dynamic Normalization and Relay for Video Action Recognition",
NeurIPS 2021. The convolutions are a ResNet's. Two normalizations in each block have no
learned scale and shift. Small LSTM-like relay cells predict both, for each clip, from
pooled features. The state of the cross-layer cell is relayed from block to block, that
of the cross-temporal cell from each group of frames to the next.

Symbols: N clips, T frames a clip (``n_segment``), G groups of frames
(``num_groups``), t = T / G frames a group, C channels. The network sees
(N * T, 3, H, W) images, the T frames of a clip contiguous.

Evaluation keeps running statistics for each group of frames, (G, C). The published code
shares one (C,) pair among groups whose distributions differ, and its evaluation can be
far below its training; ``running_stats='shared'`` does the same. Also beyond it: any T,
any G that divides it, depths 18 and 34, any device and dtype, gradient checkpointing,
torchvision's state-dict names.

The file needs torch alone, and states the method in operations that autograd knows.
Where resnet_dnr_fused.py lies beside it, that file computes the same faster. Where
mmaction v1 or mmaction2 is installed, ``ResNet_DNR`` is registered as a backbone.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import urllib.parse
import warnings
from functools import partial
from typing import Callable, Sequence, Union

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__version__ = '0.2.0'

logger = logging.getLogger(__name__)

# The name of what may lie beside this file, wherever that is.
_FUSED = f'{__package__}.resnet_dnr_fused' if __package__ else 'resnet_dnr_fused'
try:
    fused = importlib.import_module(_FUSED)
except ModuleNotFoundError as error:
    if error.name != _FUSED:
        raise
    fused = None

DNR_MODES = ('both', 'cross_temporal', 'cross_layer', 'none')
RUNNING_STATS = ('grouped', 'shared')
STYLES = ('pytorch', 'caffe')
BACKENDS = ('auto', 'triton', 'aten', 'plain')

# A relay cell's hidden and cell state: a pair of (N, C), or both as one (2, N, C).
State = Union['tuple[Tensor, Tensor]', Tensor]


class RelayCell(nn.Module):
    """LSTM-like cell that predicts scale and shift (paper, section 3).

    The gates are the sum of a map of the input and a map of the hidden state, each a
    bottleneck Linear(C, C/4), ReLU, Linear(C/4, 4C). The hidden state h is the scale,
    the cell state c the shift. Where an LSTM has tanh(c), h has a sigmoid.

    Args:
        channels (int): C, the size of input, hidden state and cell state; at least 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input_map, self.hidden_map = (
            nn.Sequential(
                nn.Linear(channels, channels // 4),
                nn.ReLU(inplace=True),
                nn.Linear(channels // 4, 4 * channels),
            )
            for _ in range(2)
        )

    def forward(
        self, x: Tensor, state: State | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Run over a sequence.

        Args:
            x (Tensor): pooled features, (N, S, C) for S steps.
            state (tuple[Tensor, Tensor] | Tensor | None): h and c before the first
                step. Default: zeros.

        Returns:
            tuple: scales (N, S, C), shifts (N, S, C), and the last state, a pair.
        """
        if state is None:
            zeros = x.new_zeros(x.size(0), x.size(2))
            state = (zeros, zeros)
        h, c = state
        from_input = self.input_map(x)  # (N, S, 4C): all steps at once
        scales, shifts = [], []
        for step in range(x.size(1)):
            gates = from_input[:, step] + self.hidden_map(h)  # (N, 4C)
            i, f, g, o = gates.chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.sigmoid(c)
            scales.append(h)
            shifts.append(c)
        return torch.stack(scales, 1), torch.stack(shifts, 1), (h, c)


class DynamicNorm(nn.Module):
    """Normalization whose scale and shift a relay cell predicts.

    Standardizes (N * T, C, H, W) over clips, frames and positions, for each of G
    groups of frames by itself. Applies a scale and a shift for each clip, group and
    channel. Training standardizes by the batch's statistics (biased variance) and moves
    the running ones towards them (unbiased variance), as nn.BatchNorm2d does.
    Evaluation standardizes by the running ones. Halves are computed in float32.

    Args:
        channels (int): C.
        n_segment (int): T.
        num_groups (int): G, a divisor of T.
        running_stats (str): 'grouped' keeps running statistics for each group,
            (G, C); 'shared' keeps one pair for all, (C,), which the groups update in
            order, as published.
        relu (bool): apply ReLU to the output. Default: False.
        backend (str): what computes it, see :func:`choose_backend`. Default: 'auto'.

    Raises:
        ValueError: an unknown backend.
    """

    eps = 1e-5  # added to the variance
    momentum = 0.1  # weight of the newest statistics in the running ones

    def __init__(
        self,
        channels: int,
        n_segment: int,
        num_groups: int,
        running_stats: str,
        relu: bool = False,
        backend: str = 'auto',
    ) -> None:
        super().__init__()
        self.channels = channels
        self.n_segment = n_segment
        self.num_groups = num_groups
        self.running_stats = running_stats
        self.relu = relu
        self.backend = _wanted_backend(backend)
        shape = (num_groups, channels) if running_stats == 'grouped' else (channels,)
        self.register_buffer('running_mean', torch.zeros(shape))
        self.register_buffer('running_var', torch.ones(shape))
        self.register_buffer('num_batches_tracked', torch.tensor(0, dtype=torch.long))

    def normalize(
        self, x: Tensor, relay: RelayCell, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Standardize, then scale and shift by what the relay cell predicts.

        Args:
            x (Tensor): (N * T, C, H, W).
            relay (RelayCell): the cell, of C channels.
            state (tuple[Tensor, Tensor] | Tensor | None): the cell's state before the
                first group. Default: zeros.

        Returns:
            tuple: the output, of x's shape and dtype; the state after the last group.

        Raises:
            ValueError: in training, a channel has one value a group: no variance.
        """
        count = x.size(0) // self.num_groups * x.size(2) * x.size(3)
        if self.training and count <= 1:
            raise ValueError(
                f'{type(self).__name__} needs more than one value a channel and group '
                f'in training, got input {tuple(x.shape)} in {self.num_groups} groups'
            )
        backend = choose_backend(self.backend, x, relay)
        if backend == 'plain':
            with _without_autocast(x.device.type):
                out, state, statistics = self._normalize_plain(x, relay, state)
        else:
            out, state, statistics = fused.normalize(backend, self, x, relay, state)
        if statistics is not None:
            self._update_running(*statistics, count)
        return out, state

    def _normalize_plain(self, x, relay, state):
        """:meth:`normalize`; and in training the batch's mean and variance, (G, C)."""
        # (N * T, C, H, W) -> (N, G, t, C, H, W): the T frames of a clip are
        # contiguous, and so are the t frames of a group.
        groups = x.unflatten(
            0, (-1, self.num_groups, self.n_segment // self.num_groups)
        )
        if x.dtype in (torch.float16, torch.bfloat16):
            groups = groups.float()
        pooled = groups.mean(dim=(2, 4, 5))  # (N, G, C)
        scale, shift, state = relay(pooled.to(relay.input_map[0].weight.dtype), state)
        # Autograd keeps `centered` and the output, as much as BatchNorm and ReLU do.
        if self.training:
            mean = pooled.mean(0)  # (G, C): every clip has as many values
            centered = groups - mean[:, None, :, None, None]
            var = centered.square().mean(dim=(0, 2, 4, 5))  # (G, C)
            statistics = mean.detach(), var.detach()
        else:
            mean = self.running_mean.to(groups.dtype)  # (G, C) or (C,)
            centered = groups - mean.view(-1, 1, self.channels, 1, 1)
            var = self.running_var.to(groups.dtype)
            statistics = None
        factor = scale.to(groups.dtype) * torch.rsqrt(var + self.eps)  # (N, G, C)
        shift = shift.to(groups.dtype)
        scale, shift = (v[:, :, None, :, None, None] for v in (factor, shift))
        out = torch.addcmul(shift, centered, scale)
        out = out.flatten(0, 2).to(x.dtype)  # (N, G, t, C, H, W) -> (N * T, C, H, W)
        return out.relu_() if self.relu else out, state, statistics

    @torch.no_grad()
    def _update_running(self, mean, var, count):
        """Move the running statistics towards those of `count` values, (G, C)."""
        self.num_batches_tracked.add_(1)
        unbiased = var * (count / (count - 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            new = new.to(running.dtype)
            # Shared ones, (C,), are moved by one group after the other.
            for value in new if running.dim() == 1 else (new,):
                running.lerp_(value, self.momentum)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """Accept the other layout of running statistics.

        A shared (C,) buffer, as published, is repeated for every group, which evaluates
        exactly alike. Grouped (G, C) ones are averaged into a shared one.
        """
        for name in ('running_mean', 'running_var'):
            value = state_dict.get(prefix + name)
            wanted = getattr(self, name)
            if value is None or value.dim() == wanted.dim():
                continue
            if value.dim() == 1 and value.numel() == self.channels:
                state_dict[prefix + name] = value.expand_as(wanted).clone()
            elif value.dim() == 2:
                state_dict[prefix + name] = value.mean(0)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class CrossTemporalNorm(DynamicNorm):
    """Cross-temporal DNR: the relay runs over the G groups of a clip.

    It owns its cell. Arguments are those of :class:`DynamicNorm`.
    """

    def __init__(self, channels: int, *args, **kwargs) -> None:
        super().__init__(channels, *args, **kwargs)
        self.relay = RelayCell(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N * T, C, H, W) to the same shape."""
        return self.normalize(x, self.relay)[0]


class CrossLayerNorm(DynamicNorm):
    """Cross-layer DNR: the relay runs over the blocks of a stage, which owns the cell.

    The T frames are one group. Arguments are those of :class:`DynamicNorm`.
    """

    def __init__(self, channels: int, n_segment: int, **kwargs) -> None:
        super().__init__(channels, n_segment, 1, 'shared', **kwargs)

    def forward(
        self, x: Tensor, relay: RelayCell, state: State | None = None
    ) -> tuple[Tensor, State]:
        """See :meth:`DynamicNorm.normalize`; state is None before the first block."""
        return self.normalize(x, relay, state)


class Block(nn.Module):
    """A residual block. ``bn1``, after the first convolution, is the cross-layer
    normalization where there is one; ``bn2``, after the second, the cross-temporal one.

    Args:
        inplanes (int): input channels.
        planes (int): channels within; the output has ``expansion * planes``.
        norm1, norm2 (Callable[[int], nn.Module]): make bn1 and bn2 of some channels.
        stride, dilation (int): of the first 3x3 convolution. Default: 1.
        style (str): 'pytorch', or 'caffe': a Bottleneck strides in its first 1x1.
        with_cp (bool): recompute the block in the backward pass. Default: False.
    """

    expansion: int

    def __init__(
        self,
        inplanes: int,
        planes: int,
        norm1: Callable[[int], nn.Module],
        norm2: Callable[[int], nn.Module],
        stride: int = 1,
        dilation: int = 1,
        style: str = 'pytorch',
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        outplanes = self.expansion * planes
        first, second = (1, stride) if style == 'pytorch' else (stride, 1)
        if self.expansion == 1:
            self.conv1 = _conv(inplanes, planes, 3, stride, dilation)
            self.bn1 = norm1(planes)
            self.conv2 = _conv(planes, planes, 3)
            self.bn2 = norm2(planes)
        else:
            self.conv1 = _conv(inplanes, planes, 1, first)
            self.bn1 = norm1(planes)
            self.conv2 = _conv(planes, planes, 3, second, dilation)
            self.bn2 = norm2(planes)
            self.conv3 = _conv(planes, outplanes, 1)
            self.bn3 = nn.BatchNorm2d(outplanes)
        # A dynamic normalization that a ReLU follows applies it in the same pass.
        self.bn1.relu = isinstance(self.bn1, DynamicNorm)
        self.bn2.relu = isinstance(self.bn2, DynamicNorm) and self.expansion > 1
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inplanes != outplanes:
            self.downsample = nn.Sequential(
                _conv(inplanes, outplanes, 1, stride), nn.BatchNorm2d(outplanes)
            )
        self.with_cp = with_cp

    def forward(
        self, x: Tensor, relay: RelayCell | None = None, state: State | None = None
    ) -> tuple[Tensor, State | None]:
        """(N * T, inplanes, H, W) to (N * T, expansion * planes, H', W').

        Args:
            relay (RelayCell | None): the stage's cross-layer cell; None where bn1 is an
                ordinary BatchNorm.
            state: its state after the block before; the new one is returned, too.
        """
        if not (self.with_cp and torch.is_grad_enabled()):
            return self._forward(x, relay, state)
        # A compiled graph updates buffers once by itself.
        run = self._forward if _is_compiling() else _updating_buffers_once(self)
        checkpoint = torch.utils.checkpoint.checkpoint
        return checkpoint(run, x, relay, state, use_reentrant=False)

    def _forward(self, x, relay, state):
        out = self.conv1(x)
        if relay is None:
            out = self.relu(self.bn1(out))
        else:
            out, state = self.bn1(out, relay, state)
        out = self.bn2(self.conv2(out))
        if self.expansion > 1:
            out = self.bn3(self.conv3(out if self.bn2.relu else self.relu(out)))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out), state


class BasicBlock(Block):
    """Two 3x3 convolutions (depths 18 and 34)."""

    expansion = 1


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions (depths 50, 101 and 152)."""

    expansion = 4


def _conv(inplanes, planes, kernel, stride=1, dilation=1):
    padding = dilation * (kernel // 2)
    return nn.Conv2d(inplanes, planes, kernel, stride, padding, dilation, bias=False)


class Stage(nn.Module):
    """The blocks of one resolution and the cross-layer cell that they share.

    Args:
        blocks (Sequence[Block]): ``stage[i]``; named '0', '1', ... as in torchvision.
        relay (RelayCell | None): the cell; its state is zero before the first block.
    """

    def __init__(self, blocks: Sequence[Block], relay: RelayCell | None = None) -> None:
        super().__init__()
        self.block_names = [str(i) for i in range(len(blocks))]
        for name, block in zip(self.block_names, blocks):
            self.add_module(name, block)
        self.relay = relay

    def __len__(self) -> int:
        return len(self.block_names)

    def __getitem__(self, index: int) -> Block:
        return getattr(self, self.block_names[index])

    def forward(self, x: Tensor) -> Tensor:
        """(N * T, C_in, H, W) to (N * T, C_out, H', W')."""
        relay, state = self.relay, None
        if relay is not None and fused is not None:
            relay = fused.share(relay, x)
        for name in self.block_names:
            x, state = getattr(self, name)(x, relay, state)
        return x


class ResNet_DNR(nn.Module):
    """ResNet backbone with dynamic normalization and relay.

    Arguments up to ``with_cp``, their defaults and meaning are those of mmaction v1's
    ResNet. Note ``bn_eval=True``: to train from scratch, pass ``bn_eval=False``. What
    they say of BN holds for the dynamic normalizations and their relay cells too.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        pretrained (str | None): path or http(s) URL that :meth:`init_weights` loads.
        num_stages (int): 1 to 4.
        strides, dilations (Sequence[int]): of each stage.
        out_indices (Sequence[int]): the stages whose output is returned.
        style (str): 'pytorch' or 'caffe', see :class:`Block`.
        frozen_stages (int): how many stages are frozen, and the stem; -1: nothing.
        bn_eval (bool): keep all normalizations in evaluation mode.
        bn_frozen (bool): with bn_eval, freeze their parameters too.
        partial_bn (bool): freeze the normalizations of the ``frozen_stages``, which
            are frozen already, as in mmaction v1.
        with_cp (bool): recompute each block in the backward pass.
        n_segment (int): T, frames a clip.
        num_groups (int): G, groups of frames, a divisor of T.
        dnr (str): 'both'; 'cross_temporal' (after each block's second convolution);
            'cross_layer' (after its first); or 'none', the BatchNorm ResNet.
        running_stats (str): 'grouped' or 'shared', see :class:`DynamicNorm`.
        backend (str): see :func:`choose_backend`.

    Raises:
        KeyError: an unknown depth.
        ValueError: any other argument out of its range.
    """

    arch_settings = {
        18: (BasicBlock, (2, 2, 2, 2)),
        34: (BasicBlock, (3, 4, 6, 3)),
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
        152: (Bottleneck, (3, 8, 36, 3)),
    }

    def __init__(
        self,
        depth: int,
        pretrained: str | None = None,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: str = 'pytorch',
        frozen_stages: int = -1,
        bn_eval: bool = True,
        bn_frozen: bool = False,
        partial_bn: bool = False,
        with_cp: bool = False,
        n_segment: int = 8,
        num_groups: int = 4,
        dnr: str = 'both',
        running_stats: str = 'grouped',
        backend: str = 'auto',
    ) -> None:
        super().__init__()
        if depth not in self.arch_settings:
            raise KeyError(
                f'invalid depth {depth!r} for ResNet_DNR, it takes one of '
                f'{sorted(self.arch_settings)}'
            )
        stages = range(num_stages if num_stages in (1, 2, 3, 4) else 0)
        some = len(out_indices) > 0 and all(i in stages for i in out_indices)
        each = f'one for each of the {num_stages} stages'
        path = pretrained is None or isinstance(pretrained, str)
        frozen = frozen_stages in range(-1, len(stages) + 1)
        stats = running_stats in RUNNING_STATS
        for name, value, fits, wanted in (
            ('num_stages', num_stages, len(stages) > 0, '1 to 4'),
            ('pretrained', pretrained, path, 'a path, a URL or None'),
            ('strides', strides, len(strides) == len(stages), each),
            ('dilations', dilations, len(dilations) == len(stages), each),
            ('out_indices', out_indices, some, f'some of 0 to {num_stages - 1}'),
            ('style', style, style in STYLES, f'one of {STYLES}'),
            ('frozen_stages', frozen_stages, frozen, f'-1 to {num_stages}'),
            ('dnr', dnr, dnr in DNR_MODES, f'one of {DNR_MODES}'),
            ('running_stats', running_stats, stats, f'one of {RUNNING_STATS}'),
        ):
            _check(fits, f'{name} must be {wanted}, got {value!r}')
        _check(
            num_groups >= 1 <= n_segment and n_segment % num_groups == 0,
            f'num_groups={num_groups} must divide n_segment={n_segment}: the frames of '
            'a clip are split into groups of equal length',
        )
        if partial_bn and frozen_stages < 1:
            message = f'partial_bn=True freezes no stage: frozen_stages={frozen_stages}'
            warnings.warn(message, stacklevel=2)
        self.depth = depth
        self.pretrained = pretrained
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.bn_eval = bn_eval
        self.bn_frozen = bn_frozen
        self.n_segment = n_segment
        self.dnr = dnr

        cross_layer = dnr in ('both', 'cross_layer')
        norm1 = norm2 = nn.BatchNorm2d
        shared = dict(n_segment=n_segment, backend=_wanted_backend(backend))
        if cross_layer:
            norm1 = partial(CrossLayerNorm, **shared)
        if dnr in ('both', 'cross_temporal'):
            groups = dict(num_groups=num_groups, running_stats=running_stats)
            norm2 = partial(CrossTemporalNorm, **shared, **groups)
        # The stem is registered first: mmaction v1's TSN2D looks for the first
        # convolution when it adapts a network to optical flow.
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        block_class, num_blocks = self.arch_settings[depth]
        make_block = partial(block_class, norm1=norm1, norm2=norm2, style=style)
        inplanes = 64
        self.res_layers = []
        for s in stages:
            planes = 64 * 2**s
            blocks = []
            for b in range(num_blocks[s]):
                where = dict(stride=1 if b else strides[s], dilation=dilations[s])
                blocks.append(make_block(inplanes, planes, with_cp=with_cp, **where))
                inplanes = planes * block_class.expansion
            relay = RelayCell(planes) if cross_layer else None
            self.res_layers.append(f'layer{s + 1}')
            self.add_module(self.res_layers[-1], Stage(blocks, relay))
        self.feat_dim = inplanes
        # Before an optimizer or DistributedDataParallel collects parameters.
        self.train(self.training)

    def init_weights(self) -> None:
        """Initialize at random, and load ``pretrained``. Both hosts call this.

        Convolutions get Kaiming's normal distribution (fan out), BatchNorms weight 1
        and bias 0. Relay cells keep nn.Linear's own initialization.

        Raises:
            FileNotFoundError, ValueError: see :func:`load_pretrained`.
        """
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
            elif isinstance(m, _BatchNorm):
                nn.init.ones_(m.weight)
                nn.init.zeros_(m.bias)
        if self.pretrained is not None:
            load_pretrained(self, self.pretrained)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the network.

        Args:
            x (Tensor): (N * T, 3, H, W), the T frames of a clip contiguous.

        Returns:
            Tensor | tuple[Tensor]: the outputs of the stages in ``out_indices``,
            (N * T, C, H', W') each; a tensor where there is one.

        Raises:
            ValueError: x has not four dimensions, or no whole number of clips.
        """
        if x.dim() != 4:
            raise ValueError(
                'ResNet_DNR takes images (clips * n_segment, 3, height, width), got a '
                f'tensor of shape {tuple(x.shape)}'
            )
        if self.dnr != 'none' and x.size(0) % self.n_segment:
            raise ValueError(
                f'a batch of {x.size(0)} images is not whole clips of n_segment='
                f'{self.n_segment} frames, which should lie together'
            )
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        outs = []
        for i, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return outs[0] if len(outs) == 1 else tuple(outs)

    def train(self, mode: bool = True) -> ResNet_DNR:
        """Set the mode, and freeze what the arguments say; returns self."""
        super().train(mode)
        if self.bn_eval:
            for m in self.modules():
                if isinstance(m, (_BatchNorm, DynamicNorm, RelayCell)):
                    m.eval()
                    if self.bn_frozen:
                        m.requires_grad_(False)
        if mode and self.frozen_stages >= 0:
            for name in ['conv1', 'bn1', *self.res_layers[: self.frozen_stages]]:
                getattr(self, name).eval().requires_grad_(False)
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """Accept the published names beside torchvision's."""
        for key in [k for k in state_dict if k.startswith(prefix)]:
            name = prefix + from_published_name(key[len(prefix) :])
            if name != key:
                state_dict[name] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


# The published code's name of a relay cell's two maps, and this file's.
MAP_NAMES = (
    ('lstm.w_ih.0.seq.', 'relay.input_map.'),
    ('lstm.w_hh.0.seq.', 'relay.hidden_map.'),
)


def from_published_name(name: str) -> str:
    """A state-dict name of the published code in this file's names.

    'layer1.ModuleList.0.bn2.lstm.w_ih.0.seq.0.bias' becomes
    'layer1.0.bn2.relay.input_map.0.bias'; common names come back as they are.
    """
    name = name.replace('ModuleList.', '')
    for published, own in MAP_NAMES:
        name = name.replace(published, own)
    return name


def to_published_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Write a state dict in the published code's names and shapes.

    Grouped running statistics (G, C) become their mean over the groups, (C,), as the
    published code has it. Its evaluation differs from the grouped one's.

    Args:
        state_dict (dict[str, Tensor]): of a ResNet_DNR with dnr='both', or of a
            recognizer with one under 'backbone.'.

    Returns:
        dict[str, Tensor]: a new dict; tensors that do not change are shared.
    """
    published_dict = {}
    for name, value in state_dict.items():
        name = re.sub(r'\b(layer\d+)\.(\d+)\.', r'\1.ModuleList.\2.', name)
        for published, own in MAP_NAMES:
            name = name.replace(own, published)
        if name.endswith(('running_mean', 'running_var')) and value.dim() == 2:
            value = value.mean(0)
        published_dict[name] = value
    return published_dict


def load_pretrained(
    backbone: ResNet_DNR, source: str, state_dict: dict[str, Tensor] | None = None
) -> None:
    """Load what a checkpoint has for a backbone, and log how much it was.

    Args:
        backbone (ResNet_DNR): loaded in place.
        source (str): path or http(s) URL of a state dict, or of a checkpoint with one
            under 'state_dict': an ImageNet ResNet, a ResNet_DNR, or a recognizer with
            one under 'backbone.'. Heads are left out. Of replaced BatchNorms, the
            running statistics are taken.
        state_dict (dict[str, Tensor] | None): what source holds, where it is read.

    Raises:
        FileNotFoundError: source is neither a file nor a URL.
        ValueError: source cannot be read, has no stem, other blocks or other shapes.
    """
    loaded = {}
    if state_dict is None:
        state_dict = _read_state_dict(source)
    for name, value in state_dict.items():
        name = re.sub(r'^(module\.)?(backbone\.)?', '', name)
        loaded[from_published_name(name)] = value
    own = backbone.state_dict()
    fitting = {name: loaded[name] for name in own if name in loaded}
    parts = {'stem': ('conv1.', 'bn1.')}
    parts.update((part, f'{part}.') for part in backbone.res_layers)
    total, taken = (
        {part: sum(n.startswith(start) for n in names) for part, start in parts.items()}
        for names in (own, fitting)
    )
    report = ', '.join(f'{part} {taken[part]} of {total[part]}' for part in parts)
    wrong = f'{source} is no checkpoint for this ResNet_DNR of depth {backbone.depth}: '
    _check(all(taken.values()), f'{wrong}tensors found by name: {report}')
    # Another depth's names agree as far as its blocks go.
    blocks = set(re.findall(r'^(layer\d)\.(\d+)\.', '\n'.join(loaded), re.M))
    for part in backbone.res_layers:
        count = sum(stage == part for stage, _ in blocks)
        here = len(getattr(backbone, part))
        _check(count == here, f'{wrong}{part} has {count} blocks there, {here} here')
    try:
        backbone.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # torch's text lists the shapes
        raise ValueError(f'{wrong}{error}') from error
    logger.info('%s: took tensors for %s', source, report)


def _read_state_dict(source):
    """The state dict at a path or URL. No code in the file is run."""
    path = source
    if source.startswith(('http://', 'https://')):
        # torch.hub's own loader would unpickle anything.
        folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
        name = os.path.basename(urllib.parse.urlparse(source).path)
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            os.makedirs(folder, exist_ok=True)
            torch.hub.download_url_to_file(source, path)
    elif not os.path.isfile(path):
        raise FileNotFoundError(
            f'pretrained={source!r} is neither a file nor an http(s) URL'
        )
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception:  # anything; its text can say how to load the file unsafely
        raise ValueError(
            f'{path} cannot be read as a checkpoint of tensors and plain data alone'
        ) from None
    if isinstance(checkpoint, dict):
        checkpoint = checkpoint.get('state_dict', checkpoint)
    is_dict, kind = isinstance(checkpoint, dict), type(checkpoint).__name__
    _check(is_dict, f'{path} holds a {kind}, not a state dict')
    return checkpoint


def _check(condition, message):
    if not condition:
        raise ValueError(message)


def _wanted_backend(backend):
    """An argument, or the environment variable in its place."""
    backend = os.environ.get('RESNET_DNR_BACKEND', backend)
    _check(
        backend in BACKENDS,
        f'backend (or RESNET_DNR_BACKEND) must be one of {BACKENDS}, got {backend!r}',
    )
    return backend


def choose_backend(wanted: str, x: Tensor, relay: RelayCell) -> str:
    """What computes a dynamic normalization; each new choice is logged once.

    Args:
        wanted (str): 'triton', kernels on CUDA, or 'aten', a hand-written backward
            pass, both of resnet_dnr_fused.py; 'plain', operations that autograd knows;
            or 'auto', the first of these that can.
        x (Tensor): the input, (N * T, C, H, W).
        relay (RelayCell): the cell.

    Returns:
        str: 'triton', 'aten' or 'plain'.

    Raises:
        RuntimeError: 'triton' or 'aten' is wanted and cannot do it; says why.
    """
    if fused is not None:
        return fused.choose(wanted, x, relay)
    if wanted in ('triton', 'aten'):
        raise RuntimeError(f'{wanted!r} needs resnet_dnr_fused.py beside {__file__}')
    return 'plain'


def _without_autocast(device_type):
    """Context in which autocast is off: statistics stay in full precision."""
    try:
        return torch.autocast(device_type, enabled=False)
    except RuntimeError:  # a device that has none
        return contextlib.nullcontext()


def _is_compiling():
    """Whether torch.compile traces this call; there is none before 2.0."""
    compiler = getattr(torch, 'compiler', None)
    return hasattr(compiler, 'is_compiling') and compiler.is_compiling()


def _updating_buffers_once(block):
    """A block's computation, whose second call leaves its buffers as they were: a
    recomputation does the very operations of the first run, updates among them."""
    calls = []

    def run(*args):
        kept = [(b, b.clone()) for b in block.buffers()] if calls else []
        calls.append(True)
        try:
            return block._forward(*args)
        finally:
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)

    return run


def _register():
    """Register ResNet_DNR with the host that there is, if any.

    In a host's package, '...registry' is mmaction.models.registry from mmaction v1's
    tenons/backbones, and mmaction.registry from mmaction2's models/backbones.
    """
    if __name__.startswith('mmaction.'):
        from ... import registry
    else:
        try:
            import mmaction
        except ModuleNotFoundError as error:
            if error.name != 'mmaction':
                raise
            return
        # A folder of that name, such as a clone of mmaction, is no package.
        if getattr(mmaction, '__file__', None) is None:
            return
        try:
            from mmaction import registry
        except ImportError:
            from mmaction.models import registry
    if hasattr(registry, 'MODELS'):  # mmaction2
        modules, register = registry.MODELS, registry.MODELS.register_module()
    else:
        modules, register = registry.BACKBONES, registry.BACKBONES.register_module
    # Beside a host that has the file inside as well, the first one counts.
    if 'ResNet_DNR' not in modules.module_dict:
        register(ResNet_DNR)


_register()
