"""The table of the arrow study, in Markdown, and its place in a page."""

import numpy as np
from analysis.plotting import PlotError
from study.arrow_results import BATCH, CONFIGS, FIGURES, GROUPS, figures, spread
from whole_files import write_whole

BEGIN = '<!-- table written by tools/study/plot_arrow.py: begin -->'
END = '<!-- table written by tools/study/plot_arrow.py: end -->'


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


def put_table(page, table):
    """Put a table between the marker lines of a page.

    Raises:
        PlotError: it has not each of the two once, in order.
    """
    text = page.read_text()
    if (text.count(BEGIN), text.count(END)) != (1, 1) or (
        text.index(BEGIN) > text.index(END)
    ):
        raise PlotError(
            f'{page} should have the line {BEGIN} once, and {END} once after it'
        )
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    write_whole(page, f'{before}{BEGIN}\n\n{table}\n\n{END}{after}')
