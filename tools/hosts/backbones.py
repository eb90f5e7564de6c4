"""What model.backbone of a config is: ResNet_DNR, or a host's own in WithDNR."""

import math

from . import HostError

# What the tensors of a checkpoint do not show, and what a config means that says none.
UNSEEN = dict(n_segment=8, num_groups=4, running_stats='grouped')


def unseen_of(backbone):
    """What a checkpoint notes of its network, to compare in testing.

    Args:
        backbone (dict): model.backbone of a config.

    Returns:
        dict: names of UNSEEN and their values; empty without DNR.
    """
    if not backbone['type'].endswith('DNR'):
        return {}
    return {name: backbone.get(name, value) for name, value in UNSEEN.items()}


def backbone_warning(checkpoint, path, backbone):
    """What to say where a network is tested that computes another than was trained.

    Args:
        checkpoint (dict): what read_checkpoint returned.
        path (str): where it is from.
        backbone (dict): model.backbone of the config, now.

    Returns:
        str | None: None, too, where the checkpoint does not say.
    """
    meta = checkpoint.get('meta')
    before = meta.get('backbone') if isinstance(meta, dict) else None
    if not isinstance(before, dict):
        return None
    changed = [
        f'{name}={value!r}, and trained with {before[name]!r}'
        for name, value in unseen_of(backbone).items()
        if before.get(name, value) != value
    ]
    if not changed:
        return None
    return f'{path} is tested with model.backbone.{"; ".join(changed)}'


def network_of(backbone):
    """The config of the network itself.

    Args:
        backbone (dict): model.backbone of a config.

    Returns:
        dict: backbone, or what WithDNR converts.

    Raises:
        HostError: WithDNR is given no network.
    """
    if backbone.get('type') not in ('WithDNR', 'FastWithDNR'):
        return backbone
    network = backbone.get('backbone')
    if not isinstance(network, dict) or 'type' not in network:
        raise HostError(
            'model.backbone.backbone should be the config of the network that '
            f'WithDNR converts, got {network!r}'
        )
    return network


def check_pretrained(backbone):
    """A ResNetTSM that begins with weights of a 2D network names them.

    Args:
        backbone (dict): model.backbone of a config, for training.

    Raises:
        HostError: it does not, and would fail once it looks for the file.
    """
    network = network_of(backbone)
    from_2d = network.get('type') == 'ResNetTSM' and network.get('pretrained2d', True)
    if from_2d and not network.get('pretrained'):
        raise HostError(
            'model.backbone.backbone.pretrained of a ResNetTSM should be a file or '
            'URL; for random weights, set model.backbone.backbone.pretrained2d=False'
        )


def leave_out_pretrained(backbone):
    """What a training started from is not needed where a checkpoint follows.

    Args:
        backbone (dict): model.backbone of a config; changed.
    """
    network = network_of(backbone)
    if network.get('pretrained'):
        network['pretrained'] = None
        if network['type'] == 'ResNetTSM':  # or it wants a file
            network['pretrained2d'] = False


def strides_of(backbone):
    """By what the sides and the length of the output are divided.

    Args:
        backbone (dict): model.backbone of a config, of a type that mmaction2_config
            translates.

    Returns:
        tuple: the stride in space, and the strides in time, one after the other.
    """
    network = network_of(backbone)
    stages = network['out_indices'][0] + 1
    stem = network.get('conv1_stride_s', 2) * network.get('pool1_stride_s', 2)
    spatial = network.get('strides', network.get('spatial_strides', (1, 2, 2, 2)))
    pool2 = network['type'] == 'ResNet3d' and network.get('with_pool2', True)
    temporal = (
        network.get('conv1_stride_t', 1),
        network.get('pool1_stride_t', 1),
        2 if pool2 else 1,
        *network.get('temporal_strides', (1, 1, 1, 1))[:stages],
    )
    return stem * math.prod(spatial[:stages]), temporal
