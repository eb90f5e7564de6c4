"""The tables and the picture of the study of small batches."""

from collections import defaultdict

import matplotlib
import numpy as np
from analysis.plotting import plt

from study.arrow_results import read_files, spread

NAMES = dict(
    bn='BatchNorm',
    gn='GroupNorm',
    dnr='DNR',
    tuned_bn='BatchNorm, fine-tuned',
    frozen_bn='BatchNorm frozen, fine-tuned',
)
BATCHES = (8, 4, 2, 1)
# Of what statistics_evaluation.statistics finds.
MODES = dict(
    batch='batch statistics', large_batch='batches of 64', recalibrated='recalibrated'
)
FIGURES = dict(pair='pair', top1='top-1', order='order in the pair')


def read(folder):
    """The runs: a dict from (part, network, batch or recipe) to contents of files.

    Raises:
        PlotError: as arrow_results.read_files does.
    """
    runs = defaultdict(list)
    for content in read_files(folder, 'small_batches').values():
        run = content['run']
        key = run.get('batch', run.get('recipe'))
        runs[run['part'], run.get('network', 'bn'), key].append(content)
    return dict(runs)


def values_of(runs, key, figure, mode='test'):
    """A figure of each run.

    Args:
        runs (dict): of :func:`read`.
        key (tuple): which of them.
        figure (str): of FIGURES.
        mode (str): 'test', by the running statistics; or of MODES.

    Returns:
        list[float]: of those that were evaluated in that mode.
    """
    found = [content['evaluation'] for content in runs.get(key, [])]
    if mode == 'test':  # by whichever evaluation the run has
        found = [dict(test=e['grouped']) if 'grouped' in e else e for e in found]
    return [evaluation[mode][figure] for evaluation in found if mode in evaluation]


def cell(values):
    mean, deviation = spread(values)
    if np.isnan(mean):
        return '-'
    more = '' if np.isnan(deviation) else f' ± {100 * deviation:.1f}'
    return f'{100 * mean:.1f}{more}'


def make_table(runs):
    """Accuracies by network and clips a GPU, in Markdown."""
    lines = [
        '| network | clips a GPU | runs | steps | rate | pair | order | top-1 | '
        + ' | '.join(f'pair, {title}' for title in MODES.values())
        + ' |',
        '|---|---|---|---|---|---|---|---|' + '---|' * len(MODES),
    ]
    for network, name in NAMES.items():
        for batch in BATCHES:
            key = 'final', network, batch
            if key not in runs:
                continue
            config = runs[key][0]['settings']['config']
            cells = [name, str(batch), str(len(runs[key]))]
            cells += [str(runs[key][0]['steps']), str(config['optimizer']['lr'])]
            cells += [
                cell(values_of(runs, key, figure))
                for figure in ('pair', 'order', 'top1')
            ]
            for mode in MODES:
                values = values_of(runs, key, 'pair', mode)
                some = 0 < len(values) < len(runs[key])
                cells.append(cell(values) + (f' ({len(values)})' if some else ''))
            lines.append('| ' + ' | '.join(cells) + ' |')
    devices = sorted({c['device'] for group in runs.values() for c in group})
    lines += [
        '',
        f'Per cent, mean ± standard deviation over seeds; {", ".join(devices)}.',
    ]
    return '\n'.join(lines)


def make_search(runs):
    """What was tried on the validation clips, in Markdown."""
    lines = [
        '| recipe | network | runs | rate | epochs | steps | pair | order | top-1 |'
    ]
    lines.append('|---|---|---|---|---|---|---|---|---|')
    for part, network, recipe in runs:
        if part != 'search':
            continue
        content = runs[part, network, recipe][0]
        config = content['settings']['config']
        cells = [f'`{recipe}`', NAMES[network], str(len(runs[part, network, recipe]))]
        cells += [str(config['optimizer']['lr'])]
        cells += [str(config['total_epochs']), str(content['steps'])]
        cells += [
            cell(values_of(runs, (part, network, recipe), figure))
            for figure in ('pair', 'order', 'top1')
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def draw_batches(runs):
    """Accuracies by clips a GPU, a line a network; None without runs."""
    found = [n for n in NAMES if any(('final', n, batch) in runs for batch in BATCHES)]
    if not found:
        return None
    figure, axes = plt.subplots(
        1, len(FIGURES), figsize=(9, 3.2), sharey=True, layout='constrained'
    )
    for axis, (figure_name, title) in zip(axes, FIGURES.items()):
        for number, network in enumerate(found):
            of = {
                batch: spread(values_of(runs, ('final', network, batch), figure_name))
                for batch in BATCHES
            }
            points = {batch: v for batch, v in of.items() if not np.isnan(v[0])}
            axis.errorbar(
                [batch * 1.04 ** (number - 2) for batch in points],
                [mean for mean, _ in points.values()],
                [np.nan_to_num(deviation) for _, deviation in points.values()],
                marker='.',
                capsize=2,
                color=f'C{number}',
                label=NAMES[network] if axis is axes[0] else None,
            )
        axis.set_xscale('log', base=2)
        axis.set_xticks(BATCHES, map(str, BATCHES))
        axis.set_ylim(0, 1.02)
        axis.yaxis.set_major_formatter(
            matplotlib.ticker.PercentFormatter(1, decimals=0)
        )
        axis.set_title(title)
        axis.set_xlabel('clips a GPU')
    figure.legend(loc='outside lower center', ncols=3)
    return figure


def report(folder):
    """The study's tables and picture, as report_arrow.report has them."""
    runs = read(folder)
    tables = {
        'small_batches': make_table(runs),
        'small_batches_search': make_search(runs),
    }
    return tables, {'small_batches_accuracy': lambda: draw_batches(runs)}
