#!/usr/bin/env python
"""Draw how the ratio to the reference grows, from tools/analysis/benchmark.py's files.

    python tools/analysis/plot_benchmark.py results/*.json --out ratio.svg

A panel for each of frames, groups, clips, depth and size that varies; in it,
the others have the value that most measurements have. A line for each
backbone and each value of the remaining settings (precision, layout, mode,
compile, device) that vary; beside it, dashed, the ratio of the times that
the device is busy, which leaves out how fast it is told what to do. Dotted
lines mark ratios of 1.0 and 1.1. Of measurements of the same thing, the last
file's counts.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.plotting import PlotError, plt, save  # noqa: E402

PANELS = ('frames', 'groups', 'clips', 'depth', 'size')
LINES = ('backbone', 'mode', 'precision', 'layout', 'compile', 'device')
TARGETS = (1.0, 1.1)


def read(path):
    """The ratios in a file of tools/analysis/benchmark.py.

    Args:
        path (str): the file.

    Returns:
        tuple: the reference's name, and a list of dicts with a value for
        each of PANELS and LINES, 'ratio', and 'busy', the ratio of the times
        that the device is busy, or None. Measurements that failed, and the
        reference, are left out.

    Raises:
        PlotError: it cannot be read, or is no such file.
    """
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise PlotError(f'cannot read {path}: {error.strerror}') from error
    except ValueError as error:
        raise PlotError(f'{path} is no JSON file: {error}') from error
    kind = content.get('benchmark') if isinstance(content, dict) else None
    if kind != 'backbones':
        raise PlotError(
            f'{path} has no ratios: it is of tools/analysis/benchmark.py '
            + ('--e2e' if kind == 'training' else '--cold')
            if kind in ('training', 'cold')
            else f'{path} was not written by tools/analysis/benchmark.py'
        )
    reference, device = content['reference'], content['device']
    points = [
        dict(
            {key: row[key] for key in PANELS + LINES if key in row},
            backbone=name,
            device=device,
            ratio=result['ratio'],
            busy=busy_ratio(result, row['models'][reference]),
        )
        for row in content['rows']
        for name, result in row['models'].items()
        if name != reference and result.get('ratio') is not None
    ]
    return reference, points


def busy_ratio(result, reference):
    """Of the times that the device is busy; None where one is not known."""
    own, other = (r.get('device_busy_ms') for r in (result, reference))
    return own / other if own and other else None


def varying(points, keys):
    """Those of the keys that have more than one value."""
    return [key for key in keys if len({p[key] for p in points}) > 1]


def draw(points, reference, out):
    """Write the figure.

    Args:
        points (list[dict]): as :func:`read` returns them.
        reference (str): what the ratios are to.
        out (str): the file; its ending says the format.

    Raises:
        PlotError: no setting varies, or the file cannot be written.
    """
    panels = varying(points, PANELS)
    if not panels:
        raise PlotError(
            f'nothing to draw: measure more than one value of '
            f'one of {", ".join(PANELS)}'
        )
    usual = {
        key: Counter(p[key] for p in points).most_common(1)[0][0] for key in PANELS
    }
    label_keys = varying(points, LINES) or ['backbone']
    labels = sorted({tuple(p[key] for key in label_keys) for p in points})
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(3.2 * len(panels) + 0.6, 3.2),
        sharey=True,
        squeeze=False,
        layout='constrained',
    )
    for axis, panel in zip(axes[0], panels):
        others = [key for key in panels if key != panel]
        for number, label in enumerate(labels):
            line = {
                p[panel]: p
                for p in points
                if tuple(p[key] for key in label_keys) == label
                and all(p[key] == usual[key] for key in others)
            }
            for ratio, style, note in (
                ('ratio', 'o-', ''),
                ('busy', '.--', ', device busy'),
            ):
                known = [x for x in sorted(line) if line[x][ratio]]
                if known:
                    axis.plot(
                        known,
                        [line[x][ratio] for x in known],
                        style,
                        markersize=4,
                        color=f'C{number % 10}',
                        label=' '.join(label) + note,
                    )
        for target in TARGETS:
            axis.axhline(target, color='0.4', linewidth=1, linestyle=':')
        axis.set_xlabel(panel)
        ticks = sorted({p[panel] for p in points})
        axis.set_xscale('log')
        axis.set_xticks(ticks, ticks)
        axis.set_xticks([], minor=True)
        axis.set_title(
            ', '.join(f'{key} {usual[key]}' for key in others), fontsize='small'
        )
    axes[0, 0].set_ylabel(f'time / time of {reference}')
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc='outside lower center',
        ncols=min(3, len(labels)),
        fontsize='small',
    )
    save(figure, out, '--out')


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'files',
        nargs='+',
        metavar='JSON',
        help='written by tools/analysis/benchmark.py',
    )
    parser.add_argument('--out', required=True, metavar='FILE.svg', help='the figure')
    args = parser.parse_args()
    try:
        references, points = set(), []
        for path in args.files:
            reference, more = read(path)
            references.add(reference)
            points += more
        if len(references) > 1:
            raise PlotError(
                f'the files have different references: {", ".join(sorted(references))}'
            )
        draw(points, references.pop(), args.out)
    except PlotError as error:
        sys.exit(f'error: {error}')
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
