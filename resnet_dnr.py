"""ResNet-DNR: a 2D ResNet with dynamic normalization and relay.

Cai, Yao, Chen: "Dynamic Normalization and Relay for Video Action
Recognition", NeurIPS 2021. In every residual block, the scale and shift that
follow two of the normalizations are not learned constants. Small LSTM-like
relay cells predict them for each clip from pooled features: the cross-layer
one is relayed from block to block, the cross-temporal one from each group of
frames to the next.

Symbols: N clips, T frames a clip (``n_segment``), G groups of frames
(``num_groups``), t = T / G frames a group, C channels. The network sees
(N * T, 3, H, W) images, the T frames of a clip contiguous.

What differs from the published implementation:

* evaluation keeps running statistics for each group of frames, shape (G, C).
  The published code shares one (C,) pair among groups whose distributions
  differ, and its evaluation is far below its training
  (``running_stats='shared'`` gives that behaviour);
* the dynamic normalizations are computed by Triton kernels on CUDA and by a
  hand-written backward pass elsewhere (:func:`choose_backend`);
  backend='plain' is the arithmetic in operations that autograd knows, and
  the place to read it (:meth:`DynamicNorm.normalize_plain`);
* any T, any G that divides it, BasicBlocks (depths 18 and 34), any device
  and dtype, gradient checkpointing, and torchvision's state-dict names.
  Checkpoints in the published names load as they are;
  :func:`to_published_names` writes them.

The file needs torch alone. Copied into mmaction v1 or imported beside it or
mmaction2, it registers ``ResNet_DNR`` as a backbone there.
"""
from __future__ import annotations

import contextlib
import functools
import logging
import operator
import os
import re
import urllib.parse
import warnings
from typing import List, NamedTuple, Optional, Tuple

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch._utils import _unflatten_dense_tensors
from torch.nn.modules.batchnorm import _BatchNorm

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

logger = logging.getLogger(__name__)

DNR_MODES = ('both', 'cross_temporal', 'cross_layer', 'none')
RUNNING_STATS = ('grouped', 'shared')
BACKENDS = ('auto', 'triton', 'aten', 'plain')
# Triton's kernels run on CPU tensors then, slowly: it is for tests.
INTERPRETED = triton is not None and os.environ.get('TRITON_INTERPRET') == '1'


class RelayCell(nn.Module):
    """LSTM-like cell that predicts scale and shift (paper, section 3).

    The gates are the sum of a map of the input and a map of the hidden
    state, each a bottleneck Linear(C, C/4), ReLU, Linear(C/4, 4C). The hidden
    state is ``o * sigmoid(c)``, with a sigmoid where an LSTM has tanh, so
    that the scale stays positive.

    Args:
        channels (int): C, the size of input, hidden state and cell state;
            at least 4.
    """

    def __init__(self, channels):
        super().__init__()
        self.input_map = self._bottleneck(channels)
        self.hidden_map = self._bottleneck(channels)

    @staticmethod
    def _bottleneck(channels):
        return nn.Sequential(
            nn.Linear(channels, channels // 4),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 4, 4 * channels))

    def weights(self):
        """The eight parameters, input map first."""
        in1, _, in2 = self.input_map
        hidden1, _, hidden2 = self.hidden_map
        return [in1.weight, in1.bias, in2.weight, in2.bias, hidden1.weight,
                hidden1.bias, hidden2.weight, hidden2.bias]

    def forward(self, x, state=None):
        """Run over a sequence.

        Args:
            x (Tensor): pooled features, (N, S, C) for S steps.
            state (tuple[Tensor, Tensor] | None): hidden and cell state, each
                (N, C), as returned by the call before. None, the default,
                starts from zeros.

        Returns:
            tuple: scales (N, S, C), shifts (N, S, C), and the state after
            the last step.
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

    Standardizes (N * T, C, H, W) over clips, frames and positions, for each
    of G groups of frames by itself, and applies a scale and a shift for each
    clip, group and channel. There is no affine weight or bias.

    In training, the batch's own statistics standardize (biased variance) and
    the running ones move towards them (unbiased variance), as in
    nn.BatchNorm2d. In evaluation, the running ones standardize. float16 and
    bfloat16 input is computed in float32; the output has the input's dtype.

    Args:
        channels (int): C.
        n_segment (int): T.
        num_groups (int): G, a divisor of T.
        running_stats (str): 'grouped' keeps running statistics for each
            group, buffers of shape (G, C); 'shared' keeps one pair for all,
            shape (C,), updated by each group in order, as published.
        relu (bool): apply ReLU to the output.
        backend (str): see :func:`choose_backend`; the environment variable
            RESNET_DNR_BACKEND, where set, is used in its place.
        eps (float): added to the variance.
        momentum (float): weight of the newest statistics in the running ones.

    Raises:
        ValueError: an unknown backend.
    """

    def __init__(self, channels, n_segment, num_groups, running_stats,
                 relu=False, backend='auto', eps=1e-5, momentum=0.1):
        super().__init__()
        self.channels = channels
        self.n_segment = n_segment
        self.num_groups = num_groups
        self.running_stats = running_stats
        self.relu = relu
        self.backend = _wanted_backend(backend)
        self.eps = eps
        self.momentum = momentum
        shape = ((num_groups, channels) if running_stats == 'grouped' else
                 (channels, ))
        self.register_buffer('running_mean', torch.zeros(shape))
        self.register_buffer('running_var', torch.ones(shape))
        self.register_buffer('num_batches_tracked',
                             torch.tensor(0, dtype=torch.long))

    def extra_repr(self):
        return (f'{self.channels}, n_segment={self.n_segment}, '
                f'num_groups={self.num_groups}, '
                f'running_stats={self.running_stats!r}')

    def normalize(self, x, relay, state=None):
        """Standardize, then scale and shift by what the relay cell predicts.

        Args:
            x (Tensor): (N * T, C, H, W).
            relay (RelayCell): the cell, of C channels.
            state (tuple | None): its state, see :class:`RelayCell`.

        Returns:
            tuple: the output, shaped and typed like x, and the new state.

        Raises:
            ValueError: in training, when a group has a single value a
                channel, whose variance says nothing.
        """
        images, _, height, width = x.shape
        count = images // self.num_groups * height * width
        if self.training and count <= 1:
            raise ValueError(
                f'{type(self).__name__} needs more than one value a channel '
                f'and group in training, got input {tuple(x.shape)} in '
                f'{self.num_groups} groups')
        backend = choose_backend(self.backend, x, relay)
        if backend == 'plain':
            with _without_autocast(x.device.type):
                return self.normalize_plain(x, relay, state)
        spec = _Spec(self.n_segment, self.num_groups, self.eps,
                     self.momentum, self.training, self.relu)
        running = (self.running_mean, self.running_var,
                   self.num_batches_tracked)
        h, c = (None, None) if state is None else state
        if _is_compiling():
            out, (h, c), _, *updated = _compiled_normalize(
                x, h, c, relay.weights(), *running, *spec)
            if self.training:
                for buffer, new in zip(running, updated):
                    buffer.copy_(new)
        else:
            out, h, c = _Normalize.apply(
                backend, spec, running, x, h, c, *relay.weights())
        return out, (h, c)

    def normalize_plain(self, x, relay, state):
        """:meth:`normalize` in operations that autograd knows."""
        images, channels, height, width = x.shape
        t = self.n_segment // self.num_groups
        # (N * T, C, H, W) -> (N, G, t, C, H, W): the T frames of a clip are
        # contiguous, and so are the t frames of a group.
        groups = x.reshape(images // self.n_segment, self.num_groups, t,
                           channels, height, width)
        if x.dtype in (torch.float16, torch.bfloat16):
            groups = groups.float()
        pooled = groups.mean(dim=(2, 4, 5))  # (N, G, C)
        scale, shift, state = relay(
            pooled.to(relay.input_map[0].weight.dtype), state)
        if self.training:
            var, mean = torch.var_mean(
                groups, dim=(0, 2, 4, 5), unbiased=False)  # (G, C) each
            _update_running(
                (self.running_mean, self.running_var,
                 self.num_batches_tracked), mean.detach(), var.detach(),
                images // self.num_groups * height * width, self.momentum)
        else:
            mean, var = self.running_mean, self.running_var
        mean = mean.to(groups.dtype).view(-1, 1, channels, 1, 1)
        factor = scale.to(groups.dtype) * torch.rsqrt(
            var.to(groups.dtype) + self.eps)  # (N, G, C)
        out = torch.addcmul(
            shift.to(groups.dtype)[:, :, None, :, None, None],
            groups - mean, factor[:, :, None, :, None, None])
        # (N, G, t, C, H, W) -> (N * T, C, H, W)
        out = out.to(x.dtype).reshape(x.shape)
        return out.relu_() if self.relu else out, state

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """Accept the other layout of running statistics.

        A shared (C,) buffer, as published, is repeated for every group,
        which evaluates exactly alike; grouped (G, C) ones are averaged into
        a shared one.
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

    It owns its relay cell, whose state is zero at each clip's first group.
    Arguments are those of :class:`DynamicNorm`.
    """

    def __init__(self, channels, n_segment, num_groups, running_stats,
                 **kwargs):
        super().__init__(channels, n_segment, num_groups, running_stats,
                         **kwargs)
        self.relay = RelayCell(channels)

    def forward(self, x):
        """(N * T, C, H, W) to the same shape."""
        return self.normalize(x, self.relay)[0]


class CrossLayerNorm(DynamicNorm):
    """Cross-layer DNR: the relay runs over the blocks of a stage.

    The T frames are one group. The stage owns the cell and hands it over
    with the state, because its blocks share both.

    Args:
        channels (int): C.
        n_segment (int): T.
        relu, backend, eps, momentum: see :class:`DynamicNorm`.
    """

    def __init__(self, channels, n_segment, **kwargs):
        super().__init__(channels, n_segment, 1, 'shared', **kwargs)

    def extra_repr(self):
        return f'{self.channels}, n_segment={self.n_segment}'

    def forward(self, x, relay, state):
        """x (N * T, C, H, W) to the output of the same shape, and the state.

        The state is a pair of (N, C) tensors, or None before the first block.
        """
        return self.normalize(x, relay, state)


class Block(nn.Module):
    """What BasicBlock and Bottleneck share: the relay and checkpointing.

    ``bn1``, after the first convolution, is the cross-layer normalization
    where there is one; ``bn2``, after the second, the cross-temporal one.
    """

    def forward(self, x, relay=None, state=None):
        """Run the block.

        Args:
            x (Tensor): (N * T, C_in, H, W).
            relay (RelayCell | None): the stage's cross-layer cell; None
                where bn1 is an ordinary BatchNorm.
            state (tuple | None): the cell's state after the block before.

        Returns:
            tuple: output (N * T, C_out, H', W') and the new state.
        """
        if not (self.with_cp and torch.is_grad_enabled()):
            return self._forward(x, relay, state)
        recomputing = False

        def run(x, relay, state):
            nonlocal recomputing
            if recomputing:
                with _restored_buffers(self):
                    return self._forward(x, relay, state)
            recomputing = True
            return self._forward(x, relay, state)

        # A compiled graph updates buffers once by itself.
        return torch.utils.checkpoint.checkpoint(
            self._forward if _is_compiling() else run, x, relay, state,
            use_reentrant=False)

    @staticmethod
    def _with_relu(norm):
        """A dynamic norm that a ReLU follows applies it in the same pass."""
        if isinstance(norm, DynamicNorm):
            norm.relu = True
        return norm

    def _first_norm(self, out, relay, state):
        """bn1 and ReLU."""
        if relay is None:
            return self.relu(self.bn1(out)), state
        return self.bn1(out, relay, state)


class BasicBlock(Block):
    """Two 3x3 convolutions (depths 18 and 34).

    Args:
        inplanes (int): input channels.
        planes (int): output channels.
        norm1, norm2 (callable): make bn1 and bn2 from a channel count.
        stride, dilation (int): of the first convolution.
        downsample (nn.Module | None): the shortcut's projection.
        style (str): not used, there is one place for the stride.
        with_cp (bool): recompute the block in the backward pass.
    """
    expansion = 1

    def __init__(self, inplanes, planes, norm1, norm2, stride=1, dilation=1,
                 downsample=None, style='pytorch', with_cp=False):
        super().__init__()
        self.conv1 = nn.Conv2d(
            inplanes, planes, 3, stride, dilation, dilation, bias=False)
        self.bn1 = self._with_relu(norm1(planes))
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = norm2(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.with_cp = with_cp

    def _forward(self, x, relay, state):
        out, state = self._first_norm(self.conv1(x), relay, state)
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out), state


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions (depths 50, 101 and 152).

    Args are BasicBlock's, but for:
        planes (int): channels of the 3x3 convolution; the output has
            4 * planes.
        style (str): 'pytorch' strides in the 3x3 convolution, 'caffe' in the
            first 1x1.
    """
    expansion = 4

    def __init__(self, inplanes, planes, norm1, norm2, stride=1, dilation=1,
                 downsample=None, style='pytorch', with_cp=False):
        super().__init__()
        stride1, stride2 = (1, stride) if style == 'pytorch' else (stride, 1)
        self.conv1 = nn.Conv2d(inplanes, planes, 1, stride1, bias=False)
        self.bn1 = self._with_relu(norm1(planes))
        self.conv2 = nn.Conv2d(
            planes, planes, 3, stride2, dilation, dilation, bias=False)
        self.bn2 = self._with_relu(norm2(planes))
        self.conv3 = nn.Conv2d(
            planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.with_cp = with_cp

    def _forward(self, x, relay, state):
        out, state = self._first_norm(self.conv1(x), relay, state)
        out = self.bn2(self.conv2(out))
        if not isinstance(self.bn2, DynamicNorm):
            out = self.relu(out)
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out), state


class Stage(nn.Module):
    """The blocks of one resolution and the relay cell that they share.

    Args:
        blocks (list[Block]): in order; named '0', '1', ... as torchvision
            names them.
        relay (RelayCell | None): the cross-layer cell, None for none. Its
            state is zero before the first block.
    """

    def __init__(self, blocks, relay=None):
        super().__init__()
        for i, block in enumerate(blocks):
            self.add_module(str(i), block)
        self.num_blocks = len(blocks)
        self.relay = relay

    def forward(self, x):
        """(N * T, C_in, H, W) to (N * T, C_out, H', W')."""
        state = None
        for i in range(self.num_blocks):
            x, state = getattr(self, str(i))(x, self.relay, state)
        return x


class ResNet_DNR(nn.Module):
    """ResNet backbone with dynamic normalization and relay.

    The arguments up to ``with_cp``, their defaults and their meaning are
    those of mmaction v1's ResNet. Note ``bn_eval=True`` among them: to train
    from scratch, pass ``bn_eval=False``. Where an argument speaks of BN, it
    holds for the dynamic normalizations too, and their relay cells stand for
    the weight and bias.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        pretrained (str | None): path or http(s) URL of an ImageNet ResNet or
            of a ResNet-DNR checkpoint, loaded by :meth:`init_weights`.
        num_stages (int): 1 to 4.
        strides (Sequence[int]): of the first block of each stage.
        dilations (Sequence[int]): of each stage.
        out_indices (Sequence[int]): the stages whose output is returned.
        style (str): 'pytorch' or 'caffe', see :class:`Bottleneck`.
        frozen_stages (int): how many stages, and the stem, are frozen; 0 is
            the stem alone, -1 nothing.
        bn_eval (bool): keep all normalizations in evaluation mode.
        bn_frozen (bool): with bn_eval, freeze their parameters too.
        partial_bn (bool): freeze the normalizations of the first
            ``frozen_stages`` stages. As in mmaction v1, ``frozen_stages``
            freezes these stages whole, so this adds nothing to it.
        with_cp (bool): gradient checkpointing: recompute each block in the
            backward pass. Running statistics are updated once.
        n_segment (int): T, frames a clip.
        num_groups (int): G, groups of frames, a divisor of T.
        dnr (str): 'both'; 'cross_temporal' (after each block's 3x3
            convolution; the second one in a BasicBlock); 'cross_layer'
            (after each block's first convolution); or 'none', the
            BatchNorm ResNet.
        running_stats (str): 'grouped' or 'shared', see
            :class:`DynamicNorm`.
        backend (str): what computes the dynamic normalizations, see
            :func:`choose_backend`. The environment variable
            RESNET_DNR_BACKEND, where set, is used in its place.

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

    def __init__(self,
                 depth,
                 pretrained=None,
                 num_stages=4,
                 strides=(1, 2, 2, 2),
                 dilations=(1, 1, 1, 1),
                 out_indices=(0, 1, 2, 3),
                 style='pytorch',
                 frozen_stages=-1,
                 bn_eval=True,
                 bn_frozen=False,
                 partial_bn=False,
                 with_cp=False,
                 n_segment=8,
                 num_groups=4,
                 dnr='both',
                 running_stats='grouped',
                 backend='auto'):
        super().__init__()
        if depth not in self.arch_settings:
            raise KeyError(f'invalid depth {depth!r} for ResNet_DNR, it takes '
                           f'one of {sorted(self.arch_settings)}')
        _check(pretrained is None or isinstance(pretrained, str),
               f'pretrained must be a path, a URL or None, got {pretrained!r}')
        _check(num_stages in (1, 2, 3, 4),
               f'num_stages must be 1 to 4, got {num_stages!r}')
        _check(len(strides) == num_stages and len(dilations) == num_stages,
               f'strides {strides} and dilations {dilations} must have one '
               f'entry for each of the {num_stages} stages')
        _check(isinstance(out_indices, (tuple, list)) and len(out_indices) > 0
               and all(0 <= i < num_stages for i in out_indices),
               f'out_indices {out_indices} must name stages from 0 to '
               f'{num_stages - 1} (num_stages={num_stages})')
        _check(style in ('pytorch', 'caffe'),
               f"style must be 'pytorch' or 'caffe', got {style!r}")
        _check(-1 <= frozen_stages <= num_stages,
               f'frozen_stages must be -1 to {num_stages}, got '
               f'{frozen_stages}')
        _check(dnr in DNR_MODES,
               f'dnr must be one of {DNR_MODES}, got {dnr!r}')
        _check(running_stats in RUNNING_STATS,
               f'running_stats must be one of {RUNNING_STATS}, got '
               f'{running_stats!r}')
        _wanted_backend(backend)
        _check(isinstance(n_segment, int) and isinstance(num_groups, int)
               and n_segment >= 1 and num_groups >= 1
               and n_segment % num_groups == 0,
               f'num_groups={num_groups} must divide n_segment={n_segment}: '
               f'the frames of a clip are split into groups of equal length')
        if partial_bn and frozen_stages < 1:
            warnings.warn('partial_bn=True freezes the normalizations of the '
                          f'first frozen_stages={frozen_stages} stages, that '
                          'is, none')
        self.depth = depth
        self.pretrained = pretrained
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.bn_eval = bn_eval
        self.bn_frozen = bn_frozen
        self.n_segment = n_segment
        self.dnr = dnr

        def cross_layer_norm(channels):
            return CrossLayerNorm(channels, n_segment, backend=backend)

        def cross_temporal_norm(channels):
            return CrossTemporalNorm(
                channels, n_segment, num_groups, running_stats,
                backend=backend)

        block, stage_blocks = self.arch_settings[depth]
        cross_layer = dnr in ('both', 'cross_layer')
        cross_temporal = dnr in ('both', 'cross_temporal')
        norm1 = cross_layer_norm if cross_layer else nn.BatchNorm2d
        norm2 = cross_temporal_norm if cross_temporal else nn.BatchNorm2d

        # The stem is registered first: mmaction v1's TSN2D looks for the
        # first convolution when it adapts a network to optical flow.
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)

        inplanes = 64
        self.res_layers = []
        for i in range(num_stages):
            planes = 64 * 2**i
            blocks = []
            for b in range(stage_blocks[i]):
                stride = strides[i] if b == 0 else 1
                downsample = None
                if b == 0 and (stride != 1
                               or inplanes != planes * block.expansion):
                    downsample = nn.Sequential(
                        nn.Conv2d(inplanes, planes * block.expansion, 1,
                                  stride, bias=False),
                        nn.BatchNorm2d(planes * block.expansion))
                blocks.append(block(
                    inplanes, planes, norm1, norm2, stride, dilations[i],
                    downsample, style, with_cp))
                inplanes = planes * block.expansion
            relay = RelayCell(planes) if cross_layer else None
            self.res_layers.append(f'layer{i + 1}')
            self.add_module(self.res_layers[-1], Stage(blocks, relay))
        self.feat_dim = inplanes
        # Before an optimizer or DistributedDataParallel collects parameters.
        self.train(self.training)

    def init_weights(self):
        """Initialize at random, or load ``pretrained``.

        Convolutions get Kaiming's normal distribution (fan out), BatchNorms
        weight 1 and bias 0; relay cells keep nn.Linear's own initialization.
        Recognizers of both hosts call this.

        Raises:
            ValueError: ``pretrained`` is no checkpoint for this network (see
                :func:`load_pretrained`).
            FileNotFoundError: ``pretrained`` is neither a file nor a URL.
        """
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(
                    m.weight, mode='fan_out', nonlinearity='relu')
            elif isinstance(m, _BatchNorm):
                nn.init.ones_(m.weight)
                nn.init.zeros_(m.bias)
        if self.pretrained is not None:
            load_pretrained(self, self.pretrained)

    def forward(self, x):
        """Run the network.

        Args:
            x (Tensor): (N * T, 3, H, W), the T frames of a clip contiguous.

        Returns:
            Tensor | tuple[Tensor]: the outputs of the stages in
            ``out_indices``, (N * T, C, H', W') each; a tensor where there is
            one.

        Raises:
            ValueError: x has not four dimensions, or no whole number of
                clips.
        """
        if x.dim() != 4:
            raise ValueError(
                'ResNet_DNR takes images (clips * n_segment, 3, height, '
                f'width), got a tensor of shape {tuple(x.shape)}')
        if self.dnr != 'none' and x.size(0) % self.n_segment:
            raise ValueError(
                f'a batch of {x.size(0)} images is not whole clips of '
                f'n_segment={self.n_segment} frames: give a multiple of '
                f'{self.n_segment} images, the frames of a clip together')
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        outs = []
        for i, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return outs[0] if len(outs) == 1 else tuple(outs)

    def train(self, mode=True):
        """Set the mode, and freeze what the arguments say; returns self."""
        super().train(mode)
        if self.bn_eval:
            for m in self.modules():
                if isinstance(m, (_BatchNorm, DynamicNorm, RelayCell)):
                    m.eval()
                    if self.bn_frozen:
                        m.requires_grad_(False)
        if mode and self.frozen_stages >= 0:
            stages = self.res_layers[:self.frozen_stages]
            for name in ['conv1', 'bn1', *stages]:
                getattr(self, name).eval().requires_grad_(False)
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """Accept the published names beside torchvision's."""
        for key in [k for k in state_dict if k.startswith(prefix)]:
            name = prefix + from_published_name(key[len(prefix):])
            if name != key:
                state_dict[name] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def from_published_name(name):
    """A state-dict name of the published code in this file's names.

    Names that the two have in common come back as they are.

    Args:
        name (str): such as 'layer1.ModuleList.0.bn2.lstm.w_ih.0.seq.0.bias',
            with or without a prefix like 'backbone.'.

    Returns:
        str: such as 'layer1.0.bn2.relay.input_map.0.bias'.
    """
    name = name.replace('ModuleList.', '')
    name = name.replace('lstm.w_ih.0.seq.', 'relay.input_map.')
    return name.replace('lstm.w_hh.0.seq.', 'relay.hidden_map.')


def to_published_names(state_dict):
    """Write a state dict in the published code's names and shapes.

    Grouped running statistics (G, C) become their mean over the groups,
    (C,): the published code keeps a moving average over all groups. Its
    evaluation differs from the grouped one's, as its own does.

    Args:
        state_dict (dict[str, Tensor]): of a ResNet_DNR with dnr='both', or
            of a recognizer with one under 'backbone.'.

    Returns:
        dict[str, Tensor]: a new dict; tensors not changed are shared.
    """
    published = {}
    for name, value in state_dict.items():
        name = re.sub(r'\b(layer\d+)\.(\d+)\.', r'\1.ModuleList.\2.', name)
        name = name.replace('relay.input_map.', 'lstm.w_ih.0.seq.')
        name = name.replace('relay.hidden_map.', 'lstm.w_hh.0.seq.')
        if name.endswith(('running_mean', 'running_var')) and value.dim() == 2:
            value = value.mean(0)
        published[name] = value
    return published


def load_pretrained(backbone, source):
    """Load what a checkpoint has for a backbone, and log how much it was.

    Args:
        backbone (ResNet_DNR): loaded in place.
        source (str): path or http(s) URL of a state dict, or of a checkpoint
            with one under 'state_dict': an ImageNet ResNet, a ResNet_DNR, or
            a recognizer with one under 'backbone.'. Heads are left out. Of
            an ImageNet ResNet's replaced BatchNorms, the running statistics
            are taken.

    Raises:
        FileNotFoundError: source is neither a file nor a URL.
        ValueError: source cannot be read, has no tensor for the stem or a
            stage, has another number of blocks, or a tensor of another shape.
    """
    loaded = {}
    for name, value in _read_state_dict(source).items():
        name = re.sub(r'^(module\.)?(backbone\.)?', '', name)
        loaded[from_published_name(name)] = value
    own = backbone.state_dict()
    taken = {}
    for name in own:
        part = name.split('.')[0] if name.startswith('layer') else 'stem'
        count, total = taken.get(part, (0, 0))
        taken[part] = (count + (name in loaded), total + 1)
    report = ', '.join(f'{part} {count} of {total}'
                       for part, (count, total) in taken.items())
    wrong = (f'{source} is no checkpoint for this ResNet_DNR of depth '
             f'{backbone.depth}: ')
    _check(all(count for count, _ in taken.values()),
           f'{wrong}tensors found by name: {report}')
    # Another depth's names agree as far as its blocks go.
    blocks = set(re.findall(r'^(layer\d)\.(\d+)\.', '\n'.join(loaded), re.M))
    for part in backbone.res_layers:
        count = sum(stage == part for stage, _ in blocks)
        wanted = getattr(backbone, part).num_blocks
        _check(count == wanted,
               f'{wrong}{part} has {count} blocks there, {wanted} here')
    try:
        backbone.load_state_dict(
            {name: loaded[name] for name in own if name in loaded},
            strict=False)
    except RuntimeError as error:  # torch's text lists the shapes
        raise ValueError(f'{wrong}{error}') from error
    logger.info('%s: took tensors for %s', source, report)


def _read_state_dict(source):
    """The state dict at a path or URL. No code in the file is run."""
    path = source
    if source.startswith(('http://', 'https://')):
        # torch.hub's own loader would unpickle anything.
        folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
        path = os.path.join(
            folder, os.path.basename(urllib.parse.urlparse(source).path))
        if not os.path.exists(path):
            os.makedirs(folder, exist_ok=True)
            torch.hub.download_url_to_file(source, path)
    elif not os.path.isfile(path):
        raise FileNotFoundError(
            f'pretrained={source!r} is neither a file nor an http(s) URL')
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # anything, for a file of another kind
        raise ValueError(f'{path} cannot be read as a checkpoint: '
                         f'{error!r}') from error
    if isinstance(checkpoint, dict):
        checkpoint = checkpoint.get('state_dict', checkpoint)
    _check(isinstance(checkpoint, dict),
           f'{path} holds a {type(checkpoint).__name__}, not a state dict')
    return checkpoint


def _check(condition, message):
    if not condition:
        raise ValueError(message)


def _without_autocast(device_type):
    """Context in which autocast is off: statistics stay in full precision."""
    try:
        return torch.autocast(device_type, enabled=False)
    except RuntimeError:  # a device that has none
        return contextlib.nullcontext()


def _is_exporting():
    """Whether torch.export traces this call."""
    compiler = getattr(torch, 'compiler', None)
    return hasattr(compiler, 'is_exporting') and compiler.is_exporting()


def _is_compiling():
    """Whether torch.compile traces this call; there is none before 2.0."""
    compiler = getattr(torch, 'compiler', None)
    return hasattr(compiler, 'is_compiling') and compiler.is_compiling()


@contextlib.contextmanager
def _restored_buffers(module):
    """Context after which the module's buffers are what they were before.

    A recomputation must do the very operations of the first run, updates of
    running statistics among them.
    """
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


@torch.no_grad()
def _update_running(running, mean, var, count, momentum):
    """Move running statistics towards a batch's.

    Args:
        running (tuple[Tensor]): mean and variance, (G, C) or (C,), and the
            number of batches tracked.
        mean, var (Tensor): of the batch, (G, C); the variance is biased.
        count (int): values in a channel and group.
        momentum (float): weight of the new.
    """
    *statistics, tracked = running
    tracked.add_(1)
    for old, new in zip(statistics, (mean, var * (count / (count - 1)))):
        new = new.to(old.dtype)
        # (C,): moved by one group after the other.
        for value in new if old.dim() == 1 else (new, ):
            old.lerp_(value, momentum)


def _wanted_backend(backend):
    """An argument, or the environment variable in its place."""
    backend = os.environ.get('RESNET_DNR_BACKEND', backend)
    _check(backend in BACKENDS,
           f'backend (or RESNET_DNR_BACKEND) must be one of {BACKENDS}, got '
           f'{backend!r}')
    return backend


def choose_backend(wanted, x, relay):
    """What computes a dynamic normalization.

    * 'triton': fused kernels on CUDA. Two passes over the images and one
      small kernel forward, as many backward. float32, float16 and bfloat16.
    * 'aten': the same with torch's operations and a hand-written backward
      pass, on any device.
    * 'plain': operations that autograd knows, and so higher derivatives,
      torch.func, forward-mode derivatives and export.
    * 'auto': the first of these that can. Under torch.compile, 'triton' or
      'plain', which the compiler fuses.

    Whatever is wanted, torch.func's and forward-mode derivatives, traces,
    exports, tensor subclasses and empty batches are 'plain'. Forward hooks on
    a relay cell and its layers run with 'plain' alone. Each new choice is
    logged once.

    Args:
        wanted (str): one of these.
        x (Tensor): the input, (N * T, C, H, W).
        relay (RelayCell): the cell.

    Returns:
        str: 'triton', 'aten' or 'plain'.

    Raises:
        RuntimeError: 'triton' is wanted and cannot do it; says why.
    """
    compiling = _is_compiling()
    if compiling:
        derives_or_exports = _is_exporting()
    else:
        derives_or_exports = (type(x) not in (Tensor, nn.Parameter)
                              or torch.jit.is_tracing() or _has_transforms())
    if wanted == 'plain' or derives_or_exports or x.numel() == 0:
        return 'plain'
    weight = relay.input_map[0].weight
    return (_choice if compiling else _cached_choice)(
        wanted, x.device.type, x.dtype, weight.dtype, weight.size(1),
        compiling)


def _choice(wanted, device, dtype, weight_dtype, channels, compiling):
    """choose_backend where nothing asks for 'plain'."""
    why_not = None if wanted == 'aten' else _why_not_triton(
        device, dtype, weight_dtype, channels, compiling)
    if wanted == 'triton' and why_not:
        raise RuntimeError(f"backend='triton' cannot be used: {why_not}")
    if wanted != 'aten' and not why_not:
        choice = 'triton'
    else:
        choice = 'plain' if compiling else 'aten'
    if not compiling:
        _log_choice(dtype, device, choice, why_not)
    return choice


_cached_choice = functools.lru_cache(None)(_choice)


@functools.lru_cache(None)
def _log_choice(dtype, device, choice, why_not):
    logger.info('dynamic normalization of %s on %s: %s%s', dtype, device,
                choice, f' ({why_not})' if why_not else '')


def _why_not_triton(device, dtype, weight_dtype, channels, compiling):
    """Why the kernels cannot do this; None where they can."""
    if triton is None:
        return 'triton is not installed'
    if tuple(map(int, triton.__version__.split('.')[:2])) < (3, 3):
        return f'triton {triton.__version__} is older than 3.3'
    if not INTERPRETED:
        if device != 'cuda' or torch.version.cuda is None:
            return f'no kernels for {device}'
        if torch.cuda.get_device_capability() < (7, 0):
            return 'the GPU is older than compute capability 7.0'
    for name, value in (('the input', dtype), ("the relay's", weight_dtype)):
        if value not in (torch.float32, torch.float16, torch.bfloat16):
            return f'{name} is {value}'
    if channels < 64 or channels > 512 or channels & (channels - 1):
        return f'{channels} channels are not 64, 128, 256 or 512'
    if compiling and _compiled_normalize is None:
        return f'torch.compile of torch {torch.__version__} takes no kernels'
    return None


def _has_transforms():
    """Whether torch.func or forward-mode derivatives are at work."""
    active = getattr(torch._C, '_are_functorch_transforms_active', None)
    return (active is not None and active()
            ) or torch.autograd.forward_ad._current_level >= 0



class _Spec(NamedTuple):
    """What a backend computes: the arguments that are no tensors."""
    n_segment: int
    num_groups: int
    eps: float
    momentum: float
    training: bool
    relu: bool


class _Normalize(torch.autograd.Function):
    """A backend's forward and hand-written backward pass."""

    @staticmethod
    def forward(ctx, backend, spec, running, x, h, c, *weights):
        ctx.set_materialize_grads(False)
        ctx.backend, ctx.spec = backend, spec
        if backend == 'triton':
            out, new_h, new_c, saved = _triton_forward(
                x, h, c, weights, running, running, spec)
        else:
            with _without_autocast(x.device.type):
                out, new_h, new_c, saved = _aten_forward(
                    x, h, c, weights, running, spec)
        ctx.save_for_backward(x, h, c, *weights, *saved)
        return out, new_h, new_c

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out, grad_h, grad_c):
        x, h, c, *rest = ctx.saved_tensors
        weights, saved = rest[:8], rest[8:]
        if ctx.backend == 'triton':
            grad_x, grad_state, flat = _triton_gradients(
                grad_out, grad_h, grad_c, x, h, c, weights, *saved, ctx.spec)
            grad_weights = _unflatten_dense_tensors(flat, weights)
            grad_h, grad_c = (None, None) if h is None else grad_state
        else:
            with _without_autocast(x.device.type):
                grad_x, grad_h, grad_c, grad_weights = _aten_backward(
                    grad_out, grad_h, grad_c, x, h, c, weights, saved,
                    ctx.spec)
        return (None, None, None, grad_x, grad_h, grad_c, *grad_weights)


class _Plan(NamedTuple):
    """How the kernels go over images of one shape and layout."""
    memory_format: torch.memory_format
    copy: bool  # whether the images have another layout and must be copied
    passes: tuple  # N, C, P, T, G, rows, splits, stride_c, stride_p
    grid: tuple  # of the kernels that pass over the images
    tile: tuple  # BLOCK_C and BLOCK_P
    relay_grid: tuple
    blocks: tuple  # C, BLOCK_C, BLOCK_N and BLOCK_G of the relay
    saved_size: int
    scratch_size: int
    backward_scratch_size: int
    variants: dict  # compiled kernels


@functools.lru_cache(None)
def _plan(shape, stride, device, dtypes, T, G):
    images, channels, height, width = shape
    x = torch.empty_strided(shape, stride, device='meta')
    memory_format = _memory_format(x)
    positions = height * width
    if memory_format == torch.channels_last:
        strides = 1, channels
        tile = 64, 64
        # Enough programs to fill a device, with long runs for each.
        splits = max(1, min(-(-positions // 64),
                            1024 * 64 // (images * channels)))
        rows = -(-positions // (splits * 64)) * 64
    else:
        strides = positions, 1
        block_p = min(4096, max(16, triton.next_power_of_2(positions)))
        tile = min(64, 4096 // block_p), block_p
        rows = positions
    splits = -(-positions // rows)
    clips = images // T
    units = images * splits
    block_c = 32 if channels > 256 else 16
    parts = 2 * channels // block_c * clips * G * (channels // 4)
    return _Plan(
        memory_format=memory_format,
        copy=not x.is_contiguous(memory_format=memory_format),
        passes=(clips, channels, positions, T, G, rows, splits, *strides),
        grid=(units, channels // tile[0], 1),
        tile=tile,
        relay_grid=(channels // block_c, 1, 1),
        blocks=(channels, block_c, 16, max(8, triton.next_power_of_2(G))),
        saved_size=_saved_size(clips, G, channels),
        scratch_size=16 + 2 * units * channels + parts,
        backward_scratch_size=(
            16 + 2 * units * channels + parts
            + (G + (7 * G + 1) * clips) * channels
            + 2 * clips * G * (channels // 4)),
        variants={})


def _memory_format(x):
    """The layout of a tensor's memory; contiguous where it is another."""
    if not x.is_contiguous() and x.is_contiguous(
            memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _saved_size(clips, groups, channels):
    """Means, deviations, scales, shifts, pooled means, gates, hidden units."""
    rows = clips * groups
    return (2 * groups + 7 * rows) * channels + 2 * rows * (channels // 4)


def _current_stream(x):
    return torch._C._cuda_getCurrentRawStream(x.device.index
                                              ) if x.is_cuda else None


def _launch(plan, stream, kernel, grid, tensors, numbers, constants,
            **options):
    """Launch a kernel.

    Triton looks at every argument of every launch to find the compiled
    variant, which takes longer than many a kernel runs. A plan has one shape,
    layout, device and set of dtypes, so what else may differ is the flags
    among the numbers and constants, and where a tensor begins: at a multiple
    of 16 bytes, or Triton looks.
    """
    pointers = [tensor.data_ptr() for tensor in tensors]
    aligned = not functools.reduce(operator.or_, pointers) % 16
    key = kernel.__name__, numbers, constants
    variant = plan.variants.get(key) if aligned else None
    if variant is None:
        variant = kernel[grid](*tensors, *numbers, *constants, **options)
        if aligned and not INTERPRETED:
            plan.variants[key] = variant
    else:
        variant.run(*grid, stream, variant.function, variant.packed_metadata,
                    None, None, None, *pointers, *numbers, *constants)


def _launch_phases(plan, stream, kernel, phases, tensors, numbers,
                   constants):
    """Launch a kernel of phases that wait for all programs.

    Triton's interpreter runs programs one after another; there, each phase
    is a launch.
    """
    for first, last in ([(phase, phase + 1) for phase in range(phases)]
                        if INTERPRETED else [(0, phases)]):
        _launch(plan, stream, kernel, plan.relay_grid, tensors,
                (*numbers, first, last), (*plan.blocks, *constants),
                num_warps=4,
                # The buffers of more would not fit into shared memory.
                num_stages=1)


def _triton_forward(x, h, c, weights, running, updated, spec):
    """Normalize by the kernels.

    Args:
        x (Tensor): (N * T, C, H, W), on CUDA.
        h, c (Tensor | None): the relay's state, (N, C), or None.
        weights (Sequence[Tensor]): the relay cell's eight parameters.
        running (tuple[Tensor]): running mean and variance, and the number of
            batches tracked.
        updated (tuple[Tensor]): where training writes the new ones, which
            may be the same.
        spec (_Spec): the rest.

    Returns:
        tuple: out, h and c after the last step, and what the backward pass
        needs (a tuple of tensors).
    """
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        with torch.cuda.device(x.device):  # where Triton launches
            return _triton_forward(x, h, c, weights, running, updated, spec)
    weights = [weight.contiguous() for weight in weights]
    plan = _plan(x.shape, x.stride(), x.device, tuple(
        [x.dtype] + [tensor.dtype for tensor in (*weights, *running)]),
        spec.n_segment, spec.num_groups)
    if plan.copy:
        x = x.contiguous(memory_format=plan.memory_format)
    clips, channels, positions, T, G, rows, splits, *_ = plan.passes
    stream = _current_stream(x)
    saved = torch.empty(plan.saved_size, dtype=torch.float32, device=x.device)
    scratch = torch.empty(plan.scratch_size, dtype=torch.float32,
                          device=x.device)
    out = torch.empty_like(x)
    has_state = h is not None
    _launch(plan, stream, _moments_kernel, plan.grid, (x, scratch),
            (channels, positions, *plan.passes[5:]), plan.tile,
            num_warps=8)
    _launch_phases(
        plan, stream, _relay_kernel, G + 1,
        (scratch, saved, h.float().contiguous() if has_state else saved,
         c.float().contiguous() if has_state else saved, *running, *updated,
         *weights),
        (clips, positions, T, G, rows, splits, spec.eps, spec.momentum,
         int(has_state)),
        (spec.training, running[0].dim() == 2, _precision(x.device)))
    _launch(plan, stream, _apply_kernel, plan.grid, (x, out, saved),
            plan.passes, (spec.relu, *plan.tile), num_warps=8)
    # Of scales and shifts, (N, G, C) each, the last step's.
    state = saved.as_strided(
        (2, clips, channels), (clips * G * channels, G * channels, 1),
        (3 * G - 1) * channels)
    return (out, *state.unbind(), (saved, ))


def _triton_gradients(grad_out, grad_h, grad_c, x, h, c, weights, saved,
                      spec):
    """Gradients by the kernels.

    Args:
        grad_out, grad_h, grad_c (Tensor | None): of the outputs.
        x, h, c, weights, saved, spec: as :func:`_triton_forward` takes and
            gives them.

    Returns:
        tuple: the gradients of x; of h and c, (2, N, C), undefined where
        they are None; and of all weights in one vector.
    """
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        with torch.cuda.device(x.device):
            return _triton_gradients(grad_out, grad_h, grad_c, x, h, c,
                                     weights, saved, spec)
    weights = [weight.contiguous() for weight in weights]
    plan = _plan(x.shape, x.stride(), x.device, tuple(
        [x.dtype] + [weight.dtype for weight in weights]), spec.n_segment,
        spec.num_groups)
    if plan.copy:
        x = x.contiguous(memory_format=plan.memory_format)
    if grad_out is None:
        grad_out = torch.zeros_like(x)
    elif grad_out.stride() != x.stride():
        grad_out = grad_out.contiguous(memory_format=plan.memory_format)
    clips, channels, positions, T, G, _, splits, *_ = plan.passes
    stream = _current_stream(x)
    scratch = torch.empty(plan.backward_scratch_size, dtype=torch.float32,
                          device=x.device)
    grad_x = torch.empty_like(x)
    grad_weights = torch.empty(
        10 * channels * (channels // 4) + 2 * (channels // 4) + 8 * channels,
        dtype=weights[0].dtype, device=x.device)
    has_state = h is not None
    has_grad_state = grad_h is not None or grad_c is not None
    grad_state = saved if not has_state else torch.empty(
        (2, clips, channels), dtype=torch.float32, device=x.device)
    if has_grad_state:
        zeros = saved.new_zeros(clips, channels)
        grad_h = zeros if grad_h is None else grad_h.float().contiguous()
        grad_c = zeros if grad_c is None else grad_c.float().contiguous()
    _launch(plan, stream, _gradient_sums_kernel, plan.grid,
            (x, grad_out, scratch, saved), plan.passes,
            (spec.relu, *plan.tile), num_warps=8)
    _launch_phases(
        plan, stream, _relay_gradient_kernel, G + 2,
        (scratch, saved, h.float().contiguous() if has_state else saved,
         c.float().contiguous() if has_state else saved,
         grad_h if has_grad_state else saved,
         grad_c if has_grad_state else saved, grad_state, *weights[::2],
         grad_weights),
        (clips, positions, T, G, splits, int(has_state),
         int(has_grad_state)),
        (spec.training, _precision(x.device)))
    _launch(plan, stream, _input_gradient_kernel, plan.grid,
            (x, grad_out, grad_x, scratch, saved), plan.passes,
            (spec.relu, *plan.tile), num_warps=8)
    return grad_x, grad_state, grad_weights


# As in autograd's own: a NaN in the output lets the gradient pass.
_relu_backward = torch.ops.aten.threshold_backward
_sigmoid_backward = torch.ops.aten.sigmoid_backward
_tanh_backward = torch.ops.aten.tanh_backward


def _aten_forward(x, h, c, weights, running, spec):
    """Standardize x, then scale and shift by what the relay cell predicts.

    Every pass over x is an elementwise operation or a sum over planes (H, W)
    with one value a plane beside it, which is fast in any memory format.
    All but the squares' temporary work in place on the output.

    Returns:
        tuple: out, h, c, and the tensors that the backward needs.
    """
    groups = _in_groups(x, spec)
    clips, _, t, _, height, width = groups.shape
    # No view, which could not be added to in place by what follows.
    out = torch.empty_like(x, dtype=groups.dtype)
    centered = _in_groups(out, spec)
    pooled = _sums(groups) / (t * height * width)  # (N, G, C)
    if spec.training:
        mean = pooled.mean(0)  # (G, C)
    else:  # a copy: it is saved, and the buffer may change
        mean = running[0].to(groups.dtype).expand(pooled.shape[1:]).clone()
    torch.sub(groups, mean[:, None, :, None, None], out=centered)
    if spec.training:
        count = clips * t * height * width
        var = _sums(centered * centered).sum(0) / count  # (G, C)
        _update_running(running, mean, var, count, spec.momentum)
    else:
        var = running[1].to(groups.dtype).expand(pooled.shape[1:])
    rstd = torch.rsqrt(var + spec.eps)
    steps = _relay_forward(pooled.to(weights[0].dtype), h, c, weights)
    scales, shifts = (v.to(groups.dtype) for v in steps[:2])
    centered.mul_((scales * rstd)[:, :, None, :, None, None])
    centered.add_(shifts[:, :, None, :, None, None])
    if spec.relu:
        out.relu_()
    out = out.to(x.dtype)
    saved = (mean, rstd, *steps, *([out] if spec.relu else []))
    return out, steps[0][:, -1].clone(), steps[1][:, -1].clone(), saved


def _aten_backward(grad_out, grad_h, grad_c, x, h, c, weights, saved, spec):
    """Gradients of x, of the state (two) and of the eight weights (a list).

    The gradient of x is grad * h * rstd + (x - mean) * slope + offset, where
    slope and offset are what comes through the statistics and the pooled
    features.
    """
    mean, rstd, *steps = saved[:8]
    if grad_out is None:
        grad_out = torch.zeros_like(x)
    if spec.relu:
        grad_out = _relu_backward(grad_out, saved[8], 0)
    grad = _in_groups(grad_out, spec)
    centered = _in_groups(x, spec) - mean[:, None, :, None, None]
    clips, _, t, _, height, width = grad.shape
    grad_shift = _sums(grad)  # (N, G, C)
    grad_scale = _sums(grad * centered) * rstd
    grad_pooled, grad_h, grad_c, grad_weights = _relay_backward(
        grad_scale.to(steps[0].dtype), grad_shift.to(steps[0].dtype),
        grad_h, grad_c, h, c, weights, steps)
    scales = steps[0].to(grad.dtype)
    factor = (scales * rstd)[:, :, None, :, None, None]
    offset = grad_pooled.to(grad.dtype) / (t * height * width)
    if spec.training:
        count = clips * t * height * width
        slope = (scales * grad_scale).sum(0) * rstd.square() / -count
        offset -= (scales * grad_shift).sum(0) * rstd / count
        centered.mul_(slope[:, None, :, None, None])
        centered.addcmul_(grad, factor)
    else:
        torch.mul(grad, factor, out=centered)
    centered.add_(offset[:, :, None, :, None, None])
    return (centered.to(x.dtype).flatten(0, 2), grad_h, grad_c,
            grad_weights)


def _in_groups(x, spec):
    """View (N * T, C, H, W) as (N, G, t, C, H, W); halves as float32."""
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    return x.view(-1, spec.num_groups, spec.n_segment // spec.num_groups,
                  *x.shape[1:])


def _sums(groups):
    """Sum over frames and positions, (N, G, C); slower in one step."""
    return groups.sum(dim=(4, 5)).sum(2)


def _relay_forward(x, h, c, weights):
    """RelayCell.forward.

    Returns:
        tuple: scales and shifts, (N, S, C), and what the backward needs
        besides: x, the inputs of the two second layers, (N, S, C / 4), and
        the gates before their nonlinearities, (N, S, 4C).
    """
    in1, in1_bias, in2, in2_bias, hid1, hid1_bias, hid2, hid2_bias = weights
    linear = torch.nn.functional.linear
    if h is None:
        h, c = x.new_zeros(2, x.size(0), x.size(2))
    inner = linear(x, in1, in1_bias).relu_()
    from_input = linear(inner, in2, in2_bias + hid2_bias)
    hid2 = hid2.t()
    steps = []
    for gate in from_input.unbind(1):
        hidden = linear(h, hid1, hid1_bias).relu_()
        gate = torch.addmm(gate, hidden, hid2)
        g = gate.chunk(4, 1)[2].tanh()
        i, f, _, o = gate.sigmoid().chunk(4, 1)
        c = torch.addcmul(f * c, i, g)
        h = o * torch.sigmoid(c)
        steps.append((h, c, hidden, gate))
    scales, shifts, hiddens, gates = (
        torch.stack(values, 1) for values in zip(*steps))
    return scales, shifts, x, inner, hiddens, gates


def _relay_backward(grad_scales, grad_shifts, grad_h, grad_c, h, c, weights,
                    steps):
    """Gradients of the relay's input, state (two) and weights (a list)."""
    scales, shifts, x, inner, hiddens, gates = steps
    in1, _, in2, _, hid1, _, hid2, _ = weights
    has_state = h is not None
    if not has_state:
        h, c = x.new_zeros(2, x.size(0), x.size(2))
    h_before = torch.cat((h[:, None], scales[:, :-1]), 1)
    c_before = torch.cat((c[:, None], shifts[:, :-1]), 1)
    g = gates.chunk(4, 2)[2].tanh()
    i, f, _, o = gates.sigmoid().chunk(4, 2)
    sigmoid_c = torch.sigmoid(shifts)
    # Derivatives of c by its three gates and of h by its one; of h by c.
    by_gates = torch.cat((
        _sigmoid_backward(g, i), _sigmoid_backward(c_before, f),
        _tanh_backward(i, g), _sigmoid_backward(sigmoid_c, o)), 2)
    by_c = _sigmoid_backward(o, sigmoid_c)
    grad_gates, grad_hiddens = [], []
    for grad_scale, grad_shift, by_c, by_gates, f, hidden in reversed(
            list(zip(*(values.unbind(1) for values in (
                grad_scales, grad_shifts, by_c, by_gates, f, hiddens))))):
        grad_h = grad_scale if grad_h is None else grad_h + grad_scale
        grad_c = grad_shift if grad_c is None else grad_c + grad_shift
        grad_c = torch.addcmul(grad_c, grad_h, by_c)
        gate = torch.cat((grad_c, grad_c, grad_c, grad_h), 1).mul_(by_gates)
        hidden = _relu_backward(gate @ hid2, hidden, 0)
        grad_gates.append(gate)
        grad_hiddens.append(hidden)
        grad_h = hidden @ hid1
        grad_c = grad_c * f
    # Each weight's gradient over all steps and clips is one product.
    grad_gates = torch.stack(grad_gates[::-1], 1).flatten(0, 1)
    grad_hiddens = torch.stack(grad_hiddens[::-1], 1).flatten(0, 1)
    inner = inner.flatten(0, 1)
    grad_inner = _relu_backward(grad_gates @ in2, inner, 0)
    grad_bias2 = grad_gates.sum(0)
    gates_by = grad_gates.t()
    grad_weights = [
        grad_inner.t() @ x.flatten(0, 1), grad_inner.sum(0),
        gates_by @ inner, grad_bias2,
        grad_hiddens.t() @ h_before.flatten(0, 1), grad_hiddens.sum(0),
        gates_by @ hiddens.flatten(0, 1), grad_bias2.clone()]
    if not has_state:
        grad_h = grad_c = None
    return (grad_inner @ in1).view_as(x), grad_h, grad_c, grad_weights


def _kernel(function):
    """A Triton kernel; a function that nobody calls without Triton."""
    if triton is None:
        return function
    # These would compile anew for values that change nothing.
    names = [name for name in function.__code__.co_varnames[
        :function.__code__.co_argcount] if name in (
            'N', 'T', 'G', 'has_state', 'has_grad_state', 'phase', 'last')
        or name in ('P', 'rows', 'splits') and 'relay' in function.__name__]
    return triton.jit(function, do_not_specialize=names)


# Triton kernels. Tensors of images are read in tiles of channels by
# positions; (stride_c, stride_p) is (H * W, 1) for contiguous ones and (1, C)
# for channels last. A unit is what one program reduces: a run of `rows`
# positions of one image, `splits` to an image. Everything else is float32
# vectors: row n * G + g holds the C values of clip n and group g. `scratch`
# lives for one pass, from a count of arrived programs on; `saved`, for the
# backward pass, starts with means and inverse deviations (G, C), scales and
# shifts (N, G, C).

@_kernel
def _tile(unit, C, P, rows, splits, stride_c, stride_p,
          BLOCK_C: tl.constexpr):
    """A unit's channels, their offsets, and its first and last position."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    start = (unit % splits) * rows
    stop = tl.minimum(start + rows, P)
    image = (unit // splits).to(tl.int64)
    return c, image * C * P + c[:, None] * stride_c, start, stop


@_kernel
def _moments_kernel(x, scratch, C, P, rows, splits, stride_c,
                    stride_p, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Mean and sum of squares about it, for each unit and channel.

    Sums are taken of values less the mean of the first tile, which is at
    most a few standard deviations from the unit's own: nothing cancels.
    """
    unit = tl.program_id(0)
    c, offset, start, stop = _tile(unit, C, P, rows, splits, stride_c,
                                   stride_p, BLOCK_C)
    p = start + tl.arange(0, BLOCK_P)[None, :]
    value = tl.load(x + offset + p * stride_p, mask=p < stop,
                    other=0.).to(tl.float32)
    about = tl.sum(value, 1) / tl.minimum(BLOCK_P, stop - start)
    about = tl.where(about - about == 0, about, 0.)  # not inf, not NaN
    value = tl.where(p < stop, value - about[:, None], 0.)
    sums = value
    squares = value * value
    for first in range(start + BLOCK_P, stop, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)[None, :]
        value = tl.load(x + offset + p * stride_p, mask=p < stop,
                        other=0.).to(tl.float32)
        value = tl.where(p < stop, value - about[:, None], 0.)
        sums += value
        squares += value * value
    total = tl.sum(sums, 1)
    m2 = tl.sum(squares, 1) - total * total / (stop - start)
    moments = scratch + 16 + unit * C + c
    tl.store(moments, about + total / (stop - start))
    tl.store(moments + tl.num_programs(0) * C, tl.where(m2 < 0, 0., m2))
    if (unit == 0) & (tl.program_id(1) == 0):
        tl.store(scratch, 0.)


@_kernel
def _affine(saved, unit, c, N, C, T, G, splits):
    """Of a unit: mean, inverse deviation, scale and shift, and its row."""
    image = unit // splits
    g = image % T // (T // G)
    row = image // T * G + g
    mean = tl.load(saved + g * C + c)
    rstd = tl.load(saved + (G + g) * C + c)
    scale = tl.load(saved + (2 * G + row) * C + c)
    shift = tl.load(saved + (2 * G + N * G + row) * C + c)
    return (mean[:, None], (scale * rstd)[:, None], shift[:, None], row, g)


@_kernel
def _apply_kernel(x, out, saved, N, C, P, T, G, rows, splits, stride_c,
                  stride_p, RELU: tl.constexpr, BLOCK_C: tl.constexpr,
                  BLOCK_P: tl.constexpr):
    """out = (x - mean) * (scale / deviation) + shift, and ReLU."""
    unit = tl.program_id(0)
    c, offset, start, stop = _tile(unit, C, P, rows, splits, stride_c,
                                   stride_p, BLOCK_C)
    mean, factor, shift, row, g = _affine(saved, unit, c, N, C, T, G, splits)
    for first in range(start, stop, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)[None, :]
        at = offset + p * stride_p
        value = tl.load(x + at, mask=p < stop, other=0.).to(tl.float32)
        value = (value - mean) * factor + shift
        if RELU:
            value = tl.where(value < 0, 0., value)  # NaN stays
        tl.store(out + at, value.to(out.dtype.element_ty), mask=p < stop)


@_kernel
def _gradient_sums_kernel(x, grad, scratch, saved, N, C, P, T, G, rows,
                          splits, stride_c, stride_p, RELU: tl.constexpr,
                          BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Sums of grad and of grad * (x - mean), for each unit and channel."""
    unit = tl.program_id(0)
    c, offset, start, stop = _tile(unit, C, P, rows, splits, stride_c,
                                   stride_p, BLOCK_C)
    mean, factor, shift, row, g = _affine(saved, unit, c, N, C, T, G, splits)
    sum1 = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    sum2 = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for first in range(start, stop, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)[None, :]
        at = offset + p * stride_p
        value = tl.load(x + at, mask=p < stop, other=0.).to(tl.float32) - mean
        up = tl.load(grad + at, mask=p < stop, other=0.).to(tl.float32)
        if RELU:
            up = tl.where(value * factor + shift <= 0, 0., up)
        sum1 += up
        # Beyond the last position the gradient is 0, but not 0 * inf.
        sum2 += tl.where(p < stop, up * value, 0.)
    sums = scratch + 16 + unit * C + c
    tl.store(sums, tl.sum(sum1, 1))
    tl.store(sums + tl.num_programs(0) * C, tl.sum(sum2, 1))
    if (unit == 0) & (tl.program_id(1) == 0):
        tl.store(scratch, 0.)


@_kernel
def _input_gradient_kernel(x, grad, grad_x, scratch, saved, N, C, P, T, G,
                           rows, splits, stride_c, stride_p,
                           RELU: tl.constexpr, BLOCK_C: tl.constexpr,
                           BLOCK_P: tl.constexpr):
    """grad_x = grad * scale / deviation + (x - mean) * slope + level."""
    unit = tl.program_id(0)
    c, offset, start, stop = _tile(unit, C, P, rows, splits, stride_c,
                                   stride_p, BLOCK_C)
    mean, factor, shift, row, g = _affine(saved, unit, c, N, C, T, G, splits)
    slopes = scratch + 16 + 2 * tl.num_programs(0) * C
    slope = tl.load(slopes + g * C + c)[:, None]
    level = tl.load(slopes + (G + row) * C + c)[:, None]
    for first in range(start, stop, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)[None, :]
        at = offset + p * stride_p
        value = tl.load(x + at, mask=p < stop, other=0.).to(tl.float32) - mean
        up = tl.load(grad + at, mask=p < stop, other=0.).to(tl.float32)
        if RELU:
            up = tl.where(value * factor + shift <= 0, 0., up)
        value = up * factor + value * slope + level
        tl.store(grad_x + at, value.to(grad_x.dtype.element_ty),
                 mask=p < stop)


# The relay: a program for each slice of BLOCK_C channels, in phases. All
# programs must have done one phase before any begins the next, because a
# bottleneck's C/4 hidden units sum over all channels: each slice writes its
# part of the sum, and adds up the parts of all in the next phase.

@_kernel
def _wait_for_all(arrived, count):
    """A barrier: there are few programs, and all of them are running.

    The kernel before has set the count of arrived programs to 0.
    """
    tl.debug_barrier()
    now = tl.atomic_add(arrived, 1., sem='acq_rel', scope='gpu') + 1
    while now < count:
        now = tl.atomic_add(arrived, 0., sem='acquire', scope='gpu')
    tl.debug_barrier()


@_kernel
def _sum_of_parts(parts, row, live, rows, r, R: tl.constexpr,
                  SLICES: tl.constexpr):
    """Sum over slices of (SLICES, rows, R), at some rows: (len(row), R)."""
    AT_ONCE: tl.constexpr = SLICES // 2 if SLICES < 16 else 8
    parts += row[:, None] * R + r[None, :]
    total = tl.zeros((row.shape[0], R), tl.float32)
    for first in range(0, SLICES, AT_ONCE):
        for s in tl.static_range(AT_ONCE):
            total += tl.load(parts + (first + s) * rows * R,
                             mask=live[:, None], other=0.,
                             cache_modifier='.cg')
    return total


@_kernel
def _relay_kernel(scratch, saved, h0, c0, running_mean,
                  running_var, tracked, new_mean, new_var, new_tracked, wi1,
                  bi1, wi2, bi2, wh1, bh1, wh2, bh2, N, P, T, G, rows, splits,
                  eps, momentum,
                  has_state, phase, last, C: tl.constexpr,
                  BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
                  BLOCK_G: tl.constexpr,
                  TRAINING: tl.constexpr, GROUPED: tl.constexpr,
                  PRECISION: tl.constexpr):
    """Phase 0 merges the moments of units; phase s > 0 is a relay's step."""
    R: tl.constexpr = C // 4
    SLICES: tl.constexpr = C // BLOCK_C
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.arange(0, R)
    NG = N * G
    moments = scratch + 16
    parts = moments + 2 * N * T * splits * C
    parts_h = parts + SLICES * NG * R
    scales = saved + 2 * G * C
    shifts = scales + NG * C
    pools = shifts + NG * C
    gates = pools + NG * C
    inner = gates + 4 * NG * C  # hidden units: input map, then hidden map
    own = tl.program_id(0) * NG * R
    w1_at = r[None, :] * C + c[:, None]  # (BLOCK_C, R)

    while phase < last:
        if phase == 0:
            w1 = tl.load(wi1 + w1_at).to(tl.float32)
            for first in range(0, NG, BLOCK_N):
                row = first + tl.arange(0, BLOCK_N)
                live = (row < NG)[:, None]
                at = row[:, None] * C + c[None, :]
                pooled, m2 = _merge_moments(
                    moments, row, c, NG, P, T // G * splits, rows, splits, C,
                    BLOCK_C, BLOCK_N)
                tl.store(pools + at, pooled, mask=live)
                tl.store(scales + at, m2, mask=live)  # until there are scales
                tl.store(parts + own + row[:, None] * R + r[None, :],
                         tl.dot(pooled, w1, input_precision=PRECISION),
                         mask=live)
            if has_state != 0:
                w1 = tl.load(wh1 + w1_at).to(tl.float32)
                for n0 in range(0, N, BLOCK_N):
                    n = n0 + tl.arange(0, BLOCK_N)
                    live = (n < N)[:, None]
                    h = tl.load(h0 + n[:, None] * C + c[None, :], mask=live,
                                other=0.).to(tl.float32)
                    tl.store(parts_h + own + n[:, None] * G * R + r[None, :],
                             tl.dot(h, w1, input_precision=PRECISION),
                             mask=live)
            tl.debug_barrier()

            g = tl.arange(0, BLOCK_G)
            at = g[:, None] * C + c[None, :]
            running_at = at if GROUPED else at - g[:, None] * C
            mean = tl.load(running_mean + running_at,
                           mask=(g < G)[:, None], other=0.).to(tl.float32)
            var = tl.load(running_var + running_at,
                          mask=(g < G)[:, None], other=0.).to(tl.float32)
            if TRAINING:
                run_mean = mean
                run_var = var
                mean = _sum_over_clips(pools, N, G, c, 0, 0, C, BLOCK_C,
                                       BLOCK_G) / N
                size = (T // G * P).to(tl.float32)  # values of clip and group
                m2 = _sum_over_clips(scales, N, G, c, 0, 0, C, BLOCK_C,
                                     BLOCK_G)
                m2 += size * _sum_over_clips(
                    pools, N, G, c, 1, mean, C, BLOCK_C, BLOCK_G)
                var = m2 / (size * N)
                _move(new_mean, run_mean, mean, momentum, g, G, c, C, GROUPED)
                _move(new_var, run_var, m2 / (size * N - 1), momentum, g, G,
                      c, C, GROUPED)
                if tl.program_id(0) == 0:
                    tl.store(new_tracked, tl.load(tracked) + 1)
            tl.store(saved + at, mean, mask=(g < G)[:, None])
            tl.store(saved + G * C + at, 1 / tl.sqrt(var + eps),
                     mask=(g < G)[:, None])
        else:
            s = phase - 1
            for n0 in range(0, N, BLOCK_N):
                n = n0 + tl.arange(0, BLOCK_N)
                row = n * G + s
                live = (n < N)[:, None]
                at = row[:, None] * C + c[None, :]
                unit_at = row[:, None] * R + r[None, :]
                u_in = tl.load(bi1 + r).to(tl.float32)[None, :] + (
                    _sum_of_parts(parts, row, n < N, NG, r, R, SLICES))
                u_in = tl.where(u_in < 0, 0., u_in)
                u_h = tl.zeros((BLOCK_N, R), tl.float32) + (
                    tl.load(bh1 + r).to(tl.float32)[None, :])
                if (s > 0) | (has_state != 0):
                    u_h += _sum_of_parts(parts_h, row, n < N, NG, r, R,
                                         SLICES)
                u_h = tl.where(u_h < 0, 0., u_h)
                if tl.program_id(0) == 0:
                    tl.store(inner + unit_at, u_in, mask=live)
                    tl.store(inner + NG * R + unit_at, u_h, mask=live)

                # In a loop, and through memory: all gates' weights at once
                # would not fit into the registers.
                gate_at = row[:, None] * 4 * C + c[None, :]
                for k in range(4):
                    at_k = k * C + c
                    w2_at = at_k[None, :] * R + r[:, None]  # (R, BLOCK_C)
                    gate = tl.dot(u_in, tl.load(wi2 + w2_at).to(tl.float32),
                                  input_precision=PRECISION)
                    gate += tl.dot(u_h, tl.load(wh2 + w2_at).to(tl.float32),
                                   input_precision=PRECISION)
                    gate += (tl.load(bi2 + at_k).to(tl.float32)
                             + tl.load(bh2 + at_k).to(tl.float32))[None, :]
                    if k == 2:  # tanh
                        gate = 2 * tl.sigmoid(2 * gate) - 1
                    else:
                        gate = tl.sigmoid(gate)
                    tl.store(gates + gate_at + k * C, gate, mask=live)
                tl.debug_barrier()
                i = tl.load(gates + gate_at, mask=live, other=0.)
                f = tl.load(gates + gate_at + C, mask=live, other=0.)
                g = tl.load(gates + gate_at + 2 * C, mask=live, other=0.)
                o = tl.load(gates + gate_at + 3 * C, mask=live, other=0.)
                new_c = f * _state_before(shifts, c0, row, G, c, live,
                                          has_state, C) + i * g
                h = o * tl.sigmoid(new_c)
                tl.store(scales + at, h, mask=live)
                tl.store(shifts + at, new_c, mask=live)
                if s + 1 < G:
                    w1 = tl.load(wh1 + w1_at).to(tl.float32)
                    tl.store(parts_h + own + unit_at + R,
                             tl.dot(h, w1, input_precision=PRECISION),
                             mask=live)
        phase += 1
        if phase < last:
            _wait_for_all(scratch, phase * SLICES)


@_kernel
def _merge_moments(moments, row, c, NG, P, U, rows, splits, C: tl.constexpr,
                   BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr):
    """Mean and sum of squares about it, of rows' U units."""
    at = (row * U)[:, None] * C + c[None, :]
    mean = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    size = 0.
    for first in range(0, U, 8):
        for u in tl.static_range(8):
            weight = _unit_size(first + u, U, P, rows, splits)
            live = row < tl.where(first + u < U, NG, 0)
            mean += weight * tl.load(moments + at + (first + u) * C,
                                     mask=live[:, None], other=0.)
            size += weight
    mean /= size
    m2 = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for first in range(0, U, 8):
        for u in tl.static_range(8):
            live = row < tl.where(first + u < U, NG, 0)
            part = tl.load(moments + at + (first + u) * C,
                           mask=live[:, None], other=0.) - mean
            m2 += part * part * _unit_size(first + u, U, P, rows, splits)
            m2 += tl.load(moments + NG * U * C + at + (first + u) * C,
                          mask=live[:, None], other=0.)
    return mean, m2


@_kernel
def _unit_size(u, U, P, rows, splits):
    """How many positions the u-th unit has; none from U on."""
    return tl.where(u < U, tl.minimum(rows, P - u % splits * rows), 0
                    ).to(tl.float32)


@_kernel
def _sum_over_clips(values, N, G, c, SQUARED: tl.constexpr, mean,
                    C: tl.constexpr, BLOCK_C: tl.constexpr,
                    BLOCK_G: tl.constexpr):
    """Sum of rows' values, or of their squares about the mean, (G, C)."""
    g = tl.arange(0, BLOCK_G)
    values += g[:, None] * C + c[None, :]
    total = tl.zeros((BLOCK_G, BLOCK_C), tl.float32)
    for first in range(0, N, 8):
        for n in tl.static_range(8):
            live = (g < tl.where(first + n < N, G, 0))[:, None]
            value = tl.load(values + (first + n) * G * C, mask=live,
                            other=0.)
            if SQUARED:
                value = tl.where(live, value - mean, 0.)
                value *= value
            total += value
    return total


@_kernel
def _move(new, running, batch, momentum, g, G, c, C: tl.constexpr,
          GROUPED: tl.constexpr):
    """Move running statistics, (G, C), towards the batch's."""
    if GROUPED:
        running += momentum * (batch - running)
        tl.store(new + g[:, None] * C + c[None, :],
                 running.to(new.dtype.element_ty), mask=(g < G)[:, None])
    else:  # each group in turn moves the one (C,): later ones weigh more
        weight = tl.where(g < G, momentum, 0.)
        keep = 1. - momentum
        for later in range(1, G):
            weight = tl.where(g < later, weight * (1. - momentum), weight)
            keep *= 1. - momentum
        running = tl.sum(tl.where((g == 0)[:, None], running, 0.), 0)
        tl.store(new + c, (keep * running + tl.sum(
            tl.where((g < G)[:, None], batch * weight[:, None], 0.), 0)).to(
                new.dtype.element_ty))


@_kernel
def _state_before(values, start, row, G, c, live, has_state,
                  C: tl.constexpr):
    """Of rows: the values a step before, or those at the start, or 0."""
    before = tl.load(values + (row[:, None] - 1) * C + c[None, :],
                     mask=live & (row % G > 0)[:, None], other=0.)
    return before + tl.load(
        start + (row // G)[:, None] * C + c[None, :],
        mask=live & (row % G == has_state - 1)[:, None], other=0.
    ).to(tl.float32)


@_kernel
def _relay_gradient_kernel(
        scratch, saved, h0, c0, grad_h, grad_c,
        grad_state, wi1, wi2, wh1, wh2, grad_w, N, P, T, G, splits, has_state,
        has_grad_state, phase, last, C: tl.constexpr, BLOCK_C: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_G: tl.constexpr,
        TRAINING: tl.constexpr, PRECISION: tl.constexpr):
    """The backward pass of the relay.

    Phase p < G is step G - 1 - p, where phase 0 merges the sums of units
    first. Phase G adds up the parts of the hidden units' gradients, and
    phase G + 1 gives the gradients of pooled means and of weights.
    """
    R: tl.constexpr = C // 4
    SLICES: tl.constexpr = C // BLOCK_C
    slice = tl.program_id(0)
    c = slice * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.arange(0, R)
    NG = N * G
    scales = saved + 2 * G * C
    shifts = scales + NG * C
    pools = shifts + NG * C
    gates = pools + NG * C
    inner = gates + 4 * NG * C
    inner_h = inner + NG * R
    sums = scratch + 16
    slopes = sums + 2 * N * T * splits * C
    levels = slopes + G * C
    grad_scales = levels + NG * C
    grad_shifts = grad_scales + NG * C
    carry = grad_shifts + NG * C  # (N, C)
    grad_gates = carry + N * C
    parts = grad_gates + 4 * NG * C
    parts_h = parts + SLICES * NG * R
    grad_inner = parts_h + SLICES * NG * R
    grad_inner_h = grad_inner + NG * R
    own = slice * NG * R
    w1_at = r[:, None] * C + c[None, :]  # (R, BLOCK_C)
    w2_at = c[:, None] * R + r[None, :]  # (BLOCK_C, R)

    while phase < last:
        if phase == 0:
            for first in range(0, NG, BLOCK_N):
                row = first + tl.arange(0, BLOCK_N)
                live = (row < NG)[:, None]
                at = row[:, None] * C + c[None, :]
                tl.store(grad_shifts + at, _sum_of_units(
                    sums, row, c, NG, T // G * splits, C, BLOCK_C, BLOCK_N),
                    mask=live)
                rstd = tl.load(saved + (G + row % G)[:, None] * C
                               + c[None, :])
                tl.store(grad_scales + at, rstd * _sum_of_units(
                    sums + N * T * splits * C, row, c, NG, T // G * splits, C,
                    BLOCK_C, BLOCK_N), mask=live)
            tl.debug_barrier()

            g = tl.arange(0, BLOCK_G)
            live = (g < G)[:, None]
            at = g[:, None] * C + c[None, :]
            rstd = tl.load(saved + G * C + at, mask=live, other=0.)
            slope = tl.zeros((BLOCK_G, BLOCK_C), tl.float32)
            level = slope
            if TRAINING:
                for first in range(0, N, 8):
                    for n in tl.static_range(8):
                        rows_at = (first + n) * G * C + at
                        rows_live = (g < tl.where(first + n < N, G, 0)
                                     )[:, None]
                        scale = tl.load(scales + rows_at, mask=rows_live,
                                        other=0.)
                        slope += scale * tl.load(
                            grad_scales + rows_at, mask=rows_live, other=0.)
                        level += scale * tl.load(
                            grad_shifts + rows_at, mask=rows_live, other=0.)
                count = (T // G * P).to(tl.float32) * N
                slope *= -rstd * rstd / count
                level *= -rstd / count
            tl.store(slopes + at, slope, mask=live)
            for n in range(N):
                tl.store(levels + n * G * C + at, level, mask=live)

        if phase < G:
            s = G - 1 - phase
            for n0 in range(0, N, BLOCK_N):
                n = n0 + tl.arange(0, BLOCK_N)
                row = n * G + s
                live = (n < N)[:, None]
                state_at = n[:, None] * C + c[None, :]
                at = row[:, None] * C + c[None, :]
                unit_at = row[:, None] * R + r[None, :]
                gh = tl.load(grad_scales + at, mask=live, other=0.)
                gc = tl.load(grad_shifts + at, mask=live, other=0.)
                if phase > 0:
                    up = _sum_of_parts(parts_h, row + 1, n < N, NG, r, R,
                                       SLICES)
                    u_h = tl.load(inner_h + unit_at + R, mask=live, other=0.)
                    up = tl.where(u_h <= 0, 0., up)
                    gh += tl.dot(up, tl.load(wh1 + w1_at).to(tl.float32),
                                 input_precision=PRECISION)
                    gc += tl.load(carry + state_at, mask=live, other=0.)
                elif has_grad_state != 0:
                    gh += tl.load(grad_h + state_at, mask=live,
                                  other=0.).to(tl.float32)
                    gc += tl.load(grad_c + state_at, mask=live,
                                  other=0.).to(tl.float32)
                gate_at = row[:, None] * 4 * C + c[None, :]
                i = tl.load(gates + gate_at, mask=live, other=0.)
                f = tl.load(gates + gate_at + C, mask=live, other=0.)
                g = tl.load(gates + gate_at + 2 * C, mask=live, other=0.)
                o = tl.load(gates + gate_at + 3 * C, mask=live, other=0.)
                squashed = tl.sigmoid(
                    tl.load(shifts + at, mask=live, other=0.))
                c_before = _state_before(shifts, c0, row, G, c, live,
                                         has_state, C)
                gc += gh * o * squashed * (1 - squashed)
                di = gc * g * i * (1 - i)
                df = gc * c_before * f * (1 - f)
                dg = gc * i * (1 - g * g)
                do = gh * squashed * o * (1 - o)
                tl.store(carry + state_at, gc * f, mask=live)
                tl.store(grad_gates + gate_at, di, mask=live)
                tl.store(grad_gates + gate_at + C, df, mask=live)
                tl.store(grad_gates + gate_at + 2 * C, dg, mask=live)
                tl.store(grad_gates + gate_at + 3 * C, do, mask=live)
                tl.debug_barrier()
                to_in = tl.zeros((BLOCK_N, R), tl.float32)
                to_h = tl.zeros((BLOCK_N, R), tl.float32)
                for k in range(4):
                    up = tl.load(grad_gates + gate_at + k * C, mask=live,
                                 other=0.)
                    at_k = k * C * R + w2_at
                    to_in = tl.dot(up, tl.load(wi2 + at_k).to(tl.float32),
                                   to_in, input_precision=PRECISION)
                    to_h = tl.dot(up, tl.load(wh2 + at_k).to(tl.float32),
                                  to_h, input_precision=PRECISION)
                tl.store(parts + own + unit_at, to_in, mask=live)
                tl.store(parts_h + own + unit_at, to_h, mask=live)
        elif phase == G:
            for first in range(slice * BLOCK_N, NG, SLICES * BLOCK_N):
                row = first + tl.arange(0, BLOCK_N)
                live = (row < NG)[:, None]
                at = row[:, None] * R + r[None, :]
                up = _sum_of_parts(parts, row, row < NG, NG, r, R, SLICES)
                u = tl.load(inner + at, mask=live, other=0.)
                tl.store(grad_inner + at, tl.where(u <= 0, 0., up),
                         mask=live)
                up = _sum_of_parts(parts_h, row, row < NG, NG, r, R, SLICES)
                u = tl.load(inner_h + at, mask=live, other=0.)
                tl.store(grad_inner_h + at, tl.where(u <= 0, 0., up),
                         mask=live)
        else:
            size = (T // G * P).to(tl.float32)
            w1 = tl.load(wi1 + w1_at).to(tl.float32)
            gw1 = tl.zeros((R, BLOCK_C), tl.float32)
            gwh1 = tl.zeros((R, BLOCK_C), tl.float32)
            gb1 = tl.zeros((R, ), tl.float32)
            gbh1 = tl.zeros((R, ), tl.float32)
            for first in range(0, NG, BLOCK_N):
                row = first + tl.arange(0, BLOCK_N)
                live = (row < NG)[:, None]
                at = row[:, None] * C + c[None, :]
                unit_at = row[:, None] * R + r[None, :]
                up = tl.load(grad_inner + unit_at, mask=live, other=0.,
                             cache_modifier='.cg')
                up_h = tl.load(grad_inner_h + unit_at, mask=live, other=0.,
                               cache_modifier='.cg')
                level = tl.load(levels + at, mask=live, other=0.)
                level += tl.dot(up, w1, input_precision=PRECISION) / size
                tl.store(levels + at, level, mask=live)
                pooled = tl.load(pools + at, mask=live, other=0.)
                h = _state_before(scales, h0, row, G, c, live, has_state, C)
                gw1 += tl.dot(tl.trans(up), pooled, input_precision=PRECISION)
                gwh1 += tl.dot(tl.trans(up_h), h, input_precision=PRECISION)
                gb1 += tl.sum(up, 0)
                gbh1 += tl.sum(up_h, 0)
            tl.store(grad_w + w1_at, gw1.to(grad_w.dtype.element_ty))
            grad_wh = grad_w + 5 * R * C + R + 4 * C
            tl.store(grad_wh + w1_at, gwh1.to(grad_w.dtype.element_ty))
            if slice == 0:
                tl.store(grad_w + R * C + r, gb1.to(grad_w.dtype.element_ty))
                tl.store(grad_wh + R * C + r,
                         gbh1.to(grad_w.dtype.element_ty))
            for k in range(4):
                gw2 = tl.zeros((BLOCK_C, R), tl.float32)
                gwh2 = tl.zeros((BLOCK_C, R), tl.float32)
                gb2 = tl.zeros((BLOCK_C, ), tl.float32)
                for first in range(0, NG, BLOCK_N):
                    row = first + tl.arange(0, BLOCK_N)
                    live = (row < NG)[:, None]
                    unit_at = row[:, None] * R + r[None, :]
                    up = tl.load(
                        grad_gates + row[:, None] * 4 * C + k * C
                        + c[None, :], mask=live, other=0.)
                    u = tl.load(inner + unit_at, mask=live, other=0.)
                    u_h = tl.load(inner_h + unit_at, mask=live, other=0.)
                    gw2 += tl.dot(tl.trans(up), u, input_precision=PRECISION)
                    gwh2 += tl.dot(tl.trans(up), u_h,
                                   input_precision=PRECISION)
                    gb2 += tl.sum(up, 0)
                b1_end = R * C + R
                at = b1_end + k * C * R + w2_at
                tl.store(grad_w + at, gw2.to(grad_w.dtype.element_ty))
                tl.store(grad_wh + at, gwh2.to(grad_w.dtype.element_ty))
                at = b1_end + 4 * C * R + k * C + c
                tl.store(grad_w + at, gb2.to(grad_w.dtype.element_ty))
                tl.store(grad_wh + at, gb2.to(grad_w.dtype.element_ty))
            if has_state != 0:
                w1 = tl.load(wh1 + w1_at).to(tl.float32)
                for n0 in range(0, N, BLOCK_N):
                    n = n0 + tl.arange(0, BLOCK_N)
                    live = (n < N)[:, None]
                    at = n[:, None] * C + c[None, :]
                    up = tl.load(
                        grad_inner_h + n[:, None] * G * R + r[None, :],
                        mask=live, other=0., cache_modifier='.cg')
                    tl.store(grad_state + at,
                             tl.dot(up, w1, input_precision=PRECISION),
                             mask=live)
                    tl.store(grad_state + N * C + at, tl.load(
                        carry + at, mask=live, other=0.), mask=live)
        phase += 1
        if phase < last:
            _wait_for_all(scratch, phase * SLICES)


@_kernel
def _sum_of_units(sums, row, c, NG, U, C: tl.constexpr, BLOCK_C: tl.constexpr,
                  BLOCK_N: tl.constexpr):
    """Sum over the U units of each row."""
    sums += (row * U)[:, None] * C + c[None, :]
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for first in range(0, U, 8):
        for u in tl.static_range(8):
            live = row < tl.where(first + u < U, NG, 0)
            total += tl.load(sums + (first + u) * C, mask=live[:, None],
                             other=0.)
    return total


@functools.lru_cache(None)
def _precision(device):
    """Products of float32 to float32's precision, on tensor cores."""
    if INTERPRETED or torch.cuda.get_device_capability(device) < (8, 0):
        return 'ieee'
    return 'tf32x3'


def _define_compiled_normalize():
    """The kernels as one operator that torch.compile does not look into."""
    if triton is None or not hasattr(torch.library, 'custom_op'):
        return None
    namespace = __name__.replace('.', '_')  # a second copy has its own
    # The operator takes the memory layout that the compiler prefers.
    options = dict(mutates_args=(), tags=[
        tag for tag in [getattr(torch.Tag, 'flexible_layout', None)] if tag])

    def normalize(x: Tensor, h: Optional[Tensor], c: Optional[Tensor],
                  weights: List[Tensor], running_mean: Tensor,
                  running_var: Tensor, tracked: Tensor, n_segment: int,
                  num_groups: int, eps: float, momentum: float,
                  training: bool, relu: bool
                  ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        running = running_mean, running_var, tracked
        updated = tuple(torch.empty_like(buffer) for buffer in running)
        out, new_h, new_c, (saved, ) = _triton_forward(
            x, h, c, weights, running, updated,
            _Spec(n_segment, num_groups, eps, momentum, training, relu))
        # An operator's outputs are not views of one another.
        return (out, torch.stack((new_h, new_c)), saved, *updated)

    def fake_normalize(x, h, c, weights, running_mean, running_var, tracked,
                       n_segment, num_groups, *spec):
        clips, channels = x.size(0) // n_segment, x.size(1)
        vectors = functools.partial(x.new_empty, dtype=torch.float32)
        return (torch.empty_like(x, memory_format=_memory_format(x)),
                vectors((2, clips, channels)),
                vectors(_saved_size(clips, num_groups, channels)),
                torch.empty_like(running_mean), torch.empty_like(running_var),
                torch.empty_like(tracked))

    def gradients(grad_out: Optional[Tensor], grad_state: Optional[Tensor],
                  x: Tensor, h: Optional[Tensor],
                  c: Optional[Tensor], weights: List[Tensor], saved: Tensor,
                  n_segment: int, num_groups: int, eps: float,
                  momentum: float, training: bool, relu: bool
                  ) -> Tuple[Tensor, Tensor, Tensor]:
        grad_h, grad_c = (None, None) if grad_state is None else grad_state
        grad_x, grad_state, grad_weights = _triton_gradients(
            grad_out, grad_h, grad_c, x, h, c, weights, saved,
            _Spec(n_segment, num_groups, eps, momentum, training, relu))
        if h is None:  # not an input
            grad_state = grad_state.new_empty(
                (2, x.size(0) // n_segment, x.size(1)))
        return grad_x, grad_state, grad_weights

    def fake_gradients(grad_out, grad_state, x, h, c, weights, saved,
                       n_segment, *spec):
        state = x.new_empty((2, x.size(0) // n_segment, x.size(1)),
                            dtype=torch.float32)
        return (torch.empty_like(x, memory_format=_memory_format(x)), state,
                weights[0].new_empty(sum(w.numel() for w in weights)))

    normalize = torch.library.custom_op(
        f'{namespace}::normalize', normalize, **options)
    normalize.register_fake(fake_normalize)
    gradients = torch.library.custom_op(
        f'{namespace}::normalize_gradients', gradients, **options)
    gradients.register_fake(fake_gradients)

    def setup_context(ctx, inputs, output):
        x, h, c, weights, _, _, _, *ctx.spec = inputs
        ctx.has_state = h is not None
        ctx.save_for_backward(x, output[2], *weights,
                              *((h, c) if ctx.has_state else ()))

    def backward(ctx, grad_out, grad_state, *_):
        x, saved, *weights = ctx.saved_tensors
        h, c = weights[8:] if ctx.has_state else (None, None)
        grad_x, grad_state, grad_weights = gradients(
            grad_out, grad_state, x, h, c, weights[:8], saved, *ctx.spec)
        return (grad_x, *(grad_state.unbind() if ctx.has_state
                          else (None, None)),
                list(_unflatten_dense_tensors(grad_weights, weights[:8])),
                *[None] * (3 + len(ctx.spec)))

    normalize.register_autograd(backward, setup_context=setup_context)
    return normalize


_compiled_normalize = _define_compiled_normalize()


def _register():
    """Register ResNet_DNR with the host that there is, if any.

    Inside a host's package, by a relative import: '...registry' is
    mmaction.models.registry from mmaction v1's tenons/backbones, and
    mmaction.registry from mmaction2's models/backbones. Elsewhere, by
    whichever of the two is importable.
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
        modules, register = registry.MODELS, (
            lambda cls: registry.MODELS.register_module(module=cls))
    else:
        modules, register = (registry.BACKBONES,
                             registry.BACKBONES.register_module)
    # Beside a host that has the file inside as well, the first one counts.
    if 'ResNet_DNR' not in modules.module_dict:
        register(ResNet_DNR)


_register()
