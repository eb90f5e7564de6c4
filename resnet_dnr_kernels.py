"""Triton kernels of resnet_dnr_fused.py, which launches them.

Forward :func:`moments`, :func:`relay`, :func:`apply`; backward :func:`sums`,
:func:`relay_backward`, :func:`apply_backward`. N clips, G groups, C channels; R = C / 4
is the width within a relay cell's maps. A row is one group of one clip, n * G + g.
"""

import triton
import triton.language as tl

# Images are read in chunks of channels by positions. A row is `frames` planes of P
# positions: of contiguous images, its t frames of H * W; of channels-last ones, one
# plane of t * H * W. A unit is `span` of a row's chunks. A program takes some channels
# of a unit, so that `units` programs share a row's block of channels. `weights` have
# their own dtype. All else is float32: states and their gradients, (2, N, C) each, and
# flat vectors of these parts, in this order:
#
# weights  of the input map, then of the hidden map: (R, C), (R,), (4C, R), (4C,)
# saved    mean, rstd (G, C); scale, shift, pooled mean, hidden state before (N * G, C);
#          gates i, f, g, o (N * G, 4C); hidden units of either map (N * G, R)
# grads    slope, level (G, C); gradients of pooled means (N * G, C), of gates
#          (N * G, 4C), of either map's hidden units (N * G, R)
# scratch  of each unit, mean and sum of squares, or two sums (N * G, units, C); of each
#          team's members, parts of either map's hidden units (N * G, team, R); counters
#          of clips, int32, in (N * G,)
#
# What a kernel needs of all programs of the kernel before, it has: the launches of a
# stream run one after another. Only the teams of the relay meet within a launch.

INTEGERS = (
    'rows N G P frames units span chunks groups block_p count team training relu '
    'has_state has_grad_state weight_programs'
).split()


def _kernel(function):
    # Triton compiles anew where 16 divides an integer, or where it is 1. It gains by
    # that of C alone, of which rows of 16-byte loads are made.
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return triton.jit(function, do_not_specialize=[n for n in names if n in INTEGERS])


# fmt: off
@_kernel
def _share_of(pid, C, P, frames, units, span, BLOCK_C: tl.constexpr,
              BLOCK_P: tl.constexpr):
    """Of a program: row, the row's offset in the images, unit, channels (BLOCK_C,), and
    its first chunk and the one behind its last."""
    tiles = tl.cdiv(C, BLOCK_C)
    row = pid // tiles // units
    unit = pid // tiles % units
    c = pid % tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    stop = tl.minimum((unit + 1) * span, frames * tl.cdiv(P, BLOCK_P))
    return row, row.to(tl.int64) * (frames * P * C), unit, c, unit * span, stop


@_kernel
def _chunk(k, c, C, P, LAST: tl.constexpr, BLOCK_P: tl.constexpr):
    """Offsets (BLOCK_C, BLOCK_P) of a row's k-th chunk, and which of them there are."""
    turns = tl.cdiv(P, BLOCK_P)
    p = k % turns * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    offset = p * C + c[:, None] if LAST else c[:, None] * P + p
    return k // turns * P * C + offset, (c[:, None] < C) & (p < P)


@_kernel
def _count(first, stop, P, block_p):
    """How many positions the chunks from first to before stop have."""
    turns = tl.cdiv(P, block_p)
    before = first // turns * P + first % turns * block_p
    return (stop // turns * P + stop % turns * block_p - before).to(tl.float32)


@_kernel
def _teams(scratch, rows, units, team, C):
    """Where the members' parts of hidden units, and the counters, begin."""
    parts = scratch + 2 * rows * units * C
    return parts, parts + 2 * rows * team * (C // 4)


@_kernel
def moments(
        x, scratch,  # images; out: mean of each unit, sum of squares about it; counters
        rows, C, P, frames, units, span, team, LAST: tl.constexpr,
        ALIGNED: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """The moments of each unit.

    Sums are taken of values less the mean of the unit's first chunk. Of K chunks, that
    is at most sqrt(K) standard deviations from the mean of all: little cancels.
    """
    if ALIGNED:
        P = P // 16 * 16  # so the compiler knows that 16 divides it
    pid = tl.program_id(0)
    _, counters = _teams(scratch, rows, units, team, C)
    tl.store(counters + pid, 0.0, mask=pid < rows)
    row, start, unit, c, first, stop = _share_of(
        pid, C, P, frames, units, span, BLOCK_C, BLOCK_P)
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
def _merge_moments(scratch, row0, stride, rows, count, units, span, chunks, P, block_p,
                   c, C, BLOCK: tl.constexpr):
    """Mean, and sum of squares about it, of `count` rows: row0, row0 + stride, ...

    As in a unit, sums are about the mean of the first.
    """
    about = tl.load(scratch + row0 * units * C + c, mask=c < C, other=0.0)
    about = tl.where(about - about == 0, about, 0.0)[None, :]
    total = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    squares = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    for first in range(0, count * units, BLOCK):
        k = first + tl.arange(0, BLOCK)[:, None]
        unit = k % units
        live = (k < count * units) & (c < C)[None, :]
        part = scratch + ((row0 + k // units * stride) * units + unit) * C + c[None, :]
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
def _statistics(scratch, saved, running_mean, running_var, tracked, new_mean, new_var,
                new_tracked, N, G, C, P, units, span, chunks, block_p, eps, momentum,
                training, groups, group, c):
    """What standardizes some channels of a group, and the new running statistics.

    Shared ones are moved by each group in turn: their one program takes all groups.
    """
    live = c < C
    at = group * C + c
    run_mean = tl.load(running_mean + at, mask=live, other=0.0).to(tl.float32)
    run_var = tl.load(running_var + at, mask=live, other=0.0).to(tl.float32)
    for g in range(group, tl.where(groups == 1, G, group + 1)):
        mean = run_mean
        var = run_var
        if training != 0:
            mean, m2 = _merge_moments(
                scratch, g, G, N * G, N, units, span, chunks, P, block_p, c, C, 64)
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


# The relay. A clip has a team of programs, and each member some blocks of channels. Of
# a map's first layer, (R, C), a member has its channels' part of the sums; of its
# second layer, (4C, R), its channels' gates. So a team meets once a step, to add up
# its parts of R hidden units. The launch is cooperative: all programs run at once.


@_kernel
def _meet(counter, meetings, team):
    """Wait until all of a team have come, for its first, second, ... meeting."""
    tl.debug_barrier()
    if team > 1:
        come = counter.to(tl.pointer_type(tl.int32), bitcast=True)
        tl.atomic_add(come, 1, sem='release', scope='gpu')
        while tl.atomic_add(come, 0, sem='acquire', scope='gpu') < meetings * team:
            pass
        tl.debug_barrier()


@_kernel
def _part_of_units(values, weight, own, team, C, R, BLOCK_C: tl.constexpr,
                   BLOCK_R: tl.constexpr):
    """(BLOCK_R,): of weight (R, C) @ values (C,), the part of a member's channels."""
    r = tl.arange(0, BLOCK_R)[:, None]
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for c0 in range(own, C, team * BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)[None, :]
        block = tl.load(weight + r * C + c, mask=(r < R) & (c < C), other=0.0)
        total += block.to(tl.float32) * tl.load(values + c, mask=c < C, other=0.0)
    return tl.sum(total, 1)


@_kernel
def _sum_of_parts(parts, team, R, BLOCK_R: tl.constexpr, BLOCK: tl.constexpr = 8):
    """(BLOCK_R,): the sum of what the members have stored, (team, R)."""
    r = tl.arange(0, BLOCK_R)[None, :]
    total = tl.zeros((BLOCK, BLOCK_R), tl.float32)
    for first in range(0, team, BLOCK):
        m = first + tl.arange(0, BLOCK)[:, None]
        total += tl.load(parts + m * R + r, mask=(m < team) & (r < R), other=0.0)
    return tl.sum(total, 0)


@_kernel
def _hidden_units(parts, weights, units, team, C, R, BLOCK_R: tl.constexpr):
    """(BLOCK_R,): ReLU of a map's first layer; every member stores it."""
    r = tl.arange(0, BLOCK_R)
    total = _sum_of_parts(parts, team, R, BLOCK_R)
    total += tl.load(weights + R * C + r, mask=r < R, other=0.0).to(tl.float32)
    total = tl.where(total < 0, 0.0, total)  # NaN stays
    tl.store(units + r, total, mask=r < R)
    return total


@_kernel
def _gate(units_i, units_h, weights, j, live, C, R, BLOCK_R: tl.constexpr):
    """(BLOCK_C,): rows j of both maps' second layers, summed."""
    r = tl.arange(0, BLOCK_R)[None, :]
    mask = live[:, None] & (r < R)
    second = weights + R * C + R
    size = 5 * R * C + R + 4 * C  # of a map
    from_input = tl.load(second + j[:, None] * R + r, mask=mask, other=0.0)
    from_hidden = tl.load(second + size + j[:, None] * R + r, mask=mask, other=0.0)
    total = from_input.to(tl.float32) * units_i[None, :]
    total = tl.sum(total + from_hidden.to(tl.float32) * units_h[None, :], 1)
    bias = second + 4 * C * R + j
    total += tl.load(bias, mask=live, other=0.0).to(tl.float32)
    return total + tl.load(bias + size, mask=live, other=0.0).to(tl.float32)


@_kernel
def _cell_before(shift, state, n, g, c, N, C, has_state):
    """The cell state before group g of clip n: the group before's; at first what is
    given, or 0."""
    cell = tl.load(shift + (g - 1) * C + c, mask=c < tl.where(g > 0, C, 0), other=0.0)
    at_first = c < tl.where(g < has_state, C, 0)
    return cell + tl.load(state + (N + n) * C + c, mask=at_first, other=0.0)


@_kernel
def relay(
        scratch, saved,  # of moments; out
        state,  # (2, N, C): h and c before the first group; read where has_state
        new_state,  # out, (2, N, C): after the last group
        running_mean, running_var, tracked,  # (G, C) or (C,), likewise, and int64 ()
        new_mean, new_var, new_tracked,  # out, in training; may be the same
        weights, has_state, N, G, C, P, units, span, chunks, eps, momentum, training,
        groups,  # of the running statistics: G, or 1 of shared ones
        block_p, team,  # positions of a chunk; programs a clip
        BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr):
    """The relay, a team a clip; beside it the statistics, a program a group and BLOCK_S
    channels."""
    rows = N * G
    R = C // 4
    pid = tl.program_id(0)
    if pid >= N * team:
        pid -= N * team
        blocks = tl.cdiv(C, BLOCK_S)
        _statistics(
            scratch, saved, running_mean, running_var, tracked, new_mean, new_var,
            new_tracked, N, G, C, P, units, span, chunks, block_p, eps, momentum,
            training, groups, pid // blocks,
            pid % blocks * BLOCK_S + tl.arange(0, BLOCK_S))
        return
    n = pid // team
    own = pid % team * BLOCK_C
    parts, counters = _teams(scratch, rows, units, team, C)
    scale = saved + (2 * G + n * G) * C
    shift = scale + rows * C
    pooled = shift + rows * C
    before = pooled + rows * C
    gates = saved + (2 * G + 4 * (rows + n * G)) * C
    inner_i = saved + (2 * G + 8 * rows) * C + n * G * R
    inner_h = inner_i + rows * R
    parts_i = parts + (n * G * team + pid % team) * R
    parts_h = parts_i + rows * team * R
    hidden_map = weights + 5 * R * C + R + 4 * C
    r = tl.arange(0, BLOCK_R)

    for c0 in range(own, C, team * BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        given = c < tl.where(has_state != 0, C, 0)
        tl.store(before + c, tl.load(state + n * C + c, mask=given, other=0.0),
                 mask=c < C)
        for g in range(G):
            mean, _ = _merge_moments(
                scratch, n * G + g, 0, rows, 1, units, span, chunks, P, block_p, c, C,
                16)
            tl.store(pooled + g * C + c, mean, mask=c < C)
    tl.debug_barrier()
    for g in range(G):
        part = _part_of_units(
            pooled + g * C, weights, own, team, C, R, BLOCK_C, BLOCK_R)
        tl.store(parts_i + g * team * R + r, part, mask=r < R)
    for g in range(G):
        part = _part_of_units(
            before + g * C, hidden_map, own, team, C, R, BLOCK_C, BLOCK_R)
        tl.store(parts_h + g * team * R + r, part, mask=r < R)
        _meet(counters + n, g + 1, team)
        of_clip = (n * G + g) * team * R
        units_i = _hidden_units(
            parts + of_clip, weights, inner_i + g * R, team, C, R, BLOCK_R)
        units_h = _hidden_units(
            parts + rows * team * R + of_clip, hidden_map, inner_h + g * R, team, C, R,
            BLOCK_R)
        for c0 in range(own, C, team * BLOCK_C):
            c = c0 + tl.arange(0, BLOCK_C)
            live = c < C
            i = tl.sigmoid(_gate(units_i, units_h, weights, c, live, C, R, BLOCK_R))
            f = tl.sigmoid(_gate(units_i, units_h, weights, C + c, live, C, R, BLOCK_R))
            u = _gate(units_i, units_h, weights, 2 * C + c, live, C, R, BLOCK_R)
            u = 2 * tl.sigmoid(2 * u) - 1  # tanh
            o = _gate(units_i, units_h, weights, 3 * C + c, live, C, R, BLOCK_R)
            o = tl.sigmoid(o)
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
            at_last = c < tl.where(g + 1 < G, 0, C)
            tl.store(new_state + n * C + c, h, mask=at_last)
            tl.store(new_state + (N + n) * C + c, cell, mask=at_last)
        tl.debug_barrier()


@_kernel
def _affine(saved, row, c, rows, G, C):
    """Of a row: mean, scale / deviation and shift, (BLOCK_C, 1) each."""
    live = c < C
    mean = tl.load(saved + row % G * C + c, mask=live, other=0.0)
    rstd = tl.load(saved + (G + row % G) * C + c, mask=live, other=0.0)
    scale = tl.load(saved + (2 * G + row) * C + c, mask=live, other=0.0)
    shift = tl.load(saved + (2 * G + rows + row) * C + c, mask=live, other=0.0)
    return mean[:, None], (scale * rstd)[:, None], shift[:, None]


@_kernel
def apply(
        x, out, saved,  # images; out: images; of relay
        rows, G, C, P, frames, units, span, relu, LAST: tl.constexpr,
        ALIGNED: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """out = (x - mean) * (scale / deviation) + shift, and ReLU."""
    if ALIGNED:
        P = P // 16 * 16
    # Backwards: what moments read last is in the cache still.
    row, start, _, c, first, stop = _share_of(
        tl.num_programs(0) - 1 - tl.program_id(0), C, P, frames, units, span, BLOCK_C,
        BLOCK_P)
    mean, factor, shift = _affine(saved, row, c, rows, G, C)
    for k in range(first, stop):
        at, live = _chunk(k, c, C, P, LAST, BLOCK_P)
        value = tl.load(x + start + at, mask=live, other=0.0).to(tl.float32)
        value = (value - mean) * factor + shift
        value = tl.where((relu != 0) & (value < 0), 0.0, value)  # NaN stays
        tl.store(out + start + at, value.to(out.dtype.element_ty), mask=live)


@_kernel
def _load_gradient(x, grad, at, live, mean, factor, shift, relu):
    """Of a chunk: x - mean, and the gradient that ReLU lets pass."""
    value = tl.load(x + at, mask=live, other=0.0).to(tl.float32) - mean
    up = tl.load(grad + at, mask=live, other=0.0).to(tl.float32)
    return value, tl.where((relu != 0) & (value * factor + shift <= 0), 0.0, up)


@_kernel
def sums(
        x, grad, saved,  # images; gradients of apply's `out`; of relay
        scratch,  # out: of each unit, sums of grad, and of grad * (x - mean); counters
        rows, G, C, P, frames, units, span, relu, team, LAST: tl.constexpr,
        ALIGNED: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """What the gradients of shift and scale are made of."""
    if ALIGNED:
        P = P // 16 * 16
    pid = tl.program_id(0)
    _, counters = _teams(scratch, rows, units, team, C)
    tl.store(counters + pid, 0.0, mask=pid < rows)
    row, start, unit, c, first, stop = _share_of(
        pid, C, P, frames, units, span, BLOCK_C, BLOCK_P)
    mean, factor, shift = _affine(saved, row, c, rows, G, C)
    sums = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    products = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for k in tl.range(first, stop, loop_unroll_factor=2):
        at, live = _chunk(k, c, C, P, LAST, BLOCK_P)
        value, up = _load_gradient(x, grad, start + at, live, mean, factor, shift, relu)
        sums += up
        products += tl.where(live, up * value, 0.0)  # not 0 * inf
    part = scratch + (row * units + unit) * C + c
    tl.store(part, tl.sum(sums, 1), mask=c < C)
    tl.store(part + rows * units * C, tl.sum(products, 1), mask=c < C)


@_kernel
def _sums_of_units(scratch, row, rows, units, c, C, BLOCK: tl.constexpr = 16):
    """The two sums of a row over its units, (BLOCK_C,) each."""
    total = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    product = tl.zeros((BLOCK, c.shape[0]), tl.float32)
    for first in range(0, units, BLOCK):
        unit = first + tl.arange(0, BLOCK)[:, None]
        live = (unit < units) & (c < C)[None, :]
        part = scratch + (row * units + unit) * C + c[None, :]
        total += tl.load(part, mask=live, other=0.0)
        product += tl.load(part + rows * units * C, mask=live, other=0.0)
    return tl.sum(total, 0), tl.sum(product, 0)


@_kernel
def _statistics_backward(scratch, saved, grads, N, G, C, units, count, training, g, c,
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
        part = scratch + (row * units + k % units) * C + c[None, :]
        scale = tl.load(saved + (2 * G + row) * C + c[None, :], mask=live, other=0.0)
        level += scale * tl.load(part, mask=live, other=0.0)
        slope += scale * tl.load(part + N * G * units * C, mask=live, other=0.0)
    rstd = tl.load(saved + (G + g) * C + c, mask=c < C, other=0.0)
    slope = tl.sum(slope, 0) * -rstd * rstd * rstd / count
    tl.store(grads + g * C + c, slope, mask=c < C)
    tl.store(grads + (G + g) * C + c, tl.sum(level, 0) * -rstd / count, mask=c < C)


@_kernel
def _part_by_gates(grads, second, own, team, C, R, BLOCK_C: tl.constexpr,
                   BLOCK_R: tl.constexpr):
    """(BLOCK_R,): of grads (4C,) @ second (4C, R), the part of a member's channels."""
    r = tl.arange(0, BLOCK_R)[None, :]
    total = tl.zeros((BLOCK_C, BLOCK_R), tl.float32)
    for c0 in range(own, C, team * BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)[:, None]
        mask = (c < C) & (r < R)
        for k in tl.static_range(4):
            block = tl.load(second + (k * C + c) * R + r, mask=mask, other=0.0)
            grad = tl.load(grads + k * C + c, mask=c < C, other=0.0)
            total += block.to(tl.float32) * grad
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
def _by_units(grad_units, first, c, live, C, R, BLOCK_R: tl.constexpr):
    """(BLOCK_C,): of grad_units (R,) @ first (R, C), some channels."""
    r = tl.arange(0, BLOCK_R)[:, None]
    mask = (r < R) & live[None, :]
    block = tl.load(first + r * C + c[None, :], mask=mask, other=0.0)
    return tl.sum(block.to(tl.float32) * grad_units[:, None], 0)


@_kernel
def relay_backward(
        scratch, saved, grads,  # of sums; of relay; out
        state, grad_state,  # (2, N, C); read where has_state, has_grad_state
        grad_before,  # out: of the state before group g; at the end, of the first state
        weights, has_state, has_grad_state, N, G, C, units,
        count, training, team,  # values of a group and channel; -; programs a clip
        BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr):
    """The relay backwards, a team a clip; beside it the statistics, a program a group
    and BLOCK_S channels."""
    rows = N * G
    R = C // 4
    pid = tl.program_id(0)
    if pid >= N * team:
        pid -= N * team
        blocks = tl.cdiv(C, BLOCK_S)
        _statistics_backward(
            scratch, saved, grads, N, G, C, units, count, training, pid // blocks,
            pid % blocks * BLOCK_S + tl.arange(0, BLOCK_S))
        return
    n = pid // team
    own = pid % team * BLOCK_C
    parts, counters = _teams(scratch, rows, units, team, C)
    shift = saved + (2 * G + rows + n * G) * C
    gates = saved + (2 * G + 4 * (rows + n * G)) * C
    inner_i = saved + (2 * G + 8 * rows) * C + n * G * R
    inner_h = inner_i + rows * R
    grad_pooled = grads + (2 * G + n * G) * C
    grad_gates = grads + (2 * G + rows + 4 * n * G) * C
    grad_inner_i = grads + (2 * G + 5 * rows) * C + n * G * R
    grad_inner_h = grad_inner_i + rows * R
    grad_h_before = grad_before + n * C
    grad_c_before = grad_h_before + N * C
    parts_i = parts + (n * G * team + pid % team) * R
    parts_h = parts_i + rows * team * R
    hidden_map = weights + 5 * R * C + R + 4 * C
    r = tl.arange(0, BLOCK_R)

    for c0 in range(own, C, team * BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        given = c < tl.where(has_grad_state != 0, C, 0)
        grad_h = tl.load(grad_state + n * C + c, mask=given, other=0.0)
        grad_c = tl.load(grad_state + (N + n) * C + c, mask=given, other=0.0)
        tl.store(grad_h_before + c, grad_h, mask=c < C)
        tl.store(grad_c_before + c, grad_c, mask=c < C)
    for step in range(G):
        g = G - 1 - step
        for c0 in range(own, C, team * BLOCK_C):
            c = c0 + tl.arange(0, BLOCK_C)
            live = c < C
            grad_c, grad_h = _sums_of_units(scratch, n * G + g, rows, units, c, C)
            grad_h *= tl.load(saved + (G + g) * C + c, mask=live, other=0.0)
            grad_h += tl.load(grad_h_before + c, mask=live, other=0.0)
            grad_c += tl.load(grad_c_before + c, mask=live, other=0.0)
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
            tl.store(grad_gates + gate + 3 * C, grad_h * squashed * o * (1 - o),
                     mask=live)
            tl.store(grad_c_before + c, grad_c * f, mask=live)
        tl.debug_barrier()
        of_gates = grad_gates + g * 4 * C
        part = _part_by_gates(
            of_gates, weights + R * C + R, own, team, C, R, BLOCK_C, BLOCK_R)
        tl.store(parts_i + g * team * R + r, part, mask=r < R)
        part = _part_by_gates(
            of_gates, hidden_map + R * C + R, own, team, C, R, BLOCK_C, BLOCK_R)
        tl.store(parts_h + g * team * R + r, part, mask=r < R)
        _meet(counters + n, step + 1, team)
        of_clip = (n * G + g) * team * R
        units_i = _units_backward(
            parts + of_clip, inner_i + g * R, grad_inner_i + g * R, team, R, BLOCK_R)
        units_h = _units_backward(
            parts + rows * team * R + of_clip, inner_h + g * R, grad_inner_h + g * R,
            team, R, BLOCK_R)
        for c0 in range(own, C, team * BLOCK_C):
            c = c0 + tl.arange(0, BLOCK_C)
            live = c < C
            grad = _by_units(units_i, weights, c, live, C, R, BLOCK_R)
            tl.store(grad_pooled + g * C + c, grad, mask=live)
            grad = _by_units(units_h, hidden_map, c, live, C, R, BLOCK_R)
            tl.store(grad_h_before + c, grad, mask=live)
        tl.debug_barrier()


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
        right = saved + (2 * G + (2 + map) * rows) * C  # pooled, or hidden state before
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


@_kernel
def apply_backward(
        x, grad, grad_x,  # images; gradients of apply's `out`; out: images
        saved, grads, grad_weights,  # of relay; of the one before; out: weights
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
    # Backwards, as in apply.
    row, start, _, c, first, stop = _share_of(
        tl.num_programs(0) - 1 - tl.program_id(0), C, P, frames, units, span, BLOCK_C,
        BLOCK_P)
    mean, factor, shift = _affine(saved, row, c, rows, G, C)
    slope = tl.load(grads + row % G * C + c, mask=c < C, other=0.0)[:, None]
    level = tl.load(grads + (G + row % G) * C + c, mask=c < C, other=0.0)
    pooled = tl.load(grads + (2 * G + row) * C + c, mask=c < C, other=0.0)
    level = (level + pooled / (frames * P))[:, None]
    for k in range(first, stop):
        at, live = _chunk(k, c, C, P, LAST, BLOCK_P)
        value, up = _load_gradient(x, grad, start + at, live, mean, factor, shift, relu)
        value = up * factor + value * slope + level
        tl.store(grad_x + start + at, value.to(grad_x.dtype.element_ty), mask=live)
# fmt: on
