"""The picture of what a relay predicts for clips and for their reversals."""

import numpy as np

from analysis.plotting import plt

CHANNELS = 5  # that are drawn


def draw_relays(layer, clips, titles):
    """Draw scales and shifts over the groups, a column a clip.

    The channels are those whose lines differ most from the reversal's, and from
    the mirror image of these.

    Args:
        layer (str): the layer's name.
        clips (list[dict]): of analysis.relays.relay_of.
        titles (list[str]): above each column; may have several lines.

    Returns:
        matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(
        2,
        len(clips),
        figsize=(0.8 + 1.75 * max(3, len(clips)), 4.2),
        sharex=True,
        sharey='row',
        squeeze=False,
        layout='constrained',
    )
    apart = sum(
        np.minimum(abs(ahead - back).mean(0), abs(ahead - back[::-1]).mean(0))
        for ahead, back in (
            (np.array(clip[name]), np.array(clip[f'reversed_{name}']))
            for clip in clips
            for name in 'hc'
        )
    )
    channels, heads = np.argsort(-apart)[:CHANNELS], []
    for column, (clip, title) in enumerate(zip(clips, titles)):
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
        heads.append(axes[0, column].set_title(title, loc='left', fontsize='small'))
        axes[1, column].set_xlabel('group')
    axes[0, 0].set_ylabel('scale h')
    axes[1, 0].set_ylabel('shift c')
    figure.suptitle(
        f'{layer}: a clip played forwards (solid) and backwards (dashed);\n'
        'a colour is a channel, the same in all',
        fontsize=10,
    )
    figure.draw_without_rendering()  # or there are no widths yet
    lacking = max(
        head.get_window_extent().width - axis.get_window_extent().width
        for head, axis in zip(heads, axes[0])
    )
    if lacking > 0:  # titles would lie on each other
        wider = len(clips) * lacking / figure.dpi
        figure.set_figwidth(figure.get_figwidth() + wider)
    return figure
