#!/usr/bin/env python
"""Parameters and operations of a config's network, beside BatchNorm's.

    tools/analysis/complexity.py configs/DNR_resnet50_kinetics400_rgb_seg1_f8s8.py

Both are of one clip as testing has it. mmengine counts them: an operation is a
multiplication with its addition, of convolutions and linear layers. What is
element by element is not counted: neither BatchNorm, nor a dynamic
normalization but for its relay cell.
"""

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hosts import need_mmaction2, run  # noqa: E402

need_mmaction2('tools/analysis/complexity.py')

import torch  # noqa: E402
from hosts.backbones import network_of  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from video_inputs import build_recognizer, testing_config  # noqa: E402

from analysis.network import Network, clip_shape, config_parser  # noqa: E402
from resnet_dnr import RelayCell  # noqa: E402


def count_nothing(inputs, outputs):
    """BatchNorm counts as a dynamic normalization does, for mmengine."""
    return Counter()


def count(config):
    """What a config's recognizer takes for one clip.

    Args:
        config (mmengine.Config): of video_inputs.testing_config.

    Returns:
        dict: parameters, relay_parameters, those of them that are in relay
        cells, operations and activations (numbers that convolutions and
        linear layers give out), all int.
    """
    from mmengine.analysis import ActivationAnalyzer, FlopAnalyzer

    recognizer = build_recognizer(config)
    parameters = sum(tensor.numel() for tensor in recognizer.parameters())
    relays = {
        tensor
        for module in recognizer.modules()
        if isinstance(module, RelayCell)
        for tensor in module.parameters()
    }
    clip = torch.zeros(1, *clip_shape(config))
    network = Network(recognizer)
    operations, activations = (
        # They would name each operation and module that they do not count.
        kind(network, (clip,))
        .set_op_handle('aten::batch_norm', count_nothing)
        .unsupported_ops_warnings(False)
        .uncalled_modules_warnings(False)
        .total()
        for kind in (FlopAnalyzer, ActivationAnalyzer)
    )
    return dict(
        parameters=parameters,
        relay_parameters=sum(tensor.numel() for tensor in relays),
        operations=int(operations),
        activations=int(activations),
    )


def complexity(args):
    """Run the command."""
    config = testing_config(args.config, args.cfg_options)
    name = config.model.backbone.get('dnr', 'both')
    network = network_of(config.model.backbone)
    frames, _, height, width = clip_shape(config)
    own = count(config)
    config.model.backbone.dnr = 'none'
    plain = count(config)
    table = Table(
        title=f'{network.type}, depth {network.depth}, a clip of {frames} frames of '
        f'{width} x {height}'
    )
    table.add_column('')
    for title in (f'dnr={name!r}', 'BatchNorm', 'ratio'):
        table.add_column(title, justify='right')
    for title, key, unit in (
        ('parameters, million', 'parameters', 1e6),
        ('of these in relay cells', 'relay_parameters', 1e6),
        ('operations, thousand million', 'operations', 1e9),
        ('activations, million', 'activations', 1e6),
    ):
        ratio = f'{own[key] / plain[key]:.3f}' if plain[key] else ''
        table.add_row(
            title, f'{own[key] / unit:.3f}', f'{plain[key] / unit:.3f}', ratio
        )
    Console().print(table)


if __name__ == '__main__':
    run(complexity, config_parser(__doc__, checkpoint=False).parse_args())
