"""What the plot_*.py share: matplotlib without a screen, files, and faults."""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')
matplotlib.rcParams['svg.hashsalt'] = 'ResNet-DNR'  # alike, run after run
import matplotlib.pyplot as plt  # noqa: E402
from whole_files import replacing  # noqa: E402


class PlotError(Exception):
    """A fault in a file or an argument; the text says all."""


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
                metadata={'Date': None} if kind == 'svg' else None,
            )
    except (OSError, ValueError) as error:  # ValueError: an unknown format
        reason = getattr(error, 'strerror', None) or error
        raise PlotError(f'cannot write {name} {path}: {reason}') from error
    plt.close(figure)
