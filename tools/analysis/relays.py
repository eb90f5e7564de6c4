"""What the relays of cross-temporal normalizations predict over the groups."""

import torch

from resnet_dnr import CrossTemporalNorm


def watch_relays(backbone):
    """Have a network's relays keep what they predict.

    Args:
        backbone (ResNet_DNR): computes by its plain backend from now on.

    Returns:
        dict: after a forward pass, of N clips, the name of each cross-temporal
        normalization to a Tensor (2, N, G, C) on the CPU: h, the scales, and
        c, the shifts. It is empty where the network has none.
    """
    relayed = {}
    for name, layer in backbone.named_modules():
        if not isinstance(layer, CrossTemporalNorm):
            continue
        layer.backend = 'plain'  # the others do not call the cell

        def keep(cell, inputs, outputs, name=name):
            relayed[name] = torch.stack(outputs[:2]).detach().cpu()

        layer.relay.register_forward_hook(keep)
    return relayed


def apart(values):
    """How far a clip's scales and shifts are from those of its reversal.

    Args:
        values (Tensor): (2, 2, G, C): h and c, of the clip and its reversal.

    Returns:
        float: the mean distance, from those of the reversal or from the mirror
        image of these, whichever is nearer.
    """
    ahead, back = values[:, 0], values[:, 1]
    return float(
        torch.minimum(
            (ahead - back).abs().mean(1), (ahead - back.flip(1)).abs().mean(1)
        ).mean()
    )


def relay_of(recorded):
    """The layer that sees the order of frames most, and what it predicts.

    Args:
        recorded (list[dict]): for each clip what :func:`watch_relays` has of
            a batch of the clip and its reversal.

    Returns:
        tuple: the layer's name, and a list of a dict a clip of h, c,
        reversed_h and reversed_c, lists (G, C) of float to five places.
    """
    chosen = max(
        recorded[0], key=lambda name: sum(apart(values[name]) for values in recorded)
    )
    return chosen, [
        {
            prefix + name: [[round(x, 5) for x in group] for group in values]
            for name, of_clips in zip('hc', clip[chosen].tolist())
            for prefix, values in zip(('', 'reversed_'), of_clips)
        }
        for clip in recorded
    ]
