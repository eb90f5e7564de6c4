"""The pictures of accuracies in the arrow study."""

import matplotlib
import numpy as np
from analysis.plotting import plt

from study.arrow_results import BATCH, CONFIGS, FIGURES, GROUPS, figures, spread

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


def whiskers(mean, deviation):
    """Lengths of error bars, below and above: a deviation, within 0 to 1."""
    mean, deviation = np.atleast_1d(mean, np.nan_to_num(deviation))
    return np.minimum(deviation, [mean, 1 - mean])


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
