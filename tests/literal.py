"""The network a second time, literally from the equations, as an oracle.

Nothing here is shared with resnet_dnr.py but the names of the state dict:
groups and steps are loops, statistics are written out, and there are no
modules. Slow, and meant to be read beside the paper.
"""

import torch
import torch.nn.functional as F

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def cell(p, name, x, h, c):
    """One step of the relay cell; x, h, c are (N, C)."""

    def bottleneck(which, value):
        value = F.linear(
            value, p[f'{name}.{which}.0.weight'], p[f'{name}.{which}.0.bias']
        )
        return F.linear(
            value.clamp(min=0),
            p[f'{name}.{which}.2.weight'],
            p[f'{name}.{which}.2.bias'],
        )

    gates = bottleneck('input_map', x) + bottleneck('hidden_map', h)
    n = x.shape[1]
    i, f, g, o = (gates[:, k * n : (k + 1) * n] for k in range(4))
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.sigmoid(), c


def standardize(p, name, x, training, group=None):
    """x (N, t, C, H, W) standardized; running statistics updated in p."""
    mean_name, var_name = f'{name}.running_mean', f'{name}.running_var'
    own = p[mean_name].dim() == 2  # statistics kept for each group

    if training:
        mean = x.mean((0, 1, 3, 4))
        centred = x - mean[None, None, :, None, None]
        var = (centred**2).mean((0, 1, 3, 4))
        n = x.numel() // x.shape[2]
        for key, new in ((mean_name, mean), (var_name, var * n / (n - 1))):
            old = p[key][group] if own else p[key]
            new = 0.9 * old + 0.1 * new.detach()
            if own:
                p[key] = torch.cat([p[key][:group], new[None], p[key][group + 1 :]])
            else:
                p[key] = new
    else:
        mean = p[mean_name][group] if own else p[mean_name]
        var = p[var_name][group] if own else p[var_name]
        centred = x - mean[None, None, :, None, None]
    return centred / (var[None, None, :, None, None] + 1e-5).sqrt()


def cross_temporal(p, name, x, T, G, training):
    x = x.view(-1, T, *x.shape[1:])
    h = c = torch.zeros(len(x), x.shape[2], dtype=x.dtype)
    out = []
    for g in range(G):
        group = x[:, g * T // G : (g + 1) * T // G]
        h, c = cell(p, f'{name}.relay', group.mean((1, 3, 4)), h, c)
        group = standardize(p, name, group, training, g)
        out.append(group * h[:, None, :, None, None] + c[:, None, :, None, None])
    return torch.cat(out, 1).flatten(0, 1)


def cross_layer(p, name, x, T, training, relay, state):
    x = x.view(-1, T, *x.shape[1:])
    if state is None:
        zeros = torch.zeros(len(x), x.shape[2], dtype=x.dtype)
        state = zeros, zeros
    h, c = cell(p, relay, x.mean((1, 3, 4)), *state)
    x = standardize(p, name, x, training)
    x = x * h[:, None, :, None, None] + c[:, None, :, None, None]
    return x.flatten(0, 1), (h, c)


def batch_norm(p, name, x, training):
    return F.batch_norm(
        x,
        p[f'{name}.running_mean'],
        p[f'{name}.running_var'],
        p[f'{name}.weight'],
        p[f'{name}.bias'],
        training,
        0.1,
        1e-5,
    )


def resnet(p, x, depth, T, G, dnr, training):
    """The last stage's output.

    Args:
        p (dict[str, Tensor]): the state dict by this project's names;
            running statistics are replaced in it when training.
        x (Tensor): (N * T, 3, H, W).
    """
    bottleneck = depth >= 50
    x = F.conv2d(x, p['conv1.weight'], None, 2, 3)
    x = batch_norm(p, 'bn1', x, training).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for s in range(4):
        state = None
        for b in range(BLOCKS[depth][s]):
            name = f'layer{s + 1}.{b}'
            stride = 2 if s > 0 and b == 0 else 1

            out = F.conv2d(
                x,
                p[f'{name}.conv1.weight'],
                None,
                *((1, 0) if bottleneck else (stride, 1)),
            )
            if dnr in ('both', 'cross_layer'):
                out, state = cross_layer(
                    p, f'{name}.bn1', out, T, training, f'layer{s + 1}.relay', state
                )
            else:
                out = batch_norm(p, f'{name}.bn1', out, training)
            out = F.conv2d(
                out.relu(),
                p[f'{name}.conv2.weight'],
                None,
                stride if bottleneck else 1,
                1,
            )
            if dnr in ('both', 'cross_temporal'):
                out = cross_temporal(p, f'{name}.bn2', out, T, G, training)
            else:
                out = batch_norm(p, f'{name}.bn2', out, training)
            if bottleneck:
                out = F.conv2d(out.relu(), p[f'{name}.conv3.weight'])
                out = batch_norm(p, f'{name}.bn3', out, training)
            if f'{name}.downsample.0.weight' in p:
                x = F.conv2d(x, p[f'{name}.downsample.0.weight'], None, stride)
                x = batch_norm(p, f'{name}.downsample.1', x, training)
            x = (out + x).relu()
    return x
