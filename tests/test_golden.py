"""The figures of the published implementation, to 1e-9 in float64.

tests/golden/README.md says how the figures were made; every array of every
file is compared.
"""

import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import to_published_names

from resnet_dnr import (
    Bottleneck,
    CrossLayerNorm,
    CrossTemporalNorm,
    RelayCell,
    ResNet_DNR,
    Stage,
    from_published_name,
)

GOLDEN = Path(__file__).parent / 'golden'


def filled(name, shape):
    """The tensor that golden/README.md defines for a published name."""
    r = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith('num_batches_tracked'):
        value = np.zeros(shape)
    elif name.endswith('running_mean'):
        value = 0.1 * r.randn(*shape)
    elif name.endswith('running_var'):
        value = 0.5 + r.rand(*shape)
    elif len(shape) >= 2:
        value = r.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith('weight'):
        value = 1 + 0.1 * r.randn(*shape)
    else:
        value = 0.1 * r.randn(*shape)
    return torch.tensor(value, dtype=torch.float64)


def fill(module, published_name):
    """Load the figures' weights.

    Args:
        module: float64, loaded in place.
        published_name (callable): from a name in the module to the published.

    Returns:
        dict: published name to the module's name.
    """
    names, values = {}, {}
    for name, tensor in module.state_dict().items():
        published = published_name(name)
        names[published] = name
        shape = tuple(tensor.shape)
        if name.endswith(('running_mean', 'running_var')):
            shape = shape[-1:]  # published (C,)
        values[name] = filled(published, shape)
    module.load_state_dict(values)
    return names


def close(actual, expected):
    expected = torch.as_tensor(expected)
    actual = actual.detach() if torch.is_tensor(actual) else actual
    error = (actual - expected).abs().max()
    assert error <= 1e-9 * expected.abs().max(), float(error)


def compare_training(module, golden, names, y, upstream, x=None):
    """Compare gradients and statistics; every key of golden is consumed."""
    (y * upstream).sum().backward()
    params = dict(module.named_parameters())
    state = module.state_dict()
    for key in golden.files:
        kind, _, name = key.partition('/')
        if kind == 'grad':
            close(params[names[name]].grad, golden[key])
        elif kind == 'grad_norm':
            close(params[names[name]].grad.norm(), golden[key])
        elif kind == 'after':
            close(state[names[name]], golden[key])
        elif kind == 'grad_x':
            close(x.grad, golden[key])
        else:
            assert kind in ('x', 'upstream', 'y_eval', 'y_train'), key


def test_relay_cell():
    golden = np.load(GOLDEN / 'relay_cell.npz')
    value = {key: torch.tensor(golden[key]) for key in golden.files}
    cell = RelayCell(16).double()
    fill(
        cell,
        lambda name: name.replace('input_map.', 'w_ih.0.seq.').replace(
            'hidden_map.', 'w_hh.0.seq.'
        ),
    )
    scale, shift, state = cell(value['x1'][:, None], (value['h0'], value['c0']))
    close(scale[:, 0], value['h1'])
    close(shift[:, 0], value['c1'])
    scale, shift, _ = cell(value['x2'][:, None], state)
    close(scale[:, 0], value['h2'])
    close(shift[:, 0], value['c2'])
    # The same as one sequence of two steps.
    both = torch.stack([value['x1'], value['x2']], 1)
    scale, shift, _ = cell(both, (value['h0'], value['c0']))
    close(scale, torch.stack([value['h1'], value['h2']], 1))
    close(shift, torch.stack([value['c1'], value['c2']], 1))


@pytest.mark.parametrize('running_stats', ['shared', 'grouped'])
def test_cross_temporal(running_stats):
    golden = np.load(GOLDEN / 'cross_temporal.npz')
    norm = CrossTemporalNorm(8, 8, 4, running_stats).double()
    names = fill(
        norm,
        lambda name: name.replace('relay.input_map.', 'lstm.w_ih.0.seq.').replace(
            'relay.hidden_map.', 'lstm.w_hh.0.seq.'
        ),
    )
    x = torch.tensor(golden['x'], requires_grad=True)
    close(norm.eval()(x), golden['y_eval'])
    y = norm.train()(x)
    close(y, golden['y_train'])
    if running_stats == 'grouped':
        # Kept for each group: not the published figures, but each group's.
        for g in range(4):
            frames = x.detach().view(2, 4, 2, 8, 4, 4)[:, g]
            for key, new in (
                ('running_mean', frames.mean((0, 1, 3, 4))),
                ('running_var', frames.var((0, 1, 3, 4))),
            ):
                close(getattr(norm, key)[g], 0.9 * filled(key, (8,)) + 0.1 * new)
        return
    compare_training(norm, golden, names, y, torch.tensor(golden['upstream']), x)


def test_cross_layer_stage():
    golden = np.load(GOLDEN / 'cross_layer_stage.npz')

    def block(inplanes):
        return Bottleneck(
            inplanes,
            64,
            lambda channels: CrossLayerNorm(channels, 8),
            lambda channels: CrossTemporalNorm(channels, 8, 4, 'shared'),
        )

    stage = Stage([block(64), block(256)], RelayCell(64)).double()

    def published(name):
        # A stage's names as they are below 'layer1.'.
        return next(iter(to_published_names({'layer1.' + name: torch.zeros(())})))[
            len('layer1.') :
        ]

    names = fill(stage, published)
    x = torch.tensor(golden['x'], requires_grad=True)
    close(stage.eval()(x), golden['y_eval'])
    y = stage.train()(x)
    close(y, golden['y_train'])
    compare_training(stage, golden, names, y, torch.tensor(golden['upstream']), x)


class MisreadBackward(torch.autograd.Function):
    """Standardization with the backward pass that the figures ran into.

    PyTorch's batch_norm on a CPU (seen in 2.13) computes a wrong gradient
    where an (N, C, t, 1, 1) input is stored channels first and the upstream
    gradient frames first: it reads the gradient as if stored like the
    input. The published code meets that in one layer of the ResNet-50's
    figures, layer4.0.bn2.
    """

    @staticmethod
    def forward(ctx, x):  # (N, C, t), one group
        var, mean = torch.var_mean(x, (0, 2), unbiased=False, keepdim=True)
        ctx.save_for_backward(x, mean, (var + 1e-5).rsqrt())
        return (x - mean) * (var + 1e-5).rsqrt()

    @staticmethod
    def backward(ctx, grad):
        x, mean, inverse_std = ctx.saved_tensors
        grad = grad.transpose(1, 2).reshape(grad.shape)
        x = (x - mean) * inverse_std
        return inverse_std * (
            grad - grad.mean((0, 2), True) - x * (grad * x).mean((0, 2), True)
        )


def with_misread_backward(norm):
    """A forward for a (N * T, C, 1, 1) CrossTemporalNorm in training.

    With the ReLU that a block's norm applies.
    """

    def forward(x):
        groups = x.view(
            -1, norm.num_groups, norm.n_segment // norm.num_groups, x.size(1)
        )
        scale, shift, _ = norm.relay(groups.mean(2))
        out = torch.stack(
            [MisreadBackward.apply(g.transpose(1, 2)) for g in groups.unbind(1)], 1
        )  # (N, G, C, t)
        out = out * scale[..., None] + shift[..., None]
        return out.transpose(2, 3).reshape(x.shape).relu()

    return forward


def resnet50(running_stats):
    """The network of resnet50.npz, input, upstream gradient and names."""
    model = ResNet_DNR(
        50, out_indices=(3,), bn_eval=False, running_stats=running_stats
    ).double()
    published = to_published_names(model.state_dict())
    assert [from_published_name(name) for name in published] == list(model.state_dict())
    # Loaded in the published names and shapes, through load_state_dict.
    model.load_state_dict(
        {name: filled(name, tuple(value.shape)) for name, value in published.items()}
    )
    x = torch.tensor(np.random.RandomState(9).randn(16, 3, 32, 32))
    upstream = torch.tensor(np.random.RandomState(10).randn(16, 2048, 1, 1))
    names = {name: from_published_name(name) for name in published}
    return model, x, upstream, names


@pytest.mark.parametrize(
    'running_stats', ['shared', pytest.param('grouped', marks=pytest.mark.full)]
)
def test_resnet50(running_stats):
    golden = np.load(GOLDEN / 'resnet50.npz')
    model, x, upstream, names = resnet50(running_stats)
    close(model.eval()(x), golden['y_eval'])
    close(model.train()(x), golden['y_train'])
    norm = getattr(model.layer4, '0').bn2
    norm.forward = with_misread_backward(norm)
    y = model(x)
    close(y, golden['y_train'])
    compare_training(model, golden, names, y, upstream)


@pytest.mark.full
def test_resnet50_true_gradient():
    """Below layer4.0.bn2, where the figures are off, ours are the slopes.

    Each parameter's own gradient is compared with the loss's central
    difference along it; above, with the figures.
    """
    golden = np.load(GOLDEN / 'resnet50.npz')
    model, x, upstream, names = resnet50('grouped')

    def loss():
        return (model(x) * upstream).sum()

    loss().backward()
    params = dict(model.named_parameters())
    for published, name in names.items():
        if (
            re.match(r'layer4\.ModuleList\.([12]|0\.(conv3|bn2|bn3|down))', published)
            and name in params
        ):
            close(params[name].grad.norm(), golden['grad_norm/' + published])
    for name in 'conv1.weight', 'layer4.0.conv2.weight':
        param = params[name]
        norm = param.grad.norm()
        step = 1e-9 * param.grad / norm * param.detach().norm()
        with torch.no_grad():
            param += step
            above = loss()
            param -= 2 * step
            slope = (above - loss()) / (2 * step.norm())
            param += step
        assert abs(slope / norm - 1) < 1e-4, name
