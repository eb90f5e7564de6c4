"""What the plot_*.py share: matplotlib without a screen, files, and faults."""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')
matplotlib.rcParams['svg.hashsalt'] = 'ResNet-DNR'  # alike, run after run
matplotlib.rcParams['text.parse_math'] = False  # names may have a $
import matplotlib.pyplot as plt  # noqa: E402
from hosts import HostError  # noqa: E402
from whole_files import replacing  # noqa: E402

DPI = 150  # of PNG files, which are enlarged in print


class PlotError(HostError):
    """A fault in a file or an argument; the text says all."""


def put_legend(place, handles, names, **options):
    """A legend with any names, those too that begin with an underscore.

    matplotlib itself leaves these out.

    Args:
        place (matplotlib.axes.Axes | matplotlib.figure.Figure): gets it.
        handles (list): what the names are of, as legend() takes them.
        names (list[str]): a name a handle.
        **options: of legend().
    """
    legend = place.legend(handles, [' '] * len(names), **options)
    for text, name in zip(legend.get_texts(), names):
        text.set_text(name)


def save(figure, path, name):
    """Write a figure, whole or not at all, and close it.

    Args:
        figure (matplotlib.figure.Figure): it.
        path (str | Path): the file; its ending says the format. The same
            figure gives the same SVG file.
        name (str): of the argument that the path is from, for the error.

    Raises:
        PlotError: the file cannot be written, or its format is unknown.
    """
    kind = Path(path).suffix[1:]
    try:
        with replacing(path) as temporary:
            figure.savefig(
                temporary,
                format=kind,
                dpi=DPI if kind == 'png' else 'figure',
                metadata={'Date': None} if kind == 'svg' else None,
            )
    except (OSError, ValueError) as error:  # ValueError: an unknown format
        reason = getattr(error, 'strerror', None) or error
        raise PlotError(f'cannot write {name} {path}: {reason}') from error
    plt.close(figure)
