"""The dynamic normalization of resnet_dnr.py, fused.

resnet_dnr.py states the method and works alone. Where this file lies beside it, the
same normalization and its gradients take fewer passes over the images:

* 'triton', on CUDA: six Triton kernels, three a pass, in resnet_dnr_kernels.py;
* 'aten', elsewhere: torch's operations, and a backward pass written by hand, but for
  the relay.

Symbols are those of resnet_dnr.py: N clips, T frames a clip, G groups, t = T / G frames
a group, C channels. R = C / 4 is the width within a relay cell's maps. A row is one
group of one clip, row n * G + g.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Callable, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import triton
except ImportError:
    triton = kernels = None
else:
    _PREFIX = f'{__package__}.' if __package__ else ''
    kernels = importlib.import_module(f'{_PREFIX}resnet_dnr_kernels')

logger = logging.getLogger(__name__)

# Triton's kernels run on CPU tensors then, slowly: it is for tests.
INTERPRETED = triton is not None and os.environ.get('TRITON_INTERPRET') == '1'


class Spec(NamedTuple):
    """What a layer computes: the arguments that are no tensors."""

    n_segment: int
    num_groups: int
    eps: float
    momentum: float
    training: bool
    relu: bool


def choose(wanted: str, x: Tensor, relay: nn.Module) -> str:
    """What computes a layer: 'triton', 'aten' or 'plain'; a new choice is logged.

    'auto' is 'triton' where :func:`why_not_triton` has no reason against it, else
    'aten', or under torch.compile 'plain', which the compiler fuses. Whatever is
    wanted, torch.func's and forward-mode derivatives, traces, exports, tensor
    subclasses and empty batches are 'plain': nothing here can be looked into. So are
    cells that compute with other weights than their own.
    """
    compiling = _is_compiling()
    if compiling:
        plain = _is_exporting()
    else:
        plain = (
            type(x) not in (Tensor, nn.Parameter)
            or torch.jit.is_tracing()
            or _has_transforms()
        )
    if plain or wanted == 'plain' or x.numel() == 0 or not _has_own_weights(relay):
        return 'plain'
    first, _, _ = relay.input_map
    choice = _choice if compiling else _logged_choice  # it looks into no cache
    return choice(
        wanted, x.device.type, x.dtype, first.weight.dtype, x.size(1), compiling
    )


def _choice(wanted, device, dtype, weight_dtype, channels, compiling):
    if wanted != 'aten':
        why_not = why_not_triton(device, dtype, weight_dtype, channels)
        if not why_not and compiling and _operator is None:
            why_not = f'torch.compile of torch {torch.__version__} takes no kernels'
        if not why_not:
            return 'triton'
        if wanted == 'triton':
            raise RuntimeError(f"backend='triton' cannot be used: {why_not}")
    return 'plain' if compiling else 'aten'


@functools.lru_cache(None)
def _logged_choice(wanted, device, dtype, weight_dtype, channels, compiling):
    choice = _choice(wanted, device, dtype, weight_dtype, channels, compiling)
    _log(dtype, device, choice, why_not_triton(device, dtype, weight_dtype, channels))
    return choice


@functools.lru_cache(None)
def _log(dtype, device, choice, why_not):
    reason = 'compiled at first use' if choice == 'triton' else why_not or 'as wanted'
    logger.info(
        'dynamic normalization of %s on %s: %s (%s)', dtype, device, choice, reason
    )


def why_not_triton(
    device: str, dtype: torch.dtype, weight_dtype: torch.dtype, channels: int
) -> str | None:
    """Why the kernels cannot do this; None where they can."""
    if triton is None:
        return 'triton is not installed'
    if not INTERPRETED:
        version = tuple(map(int, triton.__version__.split('.')[:2]))
        if version < (3, 5):  # atomic operations gave their result to some threads only
            return f'triton {triton.__version__} is older than 3.5'
        if device != 'cuda' or torch.version.cuda is None:
            return f'no kernels for {device}'
        if torch.cuda.get_device_capability() < (7, 0):
            return 'the GPU is older than compute capability 7.0'
    for name, value in (('the input', dtype), ("the relay's", weight_dtype)):
        if value not in (torch.float32, torch.float16, torch.bfloat16):
            return f'{name} is {value}'
    if not 4 <= channels <= 512:
        return f'{channels} channels are not 4 to 512'
    return None


def _is_compiling():
    """Whether torch.compile traces this call; there is none before 2.0."""
    compiler = getattr(torch, 'compiler', None)
    return hasattr(compiler, 'is_compiling') and compiler.is_compiling()


def _is_exporting():
    """Whether torch.export traces this call.

    torch.compiler.is_exporting() is True for torch.compile as well before torch 2.13.
    """
    return getattr(getattr(torch, 'compiler', None), '_is_exporting_flag', False)


def _has_transforms():
    """Whether torch.func or forward-mode derivatives are at work."""
    active = getattr(torch._C, '_are_functorch_transforms_active', None)
    in_forward_mode = torch.autograd.forward_ad._current_level >= 0
    return in_forward_mode or (active is not None and active())


def _has_own_weights(relay):
    """Whether a cell's maps compute with weights of their own, which are read here: not
    with pruned, parametrized, quantized, adapted or sharded ones."""
    if isinstance(relay, JoinedCell):  # for which join() has looked
        return True
    if 'input_map' not in relay._modules:  # a wrapper, such as FSDP, passes the name on
        return False
    for first, _, second in (relay.input_map, relay.hidden_map):
        for layer in (first, second):
            own = layer._parameters
            kinds = type(own.get('weight')), type(own.get('bias'))
            if type(layer) is not nn.Linear or not set(kinds) <= {Tensor, nn.Parameter}:
                return False
    return True


class JoinedCell:
    """A relay cell for all layers of a stage: they take its weights as one vector, so
    that autograd adds up one gradient a layer, not eight."""

    def __init__(self, relay):
        self.relay, self.input_map = relay, relay.input_map
        self._vector = None

    def __call__(self, *args):
        return self.relay(*args)

    def vector(self):
        if self._vector is None:
            self._vector = _joined(_weights_of(self.relay))
        return self._vector


def join(relay: nn.Module, x: Tensor) -> nn.Module | JoinedCell:
    """A cell as layers on x should take it, for one forward pass of its stage."""
    joined = x.is_cuda and not _is_compiling() and _has_own_weights(relay)
    return JoinedCell(relay) if joined else relay


def as_operator(relay: nn.Module) -> Callable:
    """A cell as torch.compile should take it: one operator, where that can be.

    A compiler that looks into the cell's steps takes longer for a network whose batch
    is symbolic, most of it for these few small tensors.
    """
    if _relay is None or not _is_compiling() or _is_exporting():
        return relay
    if not _has_own_weights(relay):
        return relay

    def run(x, state=None):
        state = x.new_zeros(2, x.size(0), x.size(2)) if state is None else state
        return _relay(x, state, *_weights_of(relay))

    return run


def normalize(backend, norm, x, relay, state):
    """What ``DynamicNorm.forward`` computes, by 'triton' or 'aten'.

    Args:
        backend (str): 'triton' or 'aten', as :func:`choose` said.
        norm (DynamicNorm): the layer. 'triton' moves its running statistics.
        x (Tensor): (N * T, C, H, W).
        relay (RelayCell | JoinedCell): the cell.
        state (Tensor | None): its state before the first group, (2, N, C).

    Returns:
        tuple: the output, like x; the new state, (2, N, C); and, with 'aten' in
        training, the batch's mean and variance, (G, C) each, by which the running ones
        are yet to move (else None).
    """
    spec = Spec(
        norm.n_segment,
        norm.num_groups,
        norm.eps,
        norm.momentum,
        norm.training,
        norm.apply_relu,
    )
    running = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if backend == 'aten':
        relay = relay.relay if isinstance(relay, JoinedCell) else relay
        with_grad = torch.is_grad_enabled()  # it is not, within
        out, state, *statistics = _AtenNormalize.apply(
            spec, running, relay, with_grad, x, state, *_weights_of(relay)
        )
        return out, state, statistics if spec.training else None
    if isinstance(relay, JoinedCell):
        weights = [relay.vector()]
    else:
        weights = _weights_of(relay)
    if not _is_compiling():
        out, state = _TritonNormalize.apply(spec, running, x, state, *weights)
        return out, state, None
    out, state, _, *updated = _operator(x, state, _joined(weights), *running, *spec)
    if spec.training:
        for buffer, new in zip(running, updated):
            # To autograd all of an operator's outputs are functions of its inputs.
            buffer.copy_(new.detach())
    return out, state, None


def _weights_of(relay):
    """A cell's eight parameters: of the input map, then of the hidden map, weight
    (R, C), bias (R,), weight (4C, R), bias (4C,)."""
    maps = relay.input_map, relay.hidden_map
    return [p for first, _, second in maps for p in (*_pair(first), *_pair(second))]


def _pair(linear):
    return linear.weight, linear.bias


def _joined(weights):
    """A cell's parameters in one vector, as the kernels take them."""
    return torch.cat([weight.flatten() for weight in weights])


def _parted(vector, C):
    """Views of the eight parameters of such a vector."""
    R = C // 4
    in1, bias1, in2, bias2, hid1, bias3, hid2, bias4 = vector.split_with_sizes(
        2 * [R * C, R, 4 * C * R, 4 * C]
    )
    first, second = (R, C), (4 * C, R)
    return (
        *(in1.view(first), bias1, in2.view(second), bias2),
        *(hid1.view(first), bias3, hid2.view(second), bias4),
    )


# Torch's operations


class _AtenNormalize(torch.autograd.Function):
    """The layer in torch's operations.

    The passes over x are written by hand: each is an elementwise operation or a sum
    over planes (H, W) with one value a plane beside it, which is fast in any memory
    format. Autograd derives the relay, from pooled means to scales and shifts.
    """

    @staticmethod
    def forward(ctx, spec, running, relay, with_grad, x, state, *weights):
        ctx.set_materialize_grads(False)
        ctx.spec = spec
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
            var = _sums(centered * centered).sum(0) / (clips * t * height * width)
        else:
            var = running[1].to(groups.dtype).expand(pooled.shape[1:]).clone()
        rstd = torch.rsqrt(var + spec.eps)
        # The relay's graph is this function's own: hooks such as checkpoint's, which
        # would compute the network again for each layer, do not see it. What it saves
        # is detached: else it would hold itself.
        hooks = torch.autograd.graph.saved_tensors_hooks(Tensor.detach, _as_it_is)
        with torch.set_grad_enabled(with_grad and any(ctx.needs_input_grad)), hooks:
            leaves = [pooled.to(weights[0].dtype)] + ([] if state is None else [state])
            leaves = [leaf.detach().requires_grad_() for leaf in leaves]
            with torch.autocast(x.device.type, enabled=False):
                scales, shifts, new_state = relay(*leaves)
        inputs = [*leaves, *weights]
        wanted = [v.requires_grad for v in inputs]  # it may be another in the backward
        ctx.relay = inputs, wanted, (scales, shifts, new_state)
        scales, shifts = scales.detach().to(groups.dtype), shifts.detach()
        centered.mul_((scales * rstd)[:, :, None, :, None, None])
        centered.add_(shifts.to(groups.dtype)[:, :, None, :, None, None])
        out = (out.relu_() if spec.relu else out).to(x.dtype)
        # The weights, so that changing them before the backward pass is an error.
        kept = x, out if spec.relu else None, mean, rstd, scales, *weights
        ctx.save_for_backward(*kept)
        ctx.mark_non_differentiable(mean, var)
        return out, new_state.detach(), mean, var

    @staticmethod
    def backward(ctx, grad_out, grad_state, *_):
        """The gradient of x is grad * scale * rstd + (x - mean) * slope + offset, where
        slope and offset come through the statistics and the pooled features."""
        _refuse_second_derivatives('aten')
        spec = ctx.spec
        x, out, mean, rstd, scales, *_ = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros_like(x)
        if spec.relu:  # as in autograd's own, a NaN in the output lets it pass
            grad_out = torch.ops.aten.threshold_backward(grad_out, out, 0)
        grad = _in_groups(grad_out, spec)
        centered = _in_groups(x, spec) - mean[:, None, :, None, None]
        clips, _, t, _, height, width = grad.shape
        grad_shift = _sums(grad)  # (N, G, C)
        grad_scale = _sums(grad * centered) * rstd
        inputs, wanted, outputs = ctx.relay
        grads = grad_scale, grad_shift, grad_state
        outputs, grads = zip(*((o, g) for o, g in zip(outputs, grads) if g is not None))
        grads = [g.to(o.dtype) for o, g in zip(outputs, grads)]
        leaves = [leaf for leaf, is_wanted in zip(inputs, wanted) if is_wanted]
        with torch.autocast(x.device.type, enabled=False):
            given = iter(torch.autograd.grad(outputs, leaves, grads, retain_graph=True))
        grad_pooled, *grads = [next(given) if w else None for w in wanted]
        if len(inputs) == 9:
            grads = [None, *grads]  # no state
        factor = (scales * rstd)[:, :, None, :, None, None]
        offset = grad_pooled.to(grad.dtype) / (t * height * width)
        if spec.training:
            count = clips * t * height * width
            slope = (scales * grad_scale).sum(0) * rstd.square() / -count
            offset = offset - (scales * grad_shift).sum(0) * rstd / count
            centered.mul_(slope[:, None, :, None, None])
            centered.addcmul_(grad, factor)
        else:
            torch.mul(grad, factor, out=centered)
        centered.add_(offset[:, :, None, :, None, None])
        return None, None, None, None, centered.to(x.dtype).flatten(0, 2), *grads


def _as_it_is(tensor):
    return tensor


def _refuse_second_derivatives(backend):
    """Raise in a backward pass whose own graph is wanted (create_graph=True): it would
    lack this layer, and what is derived from it would be wrong.

    Raises:
        RuntimeError: the graph is wanted.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"the dynamic normalization's backend {backend!r} has no derivatives of "
            "gradients (create_graph=True): build the network with backend='plain', or "
            'set RESNET_DNR_BACKEND=plain'
        )


def _in_groups(x, spec):
    """View (N * T, C, H, W) as (N, G, t, C, H, W); halves as float32."""
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    t = spec.n_segment // spec.num_groups
    return x.view(-1, spec.num_groups, t, *x.shape[1:])


def _sums(groups):
    """Sum over frames and positions, (N, G, C); slower in one step."""
    return groups.sum(dim=(4, 5)).sum(2)


# Triton's kernels


class _Launch:
    """A kernel for images of one shape: its grid, and arguments but tensors and flags.

    ``kernel[grid](...)`` looks at each argument of each launch to find the compiled
    kernel, which takes longer than many a kernel runs. ``kernel.warmup`` does it once.
    What it looks at is the same ever after: dtypes and integers are the plan's, and
    tensors begin at multiples of 16 bytes, by :func:`_laid_out` or, as buffers do, by
    themselves.
    """

    def __init__(self, kernel, programs, kinds, numbers, num_warps=8, together=False):
        self.kernel, self.grid = kernel, (programs, 1, 1)
        self.kinds = kinds  # of the arguments of a call: a dtype, or 0 for a flag
        self.numbers = numbers
        self.options = dict(num_warps=num_warps)
        if together:
            self.options['launch_cooperative_grid'] = True
        self.run = None

    def compile(self, device):
        """Compile it, or find it in Triton's cache."""
        with torch.cuda.device(device):  # threads begin on the first one
            compiled = self.kernel.warmup(
                *self.kinds, *self.numbers, grid=self.grid, **self.options
            )
            self.run = compiled[self.grid]

    def __call__(self, stream, *tensors_and_flags):
        if INTERPRETED:
            self.kernel[self.grid](*tensors_and_flags, *self.numbers)
        else:  # a pointer says as much, and takes Triton less time than a tensor
            given = [v if type(v) is int else v.data_ptr() for v in tensors_and_flags]
            self.run(*given, *self.numbers, stream=stream)


# Programs a processor over images, at most: few, with long runs. There are more where
# rows times blocks of channels are.
PROGRAMS = 2
# Warps and channels of a member of a relay's team, forward and backward.
RELAY, RELAY_BACKWARD = (16, 32), (4, 16)


class _Plan:
    """How the kernels go over images of one shape, layout and dtype."""

    def __init__(self, shape, stride, device, spec, dtype, weight_dtype, statistics):
        x = torch.empty_strided(shape, stride, device='meta')
        last = x.is_contiguous(memory_format=torch.channels_last)
        last = last and not x.is_contiguous()
        self.memory_format = torch.channels_last if last else torch.contiguous_format
        self.device = device
        images, C, height, width = shape
        G, R = spec.num_groups, C // 4
        N, t = images // spec.n_segment, spec.n_segment // G
        frames, P = (1, t * height * width) if last else (t, height * width)
        wide = not last and P >= 512
        block_c, block_p = (64, 64) if last else (8, 512) if wide else (32, 64)
        tile = last, wide and P % 16 == 0, block_c, block_p
        rows, tiles, chunks = N * G, _cdiv(C, block_c), frames * _cdiv(P, block_p)
        processors = _num_processors(device)

        # Units of a row, and chunks of a unit.
        span = _cdiv(chunks, max(1, PROGRAMS * processors // (rows * tiles)))
        units = _cdiv(chunks, span)
        relu, training = int(spec.relu), int(spec.training)
        sizes = rows, G, C, P, frames
        running_dtype, groups = statistics
        blocks = G * _cdiv(C, 128)  # of the statistics
        team, together = _team(N, C, blocks, RELAY, processors)
        team_back, together_back = _team(N, C, blocks, RELAY_BACKWARD, processors)
        weight_programs = 2 * _cdiv(R, 64) * (_cdiv(C, 64) + _cdiv(4 * C, 64))
        self.saved_size = 2 * G * C + rows * (8 * C + 2 * R)
        self.grads_size = 2 * G * C + rows * (5 * C + 2 * R)
        self.scratch_size = 2 * rows * (units * C + max(team, team_back) * R) + rows
        self.state_shape = 2, N, C

        f32, running = torch.float32, 2 * (running_dtype, running_dtype, torch.int64)
        self.forward = (
            _Launch(
                kernels.moments,
                rows * units * tiles,
                (dtype, f32),
                (rows, C, P, frames, units, span, team, *tile),
            ),
            _Launch(
                kernels.relay,
                N * team + groups * _cdiv(C, 128),
                (f32, f32, f32, f32, *running, weight_dtype, 0),
                (N, G, C, P, units, span, chunks, spec.eps, spec.momentum)
                + (training, groups, block_p, team, RELAY[1], 128, 128),
                RELAY[0],
                together,
            ),
            _Launch(
                kernels.apply,
                rows * units * tiles,
                (dtype, dtype, f32),
                (*sizes, units, span, relu, *tile),
            ),
        )
        self.backward = (
            _Launch(
                kernels.sums,
                rows * units * tiles,
                (dtype, dtype, f32, f32),
                (*sizes, units, span, relu, team_back, *tile),
            ),
            _Launch(
                kernels.relay_backward,
                N * team_back + blocks,
                (f32, f32, f32, f32, f32, f32, weight_dtype, 0, 0),
                (N, G, C, units, N * t * height * width, training, team_back)
                + (RELAY_BACKWARD[1], 128, 128),
                RELAY_BACKWARD[0],
                together_back,
            ),
            _Launch(
                kernels.apply_backward,
                weight_programs + rows * units * tiles,
                (dtype, dtype, dtype, f32, f32, weight_dtype),
                (*sizes, units, span, relu, weight_programs, *tile),
            ),
        )

    def compile(self, launches):
        """Compile kernels, several at once, where that is yet to be done."""
        launches = [launch for launch in launches if launch.run is None]
        if INTERPRETED or not launches:
            return
        with _one_process(), ThreadPoolExecutor() as pool:
            done = [pool.submit(launch.compile, self.device) for launch in launches]
            if wait(done, timeout=5).not_done:
                logger.warning(
                    'Triton compiles kernels for the dynamic normalization; it keeps '
                    'them, so that the next start on this machine does without'
                )
        for future in done:
            future.result()


@contextlib.contextmanager
def _one_process():
    """One of a user's processes at a time; those after it find its kernels on disk."""
    if fcntl is None:
        yield
        return
    path = os.path.join(tempfile.gettempdir(), f'resnet_dnr_{os.getuid()}.lock')
    with open(path, 'a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


_cached_plan = functools.lru_cache(None)(_Plan)


def _plan(x, spec, weights, running_mean=None):
    """The plan for x; the backward pass does not depend on the running statistics."""
    statistics = torch.float32, 1
    if running_mean is not None:
        statistics = running_mean.dtype, running_mean.numel() // x.size(1)
    return _cached_plan(
        x.shape, x.stride(), x.device, spec, x.dtype, weights.dtype, statistics
    )


def _cdiv(a, b):
    return -(-a // b)


@functools.lru_cache(None)
def _num_processors(device):
    if INTERPRETED:  # which runs programs one after another
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _team(N, C, others, relay, processors):
    """Programs a clip, and whether these and the others all run at once.

    A member has a block of channels, or more where not as many programs fit. Of 4
    warps, whose registers are at most half of a processor's, two fit on each.
    """
    warps, block = relay
    room = processors * max(1, 8 // warps) - others
    blocks = _cdiv(C, block)
    team = _cdiv(blocks, _cdiv(blocks, max(1, min(blocks, room // N))))
    return team, N * team <= room


def _laid_out(tensor, memory_format=torch.contiguous_format):
    """A tensor, or a copy, of this layout and from a multiple of 16 bytes on."""
    if (
        tensor.is_contiguous(memory_format=memory_format)
        and tensor.data_ptr() % 16 == 0
    ):
        return tensor
    return tensor.clone(memory_format=memory_format)


def _float32(shape, device):
    return torch.empty(shape, dtype=torch.float32, device=device)


def _on(device):
    """Context in which Triton launches on a device."""
    if device.type != 'cuda' or device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


def _stream(device):
    """The stream to launch on, without the object that torch.cuda makes of it."""
    if INTERPRETED:
        return None
    return triton.runtime.driver.active.get_current_stream(device.index)


def _triton_forward(plan, x, state, weights, running, updated):
    """Normalize by the kernels.

    Args:
        plan (_Plan): of all this, see :func:`_plan`.
        x (Tensor): (N * T, C, H, W), on CUDA.
        state (Tensor | None): the relay's, (2, N, C).
        weights (Tensor): see :func:`_joined`.
        running (Sequence[Tensor]): running mean and variance, and the number of batches
            tracked.
        updated (Sequence[Tensor]): where training writes the new ones; may be the same.

    Returns:
        tuple: out; the new state, (2, N, C); and `saved`.
    """
    moments, relay, apply = plan.forward
    x = _laid_out(x, plan.memory_format)
    scratch = _float32(plan.scratch_size, plan.device)
    saved = _float32(plan.saved_size, plan.device)
    out = torch.empty_like(x)
    new_state = _float32(plan.state_shape, plan.device)
    has_state = int(state is not None)
    state = _laid_out(state.float()) if has_state else saved
    stream = _stream(plan.device)
    with _on(plan.device):
        moments(stream, x, scratch)
        tensors = scratch, saved, state, new_state, *running, *updated, weights
        relay(stream, *tensors, has_state)
        apply(stream, x, out, saved)
    return out, new_state, saved


def _triton_backward(plan, grad_out, grad_state, x, state, saved, weights):
    """Gradients by the kernels.

    Args:
        grad_out, grad_state (Tensor | None): of the outputs.
        plan, x, state, saved, weights: as :func:`_triton_forward` takes and gives them.

    Returns:
        tuple: the gradients of x; of the first state, (2, N, C), which mean something
        only if one was given; and of the weights.
    """
    sums, relay, apply = plan.backward
    x = _laid_out(x, plan.memory_format)
    if grad_out is None:
        grad_out = torch.zeros_like(x)
    grad_out = _laid_out(grad_out, plan.memory_format)
    scratch = _float32(plan.scratch_size, plan.device)
    grads = _float32(plan.grads_size, plan.device)
    grad_x = torch.empty_like(x)
    grad_weights = torch.empty_like(weights)
    grad_before = _float32(plan.state_shape, plan.device)
    has_state, has_grad_state = int(state is not None), int(grad_state is not None)
    state = _laid_out(state.float()) if has_state else saved
    grad_state = _laid_out(grad_state.float()) if has_grad_state else saved
    stream = _stream(plan.device)
    with _on(plan.device):
        sums(stream, x, grad_out, saved, scratch)
        tensors = scratch, saved, grads, state, grad_state, grad_before, weights
        relay(stream, *tensors, has_state, has_grad_state)
        apply(stream, x, grad_out, grad_x, saved, grads, grad_weights)
    return grad_x, grad_before, grad_weights


class _TritonNormalize(torch.autograd.Function):
    """The layer by Triton's kernels. `weights` are a cell's eight, or all in one."""

    @staticmethod
    def forward(ctx, spec, running, x, state, *weights):
        ctx.set_materialize_grads(False)
        ctx.joined = len(weights) == 1
        weights = weights[0] if ctx.joined else _joined(weights)
        plan = ctx.plan = _plan(x, spec, weights, running[0])
        if plan.forward[0].run is None:
            backward = plan.backward if any(ctx.needs_input_grad) else ()
            plan.compile((*plan.forward, *backward))
        out, new_state, saved = _triton_forward(
            plan, x, state, weights, running, running
        )
        ctx.save_for_backward(x, state, saved, weights)
        return out, new_state

    @staticmethod
    def backward(ctx, grad_out, grad_state):
        _refuse_second_derivatives('triton')
        plan = ctx.plan
        if plan.backward[0].run is None:
            plan.compile(plan.backward)
        x, state, saved, weights = ctx.saved_tensors
        grad_x, grad_state, grad = _triton_backward(
            plan, grad_out, grad_state, x, state, saved, weights
        )
        grad_state = None if state is None else grad_state
        grads = [grad] if ctx.joined else _parted(grad, x.size(1))
        return None, None, grad_x, grad_state, *grads


def _define_operator():
    """The layer for torch.compile, as an operator that it does not look into.

    Of x, state, weights, running mean and variance, number of batches tracked and a
    Spec's values: out, the new state, `saved`, and the new running statistics. It is
    None where torch is older than 2.4, or Triton is missing.
    """
    if kernels is None or not hasattr(torch.library, 'custom_op'):
        return None
    spec = 'int T, int G, float eps, float momentum, bool training, bool relu'

    def forward(x, state, weights, *rest):
        running = rest[:3]
        plan = _plan(x, Spec(*rest[3:]), weights, running[0])
        plan.compile(plan.forward)
        updated = [torch.empty_like(buffer) for buffer in running]
        out, state, saved = _triton_forward(plan, x, state, weights, running, updated)
        return out, state, saved, *updated

    def forward_fake(x, state, weights, *rest):
        T, G, *_ = rest[3:]
        N, C = x.size(0) // T, x.size(1)
        saved = 2 * G * C + N * G * (8 * C + 2 * (C // 4))
        vectors = [x.new_empty(s, dtype=torch.float32) for s in ((2, N, C), saved)]
        return torch.empty_like(x), *vectors, *map(torch.empty_like, rest[:3])

    def backward(grad_out, grad_state, x, state, saved, weights, *spec):
        plan = _plan(x, Spec(*spec), weights)
        plan.compile(plan.backward)
        grad_x, grad_state, grad_weights = _triton_backward(
            plan, grad_out, grad_state, x, state, saved, weights
        )
        return grad_x, grad_state, grad_weights

    def backward_fake(grad_out, grad_state, x, state, saved, weights, T, *_):
        grad_state = saved.new_empty((2, x.size(0) // T, x.size(1)))
        return torch.empty_like(x), grad_state, torch.empty_like(weights)

    def define(name, function, fake, inputs, outputs):
        operator = torch.library.custom_op(
            f'{__name__.replace(".", "_")}::{name}',  # a second copy has its own
            function,
            mutates_args=(),
            schema=f'({inputs}, {spec}) -> ({", ".join(outputs * ["Tensor"])})',
        )
        operator.register_fake(fake)
        return operator

    images = 'Tensor x, Tensor? state'
    inputs = f'{images}, Tensor weights, Tensor mean, Tensor var, Tensor tracked'
    forward = define('normalize', forward, forward_fake, inputs, 6)
    inputs = f'Tensor? grad, Tensor? grad_state, {images}, Tensor saved, Tensor weights'
    backward = define('normalize_backward', backward, backward_fake, inputs, 3)

    def setup_context(ctx, inputs, output):
        ctx.set_materialize_grads(False)  # a last state that nobody takes has none
        x, state, weights, _, _, _, *ctx.spec = inputs
        ctx.save_for_backward(x, state, output[2], weights)

    def differentiate(ctx, grad_out, grad_state, *_):
        x, state, saved, weights = ctx.saved_tensors
        grad_x, grad_state, grad_weights = backward(
            grad_out, grad_state, x, state, saved, weights, *ctx.spec
        )
        grad_state = None if state is None else grad_state
        return grad_x, grad_state, grad_weights, *[None] * (3 + len(ctx.spec))

    forward.register_autograd(differentiate, setup_context=setup_context)
    return forward


def _relay_steps(x, state, w1, b1, w2, b2, w3, b3, w4, b4):
    """What ``RelayCell.forward`` computes, of its weights (see _weights_of)."""
    h, c = state
    scales, shifts = [], []
    for from_input in linear(linear(x, w1, b1).relu(), w2, b2).unbind(1):
        gates = from_input + linear(linear(h, w3, b3).relu(), w4, b4)
        i, f, g, o = gates.chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.sigmoid(c)
        scales.append(h)
        shifts.append(c)
    return torch.stack(scales, 1), torch.stack(shifts, 1), torch.stack((h, c))


def _define_relay():
    """A relay cell's steps as an operator, of x (N, S, C), state (2, N, C) and the
    eight weights. It is None where torch is older than 2.4."""
    if not hasattr(torch.library, 'custom_op'):
        return None

    def backward(grad_scales, grad_shifts, grad_state, *inputs):
        """Autograd's, of the steps taken again: they are few and small."""
        with torch.autocast(inputs[0].device.type, enabled=False):
            _, derive = torch.func.vjp(_relay_steps, *inputs)
            return derive((grad_scales, grad_shifts, grad_state))

    names = ['x', 'state', *(f'{kind}{i}' for i in range(1, 5) for kind in 'wb')]
    inputs = ', '.join(f'Tensor {name}' for name in names)
    grads = 'Tensor grad_scales, Tensor grad_shifts, Tensor grad_state'

    def define(name, function, inputs, like):
        operator = torch.library.custom_op(
            f'{__name__.replace(".", "_")}::{name}',  # a second copy has its own
            function,
            mutates_args=(),
            schema=f'({inputs}) -> ({", ".join(["Tensor"] * len(like(range(13))))})',
        )
        operator.register_fake(lambda *args: tuple(map(torch.empty_like, like(args))))
        return operator

    forward = define('relay', _relay_steps, inputs, lambda args: (*args[:1], *args[:2]))
    backward = define(
        'relay_backward', backward, f'{grads}, {inputs}', lambda args: args[3:]
    )
    forward.register_autograd(
        lambda ctx, *grads: backward(*grads, *ctx.saved_tensors),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    return forward


_operator = _define_operator()
_relay = _define_relay()
