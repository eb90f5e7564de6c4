#!/usr/bin/env python
"""Draw the arrow-of-time study, and write it into the README.

    python tools/study/plot_arrow.py

From the files that tools/study/arrow_study.py left in --results and nothing else:

    ASSETS/arrow_curves.svg      validation accuracy by epoch
    ASSETS/arrow_ablation.svg    top-1, pair and order accuracy of the configs
    ASSETS/arrow_sizes.svg       by clips a batch, and by groups of frames
    ASSETS/arrow_evaluation.svg  by the statistics that evaluation uses
    ASSETS/arrow_confusion.svg   none against both
    ASSETS/arrow_relay.svg       what the relay does with a clip played
                                 forwards and backwards

Figures are the mean over seeds; bands and error bars are one standard
deviation (n - 1; none for a single run), within 0 to 1, dots are the runs.
The table and the pictures that were drawn go between two marker lines of
README, the table to the standard output as well. The same results give the
same files.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools'))

from analysis.plotting import PlotError, plt, save  # noqa: E402

CONFIGS = {'both': 'C0', 'cross_temporal': 'C1', 'cross_layer': 'C2', 'none': 'C7'}
FIGURES = {'top1': 'top-1', 'pair': 'pair', 'order': 'order in the pair'}
MODES = {
    'grouped': 'running, of each group',
    'batch': 'of the batch',
    'large_batch': 'of batches of 64',
    'recalibrated': 'running, estimated anew',
    'shared': 'running, shared',
}
MODE_COLOURS = {
    'grouped': 'C0',
    'batch': '0.55',
    'large_batch': '0.75',
    'recalibrated': 'C9',
    'shared': 'C3',
}
BATCH, GROUPS = 8, 4  # of configs/arrow/recipe.py
CHANNELS = 5  # of the relay, that are drawn
# As they stand in README.md, with the path of before.
BEGIN = '<!-- written by tools/plot_arrow.py: begin -->'
END = '<!-- written by tools/plot_arrow.py: end -->'
STYLE = {
    'font.size': 9,
    'axes.titlesize': 10,
    'savefig.facecolor': 'white',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'legend.frameon': False,
}


def read(folder):
    """The runs of a study, and its relay.

    Args:
        folder (Path): --out of tools/study/arrow_study.py.

    Returns:
        tuple: a dict from (config, batch, groups) to the content of its
        files, one a seed in the order of seeds; and relay.json's, or None.

    Raises:
        PlotError: there is no run, or a file is none of the study, or the
            runs are of different data, or those of a batch size of different
            epochs.
    """
    contents = {}
    for path in sorted(folder.glob('*.json')):
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise PlotError(f'cannot read {path}: {error}') from error
        if not isinstance(content, dict) or content.get('study') != 'arrow':
            raise PlotError(f'{path} was not written by tools/study/arrow_study.py')
        contents[path.stem] = content
    relay = contents.pop('relay', None)
    if not contents:
        raise PlotError(f'{folder} has no results: run tools/study/arrow_study.py')
    runs = defaultdict(list)
    for content in contents.values():
        run = content['run']
        runs[run['config'], run['batch'], run['groups']].append(content)
    for same in runs.values():
        same.sort(key=lambda content: content['run']['seed'])
    for name, value in (
        ('data', lambda c: c['settings']['data']),
        ('classes', lambda c: c['settings']['classes']),
        ('numbers of clips', lambda c: c['clips']),
    ):
        if len({json.dumps(value(c)) for c in contents.values()}) > 1:
            raise PlotError(f'the runs in {folder} are of different {name}')
    epochs = {}
    for content in contents.values():
        batch = content['run']['batch']
        number = content['settings']['config']['total_epochs']
        if epochs.setdefault(batch, number) != number:
            raise PlotError(
                f'the runs in {folder} with {batch} clips a batch '
                f'are of different epochs'
            )
    return dict(runs), relay


def spread(values):
    """Mean and standard deviation, of a list without None.

    Returns:
        tuple: of floats; nan where there is nothing to take them of.
    """
    values = np.array([value for value in values if value is not None])
    return (
        values.mean() if len(values) else np.nan,
        values.std(ddof=1) if len(values) > 1 else np.nan,
    )


def whiskers(mean, deviation):
    """Lengths of error bars, below and above: a deviation, within 0 to 1."""
    mean, deviation = np.atleast_1d(mean, np.nan_to_num(deviation))
    return np.minimum(deviation, [mean, 1 - mean])


def figures(runs, key, figure, mode='grouped'):
    """A figure of each run with a key, None where it has none."""
    return [
        run['evaluation'][mode] and run['evaluation'][mode][figure]
        for run in runs.get(key, [])
    ]


def draw_chance(axis, text):
    axis.axhline(0.5, color='0.35', linewidth=1, linestyle=':', zorder=1)
    axis.annotate(
        text,
        (0.995, 0.5),
        xycoords=('axes fraction', 'data'),
        xytext=(0, 2),
        textcoords='offset points',
        ha='right',
        fontsize='small',
        color='0.35',
    )


def draw_bars(axis, places, values, width, colour, label):
    """Bars of means, which are written in them; deviations; runs as dots."""
    for number, (place, of_runs) in enumerate(zip(places, values)):
        of_runs = [value for value in of_runs if value is not None]
        mean, deviation = spread(of_runs)
        if np.isnan(mean):
            continue
        axis.bar(
            place,
            mean,
            width,
            color=colour,
            alpha=0.75,
            label=label if number == 0 else None,
        )
        if not np.isnan(deviation):
            axis.errorbar(
                place,
                mean,
                whiskers(mean, deviation),
                color='black',
                capsize=3,
                linewidth=1,
            )
        axis.plot(
            place + width * np.linspace(-0.25, 0.25, len(of_runs)),
            of_runs,
            '.',
            color='black',
            markersize=3,
        )
        axis.text(place, 0.02, f'{100 * mean:.1f}', ha='center', fontsize='small')


def set_accuracy_axis(axis, top=1.08):
    axis.set_ylim(0, top)
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))


def draw_curves(runs, relay):
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout='constrained')
    for config, colour in CONFIGS.items():
        curves = [
            dict(run['validation']) for run in runs.get((config, BATCH, GROUPS), [])
        ]
        epochs = sorted({epoch for curve in curves for epoch in curve})
        if not epochs:
            continue
        mean, deviation = np.array(
            [spread([curve.get(epoch) for curve in curves]) for epoch in epochs]
        ).T
        axis.plot(epochs, mean, color=colour, marker='o', markersize=3, label=config)
        below, above = whiskers(mean, deviation)
        axis.fill_between(
            epochs, mean - below, mean + above, color=colour, alpha=0.2, linewidth=0
        )
        axis.set_xticks(epochs)
    draw_chance(axis, '')
    axis.lines[-1].set_label('the best without\nthe order of frames')
    set_accuracy_axis(axis, 1.03)
    axis.set_xlabel('epoch')
    axis.set_ylabel('validation top-1')
    figure.legend(loc='outside right center', title='dnr')
    return figure


def draw_ablation(runs, relay):
    figure, axis = plt.subplots(figsize=(7.2, 3.6), layout='constrained')
    width = 0.2
    for number, (config, colour) in enumerate(CONFIGS.items()):
        draw_bars(
            axis,
            np.arange(len(FIGURES)) + (number - 1.5) * width,
            [figures(runs, (config, BATCH, GROUPS), name) for name in FIGURES],
            0.9 * width,
            colour,
            config,
        )
    for place in (0, 2):  # of the pair, it is 0.2
        axis.hlines(
            0.5,
            place - 0.45,
            place + 0.45,
            color='0.35',
            linewidth=1,
            linestyle=':',
            zorder=3,
        )
    axis.annotate(
        'guessing\nthe order',
        (1.01, 0.5),
        ha='left',
        va='center',
        xycoords=('axes fraction', 'data'),
        fontsize='small',
        color='0.35',
        annotation_clip=False,
    )
    axis.set_xticks(range(len(FIGURES)), FIGURES.values())
    axis.tick_params(axis='x', length=0)
    set_accuracy_axis(axis)
    axis.set_ylabel('test accuracy')
    figure.legend(loc='outside upper center', ncols=len(CONFIGS))
    return figure


def draw_sizes(runs, relay):
    figure, axes = plt.subplots(
        1, 2, figsize=(7.2, 3.4), sharey=True, layout='constrained'
    )
    panels = (
        (axes[0], 1, f'clips a batch ({GROUPS} groups)'),
        (axes[1], 2, f'groups ({BATCH} clips a batch)'),
    )
    for axis, place, title in panels:
        values = sorted(
            {key[place] for key in runs if key[3 - place] == (BATCH, GROUPS)[2 - place]}
        )
        for config, colour in CONFIGS.items():
            keys = [
                (config, value, GROUPS) if place == 1 else (config, BATCH, value)
                for value in values
            ]
            if (
                config not in ('both', 'none')
                or not any(key in runs for key in keys)
                or (place == 2 and config != 'both')
            ):
                continue
            for name, style in (('top1', '-'), ('order', '--')):
                mean, deviation = np.array(
                    [spread(figures(runs, key, name)) for key in keys]
                ).T
                axis.errorbar(
                    range(len(values)),
                    mean,
                    whiskers(mean, deviation),
                    color=colour,
                    linestyle=style,
                    marker='o',
                    markersize=4,
                    capsize=3,
                    label=f'{config}, {FIGURES[name]}',
                )
                for number, key in enumerate(keys):
                    of_runs = figures(runs, key, name)
                    axis.plot(
                        len(of_runs) * [number + 0.06],
                        of_runs,
                        '_',
                        color=colour,
                        markersize=6,
                    )
        axis.set_xticks(range(len(values)), values)
        axis.set_xlim(-0.4, len(values) - 0.6)
        axis.set_xlabel(title)
        draw_chance(axis, 'guessing the order' if place == 2 else '')
        set_accuracy_axis(axis, 1.05)
    axes[0].set_ylabel('test accuracy')
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc='outside upper center', ncols=2
    )
    return figure


def draw_evaluation(runs, relay):
    figure, axis = plt.subplots(figsize=(7.2, 3.6), layout='constrained')
    configs = [config for config in CONFIGS if (config, BATCH, GROUPS) in runs]
    width = 0.16
    for number, (mode, label) in enumerate(MODES.items()):
        draw_bars(
            axis,
            np.arange(len(configs)) + (number - 2) * width,
            [
                figures(runs, (config, BATCH, GROUPS), 'top1', mode)
                for config in configs
            ],
            0.9 * width,
            MODE_COLOURS[mode],
            label,
        )
    axis.set_xticks(range(len(configs)), configs)
    axis.tick_params(axis='x', length=0)
    set_accuracy_axis(axis)
    axis.set_ylabel('test top-1')
    figure.legend(
        loc='outside upper center',
        ncols=3,
        title='the same weights, standardized by statistics',
    )
    return figure


def draw_confusion(runs, relay):
    shown = [config for config in ('none', 'both') if (config, BATCH, GROUPS) in runs]
    if not shown:
        return None
    figure, axes = plt.subplots(
        1,
        len(shown),
        figsize=(0.6 + 4.3 * len(shown), 4.9),
        sharey=True,
        squeeze=False,
        layout='constrained',
    )
    for axis, config in zip(axes[0], shown):
        same = runs[config, BATCH, GROUPS]
        matrix = np.sum(
            [run['evaluation']['grouped']['confusion'] for run in same], axis=0
        )
        share = matrix / matrix.sum(1, keepdims=True)
        image = axis.imshow(share, cmap='Blues', vmin=0, vmax=1)
        for row, column in np.argwhere(share >= 0.005):
            value = share[row, column]
            axis.text(
                column,
                row,
                f'{100 * value:.0f}',
                ha='center',
                va='center',
                fontsize='small',
                color='white' if value > 0.6 else 'black',
            )
        for edge in range(2, len(matrix), 2):  # between pairs
            axis.axhline(edge - 0.5, color='0.5', linewidth=0.8)
            axis.axvline(edge - 0.5, color='0.5', linewidth=0.8)
        names = [name.replace('_', ' ') for name in same[0]['settings']['classes']]
        axis.set_xticks(
            range(len(names)),
            names,
            rotation=45,
            ha='right',
            rotation_mode='anchor',
            fontsize='small',
        )
        axis.set_yticks(range(len(names)), names, fontsize='small')
        axis.tick_params(length=0)
        axis.spines[:].set_visible(True)
        axis.set_xlabel('predicted')
        axis.set_title(f'dnr={config!r}')
    axes[0, 0].set_ylabel('true')
    figure.colorbar(
        image,
        ax=axes,
        shrink=0.7,
        aspect=30,
        label='% of the true class',
        format=matplotlib.ticker.PercentFormatter(1, decimals=0, symbol=''),
    )
    return figure


def draw_relay(runs, relay):
    if relay is None:
        return None
    clips = relay['clips']
    figure, axes = plt.subplots(
        2,
        len(clips),
        figsize=(0.8 + 1.75 * max(3, len(clips)), 4.2),
        sharex=True,
        sharey='row',
        squeeze=False,
        layout='constrained',
    )
    # The channels whose backward lines are far from the forward ones, and
    # from the mirror image of these.
    apart = sum(
        np.minimum(abs(ahead - back).mean(0), abs(ahead - back[::-1]).mean(0))
        for ahead, back in (
            (np.array(clip[name]), np.array(clip[f'reversed_{name}']))
            for clip in clips
            for name in 'hc'
        )
    )
    channels = np.argsort(-apart)[:CHANNELS]
    for column, clip in enumerate(clips):
        for row, name in enumerate('hc'):
            axis = axes[row, column]
            forward = np.array(clip[name])  # (groups, channels)
            backward = np.array(clip[f'reversed_{name}'])
            groups = range(1, len(forward) + 1)
            for number, channel in enumerate(channels):
                axis.plot(
                    groups,
                    forward[:, channel],
                    color=f'C{number}',
                    marker='o',
                    markersize=3,
                )
                axis.plot(
                    groups,
                    backward[:, channel],
                    color=f'C{number}',
                    linestyle='--',
                    marker='o',
                    markersize=3,
                    markerfacecolor='white',
                )
            axis.set_xticks(groups)
        names = (clip['label'], clip['reversed_label'])
        axes[0, column].set_title(
            '— {}\n- - {}'.format(
                *(
                    name.replace('_', ' ')
                    .replace('counterclockwise', '↺')
                    .replace('clockwise', '↻')
                    for name in names
                )
            ),
            loc='left',
            fontsize='small',
        )
        axes[1, column].set_xlabel('group')
    axes[0, 0].set_ylabel('scale h')
    axes[1, 0].set_ylabel('shift c')
    figure.suptitle(
        f'{relay["layer"]}: a clip played forwards (solid) and '
        'backwards (dashed);\n'
        'a colour is a channel, the same in all',
        fontsize=10,
    )
    return figure


# What draws them, and what the README says of them.
PICTURES = {
    'curves': (
        draw_curves,
        'Validation accuracy by epoch',
        """\
`none` averages over frames, so it cannot tell their order, whatever it
learns. Nor can `cross_layer` by itself: its relay runs over layers and sees
the frames of a clip pooled. Only the cross-temporal relay can.""",
    ),
    'ablation': (draw_ablation, 'Accuracy of the four configs', ''),
    'confusion': (
        draw_confusion,
        'Confusion of none and of both',
        """\
All runs of a config together. Pairs lie side by side, in squares: who knows
the process and guesses the direction fills all four cells of a square.""",
    ),
    'evaluation': (draw_evaluation, 'Accuracy by the statistics of evaluation', ''),
    'sizes': (
        draw_sizes,
        'Accuracy by batch size and groups',
        """\
Small batches have learning rates in proportion, fewer epochs and yet more
steps: what is seen is not the size of the batch alone.""",
    ),
    'relay': (
        draw_relay,
        'Scales and shifts over the groups',
        """\
What the relay predicts for a test clip and for the same clip backwards,
group after group. If no relay had memory, the dashed line would be the solid
one's mirror image; if none saw the direction, the same line. Shown are the
layer and the channels that are farthest from both.""",
    ),
}


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


def put_block(readme, block):
    """Put text between the marker lines of a file.

    Raises:
        PlotError: it has not each of the two once, in order.
    """
    text = readme.read_text()
    if (text.count(BEGIN), text.count(END)) != (1, 1) or (
        text.index(BEGIN) > text.index(END)
    ):
        raise PlotError(
            f'{readme} should have the line {BEGIN} once, and {END} once after it'
        )
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    temporary = readme.with_name(f'{readme.name}.{os.getpid()}.tmp')
    temporary.write_text(f'{before}{BEGIN}\n\n{block}\n\n{END}{after}')
    os.replace(temporary, readme)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--results',
        type=Path,
        metavar='FOLDER',
        default=ROOT / 'results' / 'arrow',
        help="the study's --out (default: results/arrow)",
    )
    parser.add_argument(
        '--assets',
        type=Path,
        metavar='FOLDER',
        default=ROOT / 'assets',
        help='for the pictures (default: assets)',
    )
    parser.add_argument(
        '--readme',
        type=Path,
        metavar='FILE',
        default=ROOT / 'README.md',
        help='for table and pictures (default: README.md)',
    )
    args = parser.parse_args()
    try:
        runs, relay = read(args.results)
        table = make_table(runs)
        args.assets.mkdir(parents=True, exist_ok=True)
        with plt.rc_context(STYLE):
            block = [table]
            for name, (draw, title, text) in PICTURES.items():
                path = args.assets / f'arrow_{name}.svg'
                figure = draw(runs, relay)
                if figure is None:
                    print(f'no {path}: {args.results} has not what it shows')
                    continue
                save(figure, path, '--assets')
                print(f'wrote {path}')
                link = os.path.relpath(path, args.readme.parent)
                block += [f'![{title}]({link})'] + [text] * bool(text)
        put_block(args.readme, '\n\n'.join(block))
    except PlotError as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        sys.exit(f'error: {error.filename}: {error.strerror}')
    print(f'wrote the table into {args.readme}:\n\n{table}')


if __name__ == '__main__':
    main()
