"""Dynamic normalization and relay in a network that is there already.

``add_dnr(network, n_segment=8)`` replaces two BatchNorms of each residual block of a
network: the one after the block's first convolution by cross-layer DNR, whose relay
cell hands its state from block to block of a stage, and the one after the second by
cross-temporal DNR. That is what ResNet_DNR of resnet_dnr.py has, with the same names in
state dicts. Networks are 2D, on (N * T, C, H, W), or 3D, on (N, C, T, H, W).

What a network must be:

* a residual block is a module with ``conv1``, ``conv2`` and ``downsample`` (or
  ``shortcut``); its BatchNorms are ``bn1`` and ``bn2``, or stand within ``conv1`` and
  ``conv2``, as in mmcv's ConvModule and in torchvision's video networks;
* a stage is an nn.Sequential of blocks, which may be wrapped.

Symbols are those of resnet_dnr.py. The file needs that one beside it, and no host.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from typing import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

_dnr = importlib.import_module(
    f'{__package__}.resnet_dnr' if __package__ else 'resnet_dnr'
)
CrossLayerNorm, CrossTemporalNorm = _dnr.CrossLayerNorm, _dnr.CrossTemporalNorm
DynamicNorm, RelayCell = _dnr.DynamicNorm, _dnr.RelayCell
CONVOLUTIONS = nn.Conv2d, nn.Conv3d


def add_dnr(
    network: nn.Module,
    n_segment: int = 8,
    num_groups: int = 4,
    dnr: str = 'both',
    running_stats: str = 'grouped',
    backend: str = 'auto',
    with_cp: bool = False,
) -> nn.Module:
    """Convert a network, in place, before an optimizer or DistributedDataParallel.

    Convolutions, all other modules and their names stay. A converted BatchNorm's
    running statistics are kept, repeated for each group; its weight and bias are
    dropped, since relay cells predict them. eps, momentum, mode and requires_grad
    (here: of the relay cells) are the BatchNorm's. What the network's own ``train()``
    keeps in evaluation mode, as norm_eval and bn_eval do, stays in it.

    One pass over a clip of zeros, 64 x 64, in evaluation mode shows how many frames
    each stage has. Where a temporal stride or pooling leaves fewer than n_segment, G is
    the largest divisor of that number that is not above num_groups.

    Args:
        network (nn.Module): takes (N * T, C, H, W), the T frames of a clip contiguous,
            if its first convolution is 2D; (N, C, T, H, W) if that is 3D.
        n_segment (int): T, frames a clip of the input.
        num_groups (int): G, a divisor of T.
        dnr (str): 'both', 'cross_temporal', 'cross_layer', or 'none': no conversion.
        running_stats (str): 'grouped' or 'shared', see resnet_dnr.DynamicNorm.
        backend (str): what computes the normalizations, see there.
        with_cp (bool): recompute each block in the backward pass. Blocks whose own
            ``with_cp`` is set are recomputed in any case, by this file.

    Returns:
        nn.Module: the network.

    Raises:
        ValueError: an argument out of its range; or what cannot be converted, with its
            path in the network. The network is then as it was.
        RuntimeError: a backend that is not there.
    """
    for name, value in (('n_segment', n_segment), ('num_groups', num_groups)):
        if type(value) is not int or value < 1:
            raise ValueError(f'add_dnr: {name} must be a positive int, got {value!r}')
    divisors = [G for G in range(1, n_segment + 1) if n_segment % G == 0]
    _dnr._check(f'with n_segment={n_segment}, num_groups', num_groups, divisors)
    _dnr._check('dnr', dnr, _dnr.DNR_MODES)
    _dnr._check('running_stats', running_stats, _dnr.RUNNING_STATS)
    _dnr._check('with_cp', with_cp, (False, True))
    _dnr._wanted_backend(backend)
    if dnr == 'none':
        return network
    blocks = _find_blocks(network)
    with _state_kept(network):
        network.train()
        for block in blocks:
            block.find_held()
        network.eval()
        called = _run_once(network, blocks, n_segment)
        stages = {}
        for block in blocks:
            stages.setdefault(block.stage, []).append(block)
        for path, members in stages.items():
            stage = network.get_submodule(path)
            _check_stage(path, stage, members, dnr, path in called)
    options = dict(num_groups=num_groups, running_stats=running_stats, backend=backend)
    for path, members in stages.items():
        _convert(network, path, members, dnr, with_cp, options)
    return network


class _Hosted(DynamicNorm):
    """A dynamic normalization in another's block, on images or on clips."""

    frames = None  # T of clips, (N, C, T, H, W); images have T = n_segment
    held = False  # stays in evaluation mode

    def train(self, mode: bool = True) -> _Hosted:
        """Set the mode; returns self."""
        return super().train(mode and not self.held)

    def as_images(self, x: Tensor) -> Tensor:
        """(N * T, C, H, W) as it is, and (N, C, T, H, W) as (N * G, C, t * H, W), a
        group an image. That is a view of channels_last_3d, and where G = 1 of
        contiguous clips; of these with G > 1 it is a copy.

        Raises:
            ValueError: x has another T, or no whole clips.
        """
        if self.frames is None:
            if x.dim() != 4 or x.size(0) % self.n_segment:
                raise ValueError(
                    'a network converted by add_dnr takes whole clips of '
                    f'n_segment={self.n_segment} images; a block has {tuple(x.shape)}'
                )
            return x
        if x.dim() != 5 or x.size(2) != self.frames:
            raise ValueError(
                f'a block converted by add_dnr takes clips of {self.frames} frames, '
                f'(N, C, {self.frames}, H, W), but has {tuple(x.shape)}: n_segment is '
                "not the input's number of frames"
            )
        N, C, T, H, W = x.shape
        G = self.num_groups
        if G == 1:  # see as_before
            return x.flatten(2, 3)
        return x.reshape(N, C, G, T // G * H, W).transpose(1, 2).flatten(0, 1)

    def as_before(self, images: Tensor, x: Tensor) -> Tensor:
        """What :meth:`as_images` made of x, in x's shape and layout."""
        if self.frames is None:
            return images
        if self.num_groups == 1:
            # Under torch.compile, moving a dimension of size 1 (T) leaves it a stride
            # by which convolutions do not take the clips for channels last.
            clips = images.view(x.shape)
        else:
            clips = images.unflatten(0, (x.size(0), self.num_groups))
            clips = clips.transpose(1, 2).reshape(x.shape)
        return clips.contiguous() if x.is_contiguous() else clips

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """Drop a BatchNorm's weight and bias."""
        for name in ('weight', 'bias'):
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class HostedCrossTemporalNorm(_Hosted, CrossTemporalNorm):
    """Cross-temporal DNR in another's block."""

    def forward(self, x: Tensor) -> Tensor:
        """(N * T, C, H, W) or (N, C, T, H, W) to the same shape."""
        return self.as_before(super().forward(self.as_images(x)), x)


class HostedCrossLayerNorm(_Hosted, CrossLayerNorm):
    """Cross-layer DNR in another's block, whose forward hands on no state.

    So the stage leaves the cell and its state in ``relayed``, by thread, before it
    calls the block, and takes the new state from there after it.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.relayed = {}

    def forward(self, x: Tensor) -> Tensor:
        """(N * T, C, H, W) or (N, C, T, H, W) to the same shape."""
        thread = _thread(self.relayed)
        if thread not in self.relayed:
            raise RuntimeError(
                'a block with cross-layer DNR was called without its stage, which '
                'hands on the relayed state. To recompute blocks, pass with_cp=True to '
                'add_dnr; or checkpoint whole stages'
            )
        relay, state = self.relayed[thread]
        out, state = super().forward(self.as_images(x), relay, state)
        self.relayed[thread] = relay, state
        return self.as_before(out, x)


def _thread(calls=()):
    """The thread that calls. Compiled code cannot ask for it, and takes the last of the
    calls that go on, or 0."""
    if _dnr._is_compiling():
        return [0, *calls][-1]
    return threading.get_ident()


class RelayStage(nn.Module):
    """Blocks in the order of an nn.Sequential, and the cross-layer cell they share.

    An nn.Sequential becomes one in place, so that what else holds it has this, and its
    hooks stay. ``len``, iteration and ``stage[i]`` are of its modules, and of what
    add_module adds.

    Attributes:
        relay (RelayCell | None): the cell; its state is zero before the first block.
        norms (dict[str, str]): by a module's name, where within it the cross-layer
            normalization is, such as 'conv1.bn'.
        recomputed (set[str]): names of the modules to recompute in the backward pass.
    """

    relay: RelayCell | None
    norms: dict[str, str]
    recomputed: set[str]

    @property
    def names(self) -> list[str]:
        """Of the modules, in the order of calls."""
        return [name for name in self._modules if name != 'relay']

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> nn.Module:
        if isinstance(index, slice):
            raise TypeError('a stage with DNR has no slices: its blocks share a relay')
        return getattr(self, self.names[index])

    def __iter__(self) -> Iterator[nn.Module]:
        return (getattr(self, name) for name in self.names)

    def forward(self, x: Tensor) -> Tensor:
        """What the nn.Sequential computes, on the same shapes."""
        relay, state = self.relay, None
        if relay is not None and _dnr.fused is not None:
            relay = _dnr.fused.join(relay, x)  # its weights joined once
        for name in self.names:
            if name in self.recomputed and torch.is_grad_enabled():
                module = getattr(self, name)
                run = _dnr._updating_buffers_once(module, self._run)
                x, state = checkpoint(run, name, x, relay, state, use_reentrant=False)
            else:
                x, state = self._run(name, x, relay, state)
        return x

    def _run(self, name, x, relay, state):
        """A module's output, and the state of the stage's cell after it."""
        module = getattr(self, name)
        if relay is None or name not in self.norms:
            return module(x), state
        norm, thread = module.get_submodule(self.norms[name]), _thread()
        norm.relayed[thread] = relay, state
        try:
            x = module(x)
            return x, norm.relayed[thread][1]
        finally:  # so that no graph is kept, copied or saved with the module
            del norm.relayed[thread]


class _Block:
    """A residual block as it was found.

    Attributes:
        path (str): of the block in the network.
        stage, name (str): path of its stage, and the name there of the module in which
            the block is.
        norms (list[tuple[nn.Module, str]]): of the first two BatchNorms, the module
            that has it, and its name in that.
        held (list[bool]): whether the network keeps each in evaluation mode.
        calls (list[str]): what was called in a pass, in order.
        shapes (list[torch.Size]): of the input of each BatchNorm in it.
    """

    def __init__(self, network, path, module):
        self.path, self.module = path, module
        parts = path.split('.')
        for i in range(len(parts) - 1, -1, -1):
            self.stage, self.name = '.'.join(parts[:i]), parts[i]
            if i and _is_sequential(network.get_submodule(self.stage)):
                break
        else:
            raise ValueError(
                f'add_dnr: {path or type(module).__name__} is in no nn.Sequential '
                'within the network, whose blocks would be a stage. A network that is '
                'itself the stage, or a block, can be put into one'
            )
        self.norms = [_find_norm(path, module, k) for k in (1, 2)]
        self.calls, self.shapes = [], []

    def norm(self, k):
        """The BatchNorm after the k-th convolution."""
        module, name = self.norms[k - 1]
        return getattr(module, name)

    def norm_path(self, k):
        """Where it is in the network."""
        holder, name = self.norms[k - 1]
        inner = '' if holder is self.module else f'conv{k}.'
        return f'{self.path}.{inner}{name}'

    def find_held(self):
        """To be called when the network is in training mode."""
        self.held = [self.module.training and not self.norm(k).training for k in (1, 2)]

    def hooks(self):
        """Hooks that record calls and shapes."""

        def record(name):
            def hook(module, inputs):
                self.calls.append(name)
                if name.startswith('norm'):
                    self.shapes.append(inputs[0].shape)

            return hook

        for k in (1, 2):
            # Of a module with more than a convolution, the convolution.
            conv = getattr(self.module, f'conv{k}')
            inner = (m for m in conv.modules() if isinstance(m, CONVOLUTIONS))
            conv = next(inner, conv)
            yield conv.register_forward_pre_hook(record(f'conv{k}'))
            yield self.norm(k).register_forward_pre_hook(record(f'norm{k}'))


def _is_sequential(module):
    return isinstance(module, nn.Sequential) and (
        type(module).forward is nn.Sequential.forward
    )


def _has_convolutions(module):
    found = [getattr(module, name, None) for name in ('conv1', 'conv2')]
    return all(isinstance(conv, nn.Module) for conv in found)


def _is_block(module):
    return _has_convolutions(module) and (
        hasattr(module, 'downsample') or hasattr(module, 'shortcut')
    )


def _find_blocks(network):
    """The residual blocks of a network, each a :class:`_Block`, in order."""
    for path, module in network.named_modules():
        if isinstance(module, DynamicNorm):
            raise ValueError(
                f'add_dnr: the network has dynamic normalizations already, as {path}'
            )
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise ValueError(
                f'add_dnr: convert the network before {type(module).__name__} wraps it'
            )
        if isinstance(module, (torch.jit.ScriptModule, fx.GraphModule)):
            raise ValueError(
                f'add_dnr: {path or "the network"} is scripted or traced: convert the '
                'network before that'
            )
    paths = {}
    for path, module in network.named_modules(remove_duplicate=False):
        first = paths.setdefault(module, path)
        if first != path and (_is_block(module) or isinstance(module, _BatchNorm)):
            raise ValueError(f'add_dnr: {first} and {path} are one shared module')
    blocks = [_Block(network, p, m) for m, p in paths.items() if _is_block(m)]
    if not blocks:
        raise ValueError(
            f'add_dnr: {type(network).__name__} has no residual blocks: modules with '
            'conv1, conv2, and downsample or shortcut'
        )
    return blocks


def _find_norm(path, block, k):
    """The BatchNorm after a block's k-th convolution: what has it, and its name."""
    if isinstance(getattr(block, f'bn{k}', None), nn.Module):
        holder, name = block, f'bn{k}'
    else:
        holder = getattr(block, f'conv{k}')
        names = [n for n, m in holder.named_children() if isinstance(m, _BatchNorm)]
        if len(names) != 1:
            raise ValueError(
                f'add_dnr: {path} has no BatchNorm after conv{k} that is named bn{k}, '
                f'or is in conv{k}'
            )
        path, name = f'{path}.conv{k}', names[0]
    norm = getattr(holder, name)
    path = f'{path}.{name}'
    if isinstance(norm, nn.SyncBatchNorm):
        raise ValueError(
            f'add_dnr: {path} is a SyncBatchNorm, but each process has statistics of '
            'its own in dynamic normalizations. Convert to SyncBatchNorm afterwards'
        )
    if type(norm) not in (nn.BatchNorm2d, nn.BatchNorm3d):
        raise ValueError(
            f'add_dnr: {path} is {type(norm).__name__}, not BatchNorm2d or BatchNorm3d'
        )
    if norm.running_mean is None:
        raise ValueError(f'add_dnr: {path} has no running statistics')
    if norm.momentum is None:
        raise ValueError(f'add_dnr: {path} has momentum=None, and should have a number')
    if norm.num_features < 4:
        raise ValueError(f'add_dnr: {path} has {norm.num_features} channels, below 4')
    return holder, name


@contextlib.contextmanager
def _state_kept(network):
    """Keep the modes; and, if the network is refused, what its train() has frozen."""
    modes = [(module, module.training) for module in network.modules()]
    trained = [(p, p.requires_grad) for p in network.parameters()]
    try:
        yield
    except ValueError:
        for parameter, requires_grad in trained:
            parameter.requires_grad = requires_grad
        raise
    finally:
        for module, mode in modes:
            module.training = mode


def _run_once(network, blocks, n_segment):
    """Run the network on a clip of zeros, which the blocks record.

    Returns:
        set[str]: the stages that were called, by path.
    """
    first = next((m for m in network.modules() if isinstance(m, CONVOLUTIONS)), None)
    if first is None:
        raise ValueError('add_dnr: the network has no 2D or 3D convolution')
    shape = (n_segment, first.in_channels, 64, 64)
    if isinstance(first, nn.Conv3d):
        shape = (1, first.in_channels, n_segment, 64, 64)
    hooks, called = [hook for block in blocks for hook in block.hooks()], set()
    for path in {block.stage for block in blocks}:
        stage = network.get_submodule(path)
        hooks.append(
            stage.register_forward_pre_hook(lambda *_, path=path: called.add(path))
        )
    try:
        with torch.no_grad():
            network(first.weight.new_zeros(shape))
    except Exception as error:  # of the network's own; its text is all there is
        mend = 'A network of other inputs can be converted in its parts'
        if isinstance(getattr(network, 'backbone', None), nn.Module):
            mend = 'Convert its backbone: add_dnr(network.backbone, ...)'
        raise ValueError(
            f'add_dnr: {type(network).__name__} cannot run on one clip of '
            f'n_segment={n_segment} frames, {shape}: {error}. {mend}'
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    for block in blocks:
        wanted = ['conv1', 'norm1', 'conv2', 'norm2']
        if block.calls != wanted:
            raise ValueError(
                f'add_dnr: {block.path} should call {", ".join(wanted)}, each once in '
                f'a pass, but calls {", ".join(block.calls) or "nothing"}'
            )
        T = _frames(block.shapes[0])
        child = network.get_submodule(f'{block.stage}.{block.name}')
        for module in child.modules():  # such as the shift of TSM
            wanted = getattr(module, 'num_segments', getattr(module, 'n_segment', T))
            if wanted != T:
                raise ValueError(
                    f'add_dnr: with n_segment={n_segment}, {block.path} has {T} frames '
                    f'a clip, but {type(module).__name__} in it is made for {wanted}'
                )
    return called


def _frames(shape):
    """T of one clip."""
    return shape[2] if len(shape) == 5 else shape[0]


def _check_stage(path, stage, blocks, dnr, called):
    """The blocks of a stage can share a cell, and hand on its state."""
    names = [block.name for block in blocks]
    for name in ('relay', 'norms', 'recomputed', 'names'):  # of a RelayStage
        if hasattr(stage, name):
            raise ValueError(
                f'add_dnr: {path}.{name} should have another name: the converted stage '
                'has one of its own'
            )
    for name, child in stage.named_children():
        inner = [p for p, m in child.named_modules() if _has_convolutions(m)]
        if name not in names and inner:
            other = '.'.join(filter(None, (path, name, inner[0])))
            raise ValueError(
                f'add_dnr: {other} has conv1 and conv2, as {blocks[0].path}, but '
                'neither downsample nor shortcut: it should have one, or None'
            )
    if dnr != 'cross_temporal' and not called:
        raise ValueError(
            f'add_dnr: the network calls the blocks of {path}, but not {path} itself, '
            "which is to hand on the relay's state. dnr='cross_temporal' has none"
        )
    for block, before in zip(blocks[1:], blocks):
        if names.count(block.name) > 1:
            raise ValueError(
                f'add_dnr: {before.path} and {block.path} are in one module, whose '
                'order of calls is unknown; each should be one of an nn.Sequential'
            )
        channels = [b.norm(1).num_features for b in (before, block)]
        if dnr != 'cross_temporal' and channels[0] != channels[1]:
            raise ValueError(
                f'add_dnr: the blocks of stage {path} share a relay cell, but '
                f'{before.norm_path(1)} has {channels[0]} channels, and '
                f'{block.norm_path(1)} has {channels[1]}'
            )


def _convert(network, path, blocks, dnr, with_cp, options):
    """Convert a stage. Nothing in here may fail half way."""
    stage, relay, norms, recomputed = network.get_submodule(path), None, {}, set()
    if dnr != 'cross_temporal':
        relay = _like_norms(RelayCell(blocks[0].norm(1).num_features), blocks, 1)
        relay.train(stage.training)
    for block in blocks:
        if dnr != 'cross_temporal':
            norms[block.name] = block.norm_path(1)[len(f'{path}.{block.name}.') :]
            _replace(block, 1, HostedCrossLayerNorm, 1, backend=options['backend'])
        if dnr != 'cross_layer':
            _replace(block, 2, HostedCrossTemporalNorm, **options)
        if with_cp or getattr(block.module, 'with_cp', False):
            block.module.with_cp = False
            recomputed.add(block.name)
    stage.__class__ = RelayStage
    stage.relay, stage.norms, stage.recomputed = relay, norms, recomputed


def _replace(block, k, cls, num_groups, **options):
    """Put a dynamic normalization of a class in place of a block's k-th BatchNorm."""
    bn, shape, (holder, name) = block.norm(k), block.shapes[k - 1], block.norms[k - 1]
    of_clips = len(shape) == 5
    T = _frames(shape)
    G = max(G for G in range(1, num_groups + 1) if T % G == 0)
    if cls is HostedCrossTemporalNorm:
        options.update(num_groups=G)
    norm = cls(bn.num_features, n_segment=G if of_clips else T, **options)
    norm.frames = T if of_clips else None
    norm.eps, norm.momentum, norm.held = bn.eps, bn.momentum, block.held[k - 1]
    norm.train(bn.training)
    _like_norms(norm, [block], k)
    norm.running_mean.copy_(bn.running_mean)  # (C,) to (G, C) where that is its shape
    norm.running_var.copy_(bn.running_var)
    norm.num_batches_tracked.copy_(bn.num_batches_tracked)
    # Where the order of calls is known: mmcv's ConvModule has `order`.
    ordered = getattr(holder, 'order', None) == ('conv', 'norm', 'act')
    if holder is not block.module and (_is_sequential(holder) or ordered):
        names = [n for n, _ in holder.named_children()]
        after = names[names.index(name) + 1 :][:1]
        if after and type(getattr(holder, after[0])) is nn.ReLU:  # applied by the norm
            norm.apply_relu = True
            setattr(holder, after[0], nn.Identity())
    setattr(holder, name, norm)


def _like_norms(module, blocks, k):
    """A module with device, dtype and requires_grad of the blocks' k-th BatchNorm."""
    norms = [block.norm(k) for block in blocks]
    affine = [list(bn.parameters()) for bn in norms]
    if not any(not own or any(p.requires_grad for p in own) for own in affine):
        module.requires_grad_(False)
    return module.to(norms[0].running_mean)


class WithDNR(nn.Module):  # mmaction v1 registers no others
    """A backbone of mmaction2 or mmaction v1, converted: ``dict(type='WithDNR',
    backbone=dict(type='ResNetTSM', depth=50, ...), n_segment=8, ...)`` in a config.

    What is built is the backbone itself, after :func:`add_dnr`, so names in checkpoints
    stay. Its ``init_weights()`` initializes a plain one as the host does, or loads
    ``pretrained``, and takes that one's weights. Relay cells keep nn.Linear's own.

    Args:
        backbone (dict): its config, as the host takes it.
        **options: arguments of :func:`add_dnr`.

    Raises:
        ValueError, RuntimeError: as :func:`add_dnr` does.
    """

    def __new__(cls, backbone: dict, **options) -> nn.Module:
        network = _build(backbone)
        if options.get('dnr') != 'none':
            add_dnr(network, **options)
            network.init_weights = _InitWeights(network, backbone)
        return network


class _InitWeights:
    """The init_weights() of a converted backbone."""

    def __init__(self, network, config):
        self.network, self.config = network, config

    def __call__(self):
        plain = _build(self.config)
        plain.init_weights()
        self.network.load_state_dict(plain.state_dict(), strict=False)


def _build(config):
    """A backbone of the host that there is, by its config."""
    try:
        from mmaction.registry import MODELS
    except ModuleNotFoundError:
        from mmaction.models.builder import build_backbone

        return build_backbone(config)
    return MODELS.build(config)


_dnr._register(WithDNR)
