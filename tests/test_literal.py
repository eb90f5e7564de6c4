"""ResNet_DNR against the literal implementation in literal.py.

Random clip lengths, groups, depths and modes, in float64: outputs, the
gradient of every parameter and of the input, and the running statistics that
a training step leaves.
"""

import literal
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resnet_dnr import RUNNING_STATS, ResNet_DNR

MODES = ('both', 'both', 'cross_temporal', 'cross_layer', 'none')


def randomize(model):
    """Random weights and statistics, so that evaluation says something."""
    for name, tensor in model.state_dict().items():
        if name.endswith('num_batches_tracked'):
            continue
        if name.endswith('running_var'):
            tensor.uniform_(0.5, 1.5)
        elif tensor.dim() >= 2 and not name.endswith('running_mean'):
            tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
        else:
            tensor.normal_(float(name.endswith('weight')), 0.1)


def assert_close(actual, expected, what, tolerance=1e-9):
    """Equal shapes; the largest error is small beside the largest value."""
    assert actual.shape == expected.shape, what
    error = (actual - expected).abs().max()
    limit = tolerance * expected.abs().max()
    assert error <= limit, f'{what}: {error:.1e} > {limit:.1e}'


@st.composite
def clip_lengths(draw):
    """(n_segment, num_groups), the second a divisor of the first."""
    group, groups = draw(
        st.sampled_from(
            [
                (1, 1),
                (1, 2),
                (2, 1),
                (1, 3),
                (3, 1),
                (2, 2),
                (1, 4),
                (3, 2),
                (2, 3),
                (1, 5),
                (2, 4),
                (4, 2),
            ]
        )
    )
    return group * groups, groups


def check(depth, lengths, clips, dnr, running_stats, seed):
    """Compare a network's evaluation and one training step."""
    n_segment, num_groups = lengths
    # The last stage has one position an image at 32 pixels, four at 33. A
    # group of one or two values has no statistics worth comparing.
    size = 33 if clips * n_segment // num_groups < 4 else 32
    torch.manual_seed(seed)
    model = ResNet_DNR(
        depth,
        out_indices=(3,),
        bn_eval=False,
        dnr=dnr,
        n_segment=n_segment,
        num_groups=num_groups,
        running_stats=running_stats,
    ).double()
    randomize(model)
    x = torch.randn(
        clips * n_segment, 3, size, size, dtype=torch.float64, requires_grad=True
    )
    params = dict(model.named_parameters())
    before = {name: value.clone() for name, value in model.named_buffers()}

    for training in (False, True):
        model.train(training)
        y = model(x)
        upstream = torch.randn_like(y)
        grads = torch.autograd.grad(y, [x, *params.values()], upstream)

        p = {name: value.detach().requires_grad_() for name, value in params.items()}
        leaves = [x, *p.values()]
        p.update((name, value.clone()) for name, value in before.items())
        expected = literal.resnet(p, x, depth, n_segment, num_groups, dnr, training)
        assert_close(y, expected, 'output')
        wanted = torch.autograd.grad(expected, leaves, upstream)
        for name, grad, want in zip(['x', *params], grads, wanted):
            assert_close(grad, want, name)
        for name, value in model.named_buffers():
            if name.endswith('num_batches_tracked'):
                assert value == before[name] + training, name
            else:
                assert_close(value, p[name], name)
                assert torch.equal(value, before[name]) != training, name


def test_one_network():
    check(50, (6, 3), 2, 'both', 'grouped', 0)


@pytest.mark.full
@settings(max_examples=10)
@given(
    depth=st.sampled_from([18, 34]),
    lengths=clip_lengths(),
    clips=st.integers(1, 3),
    dnr=st.sampled_from(MODES),
    running_stats=st.sampled_from(RUNNING_STATS),
    seed=st.integers(0, 999),
)
@example(18, (8, 4), 2, 'both', 'grouped', 0)
@example(34, (8, 4), 2, 'both', 'shared', 0)
@example(50, (6, 3), 2, 'both', 'grouped', 1)
@example(50, (4, 2), 2, 'cross_layer', 'grouped', 2)
@example(50, (4, 2), 2, 'cross_temporal', 'shared', 3)
@example(101, (4, 2), 2, 'both', 'shared', 4)
@example(152, (3, 1), 2, 'both', 'grouped', 5)
def test_equals_the_literal_implementation(
    depth, lengths, clips, dnr, running_stats, seed
):
    check(depth, lengths, clips, dnr, running_stats, seed)
