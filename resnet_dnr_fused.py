"""The dynamic normalization of resnet_dnr.py, fused.

resnet_dnr.py states the method and works alone. Where this file lies beside it, it
computes the same normalization, and its gradients, in fewer passes over the images:

* on CUDA by six Triton kernels, three a pass (:class:`_TritonNormalize`);
* elsewhere by torch's operations and a backward pass written by hand
  (:class:`_AtenNormalize`).

:func:`choose` says which of the two computes a layer, or neither. Symbols are those of
resnet_dnr.py: N clips, T frames a clip, G groups, C channels; R = C / 4 is the width
within a relay cell's maps. A row is one group of one clip: row n * G + g.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple

import torch
from torch import Tensor, nn

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

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


def normalize(backend, norm, x, relay, state):
    """What ``DynamicNorm.normalize`` computes, by 'triton' or 'aten'.

    Args:
        backend (str): 'triton' or 'aten', as :func:`choose` said.
        norm (DynamicNorm): the layer. 'triton' moves its running statistics.
        x (Tensor): (N * T, C, H, W).
        relay (RelayCell): the cell.
        state (tuple[Tensor, Tensor] | Tensor | None): its state before the first group.

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
        norm.relu,
    )
    running = norm.running_mean, norm.running_var, norm.num_batches_tracked
    weights = cell_weights(relay)
    if state is not None and not isinstance(state, Tensor):
        state = torch.stack(tuple(state))
    if backend == 'aten':
        out, state, *statistics = _AtenNormalize.apply(
            spec, running, x, state, *weights
        )
        return out, state, statistics if spec.training else None
    if not _is_compiling():
        out, state = _TritonNormalize.apply(spec, running, x, state, *weights)
        return out, state, None
    out, state, _, *updated = _operator(x, state, weights, *running, *spec)
    if spec.training:
        for buffer, new in zip(running, updated):
            # To autograd all of an operator's outputs are functions of its inputs.
            buffer.copy_(new.detach())
    return out, state, None


def cell_weights(relay: nn.Module) -> list[Tensor]:
    """A relay cell's eight parameters: of the input map, then of the hidden map,
    weight (R, C), bias (R,), weight (4C, R), bias (4C,)."""
    first_i, _, second_i = relay.input_map
    first_h, _, second_h = relay.hidden_map
    return [
        parameter
        for layer in (first_i, second_i, first_h, second_h)
        for parameter in (layer.weight, layer.bias)
    ]


# Which of the two, or neither


def choose(wanted: str, x: Tensor, relay: nn.Module) -> str:
    """What computes a layer: see ``resnet_dnr.choose_backend``.

    'auto' is 'triton' where :func:`why_not_triton` says nothing against it, else
    'aten', or under torch.compile 'plain', which the compiler fuses. Whatever is
    wanted, torch.func's and forward-mode derivatives, traces, exports, tensor
    subclasses and empty batches are 'plain': nothing here can be looked into or derived
    twice. Forward hooks on a relay cell's layers run with 'plain' alone.
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
    if plain or wanted == 'plain' or x.numel() == 0:
        return 'plain'
    first, _, _ = relay.input_map
    kind = x.device.type, x.dtype, first.weight.dtype, x.size(1)
    if compiling:  # which looks into no cache
        return _choose(wanted, *kind, True)
    return _cached_choice(wanted, *kind)


def _choose(wanted, device, dtype, weight_dtype, channels, compiling):
    why_not = None
    if wanted != 'aten':
        why_not = why_not_triton(device, dtype, weight_dtype, channels, compiling)
        if not why_not:
            return 'triton'
        if wanted == 'triton':
            raise RuntimeError(f"backend='triton' cannot be used: {why_not}")
    return 'plain' if compiling else 'aten'


@functools.lru_cache(None)
def _cached_choice(wanted, device, dtype, weight_dtype, channels):
    choice = _choose(wanted, device, dtype, weight_dtype, channels, False)
    why_not = why_not_triton(device, dtype, weight_dtype, channels, False)
    reason = 'compiled at first use' if choice == 'triton' else why_not or 'as wanted'
    logger.info(
        'dynamic normalization of %s on %s: %s (%s)', dtype, device, choice, reason
    )
    return choice


def why_not_triton(
    device: str,
    dtype: torch.dtype,
    weight_dtype: torch.dtype,
    channels: int,
    compiling: bool,
) -> str | None:
    """Why the kernels cannot do this; None where they can."""
    if triton is None:
        return 'triton is not installed'
    if not INTERPRETED:
        if device != 'cuda' or torch.version.cuda is None:
            return f'no kernels for {device}'
        if torch.cuda.get_device_capability() < (7, 0):
            return 'the GPU is older than compute capability 7.0'
    for name, value in (('the input', dtype), ("the relay's", weight_dtype)):
        if value not in (torch.float32, torch.float16, torch.bfloat16):
            return f'{name} is {value}'
    if channels > 512:
        return f'{channels} channels are more than 512'
    if compiling and _operator is None:
        return f'torch.compile of torch {torch.__version__} takes no kernels'
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


# Torch's operations


# As in autograd's own: a NaN in the output lets the gradient pass.
_relu_backward = torch.ops.aten.threshold_backward
_sigmoid_backward = torch.ops.aten.sigmoid_backward
_tanh_backward = torch.ops.aten.tanh_backward


class _AtenNormalize(torch.autograd.Function):
    """The layer in torch's operations, with a backward pass written by hand.

    Every pass over x is an elementwise operation or a sum over planes (H, W) with one
    value a plane beside it, which is fast in any memory format.
    """

    @staticmethod
    def forward(ctx, spec, running, x, state, *weights):
        ctx.set_materialize_grads(False)
        with torch.autocast(x.device.type, enabled=False):
            out, new_state, mean, var, *saved = _aten_forward(
                spec, running, x, state, weights
            )
        ctx.spec = spec
        ctx.save_for_backward(x, state, *weights, *saved)
        ctx.mark_non_differentiable(mean, var)
        return out, new_state, mean, var

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out, grad_state, *_):
        x, state, *rest = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            grads = _aten_backward(
                ctx.spec, grad_out, grad_state, x, state, rest[:8], *rest[8:]
            )
        return None, None, *grads


def _aten_forward(spec, running, x, state, weights):
    """out, new state, mean, variance, and what :func:`_aten_backward` needs."""
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
    steps = _relay_forward(pooled.to(weights[0].dtype), state, weights)
    scales, shifts = (v.to(groups.dtype) for v in steps[:2])
    centered.mul_((scales * rstd)[:, :, None, :, None, None])
    centered.add_(shifts[:, :, None, :, None, None])
    if spec.relu:
        out.relu_()
    out = out.to(x.dtype)
    new_state = torch.stack((steps[0][:, -1], steps[1][:, -1]))
    saved_out = out if spec.relu else None
    return out, new_state, mean, var, saved_out, mean, rstd, *steps


def _aten_backward(
    spec, grad_out, grad_state, x, state, weights, out, mean, rstd, *steps
):
    """Gradients of x, of the state and of the eight weights.

    The gradient of x is grad * h * rstd + (x - mean) * slope + offset, where slope and
    offset are what comes through the statistics and the pooled features.
    """
    if grad_out is None:
        grad_out = torch.zeros_like(x)
    if spec.relu:
        grad_out = _relu_backward(grad_out, out, 0)
    grad = _in_groups(grad_out, spec)
    centered = _in_groups(x, spec) - mean[:, None, :, None, None]
    clips, _, t, _, height, width = grad.shape
    grad_shift = _sums(grad)  # (N, G, C)
    grad_scale = _sums(grad * centered) * rstd
    grad_pooled, grad_state, grad_weights = _relay_backward(
        grad_scale.to(steps[0].dtype),
        grad_shift.to(steps[0].dtype),
        grad_state,
        state,
        weights,
        steps,
    )
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
    return centered.to(x.dtype).flatten(0, 2), grad_state, *grad_weights


def _in_groups(x, spec):
    """View (N * T, C, H, W) as (N, G, t, C, H, W); halves as float32."""
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    t = spec.n_segment // spec.num_groups
    return x.view(-1, spec.num_groups, t, *x.shape[1:])


def _sums(groups):
    """Sum over frames and positions, (N, G, C); slower in one step."""
    return groups.sum(dim=(4, 5)).sum(2)


def _relay_forward(x, state, weights):
    """``RelayCell.forward``: of x (N, S, C), scales and shifts, (N, S, C).

    Behind them stands what :func:`_relay_backward` needs: x, the inputs of the two
    second layers, (N, S, R), and the gates before their nonlinearities, (N, S, 4C).
    """
    in1, in1_bias, in2, in2_bias, hid1, hid1_bias, hid2, hid2_bias = weights
    linear = torch.nn.functional.linear
    if state is None:
        state = x.new_zeros(2, x.size(0), x.size(2))
    h, c = state.to(x.dtype)
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
    scales, shifts, hiddens, gates = (torch.stack(v, 1) for v in zip(*steps))
    return scales, shifts, x, inner, hiddens, gates


def _relay_backward(grad_scales, grad_shifts, grad_state, state, weights, steps):
    """Gradients of the relay's input, of its state, and of its weights (a list)."""
    scales, shifts, x, inner, hiddens, gates = steps
    in1, _, in2, _, hid1, _, hid2, _ = weights
    has_state = state is not None
    h, c = state.to(x.dtype) if has_state else x.new_zeros(2, x.size(0), x.size(2))
    grad_h, grad_c = (None, None) if grad_state is None else grad_state.to(x.dtype)
    h_before = torch.cat((h[:, None], scales[:, :-1]), 1)
    c_before = torch.cat((c[:, None], shifts[:, :-1]), 1)
    g = gates.chunk(4, 2)[2].tanh()
    i, f, _, o = gates.sigmoid().chunk(4, 2)
    sigmoid_c = torch.sigmoid(shifts)
    # Derivatives of c by its three gates and of h by its one; of h by c.
    by_gates = torch.cat(
        (
            _sigmoid_backward(g, i),
            _sigmoid_backward(c_before, f),
            _tanh_backward(i, g),
            _sigmoid_backward(sigmoid_c, o),
        ),
        2,
    )
    by_c = _sigmoid_backward(o, sigmoid_c)
    grad_gates, grad_hiddens = [], []
    for s in reversed(range(x.size(1))):
        grad_h = grad_scales[:, s] if grad_h is None else grad_h + grad_scales[:, s]
        grad_c = grad_shifts[:, s] if grad_c is None else grad_c + grad_shifts[:, s]
        grad_c = torch.addcmul(grad_c, grad_h, by_c[:, s])
        gate = torch.cat((grad_c, grad_c, grad_c, grad_h), 1).mul_(by_gates[:, s])
        hidden = _relu_backward(gate @ hid2, hiddens[:, s], 0)
        grad_gates.append(gate)
        grad_hiddens.append(hidden)
        grad_h = hidden @ hid1
        grad_c = grad_c * f[:, s]
    # Each weight's gradient over all steps and clips is one product.
    grad_gates = torch.stack(grad_gates[::-1], 1).flatten(0, 1)  # (N * S, 4C)
    grad_hiddens = torch.stack(grad_hiddens[::-1], 1).flatten(0, 1)  # (N * S, R)
    inner = inner.flatten(0, 1)
    grad_inner = _relu_backward(grad_gates @ in2, inner, 0)
    grad_bias2 = grad_gates.sum(0)
    gates_by = grad_gates.t()
    grad_weights = [
        grad_inner.t() @ x.flatten(0, 1),
        grad_inner.sum(0),
        gates_by @ inner,
        grad_bias2,
        grad_hiddens.t() @ h_before.flatten(0, 1),
        grad_hiddens.sum(0),
        gates_by @ hiddens.flatten(0, 1),
        grad_bias2.clone(),
    ]
    grad_state = torch.stack((grad_h, grad_c)) if has_state else None
    return (grad_inner @ in1).view_as(x), grad_state, grad_weights


# Triton kernels
#
# Images are read in chunks of channels by positions. A row is `frames` planes of P
# positions: of contiguous images, its t frames of H * W; of channels-last ones, one
# plane of t * H * W positions. A program takes `span` of a row's chunks, so that
# `units` programs share a row. All else is float32, in flat vectors:
#
# saved, from forward to backward: mean, rstd (G, C); scale, shift, pooled mean and the
#     hidden state before, (N * G, C) each; gates i, f, g, o after their nonlinearities
#     (N * G, 4C); hidden units of the input map and of the hidden map (N * G, R) each.
# grads, from one backward kernel to the next: slope, level (G, C); gradients of pooled
#     means (N * G, C), of gates (N * G, 4C), of both maps' hidden units (N * G, R) each.
# scratch, within a pass: parts, from the units of a row to whoever merges them, two of
#     (N * G, units, C); team_parts, from the members of a team to all, (N * G, team, R)
#     of the input map and of the hidden map; counters (N * G,), int32.
#
# What a kernel needs of all programs of the kernel before, it has: the launches of a
# stream run one after another. Only the teams of the relay meet within a launch.


def _kernel(function):
    """A Triton kernel; without Triton, a function that nobody calls."""
    if triton is None:
        return function
    # Triton compiles anew where 16 divides an integer, or where it is 1. It gains by
    # that of C alone, which makes rows of 16-byte loads.
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    integers = [name for name in names if name in INTEGERS]
    return triton.jit(function, do_not_specialize=integers)


INTEGERS = (
    'rows N G P frames units span chunks groups block_p count team training relu '
    'has_state has_grad_state weight_programs'
).split()


# fmt: off
@_kernel
def _share(pid, C, P, frames, units, span, LAST: tl.constexpr, BLOCK_C: tl.constexpr,
           BLOCK_P: tl.constexpr):
    """Of a program: row, offset of the row in the images, unit, channels (BLOCK_C,),
    and its first chunk and the one behind its last."""
    tiles = tl.cdiv(C, BLOCK_C)
    row = pid // tiles // units
    unit = pid // tiles % units
    c = pid % tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    first = unit * span
    stop = tl.minimum(first + span, frames * tl.cdiv(P, BLOCK_P))
    return row, row.to(tl.int64) * (frames * P * C), unit, c, first, stop


@_kernel
def _chunk(k, c, C, P, LAST: tl.constexpr, BLOCK_P: tl.constexpr):
    """Offsets (BLOCK_C, BLOCK_P) of a row's k-th chunk, and which of them there are."""
    turns = tl.cdiv(P, BLOCK_P)
    p = k % turns * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    plane = k // turns * P * C
    offset = p * C + c[:, None] if LAST else c[:, None] * P + p
    return plane + offset, (c[:, None] < C) & (p < P)


@_kernel
def _count(first, stop, P, block_p):
    """How many positions the chunks from first to before stop have."""
    turns = tl.cdiv(P, block_p)
    before = first // turns * P + first % turns * block_p
    after = stop // turns * P + stop % turns * block_p
    return (after - before).to(tl.float32)


@_kernel
def _teams(scratch, rows, units, team, C):
    """Where `team_parts` and `counters` begin in the scratch."""
    team_parts = scratch + 2 * rows * units * C
    return team_parts, team_parts + 2 * rows * team * (C // 4)


@_kernel
def _moments_kernel(
        x,  # images
        scratch,  # out: parts, mean of each unit and sum of squares about it; counters, 0
        rows, C, P, frames, units, span, team, LAST: tl.constexpr, ALIGNED: tl.constexpr,
        BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """The moments of each unit.

    Sums are taken of values less the mean of the unit's first chunk. Of K chunks, that
    is at most sqrt(K) standard deviations from the mean of all: little cancels.
    """
    if ALIGNED:
        P = P // 16 * 16  # so the compiler knows that 16 divides it
    pid = tl.program_id(0)
    _, counters = _teams(scratch, rows, units, team, C)
    tl.store(counters + pid, 0.0, mask=pid < rows)
    row, start, unit, c, first, stop = _share(
        pid, C, P, frames, units, span, LAST, BLOCK_C, BLOCK_P)
    at, live = _chunk(first, c, C, P, LAST, BLOCK_P)
    value = tl.load(x + start + at, mask=live, other=0.0).to(tl.float32)
    about = tl.sum(value, 1) / _count(first, first + 1, P, BLOCK_P)
    about = tl.where(about - about == 0, about, 0.0)  # not inf, not NaN
    sums = tl.where(live, value - about[:, None], 0.0)
    squares = sums * sums
    for k in tl.range(first + 1, stop, loop_unroll_factor=4):
        at, live = _chunk(k, c, C, P, LAST, BLOCK_P)
        value = tl.load(x + start + at, mask=live, other=0.0).to(tl.float32)
        value = tl.where(live, value - about[:, None], 0.0)
        sums += value
        squares += value * value
    total = tl.sum(sums, 1)
    count = _count(first, stop, P, BLOCK_P)
    m2 = tl.sum(squares, 1) - total * total / count
    part = scratch + (row * units + unit) * C + c
    tl.store(part, about + total / count, mask=c < C)
    tl.store(part + rows * units * C, tl.where(m2 < 0, 0.0, m2), mask=c < C)


@_kernel
def _merge_moments(parts, row0, stride, rows, count, units, span, chunks, P, block_p, c,
                   C, BLOCK: tl.constexpr):
    """Mean, and sum of squares about it, of `count` rows: row0, row0 + stride, ...

    As in a unit, sums are about the mean of the first.
    """
    about = tl.load(parts + row0 * units * C + c, mask=c < C, other=0.0)
    about = tl.where(about - about == 0, about, 0.0)[None, :]
    total = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    squares = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    for first in range(0, count * units, BLOCK):
        k = first + tl.arange(0, BLOCK)[:, None]
        unit = k % units
        live = (k < count * units) & (c < C)[None, :]
        part = parts + ((row0 + k // units * stride) * units + unit) * C + c[None, :]
        mean = tl.load(part, mask=live, other=0.0)
        m2 = tl.load(part + rows * units * C, mask=live, other=0.0)
        stop = tl.minimum((unit + 1) * span, chunks)
        size = _count(unit * span, stop, P, block_p)
        mean = tl.where(live, mean - about, 0.0)
        total += size * mean
        squares += m2 + size * mean * mean
    size = count * _count(0, chunks, P, block_p)
    total = tl.sum(total, 0)
    m2 = tl.sum(squares, 0) - total * total / size
    return tl.sum(about, 0) + total / size, tl.where(m2 < 0, 0.0, m2)


@_kernel
def _statistics(parts, saved, running_mean, running_var, tracked, new_mean, new_var,
                new_tracked, N, G, C, P, units, span, chunks, block_p, eps, momentum,
                training, groups, group, c):
    """What standardizes some channels of a group, and the new running statistics.

    Shared ones are moved by each group in turn: their one program takes all groups.
    """
    # A compiler makes them float64.
    eps = tl.full((), eps, tl.float32)
    momentum = tl.full((), momentum, tl.float32)
    live = c < C
    at = group * C + c
    run_mean = tl.load(running_mean + at, mask=live, other=0.0).to(tl.float32)
    run_var = tl.load(running_var + at, mask=live, other=0.0).to(tl.float32)
    for g in range(group, tl.where(groups == 1, G, group + 1)):
        mean = run_mean
        var = run_var
        if training != 0:
            mean, m2 = _merge_moments(
                parts, g, G, N * G, N, units, span, chunks, P, block_p, c, C, 64)
            size = N * _count(0, chunks, P, block_p)
            var = m2 / size
            run_mean += momentum * (mean - run_mean)
            run_var += momentum * (m2 / (size - 1) - run_var)
        tl.store(saved + g * C + c, mean, mask=live)
        tl.store(saved + (G + g) * C + c, 1 / tl.sqrt(var + eps), mask=live)
    if training != 0:
        tl.store(new_mean + at, run_mean.to(new_mean.dtype.element_ty), mask=live)
        tl.store(new_var + at, run_var.to(new_var.dtype.element_ty), mask=live)
        if (group == 0) & (tl.min(c) == 0):
            tl.store(new_tracked, tl.load(tracked) + 1)


# The relay. A clip has a team of programs, and each member some blocks of 64 channels.
# Of a map's first layer, (R, C), a member has its channels' part of the sums; of its
# second layer, (4C, R), its channels' gates. So a team meets once a step, to add up
# parts of R hidden units. The launch is cooperative: all programs run at once.


@_kernel
def _meet(counter, meetings, team):
    """Wait until all members have come, for the time number `meetings`; count from 1."""
    tl.debug_barrier()
    if team > 1:
        come = counter.to(tl.pointer_type(tl.int32), bitcast=True)
        tl.atomic_add(come, 1, sem='release', scope='gpu')
        while tl.atomic_add(come, 0, sem='acquire', scope='gpu') < meetings * team:
            pass
        tl.debug_barrier()


@_kernel
def _part_of_units(values, weight, own, team, C, R, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr):
    """(BLOCK_R,): of weight (R, C) @ values (C,), the part of a member's channels."""
    r = tl.arange(0, BLOCK_R)[:, None]
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for c0 in range(own, C, team * BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)[None, :]
        block = tl.load(weight + r * C + c, mask=(r < R) & (c < C), other=0.0)
        total += block.to(tl.float32) * tl.load(values + c, mask=c < C, other=0.0)
    return tl.sum(total, 1)


@_kernel
def _sum_of_parts(parts, team, R, BLOCK_R: tl.constexpr, BLOCK_T: tl.constexpr = 8):
    """(BLOCK_R,): the sum of what the members have stored, (team, R)."""
    r = tl.arange(0, BLOCK_R)[None, :]
    total = tl.zeros((BLOCK_T, BLOCK_R), tl.float32)
    for first in range(0, team, BLOCK_T):
        member = first + tl.arange(0, BLOCK_T)[:, None]
        total += tl.load(parts + member * R + r, mask=(member < team) & (r < R), other=0.0)
    return tl.sum(total, 0)


@_kernel
def _gate(units_i, units_h, wi2, bi2, wh2, bh2, row, live, R, BLOCK_R: tl.constexpr):
    """(BLOCK_C,): rows of both maps' second layers, applied to their units, summed."""
    r = tl.arange(0, BLOCK_R)[None, :]
    at = row[:, None] * R + r
    mask = live[:, None] & (r < R)
    from_input = tl.load(wi2 + at, mask=mask, other=0.0).to(tl.float32) * units_i[None, :]
    from_hidden = tl.load(wh2 + at, mask=mask, other=0.0).to(tl.float32) * units_h[None, :]
    bias_i = tl.load(bi2 + row, mask=live, other=0.0).to(tl.float32)
    bias_h = tl.load(bh2 + row, mask=live, other=0.0).to(tl.float32)
    return tl.sum(from_input + from_hidden, 1) + bias_i + bias_h


@_kernel
def _relay_kernel(
    parts,  # scratch of _moments_kernel, which begins with the parts
    saved,  # out
    state,  # (2, N, C): h and c before the first group; not read without has_state
    running_mean, running_var,  # (G, C) or (C,)
    tracked,  # (), int64
    new_mean, new_var, new_tracked,  # out, in training; may be the same
    wi1, bi1, wi2, bi2,  # input map: (R, C), (R,), (4C, R), (4C,)
    wh1, bh1, wh2, bh2,  # hidden map, likewise
    has_state, N, G, C, P, units, span, chunks, eps, momentum, training,
    groups,  # of the running statistics: G, or 1 of shared ones
    block_p,  # positions of a chunk
    team,  # programs a clip
    BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):
    """The relay, a team a clip; and the statistics, a program a group and 128 channels."""
    rows = N * G
    R = C // 4
    pid = tl.program_id(0)
    if pid >= N * team:
        pid -= N * team
        blocks = tl.cdiv(C, BLOCK_S)
        _statistics(
            parts, saved, running_mean, running_var, tracked, new_mean, new_var,
            new_tracked, N, G, C, P, units, span, chunks, block_p, eps, momentum, training,
            groups, pid // blocks, pid % blocks * BLOCK_S + tl.arange(0, BLOCK_S))
        return
    n = pid // team
    member = pid % team
    own = member * BLOCK_C
    row0 = n * G
    team_parts, counters = _teams(parts, rows, units, team, C)
    scale = saved + (2 * G + row0) * C
    shift = scale + rows * C
    pooled = shift + rows * C
    before = pooled + rows * C
    gates = saved + (2 * G + 4 * rows) * C + row0 * 4 * C
    inner_i = saved + (2 * G + 8 * rows) * C + row0 * R
    inner_h = inner_i + rows * R
    team_parts_i = team_parts + row0 * team * R
    team_parts_h = team_parts_i + rows * team * R
    r = tl.arange(0, BLOCK_R)

    for c0 in range(own, C, team * BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        h = tl.load(state + n * C + c, mask=c < tl.where(has_state != 0, C, 0), other=0.0)
        tl.store(before + c, h, mask=c < C)
        for g in range(G):
            mean, _ = _merge_moments(
                parts, row0 + g, 0, rows, 1, units, span, chunks, P, block_p, c, C, 16)
            tl.store(pooled + g * C + c, mean, mask=c < C)
    tl.debug_barrier()
    for g in range(G):
        part = _part_of_units(pooled + g * C, wi1, own, team, C, R, BLOCK_C, BLOCK_R)
        tl.store(team_parts_i + (g * team + member) * R + r, part, mask=r < R)
    for g in range(G):
        part = _part_of_units(before + g * C, wh1, own, team, C, R, BLOCK_C, BLOCK_R)
        tl.store(team_parts_h + (g * team + member) * R + r, part, mask=r < R)
        _meet(counters + n, g + 1, team)
        units_i = _hidden_units(team_parts_i + g * team * R, bi1, inner_i + g * R, team, R, BLOCK_R)
        units_h = _hidden_units(team_parts_h + g * team * R, bh1, inner_h + g * R, team, R, BLOCK_R)
        for c0 in range(own, C, team * BLOCK_C):
            c = c0 + tl.arange(0, BLOCK_C)
            live = c < C
            i = tl.sigmoid(_gate(units_i, units_h, wi2, bi2, wh2, bh2, c, live, R, BLOCK_R))
            f = tl.sigmoid(_gate(units_i, units_h, wi2, bi2, wh2, bh2, C + c, live, R, BLOCK_R))
            u = _gate(units_i, units_h, wi2, bi2, wh2, bh2, 2 * C + c, live, R, BLOCK_R)
            u = 2 * tl.sigmoid(2 * u) - 1  # tanh
            o = tl.sigmoid(_gate(units_i, units_h, wi2, bi2, wh2, bh2, 3 * C + c, live, R, BLOCK_R))
            cell = f * _cell_before(shift, state, n, g, c, N, C, has_state) + i * u
            h = o * tl.sigmoid(cell)
            gate = gates + g * 4 * C + c
            tl.store(gate, i, mask=live)
            tl.store(gate + C, f, mask=live)
            tl.store(gate + 2 * C, u, mask=live)
            tl.store(gate + 3 * C, o, mask=live)
            tl.store(scale + g * C + c, h, mask=live)
            tl.store(shift + g * C + c, cell, mask=live)
            tl.store(before + (g + 1) * C + c, h, mask=c < tl.where(g + 1 < G, C, 0))
        tl.debug_barrier()


@_kernel
def _hidden_units(parts, bias, units, team, R, BLOCK_R: tl.constexpr):
    """(BLOCK_R,): ReLU of the sum of parts and the bias; every member stores it."""
    r = tl.arange(0, BLOCK_R)
    total = _sum_of_parts(parts, team, R, BLOCK_R)
    total += tl.load(bias + r, mask=r < R, other=0.0).to(tl.float32)
    total = tl.where(total < 0, 0.0, total)  # NaN stays
    tl.store(units + r, total, mask=r < R)
    return total


@_kernel
def _cell_before(shift, state, n, g, c, N, C, has_state):
    """The cell state before group g of clip n: of the group before, at first, or 0."""
    cell = tl.load(shift + (g - 1) * C + c, mask=c < tl.where(g > 0, C, 0), other=0.0)
    at_first = c < tl.where(g < has_state, C, 0)
    return cell + tl.load(state + (N + n) * C + c, mask=at_first, other=0.0)


@_kernel
def _affine(saved, row, c, rows, G, C):
    """Of a row: mean, scale / deviation and shift, (BLOCK_C, 1) each."""
    g = row % G
    live = c < C
    mean = tl.load(saved + g * C + c, mask=live, other=0.0)
    rstd = tl.load(saved + (G + g) * C + c, mask=live, other=0.0)
    scale = tl.load(saved + (2 * G + row) * C + c, mask=live, other=0.0)
    shift = tl.load(saved + (2 * G + rows + row) * C + c, mask=live, other=0.0)
    return mean[:, None], (scale * rstd)[:, None], shift[:, None]


@_kernel
def _apply_kernel(
        x,  # images
        out,  # out: images
        saved,  # of _relay_kernel
        rows, G, C, P, frames, units, span, relu, LAST: tl.constexpr,
        ALIGNED: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """out = (x - mean) * (scale / deviation) + shift, and ReLU."""
    if ALIGNED:
        P = P // 16 * 16
    # Backwards: what _moments_kernel read last is in the cache still.
    row, start, _, c, first, stop = _share(
        tl.num_programs(0) - 1 - tl.program_id(0), C, P, frames, units, span, LAST,
        BLOCK_C, BLOCK_P)
    mean, factor, shift = _affine(saved, row, c, rows, G, C)
    for k in range(first, stop):
        at, live = _chunk(k, c, C, P, LAST, BLOCK_P)
        value = tl.load(x + start + at, mask=live, other=0.0).to(tl.float32)
        value = (value - mean) * factor + shift
        value = tl.where((relu != 0) & (value < 0), 0.0, value)  # NaN stays
        tl.store(out + start + at, value.to(out.dtype.element_ty), mask=live)


@_kernel
def _load_gradient(x, grad, start, at, live, mean, factor, shift, relu):
    """Of a chunk: x - mean, and the gradient that ReLU lets pass."""
    value = tl.load(x + start + at, mask=live, other=0.0).to(tl.float32) - mean
    up = tl.load(grad + start + at, mask=live, other=0.0).to(tl.float32)
    return value, tl.where((relu != 0) & (value * factor + shift <= 0), 0.0, up)


@_kernel
def _sums_kernel(
        x, grad,  # images, and gradients of _apply_kernel's `out`
        saved,  # of _relay_kernel
        scratch,  # out: parts, sums of the gradient and of it times (x - mean); counters
        rows, G, C, P, frames, units, span, relu, team, LAST: tl.constexpr,
        ALIGNED: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Of each unit, what the gradients of shift and scale are made of."""
    if ALIGNED:
        P = P // 16 * 16
    pid = tl.program_id(0)
    _, counters = _teams(scratch, rows, units, team, C)
    tl.store(counters + pid, 0.0, mask=pid < rows)
    row, start, unit, c, first, stop = _share(
        pid, C, P, frames, units, span, LAST, BLOCK_C, BLOCK_P)
    mean, factor, shift = _affine(saved, row, c, rows, G, C)
    sums = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    products = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for k in tl.range(first, stop, loop_unroll_factor=2):
        at, live = _chunk(k, c, C, P, LAST, BLOCK_P)
        value, up = _load_gradient(x, grad, start, at, live, mean, factor, shift, relu)
        sums += up
        products += tl.where(live, up * value, 0.0)  # not 0 * inf
    part = scratch + (row * units + unit) * C + c
    tl.store(part, tl.sum(sums, 1), mask=c < C)
    tl.store(part + rows * units * C, tl.sum(products, 1), mask=c < C)


@_kernel
def _part_by_gates(grads, weight, own, team, C, R, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr):
    """(BLOCK_R,): of grads (4C,) @ weight (4C, R), the part of a member's channels."""
    r = tl.arange(0, BLOCK_R)[None, :]
    total = tl.zeros((BLOCK_C, BLOCK_R), tl.float32)
    for c0 in range(own, C, team * BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)[:, None]
        mask = (c < C) & (r < R)
        for k in tl.static_range(4):
            block = tl.load(weight + (k * C + c) * R + r, mask=mask, other=0.0)
            total += block.to(tl.float32) * tl.load(grads + k * C + c, mask=c < C, other=0.0)
    return tl.sum(total, 0)


@_kernel
def _units_backward(parts, units, grad_units, team, R, BLOCK_R: tl.constexpr):
    """(BLOCK_R,): of the sum of parts, what ReLU lets pass; every member stores it."""
    r = tl.arange(0, BLOCK_R)
    total = _sum_of_parts(parts, team, R, BLOCK_R)
    total = tl.where(tl.load(units + r, mask=r < R, other=0.0) <= 0, 0.0, total)
    tl.store(grad_units + r, total, mask=r < R)
    return total


@_kernel
def _by_units(grad_units, weight, c, live, C, R, BLOCK_R: tl.constexpr):
    """(BLOCK_C,): columns of a first layer (R, C), applied to gradients of its units."""
    r = tl.arange(0, BLOCK_R)[:, None]
    mask = (r < R) & live[None, :]
    block = tl.load(weight + r * C + c[None, :], mask=mask, other=0.0)
    return tl.sum(block.to(tl.float32) * grad_units[:, None], 0)


@_kernel
def _relay_backward_kernel(
    parts,  # scratch of _sums_kernel, which begins with the parts
    saved,  # of _relay_kernel
    grads,  # out; behind what _apply_backward_kernel reads, the state's (2, N, C)
    state, grad_state,  # (2, N, C); not read without has_state and has_grad_state
    wi1, wi2, wh1, wh2,  # weights of _relay_kernel
    has_state, has_grad_state, N, G, C, units, count, training, team,
    BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):
    """The relay backwards, a team a clip; and the gradients of the statistics, a program
    a group and 128 channels. `count` is how many values a group has a channel."""
    rows = N * G
    R = C // 4
    pid = tl.program_id(0)
    if pid >= N * team:
        pid -= N * team
        blocks = tl.cdiv(C, BLOCK_S)
        _statistics_backward(
            parts, saved, grads, N, G, C, units, count, training, pid // blocks,
            pid % blocks * BLOCK_S + tl.arange(0, BLOCK_S))
        return
    n = pid // team
    member = pid % team
    own = member * BLOCK_C
    row0 = n * G
    team_parts, counters = _teams(parts, rows, units, team, C)
    shift = saved + (2 * G + rows + row0) * C
    gates = saved + (2 * G + 4 * rows) * C + row0 * 4 * C
    inner_i = saved + (2 * G + 8 * rows) * C + row0 * R
    inner_h = inner_i + rows * R
    grad_pooled = grads + (2 * G + row0) * C
    grad_gates = grads + (2 * G + rows) * C + row0 * 4 * C
    grad_inner_i = grads + (2 * G + 5 * rows) * C + row0 * R
    grad_inner_h = grad_inner_i + rows * R
    team_parts_i = team_parts + row0 * team * R
    team_parts_h = team_parts_i + rows * team * R
    carry_h = grads + (2 * G + 5 * rows) * C + 2 * rows * R + n * C
    carry_c = carry_h + N * C
    r = tl.arange(0, BLOCK_R)

    for c0 in range(own, C, team * BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        given = c < tl.where(has_grad_state != 0, C, 0)
        tl.store(carry_h + c, tl.load(grad_state + n * C + c, mask=given, other=0.0), mask=c < C)
        tl.store(carry_c + c, tl.load(grad_state + (N + n) * C + c, mask=given, other=0.0), mask=c < C)
    for step in range(G):
        g = G - 1 - step
        for c0 in range(own, C, team * BLOCK_C):
            c = c0 + tl.arange(0, BLOCK_C)
            live = c < C
            grad_h, grad_c = _sums_of_units(parts + (row0 + g) * units * C, rows, units, c, C)
            grad_h *= tl.load(saved + (G + g) * C + c, mask=live, other=0.0)
            grad_h += tl.load(carry_h + c, mask=live, other=0.0)
            grad_c += tl.load(carry_c + c, mask=live, other=0.0)
            gate = g * 4 * C + c
            i = tl.load(gates + gate, mask=live, other=0.0)
            f = tl.load(gates + gate + C, mask=live, other=0.0)
            u = tl.load(gates + gate + 2 * C, mask=live, other=0.0)
            o = tl.load(gates + gate + 3 * C, mask=live, other=0.0)
            squashed = tl.sigmoid(tl.load(shift + g * C + c, mask=live, other=0.0))
            cell = _cell_before(shift, state, n, g, c, N, C, has_state)
            grad_c += grad_h * o * squashed * (1 - squashed)
            tl.store(grad_gates + gate, grad_c * u * i * (1 - i), mask=live)
            tl.store(grad_gates + gate + C, grad_c * cell * f * (1 - f), mask=live)
            tl.store(grad_gates + gate + 2 * C, grad_c * i * (1 - u * u), mask=live)
            tl.store(grad_gates + gate + 3 * C, grad_h * squashed * o * (1 - o), mask=live)
            tl.store(carry_c + c, grad_c * f, mask=live)
        tl.debug_barrier()
        part = _part_by_gates(grad_gates + g * 4 * C, wi2, own, team, C, R, BLOCK_C, BLOCK_R)
        tl.store(team_parts_i + (g * team + member) * R + r, part, mask=r < R)
        part = _part_by_gates(grad_gates + g * 4 * C, wh2, own, team, C, R, BLOCK_C, BLOCK_R)
        tl.store(team_parts_h + (g * team + member) * R + r, part, mask=r < R)
        _meet(counters + n, step + 1, team)
        units_i = _units_backward(team_parts_i + g * team * R, inner_i + g * R, grad_inner_i + g * R, team, R, BLOCK_R)
        units_h = _units_backward(team_parts_h + g * team * R, inner_h + g * R, grad_inner_h + g * R, team, R, BLOCK_R)
        for c0 in range(own, C, team * BLOCK_C):
            c = c0 + tl.arange(0, BLOCK_C)
            live = c < C
            tl.store(grad_pooled + g * C + c, _by_units(units_i, wi1, c, live, C, R, BLOCK_R), mask=live)
            tl.store(carry_h + c, _by_units(units_h, wh1, c, live, C, R, BLOCK_R), mask=live)
        tl.debug_barrier()


@_kernel
def _sums_of_units(parts, rows, units, c, C, BLOCK: tl.constexpr = 16):
    """The two sums of a row, (BLOCK_C,) each, over its units."""
    total = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    product = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    for first in range(0, units, BLOCK):
        unit = first + tl.arange(0, BLOCK)[:, None]
        live = (unit < units) & (c < C)[None, :]
        part = parts + unit * C + c[None, :]
        total += tl.load(part, mask=live, other=0.0)
        product += tl.load(part + rows * units * C, mask=live, other=0.0)
    return tl.sum(product, 0), tl.sum(total, 0)


@_kernel
def _statistics_backward(parts, saved, grads, N, G, C, units, count, training, g, c,
                         BLOCK: tl.constexpr = 64):
    """What comes to x through mean and deviation: slope * (x - mean) + level.

    0 for running statistics, which do not depend on x.
    """
    slope = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    level = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    for first in range(0, tl.where(training != 0, N * units, 0), BLOCK):
        k = first + tl.arange(0, BLOCK)[:, None]
        row = k // units * G + g
        live = (k < N * units) & (c < C)[None, :]
        part = parts + (row * units + k % units) * C + c[None, :]
        scale = tl.load(saved + (2 * G + row) * C + c[None, :], mask=live, other=0.0)
        level += scale * tl.load(part, mask=live, other=0.0)
        slope += scale * tl.load(part + N * G * units * C, mask=live, other=0.0)
    rstd = tl.load(saved + (G + g) * C + c, mask=c < C, other=0.0)
    slope = tl.sum(slope, 0) * -rstd * rstd * rstd / count
    tl.store(grads + g * C + c, slope, mask=c < C)
    tl.store(grads + (G + g) * C + c, tl.sum(level, 0) * -rstd / count, mask=c < C)


@_kernel
def _apply_backward_kernel(
        x, grad,  # images, and gradients of _apply_kernel's `out`
        grad_x,  # out: images
        saved,  # of _relay_kernel
        grads,  # of _relay_backward_kernel
        grad_weights,  # out: of the eight weights, one after another
        rows, G, C, P, frames, units, span, relu,
        weight_programs,  # the first programs, which do the weights
        LAST: tl.constexpr, ALIGNED: tl.constexpr, BLOCK_C: tl.constexpr,
        BLOCK_P: tl.constexpr):
    """grad_x = grad * scale / deviation + (x - mean) * slope + level; the weights'."""
    if tl.program_id(0) < weight_programs:
        _weight_gradient(saved, grads, grad_weights, tl.program_id(0), rows, G, C)
        return
    if ALIGNED:
        P = P // 16 * 16
    # Backwards, as in _apply_kernel.
    row, start, _, c, first, stop = _share(
        tl.num_programs(0) - 1 - tl.program_id(0), C, P, frames, units, span, LAST,
        BLOCK_C, BLOCK_P)
    mean, factor, shift = _affine(saved, row, c, rows, G, C)
    slope = tl.load(grads + row % G * C + c, mask=c < C, other=0.0)[:, None]
    level = tl.load(grads + (G + row % G) * C + c, mask=c < C, other=0.0)
    pooled = tl.load(grads + (2 * G + row) * C + c, mask=c < C, other=0.0)
    level = (level + pooled / (frames * P))[:, None]
    for k in range(first, stop):
        at, live = _chunk(k, c, C, P, LAST, BLOCK_P)
        value, up = _load_gradient(x, grad, start, at, live, mean, factor, shift, relu)
        value = up * factor + value * slope + level
        tl.store(grad_x + start + at, value.to(grad_x.dtype.element_ty), mask=live)


@_kernel
def _weight_gradient(saved, grads, grad_weights, pid, rows, G, C,
                     BLOCK: tl.constexpr = 64):
    """A tile of one weight's gradient, the sum over rows of outer products of `left`
    and `right`, and of its bias's, the sum of `left`."""
    R = C // 4
    first_tiles = tl.cdiv(R, BLOCK) * tl.cdiv(C, BLOCK)  # of a first layer, (R, C)
    tiles = first_tiles + tl.cdiv(4 * C, BLOCK) * tl.cdiv(R, BLOCK)
    map = pid // tiles  # 0: input map; 1: hidden map
    tile = pid % tiles
    out = grad_weights + map * (5 * R * C + R + 4 * C)
    if tile < first_tiles:
        left = grads + (2 * G + 5 * rows) * C + map * rows * R  # of hidden units
        right = saved + (2 * G + (2 + map) * rows) * C  # pooled, or the hidden state
        J = R
        K = C
    else:
        left = grads + (2 * G + rows) * C  # of gates
        right = saved + (2 * G + 8 * rows) * C + map * rows * R  # hidden units
        out += R * C + R
        tile -= first_tiles
        J = 4 * C
        K = R
    j = tile // tl.cdiv(K, BLOCK) * BLOCK + tl.arange(0, BLOCK)
    k = tile % tl.cdiv(K, BLOCK) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    bias = tl.zeros((BLOCK,), tl.float32)
    for row in tl.range(0, rows, loop_unroll_factor=4):
        up = tl.load(left + row * J + j, mask=j < J, other=0.0)
        value = tl.load(right + row * K + k, mask=k < K, other=0.0)
        total += up[:, None] * value[None, :]
        bias += up
    dtype = grad_weights.dtype.element_ty
    mask = (j < J)[:, None] & (k < K)[None, :]
    tl.store(out + j[:, None] * K + k[None, :], total.to(dtype), mask=mask)
    with_bias = tile % tl.cdiv(K, BLOCK) == 0
    tl.store(out + J * K + j, bias.to(dtype), mask=j < tl.where(with_bias, J, 0))
# fmt: on


# Launching them


# Warps and channels of a program of the relay, forward and backward.
RELAY, RELAY_BACKWARD = (16, 32), (4, 16)


class _Launch:
    """A kernel for images of one shape: its grid, and all arguments but the tensors.

    Triton's ``kernel[grid](...)`` looks at each argument of each launch to find the
    compiled kernel, which takes longer than many a kernel runs. Here that is done once,
    by ``kernel.warmup``: dtypes are part of the plan, and tensors begin at multiples of
    16 bytes, which :func:`_aligned` sees to.
    """

    def __init__(self, kernel, programs, kinds, numbers, num_warps=8, together=False):
        self.kernel, self.grid = kernel, (programs, 1, 1)
        self.kinds = kinds  # of what varies: a tensor's dtype, or 0 for a flag
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

    def __call__(self, *tensors_and_flags):
        if INTERPRETED:
            self.kernel[self.grid](*tensors_and_flags, *self.numbers)
        else:
            self.run(*tensors_and_flags, *self.numbers)


class _Plan(NamedTuple):
    """How the kernels go over images of one shape, layout and dtype."""

    device: torch.device
    memory_format: torch.memory_format
    copy: bool  # whether the images have another layout and must be copied
    clips: int
    groups: int
    saved_size: int
    grads_size: int
    scratch_size: int
    weights_size: int
    forward: tuple[_Launch, _Launch, _Launch]
    backward: tuple[_Launch, _Launch, _Launch]


@functools.lru_cache(None)
def _plan(shape, stride, device, spec, dtype, weight_dtype, running_dtype, num_stats):
    """The plan; `num_stats` is the number of the running statistics, G * C or C."""
    images, C, height, width = shape
    x = torch.empty_strided(shape, stride, device='meta')
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if last else torch.contiguous_format
    G, R = spec.num_groups, C // 4
    N, t = images // spec.n_segment, spec.n_segment // G
    frames, P = (1, t * height * width) if last else (t, height * width)
    wide = not last and P >= 512
    block_c, block_p = (64, 64) if last else (8, 512) if wide else (32, 64)
    tile = last, wide and P % 16 == 0, block_c, block_p
    rows, tiles = N * G, _cdiv(C, block_c)
    chunks = frames * _cdiv(P, block_p)
    processors = _num_processors(device)

    def split(programs):
        """Units of a row and their span, for some number of programs."""
        span = _cdiv(chunks, max(1, programs // (rows * tiles)))
        return _cdiv(chunks, span), span

    # Sums: a few programs a processor, with long runs. Else many, short ones.
    units, span = split(4 * processors)
    short = split(32 * processors)
    relu, training = int(spec.relu), int(spec.training)
    sizes = rows, G, C, P, frames

    groups, statistics = num_stats // C, G * _cdiv(C, 128)
    team, together = _team(N, C, statistics, RELAY, processors)
    team_back, together_back = _team(N, C, statistics, RELAY_BACKWARD, processors)
    weight_programs = 2 * (
        _cdiv(R, 64) * _cdiv(C, 64) + _cdiv(4 * C, 64) * _cdiv(R, 64)
    )
    f32, weights, running = torch.float32, 8 * (weight_dtype,), 2 * (running_dtype,)
    running = *running, torch.int64
    forward = (
        _Launch(
            _moments_kernel,
            rows * units * tiles,
            (dtype, f32),
            (rows, C, P, frames, units, span, team, *tile),
        ),
        _Launch(
            _relay_kernel,
            N * team + groups * _cdiv(C, 128),
            (f32, f32, f32, *running, *running, *weights, 0),
            (N, G, C, P, units, span, chunks, spec.eps, spec.momentum)
            + (training, groups, block_p, team, RELAY[1], 128, 128),
            num_warps=RELAY[0],
            together=together,
        ),
        _Launch(
            _apply_kernel,
            rows * short[0] * tiles,
            (dtype, dtype, f32),
            (*sizes, *short, relu, *tile),
        ),
    )
    backward = (
        _Launch(
            _sums_kernel,
            rows * units * tiles,
            (dtype, dtype, f32, f32),
            (*sizes, units, span, relu, team_back, *tile),
        ),
        _Launch(
            _relay_backward_kernel,
            N * team_back + statistics,
            (*(5 * [f32]), *weights[:4], 0, 0),
            (N, G, C, units, N * t * height * width, training, team_back)
            + (RELAY_BACKWARD[1], 128, 128),
            num_warps=RELAY_BACKWARD[0],
            together=together_back,
        ),
        _Launch(
            _apply_backward_kernel,
            weight_programs + rows * short[0] * tiles,
            (dtype, dtype, dtype, f32, f32, weight_dtype),
            (*sizes, *short, relu, weight_programs, *tile),
        ),
    )
    return _Plan(
        device=device,
        memory_format=memory_format,
        copy=not x.is_contiguous(memory_format=memory_format),
        clips=N,
        groups=G,
        saved_size=2 * G * C + rows * (8 * C + 2 * R),
        grads_size=2 * G * C + rows * (5 * C + 2 * R),
        scratch_size=2 * rows * (units * C + max(team, team_back) * R) + rows,
        weights_size=2 * (R * C + R + 4 * C * R + 4 * C),
        forward=forward,
        backward=backward,
    )


def _cdiv(a, b):
    return -(-a // b)


def _team(N, C, others, relay, processors):
    """Programs a clip, and whether these and the others all run at once.

    A member has a block of channels, or more where not as many programs fit. With 4
    warps, whose registers are at most half of a processor's, two fit on each.
    """
    warps, block = relay
    room = processors * max(1, 8 // warps) - others
    blocks = _cdiv(C, block)
    team = _cdiv(blocks, _cdiv(blocks, max(1, min(blocks, room // N))))
    return team, N * team <= room


@functools.lru_cache(None)
def _num_processors(device):
    """How many programs run at once, at least; in the interpreter, one."""
    if INTERPRETED:
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _plan_of(x, spec, weight, running_mean=None):
    """The plan; the backward pass does not depend on the running statistics."""
    statistics = torch.float32, x.size(1)
    if running_mean is not None:
        statistics = running_mean.dtype, running_mean.numel()
    return _plan(
        x.shape, x.stride(), x.device, spec, x.dtype, weight.dtype, *statistics
    )


def _compile(launches, device):
    """Compile kernels that are not yet, several at once."""
    launches = [launch for launch in launches if launch.run is None]
    if INTERPRETED or not launches:
        return
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(launch.compile, device) for launch in launches]
        if wait(done, timeout=5).not_done:
            logger.warning('Triton is compiling kernels, which it keeps for next time')
    for future in done:
        future.result()


def _aligned(tensor):
    """A tensor, or a copy that is contiguous and begins at a multiple of 16 bytes."""
    if tensor.is_contiguous() and tensor.data_ptr() % 16 == 0:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def _images(x, plan):
    """Images, or a copy that has the plan's layout and begins as :func:`_aligned`'s."""
    if x.is_contiguous(memory_format=plan.memory_format) and x.data_ptr() % 16 == 0:
        return x
    return x.clone(memory_format=plan.memory_format)


def _vector(size, device):
    return torch.empty(size, dtype=torch.float32, device=device)


def _triton_forward(plan, x, state, weights, running, updated):
    """Normalize by the kernels.

    Args:
        plan (_Plan): of all this, see :func:`_plan_of`.
        x (Tensor): (N * T, C, H, W), on CUDA.
        state (Tensor | None): the relay's, (2, N, C).
        weights (Sequence[Tensor]): see :func:`cell_weights`.
        running (Sequence[Tensor]): running mean and variance, and the number of batches
            tracked.
        updated (Sequence[Tensor]): where training writes the new ones; may be the same.

    Returns:
        tuple: out; the new state, (2, N, C), a view of `saved`; and `saved`.
    """
    moments, relay, apply = plan.forward
    x = _images(x, plan)
    weights = [_aligned(weight) for weight in weights]
    scratch = _vector(plan.scratch_size, plan.device)
    saved = _vector(plan.saved_size, plan.device)
    out = torch.empty_like(x)
    has_state = state is not None
    state = _aligned(state.float()) if has_state else saved
    moments(x, scratch)
    relay(scratch, saved, state, *running, *updated, *weights, int(has_state))
    apply(x, out, saved)
    # Of scales and shifts, (N, G, C) each, the last group's.
    N, G, C = plan.clips, plan.groups, x.size(1)
    new_state = saved.as_strided((2, N, C), (N * G * C, G * C, 1), (3 * G - 1) * C)
    return out, new_state, saved


def _triton_backward(plan, grad_out, grad_state, x, state, saved, weights):
    """Gradients by the kernels.

    Args:
        grad_out, grad_state (Tensor | None): of the outputs.
        weights (Sequence[Tensor]): the four that are no biases.
        plan, x, state, saved: as :func:`_triton_forward` takes and gives them.

    Returns:
        tuple: the gradients of x; of the state, (2, N, C), or None without one; and of the eight weights, in one vector.
    """
    sums, relay, apply = plan.backward
    x = _images(x, plan)
    grad_out = torch.zeros_like(x) if grad_out is None else _images(grad_out, plan)
    weights = [_aligned(weight) for weight in weights]
    scratch = _vector(plan.scratch_size, plan.device)
    N, C = plan.clips, x.size(1)
    grads = _vector(plan.grads_size + 2 * N * C, plan.device)
    grad_x = torch.empty_like(x)
    grad_weights = weights[0].new_empty(plan.weights_size)
    has_state, has_grad_state = int(state is not None), int(grad_state is not None)
    state = saved if state is None else _aligned(state.float())
    grad_state = saved if grad_state is None else _aligned(grad_state.float())
    sums(x, grad_out, saved, scratch)
    relay(
        *(scratch, saved, grads, state, grad_state, *weights),
        has_state,
        has_grad_state,
    )
    apply(x, grad_out, grad_x, saved, grads, grad_weights)
    grad_state = None
    if has_state:
        grad_state = grads.as_strided((2, N, C), (N * C, C, 1), plan.grads_size)
    return grad_x, grad_state, grad_weights


class _TritonNormalize(torch.autograd.Function):
    """The layer by Triton's kernels."""

    @staticmethod
    def forward(ctx, spec, running, x, state, *weights):
        ctx.set_materialize_grads(False)
        plan = _plan_of(x, spec, weights[0], running[0])
        if plan.forward[0].run is None:
            backward = plan.backward if any(ctx.needs_input_grad) else ()
            _compile((*plan.forward, *backward), plan.device)
        with _on(plan.device):
            out, new_state, saved = _triton_forward(
                plan, x, state, weights, running, running
            )
        ctx.plan = plan
        ctx.save_for_backward(x, state, saved, *weights[::2])
        return out, new_state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out, grad_state):
        x, state, saved, *weights = ctx.saved_tensors
        if ctx.plan.backward[0].run is None:
            _compile(ctx.plan.backward, ctx.plan.device)
        with _on(ctx.plan.device):
            grad_x, grad_state, grad_weights = _triton_backward(
                ctx.plan, grad_out, grad_state, x, state, saved, weights
            )
        return None, None, grad_x, grad_state, *_eight(grad_weights, x.size(1))


def _eight(vector, C):
    """Views of a vector that holds a relay cell's weights one after another."""
    R = C // 4
    in1, bias1, in2, bias2, hid1, bias3, hid2, bias4 = vector.split_with_sizes(
        2 * [R * C, R, 4 * C * R, 4 * C]
    )
    in1, hid1 = in1.view(R, C), hid1.view(R, C)
    in2, hid2 = in2.view(4 * C, R), hid2.view(4 * C, R)
    return in1, bias1, in2, bias2, hid1, bias3, hid2, bias4


def _on(device):
    """Context in which Triton launches on a device."""
    if device.type != 'cuda' or device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


# The layer for torch.compile: an operator that it takes as it is, in either pass.
_SPEC = (
    'int n_segment, int num_groups, float eps, float momentum, bool training, bool relu'
)
_FORWARD = (
    '(Tensor x, Tensor? state, Tensor[] weights, Tensor running_mean, '
    f'Tensor running_var, Tensor tracked, {_SPEC}) '
    '-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)'
)
_BACKWARD = (
    '(Tensor? grad_out, Tensor? grad_state, Tensor x, Tensor? state, Tensor saved, '
    f'Tensor[] weights, {_SPEC}) -> (Tensor, Tensor, Tensor)'
)


def _define_operator():
    """Of x, state, weights, running statistics and a Spec's values: out, the new state,
    `saved`, and the new running statistics. None before torch 2.4."""
    if triton is None or not hasattr(torch.library, 'custom_op'):
        return None
    namespace = __name__.replace('.', '_')  # a second copy has its own

    def forward(x, state, weights, *rest):
        running, spec = rest[:3], Spec(*rest[3:])
        plan = _plan_of(x, spec, weights[0], running[0])
        _compile(plan.forward, plan.device)
        updated = [torch.empty_like(buffer) for buffer in running]
        with _on(plan.device):
            out, state, saved = _triton_forward(
                plan, x, state, weights, running, updated
            )
        # An operator's outputs are not views of one another.
        return out, state.clone(), saved, *updated

    def forward_fake(x, state, weights, *rest):
        running, spec = rest[:3], Spec(*rest[3:])
        N, G, C = x.size(0) // spec.n_segment, spec.num_groups, x.size(1)
        size = 2 * G * C + N * G * (8 * C + 2 * (C // 4))
        vectors = [x.new_empty(s, dtype=torch.float32) for s in ((2, N, C), size)]
        return torch.empty_like(x), *vectors, *map(torch.empty_like, running)

    def backward(grad_out, grad_state, x, state, saved, weights, *spec):
        plan = _plan_of(x, Spec(*spec), weights[0])
        _compile(plan.backward, plan.device)
        with _on(plan.device):
            grad_x, grad_state, grad_weights = _triton_backward(
                plan, grad_out, grad_state, x, state, saved, weights[::2]
            )
        if state is None:
            grad_state = saved.new_empty((2, plan.clips, x.size(1)))
        return grad_x, grad_state.clone(), grad_weights

    def backward_fake(grad_out, grad_state, x, state, saved, weights, *spec):
        grad_state = saved.new_empty((2, x.size(0) // spec[0], x.size(1)))
        size = sum(weight.numel() for weight in weights)
        return torch.empty_like(x), grad_state, weights[0].new_empty(size)

    def define(name, function, fake, schema):
        operator = torch.library.custom_op(
            f'{namespace}::{name}', function, mutates_args=(), schema=schema
        )
        operator.register_fake(fake)
        return operator

    forward = define('normalize', forward, forward_fake, _FORWARD)
    backward = define('normalize_backward', backward, backward_fake, _BACKWARD)

    def setup_context(ctx, inputs, output):
        x, state, weights, _, _, _, *ctx.spec = inputs
        ctx.save_for_backward(x, state, output[2], *weights)

    def differentiate(ctx, grad_out, grad_state, *_):
        x, state, saved, *weights = ctx.saved_tensors
        grad_x, grad_state, grad_weights = backward(
            *(grad_out, grad_state, x, state, saved, weights, *ctx.spec)
        )
        nothing = [None] * (3 + len(ctx.spec))
        if state is None:
            grad_state = None
        return grad_x, grad_state, list(_eight(grad_weights, x.size(1))), *nothing

    forward.register_autograd(differentiate, setup_context=setup_context)
    return forward


_operator = _define_operator()
