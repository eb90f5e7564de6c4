"""ResNet-DNR: a 2D ResNet with dynamic normalization and relay.

Cai, Yao, Chen: "Dynamic Normalization and Relay for Video Action Recognition",
NeurIPS 2021. The convolutions are a ResNet's. In each block, two normalizations learn
no scale and shift: small LSTM-like relay cells predict both, for each clip, from the
means of the normalization's input. A stage's cross-layer cell hands its state from
block to block of the stage, a block's cross-temporal cell from group to group. The
output is h * (x - mean) / sqrt(var + eps) + c, of a cell's two states h and c.

Symbols: N clips, T frames a clip (``n_segment``), G groups of frames
(``num_groups``), t = T / G frames a group, C channels. The network sees
(N * T, 3, H, W) images, the T frames of a clip one after another.

Evaluation standardizes by running statistics of each group of frames, (G, C); scale and
shift still depend on the clip. The published code has one (C,) pair for all groups,
and its accuracy in evaluation can be far below; ``running_stats='shared'`` does that.

The file needs torch alone, and states the method in operations that autograd knows.
Where resnet_dnr_fused.py lies beside it, that file computes the same faster. Where
mmaction v1 or mmaction2 is installed, ``ResNet_DNR`` is registered as a backbone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import warnings
from functools import partial
from typing import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__version__ = '0.2.0'

logger = logging.getLogger(__name__)


def _beside(name):
    """The module of this name in this package, or on the path; or None."""
    name = f'{__package__}.{name}' if __package__ else name
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


fused = _beside('resnet_dnr_fused')

DNR_MODES = ('both', 'cross_temporal', 'cross_layer', 'none')
RUNNING_STATS = ('grouped', 'shared')
BACKENDS = ('auto', 'triton', 'aten', 'plain')

_compiler = getattr(torch, 'compiler', None)  # there is none before torch 2
_is_compiling = getattr(_compiler, 'is_compiling', lambda: False)


class RelayCell(nn.Module):
    """LSTM-like cell that predicts scale and shift (paper, section 3).

    The gates are the sum of a map of the input and a map of the hidden state, each a
    bottleneck Linear(C, C/4), ReLU, Linear(C/4, 4C). The cell state c is the shift. The
    scale is the hidden state h = sigmoid(o) * sigmoid(c), where an LSTM has tanh(c).

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
        self, x: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run over a sequence.

        Args:
            x (Tensor): pooled features, (N, S, C) for S steps.
            state (Tensor | None): h and c before the first step, (2, N, C). Default:
                zeros.

        Returns:
            tuple: scales (N, S, C), shifts (N, S, C), and the last state, (2, N, C).
        """
        h, c = x.new_zeros(2, x.size(0), x.size(2)) if state is None else state
        scales, shifts = [], []
        for from_input in self.input_map(x).unbind(1):  # (N, S, 4C) to S of (N, 4C)
            i, f, g, o = (from_input + self.hidden_map(h)).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.sigmoid(c)
            scales.append(h)
            shifts.append(c)
        return torch.stack(scales, 1), torch.stack(shifts, 1), torch.stack((h, c))


class DynamicNorm(nn.Module):
    """Normalization whose scale and shift a relay cell predicts.

    Standardizes (N * T, C, H, W) over clips, frames and positions, for each of G
    groups of frames by itself. Applies a scale and a shift for each clip, group and
    channel. As in nn.BatchNorm2d, the running variance is unbiased, and each process
    has its own statistics. Half-precision input is computed in float32.

    Args:
        channels (int): C.
        n_segment (int): T.
        num_groups (int): G, a divisor of T.
        running_stats (str): 'grouped' keeps running statistics for each group,
            (G, C); 'shared' keeps one pair for all, (C,), which the groups update in
            order, as published.
        backend (str): 'plain', the operations here; 'aten', a hand-written backward
            pass, or 'triton', kernels on CUDA, both of resnet_dnr_fused.py; 'auto', the
            fastest that can. The environment variable RESNET_DNR_BACKEND overrides it.

    Raises:
        ValueError, RuntimeError: an unknown backend; one that is not there.
    """

    eps = 1e-5  # added to the variance
    momentum = 0.1  # weight of the newest statistics in each update of running ones
    apply_relu = False  # to the output

    def __init__(
        self,
        channels: int,
        n_segment: int,
        num_groups: int,
        running_stats: str,
        backend: str = 'auto',
    ) -> None:
        super().__init__()
        self.channels, self.n_segment, self.num_groups = channels, n_segment, num_groups
        self.backend = _wanted_backend(backend)
        shape = (num_groups, channels) if running_stats == 'grouped' else (channels,)
        self.register_buffer('running_mean', torch.zeros(shape))
        self.register_buffer('running_var', torch.ones(shape))
        self.register_buffer('num_batches_tracked', torch.tensor(0, dtype=torch.long))

    def reset_parameters(self) -> None:
        """Set the running statistics as in a new layer: BatchNorm's does this too."""
        for buffer, value in zip(self.buffers(), (0, 1, 0)):
            buffer.fill_(value)

    def forward(
        self, x: Tensor, relay: RelayCell, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Standardize, then scale and shift by what the relay cell predicts.

        Args:
            x (Tensor): (N * T, C, H, W).
            relay (RelayCell): the cell, of C channels.
            state (Tensor | None): the cell's before the first group, (2, N, C).
                Default: zeros.

        Returns:
            tuple: the output, like x; the state after the last group, (2, N, C).

        Raises:
            ValueError: in training, one value a channel and group: it has no variance.
        """
        count = x.size(0) // self.num_groups * x.size(2) * x.size(3)
        if self.training and count <= 1:
            raise ValueError(
                f'{type(self).__name__} needs more than one value a channel and group '
                f'in training, got input {tuple(x.shape)} in {self.num_groups} groups'
            )
        backend = fused.choose(self.backend, x, relay) if fused else 'plain'
        if backend == 'plain':
            with _without_autocast(x.device.type):
                out, state, statistics = self._normalize_plain(x, relay, state)
        else:
            out, state, statistics = fused.normalize(backend, self, x, relay, state)
        if statistics is not None:
            self._update_running(*statistics, count)
        return out, state

    def _normalize_plain(self, x, relay, state):
        """The output; the state; in training the batch's mean and variance, (G, C)."""
        # No views of images by clip and group, about which torch.compile would reason.
        frames = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        pooled = self._mean_of_groups(frames)  # (N, G, C)
        run = fused.as_operator(relay) if fused else relay
        dtype = getattr(relay.input_map[0].weight, 'dtype', None)  # None: quantized
        scale, shift, state = run(pooled.to(dtype or pooled.dtype), state)
        mean, var = self.running_mean, self.running_var  # (G, C) or (C,)
        if self.training:
            mean = pooled.mean(0)  # (G, C): every clip has as many values
        # Autograd keeps `centered` and, with ReLU, the output: two, as BatchNorm does.
        centered = frames - self._of_frames(mean, frames)
        if self.training:
            var = self._mean_of_groups(centered.square()).mean(0)  # (G, C)
        factor = scale * torch.rsqrt(var + self.eps)  # (N, G, C)
        out = torch.addcmul(
            self._of_frames(shift, frames), centered, self._of_frames(factor, frames)
        ).to(x.dtype)
        statistics = (mean.detach(), var.detach()) if self.training else None
        return out.relu_() if self.apply_relu else out, state, statistics

    def _mean_of_groups(self, frames):
        """Mean over a group's frames and positions: (N * T, C, H, W) to (N, G, C)."""
        means = frames.mean((2, 3))  # (N * T, C); a clip's T frames are contiguous
        t = self.n_segment // self.num_groups
        return means.view(-1, self.num_groups, t, self.channels).mean(2)

    def _of_frames(self, values, frames):
        """(N, G, C), (G, C) or (C,), repeated for each frame: (N * T, C, 1, 1)."""
        T, G, C = self.n_segment, self.num_groups, self.channels
        values = values.expand(*values.shape[:-2], G, C).unsqueeze(-2).to(frames.dtype)
        return values.expand(frames.size(0) // T, G, T // G, C).reshape(-1, C, 1, 1)

    @torch.no_grad()
    def _update_running(self, mean, var, count):
        """Move the running statistics towards those of `count` values, (G, C)."""
        self.num_batches_tracked.add_(1)
        unbiased = var * (count / (count - 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            # Shared ones, (C,), move G times, by one group after the other.
            for value in new if running.dim() == 1 else (new,):
                running.lerp_(value.to(running.dtype), self.momentum)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """Repeat shared running statistics, (C,), for each group: it evaluates the
        same. Average those of groups, (G, C), to shared ones: an approximation."""
        for name in ('running_mean', 'running_var'):
            value, wanted = state_dict.get(prefix + name), getattr(self, name)
            dims = None if value is None else (value.dim(), wanted.dim())
            if dims == (2, 1):
                state_dict[prefix + name] = value.mean(0)
            elif dims == (1, 2) and len(value) == self.channels:
                state_dict[prefix + name] = value.expand_as(wanted).clone()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class CrossTemporalNorm(DynamicNorm):
    """Cross-temporal DNR: a cell of its own runs over the G groups of each clip."""

    def __init__(self, channels: int, *args, **kwargs) -> None:
        super().__init__(channels, *args, **kwargs)
        self.relay = RelayCell(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N * T, C, H, W) to the same shape."""
        return super().forward(x, self.relay)[0]


class CrossLayerNorm(DynamicNorm):
    """Cross-layer DNR: a stage's cell takes a step a block. T frames are one group."""

    def __init__(self, channels: int, n_segment: int, **kwargs) -> None:
        super().__init__(channels, n_segment, 1, 'shared', **kwargs)


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
        # A dynamic normalization before a ReLU applies the ReLU itself.
        self.bn1.apply_relu = isinstance(self.bn1, DynamicNorm)
        self.bn2.apply_relu = isinstance(self.bn2, DynamicNorm) and self.expansion > 1
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inplanes != outplanes:
            self.downsample = nn.Sequential(
                _conv(inplanes, outplanes, 1, stride), nn.BatchNorm2d(outplanes)
            )
        self.with_cp = with_cp

    def forward(
        self, x: Tensor, relay: RelayCell | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(N * T, inplanes, H, W) to (N * T, expansion * planes, H', W'), and the state
        of the stage's cross-layer cell `relay`, which is None where bn1 has none."""
        if not (self.with_cp and torch.is_grad_enabled()):
            return self._forward(x, relay, state)
        run = _updating_buffers_once(self, self._forward)
        return checkpoint(run, x, relay, state, use_reentrant=False)

    def _forward(self, x, relay, state):
        out = self.conv1(x)
        if relay is None:
            out = self.relu(self.bn1(out))
        else:
            out, state = self.bn1(out, relay, state)
        out = self.bn2(self.conv2(out))
        if self.expansion > 1:
            out = self.bn3(self.conv3(out if self.bn2.apply_relu else self.relu(out)))
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
            relay = fused.join(relay, x)  # for its kernels, all weights in one vector
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
        pretrained (str | None): path or http(s) URL; :meth:`init_weights` loads it.
        num_stages (int): 1 to 4.
        strides, dilations (Sequence[int]): of each stage.
        out_indices (Sequence[int]): the stages whose output is returned.
        style (str): 'pytorch' or 'caffe', see :class:`Block`.
        frozen_stages (int): how many stages are frozen, and the stem; -1: nothing.
        bn_eval (bool): standardize by running statistics in training too.
        bn_frozen (bool): with bn_eval, freeze their parameters too.
        partial_bn (bool): as in mmaction v1, freezes no more than ``frozen_stages``.
        with_cp (bool): recompute each block in the backward pass.
        n_segment (int): T, frames a clip.
        num_groups (int): G, groups of frames, a divisor of T.
        dnr (str): 'both'; 'cross_temporal' (after each block's second convolution);
            'cross_layer' (after its first); or 'none', the BatchNorm ResNet.
        running_stats, backend (str): see :class:`DynamicNorm`.

    Raises:
        ValueError: an argument out of its range.
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
        _check('depth', depth, self.arch_settings)
        _check('num_stages', num_stages, range(1, 5))
        _check('len(strides)', len(strides), (num_stages,))
        _check('len(dilations)', len(dilations), (num_stages,))
        _check('len(out_indices)', len(out_indices), range(1, num_stages + 1))
        for index in out_indices:
            _check('out_indices', index, range(num_stages))
        _check('type(pretrained)', type(pretrained), (str, type(None)))
        _check('style', style, ('pytorch', 'caffe'))
        _check('frozen_stages', frozen_stages, range(-1, num_stages + 1))
        for name in ('bn_eval', 'bn_frozen', 'partial_bn', 'with_cp'):
            _check(name, locals()[name], (False, True))
        for name in ('n_segment', 'num_groups'):
            _check(f'type({name})', type(locals()[name]), (int,))
        divisors = [G for G in range(1, n_segment + 1) if n_segment % G == 0]
        _check(f'with n_segment={n_segment}, num_groups', num_groups, divisors)
        _check('dnr', dnr, DNR_MODES)
        _check('running_stats', running_stats, RUNNING_STATS)
        if partial_bn and frozen_stages < 1:
            warnings.warn('partial_bn needs frozen_stages >= 1', stacklevel=2)
        self.depth, self.pretrained = depth, pretrained
        self.out_indices, self.frozen_stages = tuple(out_indices), frozen_stages
        self.bn_eval, self.bn_frozen = bn_eval, bn_frozen
        self._n_segment, self.dnr = n_segment, dnr

        cross_layer = dnr in ('both', 'cross_layer')
        norm1 = norm2 = nn.BatchNorm2d
        common = dict(n_segment=n_segment, backend=_wanted_backend(backend))
        if cross_layer:
            norm1 = partial(CrossLayerNorm, **common)
        if dnr in ('both', 'cross_temporal'):
            common.update(num_groups=num_groups, running_stats=running_stats)
            norm2 = partial(CrossTemporalNorm, **common)
        # The stem is registered first: mmaction v1's TSN2D looks for the first
        # convolution when it adapts a network to optical flow.
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        block_class, num_blocks = self.arch_settings[depth]
        options = dict(norm1=norm1, norm2=norm2, style=style, with_cp=with_cp)
        inplanes = 64
        self.res_layers = []
        for s in range(num_stages):
            planes, blocks = 64 * 2**s, []
            for b in range(num_blocks[s]):
                options.update(stride=1 if b else strides[s], dilation=dilations[s])
                blocks.append(block_class(inplanes, planes, **options))
                inplanes = planes * block_class.expansion
            relay = RelayCell(planes) if cross_layer else None
            self.res_layers.append(f'layer{s + 1}')
            self.add_module(self.res_layers[-1], Stage(blocks, relay))
        self.feat_dim = inplanes
        # Freeze now, before an optimizer or DistributedDataParallel is made.
        self.train(self.training)

    @property
    def n_segment(self) -> int:
        """T. It cannot be set: each dynamic normalization is made for its T."""
        return self._n_segment

    def init_weights(self) -> None:
        """Initialize all but relay cells, then load ``pretrained``. Hosts call this.

        Convolutions get Kaiming's normal distribution (fan out). Relay cells keep
        nn.Linear's own initialization. Raises what :func:`load_pretrained` does.
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
        """Run the network on (N * T, 3, H, W), the T frames of a clip contiguous.

        Returns:
            Tensor | tuple[Tensor]: the outputs of the stages in ``out_indices``,
            (N * T, C, H', W') each; a tensor where there is one.

        Raises:
            ValueError: x has another shape, or no whole number of clips.
        """
        whole = self.dnr == 'none' or x.size(0) % self.n_segment == 0
        if x.dim() != 4 or not whole:
            raise ValueError(
                'ResNet_DNR takes images (N * T, 3, H, W), whole clips whose frames '
                f'lie together, T = n_segment = {self.n_segment}; got {tuple(x.shape)}'
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
            state_dict[name] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


# A relay cell's two maps: the published code's name, and this file's.
MAP_NAMES = (
    ('lstm.w_ih.0.seq.', 'relay.input_map.'),
    ('lstm.w_hh.0.seq.', 'relay.hidden_map.'),
)


def from_published_name(name: str) -> str:
    """A state-dict name of the published code, such as
    'layer1.ModuleList.0.bn2.lstm.w_ih.0.seq.0.bias', in this file's names."""
    name = name.replace('ModuleList.', '')
    for published, own in MAP_NAMES:
        name = name.replace(published, own)
    return name


def load_pretrained(
    backbone: ResNet_DNR, source: str, state_dict: dict[str, Tensor] | None = None
) -> None:
    """Load an ImageNet ResNet, a ResNet_DNR, or a recognizer with one.

    Heads are left out. Of a BatchNorm that is dynamic here, the running statistics are
    taken, and weight and bias dropped. Relay cells that it lacks stay as they are.

    Args:
        backbone (ResNet_DNR): loaded in place.
        source (str): path or http(s) URL of a state dict, or of a checkpoint with one
            under 'state_dict'; names may begin with 'backbone.'.
        state_dict (dict[str, Tensor] | None): what source holds, where it was read.

    Raises:
        OSError: source is neither a file nor a URL that can be loaded.
        ValueError: source is no checkpoint, has other blocks or other shapes.
    """
    state_dict = _read_state_dict(source) if state_dict is None else state_dict
    loaded = {
        from_published_name(re.sub(r'^(module\.)?(backbone\.)?', '', name)): value
        for name, value in state_dict.items()
    }
    own = backbone.state_dict()
    taken = {name: loaded[name] for name in own if name in loaded}
    optional = re.compile(r'\brelay\.|num_batches_tracked')
    missing = [name for name in own if name not in taken and not optional.search(name)]
    deeper = re.compile(rf'({"|".join(backbone.res_layers)})\.\d+\.conv1')
    unknown = [name for name in loaded if name not in own and deeper.match(name)]
    wrong = f'{source} is no checkpoint for this ResNet_DNR of depth {backbone.depth}: '
    for names, text in ((missing, 'it lacks'), (unknown, 'it has blocks too many:')):
        if names:
            raise ValueError(f'{wrong}{text} {names[0]} (of {len(names)})')
    try:
        backbone.load_state_dict(taken, strict=False)
    except RuntimeError as error:  # torch's text lists the shapes
        raise ValueError(f'{wrong}{error}') from error
    logger.info('%s: took %d of %d tensors', source, len(taken), len(own))


def _read_state_dict(source):
    """The state dict at a path or URL. No code in the file is run."""
    safe = dict(map_location='cpu', weights_only=True)
    try:
        if source.startswith(('http://', 'https://')):
            loaded = torch.hub.load_state_dict_from_url(source, **safe)
        else:
            loaded = torch.load(source, **safe)
    except OSError:
        raise
    except Exception:  # anything; its text can say how to load the file unsafely
        raise ValueError(
            f'{source} cannot be read as a checkpoint of tensors and plain data alone'
        ) from None
    loaded = loaded.get('state_dict', loaded) if isinstance(loaded, dict) else None
    if not isinstance(loaded, dict):
        raise ValueError(f'{source} holds no state dict')
    return loaded


def _wanted_backend(backend):
    """An argument, or the environment variable in its place."""
    backend = os.environ.get('RESNET_DNR_BACKEND', backend)
    _check('backend (or RESNET_DNR_BACKEND)', backend, BACKENDS)
    if fused is None and backend in ('triton', 'aten'):
        raise RuntimeError(f'{backend!r} needs resnet_dnr_fused.py beside {__file__}')
    return backend


def _check(name, value, wanted):
    if value not in wanted:
        raise ValueError(f'{name} must be one of {tuple(wanted)}, got {value!r}')


def _without_autocast(device_type):
    """Context in which autocast is off: statistics stay in full precision."""
    try:
        return torch.autocast(device_type, enabled=False)
    except RuntimeError:  # a device that has none
        return contextlib.nullcontext()


def _updating_buffers_once(block, forward):
    """Checkpointing runs a block twice; the second run must not move its buffers."""
    if _is_compiling():  # a compiled graph updates them once in any case
        return forward
    calls = []

    def run(*args):
        kept = [(b, b.clone()) for b in block.buffers()] if calls else []
        calls.append(True)
        try:
            return forward(*args)
        finally:
            for buffer, value in kept:
                buffer.data.copy_(value)

    return run


def _register(backbone):
    """Register a class with the host that there is, if any."""
    for name in ('mmaction.registry', 'mmaction.models.registry'):  # mmaction2, v1
        try:
            registry = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not name.startswith(error.name):
                raise  # the host lacks something
            continue
        if hasattr(registry, 'MODELS'):  # mmaction2
            modules, register = registry.MODELS, registry.MODELS.register_module()
        else:
            modules, register = registry.BACKBONES, registry.BACKBONES.register_module
        # A host that has the file inside as well keeps the one registered first.
        if backbone.__name__ not in modules.module_dict:
            register(backbone)
        return


_register(ResNet_DNR)
_beside('add_dnr')  # registers the conversion of a host's own networks
