"""The picture of what a relay predicts in the arrow study."""

import numpy as np
from analysis.plotting import plt

CHANNELS = 5  # that are drawn


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
