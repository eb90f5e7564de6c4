"""The confusion picture of the arrow study: none against both."""

import matplotlib
import numpy as np
from analysis.plotting import plt

from study.arrow_results import BATCH, GROUPS


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
