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
  differ, and its evaluation can be far below its training
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
import math
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
# Before 3.5, of an atomic operation's results only some threads had theirs
# (triton-lang/triton#7402).
TRITON_FITS = INTERPRETED or triton is not None and tuple(
    map(int, triton.__version__.split('.')[:2])) >= (3, 5)


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

    def gathered_weights(self):
        """All parameters in one vector, in the order of :meth:`weights`.

        For each layer that uses it, autograd adds up one gradient, not eight.
        """
        return torch.cat([weight.flatten() for weight in self.weights()])

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

    def normalize(self, x, relay, state=None, weights=None):
        """Standardize, then scale and shift by what the relay cell predicts.

        Args:
            x (Tensor): (N * T, C, H, W).
            relay (RelayCell): the cell, of C channels.
            state (tuple | Tensor | None): its state, see :class:`RelayCell`;
                both tensors as one, (2, N, C), will do.
            weights (Tensor | None): :meth:`RelayCell.gathered_weights`,
                where several layers share the cell.

        Returns:
            tuple: the output, shaped and typed like x, and the new state, a
            pair or both as one.

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
        if state is not None and not isinstance(state, Tensor):
            state = torch.stack(tuple(state))
        weights = relay.weights() if weights is None else [weights]
        if _is_compiling():
            out, state, _, *updated = _compiled_normalize(
                x, state, weights, *running, *spec)
            if self.training:
                for buffer, new in zip(running, updated):
                    # To autograd all of an operator's outputs are functions.
                    buffer.copy_(new.detach())
        else:
            out, state = _Normalize.apply(
                backend, spec, running, x, state, *weights)
        return out, state

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

    def forward(self, x, relay, state=None, weights=None):
        """x (N * T, C, H, W) to the output of the same shape, and the state.

        See :meth:`DynamicNorm.normalize`; the state is None before the first
        block.
        """
        return self.normalize(x, relay, state, weights)


class Block(nn.Module):
    """What BasicBlock and Bottleneck share: the relay and checkpointing.

    ``bn1``, after the first convolution, is the cross-layer normalization
    where there is one; ``bn2``, after the second, the cross-temporal one.
    """

    def forward(self, x, relay=None, state=None, weights=None):
        """Run the block.

        Args:
            x (Tensor): (N * T, C_in, H, W).
            relay (RelayCell | None): the stage's cross-layer cell; None
                where bn1 is an ordinary BatchNorm.
            state (tuple | Tensor | None): the cell's state after the block
                before.
            weights (Tensor | None): the cell's, gathered.

        Returns:
            tuple: output (N * T, C_out, H', W') and the new state.
        """
        if not (self.with_cp and torch.is_grad_enabled()):
            return self._forward(x, relay, state, weights)
        recomputing = False

        def run(*args):
            nonlocal recomputing
            if recomputing:
                with _restored_buffers(self):
                    return self._forward(*args)
            recomputing = True
            return self._forward(*args)

        # A compiled graph updates buffers once by itself.
        return torch.utils.checkpoint.checkpoint(
            self._forward if _is_compiling() else run, x, relay, state,
            weights, use_reentrant=False)

    @staticmethod
    def _with_relu(norm):
        """A dynamic norm that a ReLU follows applies it in the same pass."""
        if isinstance(norm, DynamicNorm):
            norm.relu = True
        return norm

    def _first_norm(self, out, relay, state, weights):
        """bn1 and ReLU."""
        if relay is None:
            return self.relu(self.bn1(out)), state
        return self.bn1(out, relay, state, weights)


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

    def _forward(self, x, relay, state, weights):
        out, state = self._first_norm(self.conv1(x), relay, state, weights)
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

    def _forward(self, x, relay, state, weights):
        out, state = self._first_norm(self.conv1(x), relay, state, weights)
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
        state = weights = None
        if self.relay is not None and x.is_cuda and torch.is_grad_enabled():
            weights = self.relay.gathered_weights()
        for i in range(self.num_blocks):
            x, state = getattr(self, str(i))(x, self.relay, state, weights)
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
        change_layout = (self.dnr != 'none' and x.is_cuda and _is_compiling()
                         and not _is_exporting() and torch.channels_last
                         not in map(_memory_format, (x, self.conv1.weight)))
        if change_layout:
            # A compiler chooses the layout for its convolutions, but a
            # kernel of this file gets images in the layout that was traced:
            # they would be copied before and after each.
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        outs = []
        for i, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x.contiguous() if change_layout else x)
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
    """Whether torch.export traces this call.

    torch.compiler.is_exporting() is True for torch.compile as well before
    torch 2.13.
    """
    return getattr(getattr(torch, 'compiler', None), '_is_exporting_flag',
                   False)


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

    * 'triton': fused kernels on CUDA, two forward and two backward, each
      one pass over the images. float32, float16 and bfloat16.
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
                choice, f' ({why_not})' if why_not else
                ', compiled at first use' if choice == 'triton' else '')


def _why_not_triton(device, dtype, weight_dtype, channels, compiling):
    """Why the kernels cannot do this; None where they can."""
    if triton is None:
        return 'triton is not installed'
    if not TRITON_FITS:
        return f'triton {triton.__version__} is older than 3.5'
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
    """A backend's forward and hand-written backward pass.

    The state, (2, N, C) or None, is h and c. The weights are a relay cell's
    eight, or all of them in one vector.
    """

    @staticmethod
    def forward(ctx, backend, spec, running, x, state, *weights):
        ctx.set_materialize_grads(False)
        ctx.spec, ctx.plan = spec, None
        if backend == 'triton':
            ctx.plan = _plan_of(x, weights, running, spec)
            out, new_state, *saved = _triton_forward(
                ctx.plan, x, state, weights, running, running)
        else:
            with _without_autocast(x.device.type):
                out, new_state, *saved = _aten_forward(
                    x, state, weights, running, spec)
        ctx.save_for_backward(x, state, *weights, *saved)
        ctx.num_weights = len(weights)
        return out, new_state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out, grad_state):
        x, state, *rest = ctx.saved_tensors
        weights, saved = rest[:ctx.num_weights], rest[ctx.num_weights:]
        if ctx.plan is not None:
            grad_x, grad_state, grad_weights = _triton_gradients(
                ctx.plan, grad_out, grad_state, x, state, weights, *saved)
            grad_weights = (
                [grad_weights] if len(weights) == 1 else
                _unflatten_dense_tensors(grad_weights, weights))
        else:
            with _without_autocast(x.device.type):
                grad_x, grad_state, grad_weights = _aten_backward(
                    grad_out, grad_state, x, state, weights, saved, ctx.spec)
        return (None, None, None, grad_x, grad_state, *grad_weights)


class _Plan(NamedTuple):
    """How the kernels go over images of one shape and layout."""
    memory_format: torch.memory_format
    copy: bool  # whether the images have another layout and must be copied
    clips: int
    groups: int
    offsets: tuple  # of the relay's weights where they are one vector
    saved_size: int
    scratch_size: int
    back_size: int  # of the backward's scratch
    tickets: int
    weights_size: int
    moments: '_Launch'
    apply: '_Launch'
    gradient_sums: '_Launch'
    gradients: '_Launch'


@functools.lru_cache(None)
def _plan(shape, stride, device, dtype, grouped, dtypes, spec):
    images, C, height, width = shape
    x = torch.empty_strided(shape, stride, device='meta')
    memory_format = _memory_format(x)
    N = images // spec.n_segment
    G = spec.num_groups
    t = spec.n_segment // G
    rows = N * G
    last = memory_format == torch.channels_last
    if last:
        P, frames = t * height * width, 1
        tile = 64, 64
    else:
        P, frames = height * width, t
        block_p = min(4096, max(16, triton.next_power_of_2(P)))
        tile = min(64, 4096 // block_p), block_p
    tiles = C // tile[0]
    chunks = frames * -(-P // tile[1])

    def split(programs):
        """How many units for some number of programs, and their chunks."""
        span = -(-chunks // max(1, programs // (rows * tiles)))
        return -(-chunks // span), span

    # The relay's programs are few, and large weights need many threads.
    warps = 8 if C < 256 else 16
    # Sums: about 512 threads for each processor of a large GPU, with long
    # runs.
    units, span = split(2048 // warps)
    # And registers for as many. The relay of 128 channels spills some then,
    # which takes longer than what fewer threads cost, except where many
    # programs read short planes.
    registers = None if last and C >= 128 else 128
    sums = (rows * units * tiles, 1, 1), (N, P, G, frames, units, span)
    constants = (C, *tile, last)
    # Large weights need more than one processor, too, to be read. Programs
    # that wait for one another must find room at one time. They have half of
    # the processors, so that two such kernels at once always do; more rely on
    # a GPU to begin all programs of one kernel before those of the next.
    team = 1
    while (C >= 256 and team < C // 64
           and 4 * N * team <= _num_processors(device)):
        team *= 2
    # Elementwise: many, which hide one another's waiting.
    many, short = split(4096)
    numbers = (N, P, G, frames, many, short)
    weight_programs = 10 * (C // 64) * max(1, C // 256)
    R = C // 4
    sizes = 2 * (R * C, R, 4 * C * R, 4 * C)
    of_units = 2 * rows * units * C if units > 1 else 0
    of_team = 2 * rows * team * R
    return _Plan(
        memory_format=memory_format,
        copy=not x.is_contiguous(memory_format=memory_format),
        clips=N,
        groups=G,
        offsets=tuple(sum(sizes[:i]) for i in range(8)),
        saved_size=_saved_size(N, G, C),
        scratch_size=rows * C + of_units + of_team,
        back_size=((2 * N + 2 * G + 7 * rows) * C + 2 * rows * R + of_units
                   + of_team),
        tickets=N + tiles + (rows * tiles if units > 1 else 0),
        weights_size=sum(sizes),
        moments=_Launch(
            _moments_kernel, sums[0], (*sums[1], spec.eps, spec.momentum),
            (*constants, units > 1, team, 512 * warps, spec.training,
             # One group is the same either way.
             G == 1 or grouped), warps, registers),
        apply=_Launch(_apply_kernel, (rows * many * tiles, 1, 1), numbers,
                      (*constants, spec.relu)),
        gradient_sums=_Launch(
            _gradient_sums_kernel, *sums,
            (*constants, units > 1, team, 512 * warps, spec.training,
             spec.relu),
            warps, registers),
        gradients=_Launch(
            _gradients_kernel,
            (weight_programs + rows * many * tiles, 1, 1), numbers,
            (*constants, spec.relu, weight_programs)))


@functools.lru_cache(None)
def _num_processors(device):
    """How many programs run at once, at least; in the interpreter, one."""
    if INTERPRETED:
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _plan_of(x, weights, running, spec):
    """The plan for images, and a relay's weights and running statistics.

    Triton compiles for dtypes, so they are part of what a plan is for.
    """
    grouped = bool(running) and running[0].dim() == 2
    return _plan(x.shape, x.stride(), x.device, x.dtype, grouped, tuple(
        [tensor.dtype for tensor in (*weights, *running)]), spec)


def _memory_format(x):
    """The layout of a tensor's memory; contiguous where it is another."""
    if not x.is_contiguous() and x.is_contiguous(
            memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _saved_size(clips, groups, channels):
    """What `saved` holds, as the comment on the kernels says."""
    rows = clips * groups
    return (2 * groups + 7 * rows) * channels + 2 * rows * (channels // 4)


class _Launch:
    """A kernel and all that it takes but tensors and flags.

    Triton looks at every argument of every launch to find the compiled
    kernel, which takes longer than many a kernel runs. A plan has one shape,
    layout, device and set of dtypes; what may differ yet is where a tensor
    begins: at a multiple of 16 bytes, or Triton looks. Past it, Triton's
    launch hooks, which its profiler sets, see only a kernel's first launch.
    """

    def __init__(self, kernel, grid, numbers, constants, warps=8,
                 registers=128):
        self.kernel, self.grid = kernel, grid
        self.numbers, self.constants = numbers, constants
        self.warps, self.registers = warps, registers
        self.compiled = None

    def __call__(self, plan, stream, tensors, weights=(), flags=()):
        """Launch it.

        Args:
            plan (_Plan): whose kernel it is.
            stream (int | None): the current one of the tensors' device;
                None in the interpreter, and where a compiler looks on.
            tensors (Sequence[Tensor]): the first arguments.
            weights (Sequence[Tensor]): of a relay cell, eight or one.
            flags (tuple[int]): the last arguments before the constants.
        """
        if stream is None:
            self.launch_visibly(plan, tensors, weights, flags)
            return
        pointers = [tensor.data_ptr() for tensor in tensors]
        if len(weights) == 1:
            base, size = weights[0].data_ptr(), weights[0].element_size()
            pointers += [base + size * offset for offset in plan.offsets]
        else:
            pointers += [weight.data_ptr() for weight in weights]
        aligned = not functools.reduce(operator.or_, pointers) % 16
        compiled = self.compiled
        if compiled is not None and aligned:
            compiled.run(*self.grid, stream, compiled.function,
                         compiled.packed_metadata, None, None, None,
                         *pointers, *self.numbers, *flags, *self.constants)
            return
        compiled = self.launch(self.kernel, plan, tensors, weights, flags,
                               maxnreg=self.registers)
        if aligned:
            self.compiled = compiled

    def launch(self, kernel, plan, tensors, weights, flags, **options):
        """Launch `kernel`, it or what a compiler sees in its place."""
        if len(weights) == 1:
            weights = [weights[0][offset:] for offset in plan.offsets]
        return kernel[self.grid](
            *tensors, *weights, *self.numbers, *flags, *self.constants,
            num_warps=self.warps, **options)

    def launch_visibly(self, plan, tensors, weights, flags):
        """Launch it so that a compiler sees it; or in the interpreter.

        The compiler of torch 2.11 does not take maxnreg.
        """
        kernel = self.kernel
        if not INTERPRETED:
            kernel = torch.library.wrap_triton(kernel)
        elif isinstance(tensors[0], torch._subclasses.FakeTensor):
            return
        self.launch(kernel, plan, tensors, weights, flags)


_workspaces = {}


def _workspace(plan, device, stream, alone):
    """Tickets, all 0, and room for what lives within one kernel.

    The kernels of a stream run one after another and leave the tickets as
    they were, so that all share one workspace. What is captured in a CUDA
    graph, or compiled, may run beside them: with `alone` it gets its own.
    """
    tickets, scratch = _workspaces.get((device, stream), (None, None))
    if alone or tickets is None or tickets.numel() < plan.tickets:
        tickets = torch.zeros(plan.tickets, dtype=torch.int32, device=device)
    if alone or scratch is None or scratch.numel() < plan.scratch_size:
        scratch = torch.empty(plan.scratch_size, device=device,
                              dtype=torch.float32)
    if not alone:
        _workspaces[device, stream] = tickets, scratch
    return tickets, scratch


def _stream_of(x):
    """The current stream of its device, and whether a graph captures it."""
    if not x.is_cuda:
        return None, False
    return (torch._C._cuda_getCurrentRawStream(x.device.index),
            torch._C._cuda_isCurrentStreamCapturing())


def _triton_forward(plan, x, state, weights, running, updated, traced=False):
    """Normalize by the kernels.

    Args:
        plan (_Plan): of all this, see :func:`_plan_of`.
        x (Tensor): (N * T, C, H, W), on CUDA.
        state (Tensor | None): the relay's state, (2, N, C), or None.
        weights (Sequence[Tensor]): the relay cell's eight parameters, or all
            of them in one vector.
        running (tuple[Tensor]): running mean and variance, and the number of
            batches tracked.
        updated (tuple[Tensor]): where training writes the new ones, which
            may be the same.
        traced (bool): in a way that a compiler can look into, and nothing
            is taken that is kept between calls.

    Returns:
        tuple: out, the state after the last step, and what the backward pass
        needs.
    """
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        with torch.cuda.device(x.device):  # where Triton launches
            return _triton_forward(plan, x, state, weights, running, updated,
                                   traced)
    weights = [weight.contiguous() for weight in weights]
    if plan.copy:
        x = x.contiguous(memory_format=plan.memory_format)
    stream, alone = (None, True) if traced else _stream_of(x)
    tickets, scratch = _workspace(plan, x.device, stream, alone)
    saved = torch.empty(plan.saved_size, dtype=torch.float32, device=x.device)
    out = torch.empty_like(x)
    has_state = state is not None
    if has_state:
        state = state.float().contiguous()
    plan.moments(
        plan, stream, (x, saved, scratch, tickets,
                       state if has_state else saved, *running, *updated),
        weights, (int(has_state), ))
    plan.apply(plan, stream, (x, out, saved))
    # Of scales and shifts, (N, G, C) each, the last step's.
    N, G, C = plan.clips, plan.groups, x.size(1)
    new_state = saved.as_strided(
        (2, N, C), (N * G * C, G * C, 1), (3 * G - 1) * C)
    return out, new_state, saved


def _triton_gradients(plan, grad_out, grad_state, x, state, weights, saved,
                      traced=False):
    """Gradients by the kernels.

    Args:
        grad_out, grad_state (Tensor | None): of the outputs.
        plan, x, state, weights, saved, traced: as :func:`_triton_forward`
            takes and gives them.

    Returns:
        tuple: the gradients of x; of the state, (2, N, C), or, without one,
        None (a tensor that says nothing, if traced); and of all weights in
        one vector.
    """
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        with torch.cuda.device(x.device):
            return _triton_gradients(plan, grad_out, grad_state, x, state,
                                     weights, saved, traced)
    weights = [weight.contiguous() for weight in weights]
    if plan.copy:
        x = x.contiguous(memory_format=plan.memory_format)
    if grad_out is None:
        grad_out = torch.zeros_like(x)
    elif grad_out.stride() != x.stride():
        grad_out = grad_out.contiguous(memory_format=plan.memory_format)
    stream, alone = (None, True) if traced else _stream_of(x)
    tickets, _ = _workspace(plan, x.device, stream, alone)
    # One kernel leaves something for the other, and another thread may
    # launch kernels in between: not of the workspace.
    scratch = torch.empty(plan.back_size, dtype=torch.float32,
                          device=x.device)
    grad_x = torch.empty_like(x)
    grad_weights = torch.empty(plan.weights_size, dtype=weights[0].dtype,
                               device=x.device)
    has_state = state is not None
    state = state.float().contiguous() if has_state else saved
    # To a compiler, no tensor may be two arguments that a kernel writes to.
    new_grad_state = torch.empty(
        (2, plan.clips, x.size(1)), dtype=torch.float32,
        device=x.device) if has_state or traced else None
    has_grad_state = grad_state is not None
    grad_state = (grad_state.float().contiguous() if has_grad_state
                  else saved)
    plan.gradient_sums(
        plan, stream, (x, grad_out, saved, scratch, tickets, state,
                       grad_state, scratch if new_grad_state is None
                       else new_grad_state), weights,
        (int(has_state), int(has_grad_state)))
    plan.gradients(
        plan, stream,
        (x, grad_out, grad_x, saved, scratch, state, grad_weights), (),
        (int(has_state), ))
    return grad_x, new_grad_state, grad_weights


# As in autograd's own: a NaN in the output lets the gradient pass.
_relu_backward = torch.ops.aten.threshold_backward
_sigmoid_backward = torch.ops.aten.sigmoid_backward
_tanh_backward = torch.ops.aten.tanh_backward


def _aten_forward(x, state, weights, running, spec):
    """Standardize x, then scale and shift by what the relay cell predicts.

    Every pass over x is an elementwise operation or a sum over planes (H, W)
    with one value a plane beside it, which is fast in any memory format.
    All but the squares' temporary work in place on the output.

    Returns:
        tuple: out, the state, and the tensors that the backward needs.
    """
    weights = _eight(weights, x.size(1))
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
    steps = _relay_forward(pooled.to(weights[0].dtype), state, weights)
    scales, shifts = (v.to(groups.dtype) for v in steps[:2])
    centered.mul_((scales * rstd)[:, :, None, :, None, None])
    centered.add_(shifts[:, :, None, :, None, None])
    if spec.relu:
        out.relu_()
    out = out.to(x.dtype)
    saved = [mean, rstd, *steps, *([out] if spec.relu else [])]
    return out, torch.stack((steps[0][:, -1], steps[1][:, -1])), *saved


def _aten_backward(grad_out, grad_state, x, state, weights, saved, spec):
    """Gradients of x, of the state and of the weights (a list).

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
    grad_pooled, grad_state, grad_weights = _relay_backward(
        grad_scale.to(steps[0].dtype), grad_shift.to(steps[0].dtype),
        grad_state, state, _eight(weights, x.size(1)), steps)
    if len(weights) == 1:
        grad_weights = [torch.cat([g.flatten() for g in grad_weights])]
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
    return centered.to(x.dtype).flatten(0, 2), grad_state, grad_weights


def _eight(weights, channels):
    """A relay cell's weights, also where they are given in one vector."""
    if len(weights) == 8:
        return weights
    inner = channels // 4
    shapes = 2 * ((inner, channels), (inner, ), (4 * channels, inner),
                  (4 * channels, ))
    parts = weights[0].split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes)]


def _in_groups(x, spec):
    """View (N * T, C, H, W) as (N, G, t, C, H, W); halves as float32."""
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    return x.view(-1, spec.num_groups, spec.n_segment // spec.num_groups,
                  *x.shape[1:])


def _sums(groups):
    """Sum over frames and positions, (N, G, C); slower in one step."""
    return groups.sum(dim=(4, 5)).sum(2)


def _relay_forward(x, state, weights):
    """RelayCell.forward.

    Returns:
        tuple: scales and shifts, (N, S, C), and what the backward needs
        besides: x, the inputs of the two second layers, (N, S, C / 4), and
        the gates before their nonlinearities, (N, S, 4C).
    """
    in1, in1_bias, in2, in2_bias, hid1, hid1_bias, hid2, hid2_bias = weights
    linear = torch.nn.functional.linear
    if state is None:
        state = x.new_zeros(2, x.size(0), x.size(2))
    h, c = state
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


def _relay_backward(grad_scales, grad_shifts, grad_state, state, weights,
                    steps):
    """Gradients of the relay's input, state and weights (a list)."""
    scales, shifts, x, inner, hiddens, gates = steps
    in1, _, in2, _, hid1, _, hid2, _ = weights
    has_state = state is not None
    h, c = state if has_state else x.new_zeros(2, x.size(0), x.size(2))
    grad_h, grad_c = (None, None) if grad_state is None else grad_state
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
    return ((grad_inner @ in1).view_as(x),
            torch.stack((grad_h, grad_c)) if has_state else None,
            grad_weights)


def _kernel(function):
    """A Triton kernel; a function that nobody calls without Triton."""
    if triton is None:
        return function
    # These would compile anew for values that change nothing.
    names = [name for name in ('N', 'G', 'frames', 'U', 'span', 'has_state',
                               'has_grad_state')
             if name in function.__code__.co_varnames[
                 :function.__code__.co_argcount]]
    return triton.jit(function, do_not_specialize=names)


# Triton kernels. Images are read in chunks of channels by positions. A row,
# n * G + g, is the frames of group g of clip n: `frames` planes of P
# positions, or, with channels last, one plane of all its frames' positions.
# A program takes `span` of a row's chunks, so that U of them share a row;
# BLOCK_C of the channels; and all positions in turns of BLOCK_P. Everything
# else is float32 vectors. `saved`, for the backward pass, holds means and
# inverse deviations (G, C), scales, shifts and pooled means (N, G, C), gates
# (N, G, 4C), and the hidden units of both maps (N, G, C / 4).
#
# The relay needs the sums over all of a clip's rows. Each program draws a
# ticket when it is done, and whoever draws the last one goes on with what all
# have written. There is a counter for each clip, each tile of channels, and,
# where programs share a row, each row and tile, in this order. Of a clip, the
# last TEAM programs go on, its team, each with a slice of the channels: the
# first layer of a map gives partial sums of its hidden units for each slice,
# which all members add up, and the second layer the gates of a slice. Here
# programs wait for one another; nothing else does.

@_kernel
def _place(id, P, frames, U, span, C: tl.constexpr, BLOCK_C: tl.constexpr,
           BLOCK_P: tl.constexpr, LAST: tl.constexpr):
    """Of a program: row, unit, tile of channels, the channels and their
    offsets, and its first and last chunk."""
    TILES: tl.constexpr = C // BLOCK_C
    tile = id % TILES
    unit = id // TILES % U
    row = id // TILES // U
    c = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    offset = row.to(tl.int64) * frames * C * P + (c if LAST else c * P)
    first = unit * span
    stop = tl.minimum(first + span, frames * tl.cdiv(P, BLOCK_P))
    return row, unit, tile, c, offset[:, None], first, stop


@_kernel
def _chunk(k, offset, P, C: tl.constexpr, BLOCK_P: tl.constexpr,
           LAST: tl.constexpr):
    """Offsets of the k-th chunk of a row, and which of them there are."""
    turns = tl.cdiv(P, BLOCK_P)
    p = k % turns * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    plane = (k // turns).to(tl.int64) * C * P
    return offset + plane + (p.to(tl.int64) * C if LAST else p), p < P


@_kernel
def _positions(first, stop, P, BLOCK_P: tl.constexpr):
    """How many positions the chunks from the first to the last have."""
    turns = tl.cdiv(P, BLOCK_P)
    before = first // turns * P + first % turns * BLOCK_P
    return 1. * (stop // turns * P + stop % turns * BLOCK_P - before)


@_kernel
def _is_last(ticket, count):
    """Whether this program is the last of count to come here.

    Tickets are 0 before and after. What the others have written before they
    came can be read afterwards.
    """
    tl.debug_barrier()
    last = tl.atomic_add(ticket, 1, sem='acq_rel', scope='gpu') == count - 1
    if last:
        tl.store(ticket, 0)
    tl.debug_barrier()
    return last


@_kernel
def _is_last_and_number(tickets, at0, count0, at1):
    """_is_last for the first of two tickets, and the number of the second.

    They are drawn at once: drawing one takes a while.
    """
    tl.debug_barrier()
    which = tl.arange(0, 2)
    ticket = tickets + tl.where(which == 0, at0, at1)
    drawn = tl.atomic_add(ticket, 1, sem='acq_rel', scope='gpu')
    last = (drawn == count0 - 1) & (which == 0)
    tl.store(ticket, 0, mask=last)
    last = tl.sum(tl.where(last, 1, 0), 0) == 1
    number = tl.sum(tl.where(which == 0, 0, drawn), 0)
    tl.debug_barrier()
    return last, number


@_kernel
def _wait_for(ticket, count):
    """Wait until so many have been drawn."""
    while tl.atomic_add(ticket, 0, sem='acquire', scope='gpu') < count:
        pass
    tl.debug_barrier()


@_kernel
def _join(ticket, drawn, TEAM: tl.constexpr):
    """Wait for the team; returns how many tickets have been drawn by then.

    Where a team is one program, its threads wait for one another.
    """
    tl.debug_barrier()
    if TEAM > 1:
        drawn += TEAM
        tl.atomic_add(ticket, 1, sem='release', scope='gpu')
        _wait_for(ticket, drawn)
    return drawn


@_kernel
def _leave(ticket, drawn, TEAM: tl.constexpr):
    """The last one of the team sets its ticket to 0."""
    if TEAM > 1:
        last = tl.atomic_add(ticket, 1, sem='relaxed',
                             scope='gpu') == drawn + TEAM - 1
    else:
        last = True
    if last:
        tl.store(ticket, 0)


@_kernel
def _moments_kernel(
        x, saved, scratch, tickets, state, running_mean, running_var,
        tracked, new_mean, new_var, new_tracked, wi1, bi1, wi2, bi2, wh1, bh1,
        wh2, bh2, N, P, G, frames, U, span, eps, momentum, has_state,
        C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
        LAST: tl.constexpr, SPLIT: tl.constexpr, TEAM: tl.constexpr,
        WIDTH: tl.constexpr, TRAINING: tl.constexpr, GROUPED: tl.constexpr):
    """Moments of each row; then the statistics and the relay.

    Sums are taken of values less the mean of the first of K chunks, which is
    at most sqrt(K) standard deviations from that of all: little cancels.
    `scratch` has the rows' sums of squares about their means (N, G, C), then
    the units' means, and their sums of squares, (N, G, U, C); where nothing
    is split, the team's partial sums instead, else behind them.
    """
    TILES: tl.constexpr = C // BLOCK_C
    row, unit, tile, c, offset, first, stop = _place(
        tl.program_id(0), P, frames, U, span, C, BLOCK_C, BLOCK_P, LAST)
    NG = N * G
    pools = saved + 2 * G * C + 2 * NG * C

    at, live = _chunk(first, offset, P, C, BLOCK_P, LAST)
    value = tl.load(x + at, mask=live, other=0.).to(tl.float32)
    about = tl.sum(value, 1) / _positions(first, first + 1, P, BLOCK_P)
    about = tl.where(about - about == 0, about, 0.)  # not inf, not NaN
    value = tl.where(live, value - about[:, None], 0.)
    sums = value
    squares = value * value
    for k in tl.range(first + 1, stop, loop_unroll_factor=4):
        at, live = _chunk(k, offset, P, C, BLOCK_P, LAST)
        value = tl.load(x + at, mask=live, other=0.).to(tl.float32)
        value = tl.where(live, value - about[:, None], 0.)
        sums += value
        squares += value * value
    total = tl.sum(sums, 1)
    size = _positions(first, stop, P, BLOCK_P)
    mean = about + total / size
    m2 = tl.sum(squares, 1) - total * total / size
    m2 = tl.where(m2 < 0, 0., m2)
    m2s = scratch
    partials = scratch + NG * C
    chunks = frames * tl.cdiv(P, BLOCK_P)
    if SPLIT:
        units = partials + row * U * C
        partials += 2 * NG * U * C
        tl.store(units + unit * C + c, mean)
        tl.store(units + NG * U * C + unit * C + c, m2)
        if not _is_last(tickets + N + TILES + row * TILES + tile, U):
            return
        mean, m2 = _merge_moments(units, units + NG * U * C, C, U, span,
                                  chunks, P, c, BLOCK_P)
    tl.store(pools + row * C + c, mean)
    tl.store(m2s + row * C + c, m2)

    n = row // G
    of_tile, number = _is_last_and_number(tickets, N + tile, NG, n)
    if of_tile:
        _statistics(saved, pools, m2s, running_mean, running_var, tracked,
                    new_mean, new_var, new_tracked, c, N, G, chunks, P, eps,
                    momentum, tile, C, BLOCK_P, TRAINING, GROUPED)
    member = number - (G * TILES - TEAM)
    if member < 0:
        return
    _relay(saved, partials, state, wi1, bi1, wi2, bi2, wh1, bh1, wh2, bh2,
           tickets + n, G * TILES, member, n, N, G, has_state, C, TEAM, WIDTH)


@_kernel
def _merge_moments(means, m2s, stride, count, span, chunks, P, c,
                   BLOCK_P: tl.constexpr):
    """Mean and sum of squares about it of parts, `count` of span chunks.

    The last part ends at `chunks`. As in a program, sums are about the mean
    of the first.
    """
    BLOCK: tl.constexpr = 16
    about = tl.load(means + c)
    about = tl.where(about - about == 0, about, 0.)
    total = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    squares = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    for first in range(0, count, BLOCK):
        k = first + tl.arange(0, BLOCK)
        live = (k < count)[:, None]
        at = k[:, None] * stride + c[None, :]
        size = _positions(k * span, tl.minimum((k + 1) * span, chunks), P,
                          BLOCK_P)[:, None]
        mean = tl.load(means + at, mask=live, other=0.)
        m2 = tl.load(m2s + at, mask=live, other=0.)
        part = tl.where(live, mean - about[None, :], 0.)
        total += size * part
        squares += m2 + size * part * part
    size = _positions(0, chunks, P, BLOCK_P)
    total = tl.sum(total, 0)
    m2 = tl.sum(squares, 0) - total * total / size
    return about + total / size, tl.where(m2 < 0, 0., m2)


@_kernel
def _statistics(saved, pools, m2s, running_mean, running_var, tracked,
                new_mean, new_var, new_tracked, c, N, G, chunks, P, eps,
                momentum, tile, C: tl.constexpr, BLOCK_P: tl.constexpr,
                TRAINING: tl.constexpr, GROUPED: tl.constexpr):
    """Of some channels: what standardizes, and the new running statistics.

    A shared one (C,) is moved by each group in turn.
    """
    # A compiler makes them float64.
    eps = tl.full((), eps, tl.float32)
    momentum = tl.full((), momentum, tl.float32)
    size = _positions(0, N * chunks, P, BLOCK_P)  # of a group
    run_mean = tl.load(running_mean + c).to(tl.float32)
    run_var = tl.load(running_var + c).to(tl.float32)
    for g in range(G):
        if GROUPED:
            run_mean = tl.load(running_mean + g * C + c).to(tl.float32)
            run_var = tl.load(running_var + g * C + c).to(tl.float32)
        if TRAINING:
            mean, m2 = _merge_moments(pools + g * C, m2s + g * C, G * C, N,
                                      chunks, N * chunks, P, c, BLOCK_P)
            var = m2 / size
            run_mean += momentum * (mean - run_mean)
            run_var += momentum * (m2 / (size - 1) - run_var)
            if GROUPED:
                tl.store(new_mean + g * C + c, run_mean.to(
                    new_mean.dtype.element_ty))
                tl.store(new_var + g * C + c, run_var.to(
                    new_var.dtype.element_ty))
        else:
            mean = run_mean
            var = run_var
        tl.store(saved + g * C + c, mean)
        tl.store(saved + (G + g) * C + c, 1 / tl.sqrt(var + eps))
    if TRAINING:
        if not GROUPED:
            tl.store(new_mean + c, run_mean.to(new_mean.dtype.element_ty))
            tl.store(new_var + c, run_var.to(new_var.dtype.element_ty))
        if tile == 0:
            tl.store(new_tracked, tl.load(tracked) + 1)


# The relay's products are of one vector, or four, and a matrix that is read
# once, in blocks of up to WIDTH values, 16 to a thread. Waiting for them is
# what takes the time: several are under way at once, with no store between.

@_kernel
def _four_rows(n, first, G):
    """Of four steps of clip n; where fewer are left, the last is repeated."""
    return (n * G + first, n * G + tl.minimum(first + 1, G - 1),
            n * G + tl.minimum(first + 2, G - 1),
            n * G + tl.minimum(first + 3, G - 1))


@_kernel
def _partial_units(values, weight, own, used, C: tl.constexpr,
                   SLICE: tl.constexpr, WIDTH: tl.constexpr):
    """(R,): of weight (R, C) times values (C,), what a slice gives.

    `used` of its channels, all or 0, count.
    """
    R: tl.constexpr = C // 4
    BLOCK: tl.constexpr = WIDTH // R if WIDTH // R < SLICE else SLICE
    weight += tl.arange(0, R)[:, None] * C
    total = tl.zeros((R, BLOCK), tl.float32)
    for first in tl.range(0, used, BLOCK, loop_unroll_factor=4):
        c = own + first + tl.arange(0, BLOCK)
        total += tl.load(weight + c[None, :]).to(
            tl.float32) * tl.load(values + c)[None, :]
    return tl.sum(total, 1)


@_kernel
def _four_partial_units(values, row0, row1, row2, row3, weight, own,
                        C: tl.constexpr, SLICE: tl.constexpr,
                        WIDTH: tl.constexpr):
    """_partial_units of four rows of values."""
    R: tl.constexpr = C // 4
    HALF: tl.constexpr = WIDTH // 2
    BLOCK: tl.constexpr = HALF // R if HALF // R < SLICE else SLICE
    weight += tl.arange(0, R)[:, None] * C
    total0 = tl.zeros((R, BLOCK), tl.float32)
    total1 = tl.zeros((R, BLOCK), tl.float32)
    total2 = tl.zeros((R, BLOCK), tl.float32)
    total3 = tl.zeros((R, BLOCK), tl.float32)
    for first in tl.range(0, SLICE, BLOCK, loop_unroll_factor=4):
        c = own + first + tl.arange(0, BLOCK)
        block = tl.load(weight + c[None, :]).to(tl.float32)
        total0 += block * tl.load(values + row0 * C + c)[None, :]
        total1 += block * tl.load(values + row1 * C + c)[None, :]
        total2 += block * tl.load(values + row2 * C + c)[None, :]
        total3 += block * tl.load(values + row3 * C + c)[None, :]
    return (tl.sum(total0, 1), tl.sum(total1, 1), tl.sum(total2, 1),
            tl.sum(total3, 1))


@_kernel
def _store_partial(partials, row, member, partial, R: tl.constexpr,
                   TEAM: tl.constexpr):
    tl.store(partials + (row * TEAM + member) * R + tl.arange(0, R), partial)


@_kernel
def _sum_of_team(partials, row, R: tl.constexpr, TEAM: tl.constexpr):
    """(R,): the sum of the members' partial sums."""
    at = tl.arange(0, TEAM)[:, None] * R + tl.arange(0, R)[None, :]
    return tl.sum(tl.load(partials + row * TEAM * R + at), 0)


@_kernel
def _hidden_units(partials, row, bias, units, R: tl.constexpr,
                  TEAM: tl.constexpr):
    """ReLU of the sum and the bias (R,); every member writes all of it."""
    r = tl.arange(0, R)
    total = _sum_of_team(partials, row, R, TEAM) + tl.load(bias + r).to(
        tl.float32)
    total = tl.where(total < 0, 0., total)  # NaN stays
    tl.store(units + row * R + r, total)
    return total


@_kernel
def _gate_weights(weight, k, first, C: tl.constexpr, BLOCK: tl.constexpr):
    """Of weight (4C, R): the block for gate k of channels from the first."""
    R: tl.constexpr = C // 4
    c = k * C + first + tl.arange(0, BLOCK)
    return tl.load(weight + c[:, None] * R + tl.arange(0, R)[None, :]).to(
        tl.float32)


@_kernel
def _gate_bias(bias, bias_h, k, c, C: tl.constexpr):
    return (tl.load(bias + k * C + c).to(tl.float32)
            + tl.load(bias_h + k * C + c).to(tl.float32))


@_kernel
def _gates_of_input(gates, row, c, units, i, f, g, o, bias_i, bias_f, bias_g,
                    bias_o, C: tl.constexpr):
    """The input map's part of a row's gates, with both maps' biases."""
    gates += row * 4 * C + c
    units = units[None, :]
    tl.store(gates, tl.sum(i * units, 1) + bias_i)
    tl.store(gates + C, tl.sum(f * units, 1) + bias_f)
    tl.store(gates + 2 * C, tl.sum(g * units, 1) + bias_g)
    tl.store(gates + 3 * C, tl.sum(o * units, 1) + bias_o)


@_kernel
def _relay(saved, partials, state, wi1, bi1, wi2, bi2, wh1, bh1, wh2, bh2,
           ticket, drawn, member, n, N, G, has_state, C: tl.constexpr,
           TEAM: tl.constexpr, WIDTH: tl.constexpr):
    """What a member of its team does for clip n, after `drawn` tickets.

    The input map is that of four steps at once, which read its weights once.
    `partials` has room for the hidden units of both maps, (N, G, TEAM, R)
    each.
    """
    R: tl.constexpr = C // 4
    SLICE: tl.constexpr = C // TEAM
    BLOCK: tl.constexpr = WIDTH // R if WIDTH // R < SLICE else SLICE
    HALF: tl.constexpr = WIDTH // 2 // R if WIDTH // 2 // R < SLICE else SLICE
    NG = N * G
    scales = saved + 2 * G * C
    shifts = scales + NG * C
    pools = shifts + NG * C
    gates = pools + NG * C
    inner = gates + 4 * NG * C
    inner_h = inner + NG * R
    partials_h = partials + NG * TEAM * R
    own = member * SLICE
    # A constant, as a compiler may make it, cannot change in a loop.
    drawn = tl.full((), drawn, tl.int32)
    # The first step's, before others have come.
    _store_partial(partials_h, n * G, member, _partial_units(
        state + n * C, wh1, own, has_state * SLICE, C, SLICE, WIDTH), R, TEAM)
    if TEAM > 1:
        _wait_for(ticket, drawn)
    for first in range(0, G, 4):
        row0, row1, row2, row3 = _four_rows(n, first, G)
        units0, units1, units2, units3 = _four_partial_units(
            pools, row0, row1, row2, row3, wi1, own, C, SLICE, WIDTH)
        _store_partial(partials, row0, member, units0, R, TEAM)
        _store_partial(partials, row1, member, units1, R, TEAM)
        _store_partial(partials, row2, member, units2, R, TEAM)
        _store_partial(partials, row3, member, units3, R, TEAM)
    drawn = _join(ticket, drawn, TEAM)
    for first in range(0, G, 4):
        row0, row1, row2, row3 = _four_rows(n, first, G)
        units0 = _hidden_units(partials, row0, bi1, inner, R, TEAM)
        units1 = _hidden_units(partials, row1, bi1, inner, R, TEAM)
        units2 = _hidden_units(partials, row2, bi1, inner, R, TEAM)
        units3 = _hidden_units(partials, row3, bi1, inner, R, TEAM)
        for c0 in range(own, own + SLICE, HALF):
            c = c0 + tl.arange(0, HALF)
            i = _gate_weights(wi2, 0, c0, C, HALF)
            f = _gate_weights(wi2, 1, c0, C, HALF)
            g = _gate_weights(wi2, 2, c0, C, HALF)
            o = _gate_weights(wi2, 3, c0, C, HALF)
            bias_i = _gate_bias(bi2, bh2, 0, c, C)
            bias_f = _gate_bias(bi2, bh2, 1, c, C)
            bias_g = _gate_bias(bi2, bh2, 2, c, C)
            bias_o = _gate_bias(bi2, bh2, 3, c, C)
            _gates_of_input(gates, row0, c, units0, i, f, g, o, bias_i,
                            bias_f, bias_g, bias_o, C)
            _gates_of_input(gates, row1, c, units1, i, f, g, o, bias_i,
                            bias_f, bias_g, bias_o, C)
            _gates_of_input(gates, row2, c, units2, i, f, g, o, bias_i,
                            bias_f, bias_g, bias_o, C)
            _gates_of_input(gates, row3, c, units3, i, f, g, o, bias_i,
                            bias_f, bias_g, bias_o, C)
    tl.debug_barrier()

    for s in range(G):
        row = n * G + s
        if s > 0:
            _store_partial(partials_h, row, member, _partial_units(
                scales + (row - 1) * C, wh1, own, SLICE, C, SLICE, WIDTH), R,
                TEAM)
            drawn = _join(ticket, drawn, TEAM)
        units = _hidden_units(partials_h, row, bh1, inner_h, R, TEAM)[None, :]
        for c0 in range(own, own + SLICE, BLOCK):
            c = c0 + tl.arange(0, BLOCK)
            gate = gates + row * 4 * C + c
            i = _gate_weights(wh2, 0, c0, C, BLOCK)
            f = _gate_weights(wh2, 1, c0, C, BLOCK)
            g = _gate_weights(wh2, 2, c0, C, BLOCK)
            o = _gate_weights(wh2, 3, c0, C, BLOCK)
            gate_i = tl.load(gate)
            gate_f = tl.load(gate + C)
            gate_g = tl.load(gate + 2 * C)
            gate_o = tl.load(gate + 3 * C)
            before = _shift_before(shifts, state, row, s, n, c, N, has_state,
                                   C)
            i = tl.sigmoid(gate_i + tl.sum(i * units, 1))
            f = tl.sigmoid(gate_f + tl.sum(f * units, 1))
            g = 2 * tl.sigmoid(2 * (gate_g + tl.sum(g * units, 1))) - 1  # tanh
            o = tl.sigmoid(gate_o + tl.sum(o * units, 1))
            shift = f * before + i * g
            tl.debug_barrier()  # all threads have read the gates
            tl.store(gate, i)
            tl.store(gate + C, f)
            tl.store(gate + 2 * C, g)
            tl.store(gate + 3 * C, o)
            tl.store(shifts + row * C + c, shift)
            tl.store(scales + row * C + c, o * tl.sigmoid(shift))
        tl.debug_barrier()
    _leave(ticket, drawn, TEAM)


@_kernel
def _shift_before(shifts, state, row, s, n, c, N, has_state,
                  C: tl.constexpr):
    """The cell state before step s: of the step before, at the start, or 0."""
    before = tl.load(shifts + (row - 1) * C + c,
                     mask=c < tl.where(s > 0, C, 0), other=0.)
    return before + tl.load(state + (N + n) * C + c, other=0.,
                            mask=c < tl.where(s < has_state, C, 0))


@_kernel
def _affine(saved, row, c, N, G, C: tl.constexpr):
    """Of a row: mean, scale over deviation, and shift."""
    g = row % G
    mean = tl.load(saved + g * C + c)
    rstd = tl.load(saved + (G + g) * C + c)
    scale = tl.load(saved + (2 * G + row) * C + c)
    shift = tl.load(saved + (2 * G + N * G + row) * C + c)
    return mean[:, None], (scale * rstd)[:, None], shift[:, None]


@_kernel
def _apply_kernel(x, out, saved, N, P, G, frames, U, span, C: tl.constexpr,
                  BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
                  LAST: tl.constexpr, RELU: tl.constexpr):
    """out = (x - mean) * (scale / deviation) + shift, and ReLU."""
    # Backwards: what was read last is in the cache still.
    row, unit, tile, c, offset, first, stop = _place(
        tl.num_programs(0) - 1 - tl.program_id(0), P, frames, U, span, C,
        BLOCK_C, BLOCK_P, LAST)
    mean, factor, shift = _affine(saved, row, c, N, G, C)
    for k in range(first, stop):
        at, live = _chunk(k, offset, P, C, BLOCK_P, LAST)
        value = tl.load(x + at, mask=live, other=0.).to(tl.float32)
        value = (value - mean) * factor + shift
        if RELU:
            value = tl.where(value < 0, 0., value)  # NaN stays
        tl.store(out + at, value.to(out.dtype.element_ty), mask=live)


@_kernel
def _load_gradient(x, grad, at, live, mean, factor, shift,
                   RELU: tl.constexpr):
    """Of a chunk: x - mean, and the gradient that ReLU lets pass."""
    value = tl.load(x + at, mask=live, other=0.).to(tl.float32) - mean
    up = tl.load(grad + at, mask=live, other=0.).to(tl.float32)
    if RELU:
        up = tl.where(value * factor + shift <= 0, 0., up)
    return value, up


@_kernel
def _gradient_sums_kernel(
        x, grad, saved, scratch, tickets, state, grad_state, carry, wi1, bi1,
        wi2, bi2, wh1, bh1, wh2, bh2, N, P, G, frames, U, span, has_state,
        has_grad_state, C: tl.constexpr, BLOCK_C: tl.constexpr,
        BLOCK_P: tl.constexpr, LAST: tl.constexpr, SPLIT: tl.constexpr,
        TEAM: tl.constexpr, WIDTH: tl.constexpr, TRAINING: tl.constexpr,
        RELU: tl.constexpr):
    """Gradients of scales and shifts; then what they give backwards.

    The gradient of the state (2, N, C) is left in `carry`, which may be the
    beginning of `scratch`. From 2 * N * C on, `scratch` holds what the
    gradients of x and of the weights are made of: slopes and levels of the
    groups (G, C); levels of the rows, gradients of scales and of shifts
    (N, G, C); of gates (N, G, 4C); of both maps' hidden units (N, G, C / 4);
    the sums of the units, where rows are split, twice (N, G, U, C); and the
    team's partial sums, twice (N, G, TEAM, C / 4).
    """
    R: tl.constexpr = C // 4
    TILES: tl.constexpr = C // BLOCK_C
    row, unit, tile, c, offset, first, stop = _place(
        tl.program_id(0), P, frames, U, span, C, BLOCK_C, BLOCK_P, LAST)
    NG = N * G
    slopes = scratch + 2 * N * C
    grad_scales = slopes + 2 * G * C + NG * C
    grad_shifts = grad_scales + NG * C
    mean, factor, shift = _affine(saved, row, c, N, G, C)
    sum1 = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    sum2 = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for k in tl.range(first, stop, loop_unroll_factor=2):
        at, live = _chunk(k, offset, P, C, BLOCK_P, LAST)
        value, up = _load_gradient(x, grad, at, live, mean, factor, shift,
                                   RELU)
        sum1 += up
        # Where there is no position the gradient is 0, but not 0 * inf.
        sum2 += tl.where(live, up * value, 0.)
    total1 = tl.sum(sum1, 1)
    total2 = tl.sum(sum2, 1)
    partials = grad_shifts + (5 * C + 2 * R) * NG
    if SPLIT:
        units = partials + row * U * C
        partials += 2 * NG * U * C
        tl.store(units + unit * C + c, total1)
        tl.store(units + NG * U * C + unit * C + c, total2)
        if not _is_last(tickets + N + TILES + row * TILES + tile, U):
            return
        total1, total2 = _sums_of_units(units, units + NG * U * C, U, c, C)
    rstd = tl.load(saved + (G + row % G) * C + c)
    tl.store(grad_shifts + row * C + c, total1)
    tl.store(grad_scales + row * C + c, total2 * rstd)

    n = row // G
    of_tile, number = _is_last_and_number(tickets, N + tile, NG, n)
    if of_tile:
        _gradient_of_statistics(saved, slopes, grad_scales, grad_shifts, c, N,
                                G, frames * P, C, TRAINING)
    member = number - (G * TILES - TEAM)
    if member < 0:
        return
    _relay_gradient(saved, scratch, partials, state, grad_state, carry, wi1,
                    wi2, wh1, wh2, tickets + n, G * TILES, member, n, N, G,
                    frames * P, has_state, has_grad_state, C, TEAM, WIDTH)


@_kernel
def _sums_of_units(units1, units2, U, c, C: tl.constexpr):
    """Two sums over the U units of a row."""
    BLOCK: tl.constexpr = 32
    total1 = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    total2 = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    for first in range(0, U, BLOCK):
        u = first + tl.arange(0, BLOCK)
        live = (u < U)[:, None]
        at = u[:, None] * C + c[None, :]
        total1 += tl.load(units1 + at, mask=live, other=0.)
        total2 += tl.load(units2 + at, mask=live, other=0.)
    return tl.sum(total1, 0), tl.sum(total2, 0)


@_kernel
def _gradient_of_statistics(saved, slopes, grad_scales, grad_shifts, c, N, G,
                            size, C: tl.constexpr, TRAINING: tl.constexpr):
    """Of some channels: what comes to x through mean and deviation.

    slope * (x - mean) + level, for each group; 0 for running statistics.
    """
    BLOCK_N: tl.constexpr = 16
    count = 1. * size * N
    for g in range(G):
        slope = tl.zeros((BLOCK_N, c.shape[0]), tl.float32)
        level = tl.zeros((BLOCK_N, c.shape[0]), tl.float32)
        if TRAINING:
            for first in range(0, N, BLOCK_N):
                n = first + tl.arange(0, BLOCK_N)
                live = (n < N)[:, None]
                at = (n * G + g)[:, None] * C + c[None, :]
                scale = tl.load(saved + 2 * G * C + at, mask=live, other=0.)
                slope += scale * tl.load(grad_scales + at, mask=live,
                                         other=0.)
                level += scale * tl.load(grad_shifts + at, mask=live,
                                         other=0.)
        rstd = tl.load(saved + (G + g) * C + c)
        tl.store(slopes + g * C + c,
                 tl.sum(slope, 0) * -rstd * rstd / count)
        tl.store(slopes + (G + g) * C + c, tl.sum(level, 0) * -rstd / count)


@_kernel
def _relay_gradient(saved, scratch, partials, state, grad_state, carry, wi1,
                    wi2, wh1, wh2, ticket, drawn, member, n, N, G, size,
                    has_state, has_grad_state, C: tl.constexpr,
                    TEAM: tl.constexpr, WIDTH: tl.constexpr):
    """The steps of clip n backwards; then the input map, of all steps.

    A member of its team has a slice of the channels, as in :func:`_relay`.
    """
    R: tl.constexpr = C // 4
    SLICE: tl.constexpr = C // TEAM
    NG = N * G
    scales = saved + 2 * G * C
    shifts = scales + NG * C
    gates = shifts + 2 * NG * C
    inner = gates + 4 * NG * C
    inner_h = inner + NG * R
    levels = scratch + 2 * N * C + 2 * G * C
    grad_scales = levels + NG * C
    grad_shifts = grad_scales + NG * C
    grad_gates = grad_shifts + NG * C
    grad_inner = grad_gates + 4 * NG * C
    grad_inner_h = grad_inner + NG * R
    partials_h = partials + NG * TEAM * R
    own = member * SLICE
    drawn = tl.full((), drawn, tl.int32)
    c = own + tl.arange(0, SLICE)
    given = c < has_grad_state * C
    carry_h = tl.load(grad_state + n * C + c, mask=given, other=0.)
    carry_c = tl.load(grad_state + (N + n) * C + c, mask=given, other=0.)
    if TEAM > 1:
        _wait_for(ticket, drawn)
    for step in range(G):
        s = G - 1 - step
        row = n * G + s
        gate = row * 4 * C + c
        i = tl.load(gates + gate)
        f = tl.load(gates + gate + C)
        g = tl.load(gates + gate + 2 * C)
        o = tl.load(gates + gate + 3 * C)
        squashed = tl.sigmoid(tl.load(shifts + row * C + c))
        before = _shift_before(shifts, state, row, s, n, c, N, has_state, C)
        gh = tl.load(grad_scales + row * C + c) + carry_h
        gc = tl.load(grad_shifts + row * C + c) + carry_c
        gc += gh * o * squashed * (1 - squashed)
        tl.store(grad_gates + gate, gc * g * i * (1 - i))
        tl.store(grad_gates + gate + C, gc * before * f * (1 - f))
        tl.store(grad_gates + gate + 2 * C, gc * i * (1 - g * g))
        tl.store(grad_gates + gate + 3 * C, gh * squashed * o * (1 - o))
        carry_c = gc * f
        tl.debug_barrier()
        _store_partial(partials_h, row, member, _partial_by_gates(
            grad_gates + row * 4 * C, wh2, own, C, SLICE, WIDTH), R, TEAM)
        drawn = _join(ticket, drawn, TEAM)
        _store_relu_gradient(grad_inner_h, inner_h, partials_h, row, R, TEAM)
        tl.debug_barrier()
        if (s > 0) | (has_state != 0):
            carry_h = _times_transposed(grad_inner_h + row * R, wh1, own, R,
                                        SLICE, C, WIDTH)
    tl.store(carry + n * C + c, carry_h)
    tl.store(carry + (N + n) * C + c, carry_c)

    for first in range(0, G, 4):
        row0, row1, row2, row3 = _four_rows(n, first, G)
        up0, up1, up2, up3 = _four_partials_by_gates(
            grad_gates, row0, row1, row2, row3, wi2, own, C, SLICE, WIDTH)
        _store_partial(partials, row0, member, up0, R, TEAM)
        _store_partial(partials, row1, member, up1, R, TEAM)
        _store_partial(partials, row2, member, up2, R, TEAM)
        _store_partial(partials, row3, member, up3, R, TEAM)
    drawn = _join(ticket, drawn, TEAM)
    for first in range(0, G, 4):
        row0, row1, row2, row3 = _four_rows(n, first, G)
        _store_relu_gradient(grad_inner, inner, partials, row0, R, TEAM)
        _store_relu_gradient(grad_inner, inner, partials, row1, R, TEAM)
        _store_relu_gradient(grad_inner, inner, partials, row2, R, TEAM)
        _store_relu_gradient(grad_inner, inner, partials, row3, R, TEAM)
        tl.debug_barrier()
        pool0, pool1, pool2, pool3 = _four_times_transposed(
            grad_inner, row0, row1, row2, row3, wi1, own, R, SLICE, C, WIDTH)
        tl.store(levels + row0 * C + c, pool0 / size)
        tl.store(levels + row1 * C + c, pool1 / size)
        tl.store(levels + row2 * C + c, pool2 / size)
        tl.store(levels + row3 * C + c, pool3 / size)
    _leave(ticket, drawn, TEAM)


@_kernel
def _store_relu_gradient(grads, units, partials, row, R: tl.constexpr,
                         TEAM: tl.constexpr):
    """Of the hidden units of one row: what ReLU lets pass of the sum.

    Every member writes all of it.
    """
    r = tl.arange(0, R)
    up = _sum_of_team(partials, row, R, TEAM)
    u = tl.load(units + row * R + r)
    tl.store(grads + row * R + r, tl.where(u <= 0, 0., up))


@_kernel
def _partial_by_gates(values, weight, own, C: tl.constexpr,
                      SLICE: tl.constexpr, WIDTH: tl.constexpr):
    """(R,): of values (4C,) times weight (4C, R), what a slice gives."""
    R: tl.constexpr = C // 4
    BLOCK: tl.constexpr = WIDTH // R if WIDTH // R < SLICE else SLICE
    total = tl.zeros((BLOCK, R), tl.float32)
    for c0 in range(own, own + SLICE, BLOCK):
        for k in tl.static_range(4):
            c = k * C + c0 + tl.arange(0, BLOCK)
            total += _gate_weights(weight, k, c0, C, BLOCK) * tl.load(
                values + c)[:, None]
    return tl.sum(total, 0)


@_kernel
def _four_partials_by_gates(values, row0, row1, row2, row3, weight, own,
                            C: tl.constexpr, SLICE: tl.constexpr,
                            WIDTH: tl.constexpr):
    """_partial_by_gates of four rows of values."""
    R: tl.constexpr = C // 4
    HALF: tl.constexpr = WIDTH // 2
    BLOCK: tl.constexpr = HALF // R if HALF // R < SLICE else SLICE
    total0 = tl.zeros((BLOCK, R), tl.float32)
    total1 = tl.zeros((BLOCK, R), tl.float32)
    total2 = tl.zeros((BLOCK, R), tl.float32)
    total3 = tl.zeros((BLOCK, R), tl.float32)
    for c0 in range(own, own + SLICE, BLOCK):
        for k in tl.static_range(4):
            at = values + k * C + c0 + tl.arange(0, BLOCK)
            block = _gate_weights(weight, k, c0, C, BLOCK)
            total0 += block * tl.load(at + row0 * 4 * C)[:, None]
            total1 += block * tl.load(at + row1 * 4 * C)[:, None]
            total2 += block * tl.load(at + row2 * 4 * C)[:, None]
            total3 += block * tl.load(at + row3 * 4 * C)[:, None]
    return (tl.sum(total0, 0), tl.sum(total1, 0), tl.sum(total2, 0),
            tl.sum(total3, 0))


@_kernel
def _times_transposed(values, weight, first, J: tl.constexpr,
                      K: tl.constexpr, STRIDE: tl.constexpr,
                      WIDTH: tl.constexpr):
    """(K,): values (J,) times K columns of a weight, from the first on."""
    BLOCK: tl.constexpr = WIDTH // K if WIDTH // K < J else J
    column = first + tl.arange(0, K)[None, :]
    total = tl.zeros((BLOCK, K), tl.float32)
    for j0 in tl.range(0, J, BLOCK, loop_unroll_factor=4):
        j = j0 + tl.arange(0, BLOCK)
        total += tl.load(weight + j[:, None] * STRIDE + column).to(
            tl.float32) * tl.load(values + j)[:, None]
    return tl.sum(total, 0)


@_kernel
def _four_times_transposed(values, row0, row1, row2, row3, weight, first,
                           J: tl.constexpr, K: tl.constexpr,
                           STRIDE: tl.constexpr, WIDTH: tl.constexpr):
    """_times_transposed for four rows (J,) of values."""
    HALF: tl.constexpr = WIDTH // 2
    BLOCK: tl.constexpr = HALF // K if HALF // K < J else J
    column = first + tl.arange(0, K)[None, :]
    total0 = tl.zeros((BLOCK, K), tl.float32)
    total1 = tl.zeros((BLOCK, K), tl.float32)
    total2 = tl.zeros((BLOCK, K), tl.float32)
    total3 = tl.zeros((BLOCK, K), tl.float32)
    for j0 in tl.range(0, J, BLOCK, loop_unroll_factor=4):
        j = j0 + tl.arange(0, BLOCK)
        block = tl.load(weight + j[:, None] * STRIDE + column).to(tl.float32)
        total0 += block * tl.load(values + row0 * J + j)[:, None]
        total1 += block * tl.load(values + row1 * J + j)[:, None]
        total2 += block * tl.load(values + row2 * J + j)[:, None]
        total3 += block * tl.load(values + row3 * J + j)[:, None]
    return (tl.sum(total0, 0), tl.sum(total1, 0), tl.sum(total2, 0),
            tl.sum(total3, 0))


@_kernel
def _gradients_kernel(
        x, grad, grad_x, saved, scratch, state, grad_weights, N, P, G, frames,
        U, span, has_state, C: tl.constexpr, BLOCK_C: tl.constexpr,
        BLOCK_P: tl.constexpr, LAST: tl.constexpr, RELU: tl.constexpr,
        WEIGHT_PROGRAMS: tl.constexpr):
    """Gradients of the weights, by the first programs, and of x.

    grad_x = grad * scale / deviation + (x - mean) * slope + level
    """
    if tl.program_id(0) < WEIGHT_PROGRAMS:
        _weight_gradients(saved, scratch, state, grad_weights,
                          tl.program_id(0), N, G, has_state, C)
        return
    row, unit, tile, c, offset, first, stop = _place(
        tl.num_programs(0) - 1 - tl.program_id(0), P, frames, U, span, C,
        BLOCK_C, BLOCK_P, LAST)
    mean, factor, shift = _affine(saved, row, c, N, G, C)
    slopes = scratch + 2 * N * C
    levels = slopes + 2 * G * C
    slope = tl.load(slopes + row % G * C + c)[:, None]
    level = tl.load(slopes + (G + row % G) * C + c)
    level = (level + tl.load(levels + row * C + c))[:, None]
    for k in range(first, stop):
        at, live = _chunk(k, offset, P, C, BLOCK_P, LAST)
        value, up = _load_gradient(x, grad, at, live, mean, factor, shift,
                                   RELU)
        value = up * factor + value * slope + level
        tl.store(grad_x + at, value.to(grad_x.dtype.element_ty), mask=live)


@_kernel
def _weight_gradients(saved, scratch, state, grad_weights, id, N, G, has_state,
                      C: tl.constexpr):
    """A tile of one weight's gradient: the sum over rows of outer products.

    The vector of all gradients has the order of RelayCell.weights.
    """
    R: tl.constexpr = C // 4
    BLOCK_R: tl.constexpr = 64 if R > 64 else R
    TILES: tl.constexpr = (C // 64) * (R // BLOCK_R)  # of a first layer
    NG = N * G
    scales = saved + 2 * G * C
    pools = scales + 2 * NG * C
    inner = pools + 5 * NG * C
    grad_gates = scratch + 2 * N * C + 2 * G * C + 3 * NG * C
    grad_inner = grad_gates + 4 * NG * C
    hidden = id // (5 * TILES)  # 0: input map; 1: hidden map
    tile = id % (5 * TILES)
    inner += hidden * NG * R
    grad_inner += hidden * NG * R
    grad_weights += hidden * (5 * R * C + R + 4 * C)
    r = tile % (R // BLOCK_R) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tile // (R // BLOCK_R) * 64 + tl.arange(0, 64)
    if tile < TILES:
        _first_weight_gradient(
            grad_weights, grad_inner, pools, scales, state, r, c,
            tile < R // BLOCK_R, hidden, NG, G, has_state, C, BLOCK_R)
    else:
        c -= TILES // (R // BLOCK_R) * 64
        _second_weight_gradient(
            grad_weights + R * C + R, grad_gates, inner, r, c,
            tile % (R // BLOCK_R) == 0, NG, C, BLOCK_R)


@_kernel
def _first_weight_gradient(grad_weights, grads, pools, scales, state, r, c,
                           with_bias, hidden, NG, G, has_state,
                           C: tl.constexpr, BLOCK_R: tl.constexpr):
    """Of Linear(C, R): weight (R, C) and bias (R,)."""
    R: tl.constexpr = C // 4
    total = tl.zeros((BLOCK_R, 64), tl.float32)
    bias = tl.zeros((BLOCK_R, ), tl.float32)
    for row in tl.range(0, NG, loop_unroll_factor=8):
        up = tl.load(grads + row * R + r)
        s = row % G
        value = tl.load(pools + row * C + c, other=0.,
                        mask=c < (1 - hidden) * C)
        value += tl.load(scales + (row - 1) * C + c, other=0.,
                         mask=c < tl.where(s > 0, hidden * C, 0))
        value += tl.load(state + row // G * C + c, other=0.,
                         mask=c < tl.where(s == 0, hidden * has_state * C, 0))
        total += up[:, None] * value[None, :]
        bias += up
    tl.store(grad_weights + r[:, None] * C + c[None, :],
             total.to(grad_weights.dtype.element_ty))
    tl.store(grad_weights + R * C + r, bias.to(grad_weights.dtype.element_ty),
             mask=r < tl.where(with_bias, R, 0))


@_kernel
def _second_weight_gradient(grad_weights, grads, units, r, c, with_bias, NG,
                            C: tl.constexpr, BLOCK_R: tl.constexpr):
    """Of Linear(R, 4C): weight (4C, R) and bias (4C,)."""
    R: tl.constexpr = C // 4
    total = tl.zeros((64, BLOCK_R), tl.float32)
    bias = tl.zeros((64, ), tl.float32)
    for row in tl.range(0, NG, loop_unroll_factor=8):
        up = tl.load(grads + row * 4 * C + c)
        total += up[:, None] * tl.load(units + row * R + r)[None, :]
        bias += up
    tl.store(grad_weights + c[:, None] * R + r[None, :],
             total.to(grad_weights.dtype.element_ty))
    tl.store(grad_weights + 4 * C * R + c,
             bias.to(grad_weights.dtype.element_ty),
             mask=c < tl.where(with_bias, 4 * C, 0))


def _define_compiled_normalize():
    """The kernels as an operator that torch.compile looks into.

    It sees what they write to, and launches them itself, with what it
    allocates.
    """
    if not TRITON_FITS or not hasattr(torch.library, 'triton_op'):
        return None
    namespace = __name__.replace('.', '_')  # a second copy has its own

    def plan_of(x, weights, running, *spec):
        # The kernels are for one shape: the compiler must not vary it.
        grouped = bool(running) and running[0].dim() == 2
        return _plan(tuple(map(int, x.shape)), tuple(map(int, x.stride())),
                     x.device, x.dtype, grouped,
                     tuple(tensor.dtype for tensor in (*weights, *running)),
                     _Spec(*spec))

    def normalize(x: Tensor, state: Optional[Tensor], weights: List[Tensor],
                  running_mean: Tensor, running_var: Tensor, tracked: Tensor,
                  n_segment: int, num_groups: int, eps: float,
                  momentum: float, training: bool, relu: bool
                  ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        running = running_mean, running_var, tracked
        updated = tuple(torch.empty_like(buffer) for buffer in running)
        plan = plan_of(x, weights, running, n_segment, num_groups, eps,
                       momentum, training, relu)
        out, state, saved = _triton_forward(
            plan, x, state, weights, running, updated, traced=True)
        # An operator's outputs are not views of one another.
        return out, state.clone(), saved, *updated

    def gradients(grad_out: Optional[Tensor], grad_state: Optional[Tensor],
                  x: Tensor, state: Optional[Tensor], weights: List[Tensor],
                  saved: Tensor, n_segment: int, num_groups: int, eps: float,
                  momentum: float, training: bool, relu: bool
                  ) -> Tuple[Tensor, Tensor, Tensor]:
        plan = plan_of(x, weights, (), n_segment, num_groups, eps, momentum,
                       training, relu)
        return _triton_gradients(plan, grad_out, grad_state, x, state,
                                 weights, saved, traced=True)

    def define(name, function):
        name = f'{namespace}::{name}'
        if not INTERPRETED:
            return torch.library.triton_op(name, function, mutates_args=())
        # The interpreter's kernels are nothing that can be looked into.
        operator = torch.library.custom_op(name, function, mutates_args=())
        operator.register_fake(function)
        return operator

    normalize = define('normalize', normalize)
    gradients = define('normalize_gradients', gradients)

    def setup_context(ctx, inputs, output):
        x, state, weights, _, _, _, *ctx.spec = inputs
        ctx.save_for_backward(x, state, output[2], *weights)

    def backward(ctx, grad_out, grad_state, *_):
        x, state, saved, *weights = ctx.saved_tensors
        grad_x, grad_state, grad_weights = gradients(
            grad_out, grad_state, x, state, weights, saved, *ctx.spec)
        return (grad_x, None if state is None else grad_state,
                list(_unflatten_dense_tensors(grad_weights, weights)),
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
