"""The table and the pictures of the arrow study."""

import functools

import numpy as np

from study.arrow_results import (
    BATCH,
    CONFIGS,
    FIGURES,
    GROUPS,
    figures,
    read,
    spread,
)
from study.plot_accuracies import (
    draw_ablation,
    draw_curves,
    draw_evaluation,
    draw_sizes,
)
from study.plot_confusion import draw_confusion
from study.plot_relay import draw_relay


def make_table(runs):
    """The table in Markdown: a line for each config, batch and groups."""

    def cell(values):
        mean, deviation = spread(values)
        if np.isnan(mean):
            return '-'
        return f'{100 * mean:.1f}' + (
            '' if np.isnan(deviation) else f' ± {100 * deviation:.1f}'
        )

    lines = [
        '| `dnr` | clips a batch | G | runs | top-1 | pair | order '
        '| top-1, batch statistics | gap, points | top-1, batches of 64 '
        '| top-1, recalibrated | top-1, shared statistics |',
        '|---|---|---|---|---|---|---|---|---|---|---|---|',
    ]
    usual = (BATCH, GROUPS)
    for key in sorted(
        runs,
        key=lambda key: (
            key[1:] != usual,
            key[2] == GROUPS,
            list(CONFIGS).index(key[0]),
            key[1:],
        ),
    ):
        config, batch, groups = key
        cells = [
            f'`{config}`',
            str(batch),
            str(groups) if config in ('both', 'cross_temporal') else '-',
            str(len(runs[key])),
        ]
        cells += [cell(figures(runs, key, name)) for name in FIGURES]
        cells += [
            cell(figures(runs, key, 'top1', 'batch')),
            cell([run['gap'] for run in runs[key]]),
            cell(figures(runs, key, 'top1', 'large_batch')),
            cell(figures(runs, key, 'top1', 'recalibrated')),
            cell(figures(runs, key, 'top1', 'shared')),
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    sample = next(iter(runs.values()))[0]
    devices, versions = (
        sorted({value(run) for same in runs.values() for run in same})
        for value in (lambda run: run['device'], lambda run: run['versions']['torch'])
    )
    lines += [
        '',
        f'Per cent, mean ± standard deviation over seeds, '
        f'{sample["clips"]} test clips a run; {", ".join(devices)}, '
        f'torch {", ".join(versions)}.',
    ]
    return '\n'.join(lines)


# Functions of the runs and the relay, which return a figure, or None where
# what it shows is not there.
PICTURES = {
    'curves': draw_curves,  # validation accuracy by epoch
    'ablation': draw_ablation,  # top-1, pair and order accuracy of the configs
    'confusion': draw_confusion,  # none against both
    'evaluation': draw_evaluation,  # by the statistics that evaluation uses
    'sizes': draw_sizes,  # by clips a batch, and by groups of frames
    'relay': draw_relay,  # what it does with a clip played forwards and backwards
}


def report(folder):
    """The study's tables and pictures.

    Figures are the mean over seeds; bands and error bars are one standard
    deviation (n - 1; none for a single run), within 0 to 1, dots are the runs.

    Args:
        folder (Path): of results.

    Returns:
        tuple: a dict from a table's name to its text, and one from a picture's name
        to a function that returns the figure, or None.
    """
    runs, relay = read(folder)
    pictures = {
        f'arrow_{name}': functools.partial(draw, runs, relay)
        for name, draw in PICTURES.items()
    }
    return {'arrow': make_table(runs)}, pictures
