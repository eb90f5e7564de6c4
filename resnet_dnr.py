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
* any T, any G that divides it, BasicBlocks (depths 18 and 34), any device
  and dtype, gradient checkpointing, and torchvision's state-dict names.
  Checkpoints in the published names load as they are;
  :func:`to_published_names` writes them.

The file needs torch alone. Copied into mmaction v1 or imported beside it or
mmaction2, it registers ``ResNet_DNR`` as a backbone there.
"""
import contextlib
import logging
import os
import re
import urllib.parse
import warnings

import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

logger = logging.getLogger(__name__)

DNR_MODES = ('both', 'cross_temporal', 'cross_layer', 'none')
RUNNING_STATS = ('grouped', 'shared')


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
        eps (float): added to the variance.
        momentum (float): weight of the newest statistics in the running ones.
    """

    def __init__(self, channels, n_segment, num_groups, running_stats,
                 eps=1e-5, momentum=0.1):
        super().__init__()
        self.channels = channels
        self.n_segment = n_segment
        self.num_groups = num_groups
        self.running_stats = running_stats
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
        images, channels, height, width = x.shape
        t = self.n_segment // self.num_groups
        # (N * T, C, H, W) -> (N, G, t, C, H, W): the T frames of a clip are
        # contiguous, and so are the t frames of a group.
        groups = x.reshape(images // self.n_segment, self.num_groups, t,
                           channels, height, width)
        if x.dtype in (torch.float16, torch.bfloat16):
            groups = groups.float()
        pooled = groups.mean(dim=(2, 4, 5))  # (N, G, C)
        with _without_autocast(x.device.type):
            scale, shift, state = relay(
                pooled.to(relay.input_map[0].weight.dtype), state)
        if self.training:
            count = images // self.num_groups * height * width
            if count <= 1:
                raise ValueError(
                    f'{type(self).__name__} needs more than one value a '
                    f'channel and group in training, got input '
                    f'{tuple(x.shape)} in {self.num_groups} groups')
            var, mean = torch.var_mean(
                groups, dim=(0, 2, 4, 5), unbiased=False)  # (G, C) each
            self._update_running_stats(mean.detach(), var.detach(), count)
        else:
            mean, var = self.running_mean, self.running_var
        mean = mean.to(groups.dtype).view(-1, 1, channels, 1, 1)
        factor = scale.to(groups.dtype) * torch.rsqrt(
            var.to(groups.dtype) + self.eps)  # (N, G, C)
        out = torch.addcmul(
            shift.to(groups.dtype)[:, :, None, :, None, None],
            groups - mean, factor[:, :, None, :, None, None])
        # (N, G, t, C, H, W) -> (N * T, C, H, W)
        return out.to(x.dtype).reshape(x.shape), state

    @torch.no_grad()
    def _update_running_stats(self, mean, var, count):
        """Move the running statistics; mean and var are (G, C)."""
        self.num_batches_tracked.add_(1)
        var = var * (count / (count - 1))  # unbiased
        for running, new in ((self.running_mean, mean),
                             (self.running_var, var)):
            new = new.to(running.dtype)
            if self.running_stats == 'grouped':
                running.lerp_(new, self.momentum)
            else:
                for group in new:
                    running.lerp_(group, self.momentum)

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

    def __init__(self, channels, n_segment, num_groups, running_stats):
        super().__init__(channels, n_segment, num_groups, running_stats)
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
    """

    def __init__(self, channels, n_segment):
        super().__init__(channels, n_segment, 1, 'shared')

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

    def _first_norm(self, out, relay, state):
        if relay is None:
            return self.bn1(out), state
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
        self.bn1 = norm1(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = norm2(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.with_cp = with_cp

    def _forward(self, x, relay, state):
        out, state = self._first_norm(self.conv1(x), relay, state)
        out = self.bn2(self.conv2(self.relu(out)))
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
        self.bn1 = norm1(planes)
        self.conv2 = nn.Conv2d(
            planes, planes, 3, stride2, dilation, dilation, bias=False)
        self.bn2 = norm2(planes)
        self.conv3 = nn.Conv2d(
            planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.with_cp = with_cp

    def _forward(self, x, relay, state):
        out, state = self._first_norm(self.conv1(x), relay, state)
        out = self.relu(self.bn2(self.conv2(self.relu(out))))
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
                 running_stats='grouped'):
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
            return CrossLayerNorm(channels, n_segment)

        def cross_temporal_norm(channels):
            return CrossTemporalNorm(
                channels, n_segment, num_groups, running_stats)

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

        block, stage_blocks = self.arch_settings[depth]
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
