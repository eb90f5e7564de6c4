"""The page of tools/analysis/report.py: its pictures, and what stands where."""

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
from whole_files import write_whole

from analysis.plotting import plt, put_legend
from analysis.report_statistics import (
    BINS,
    accuracies,
    calibration,
    compare,
    compare_classes,
    confused_pairs,
    order_classes,
    wilson,
)

SURELY_WRONG = 12  # clips that are shown of each result
PAIRS = 25  # that are listed
NAMED = 4  # classes that a class is taken for, by name
BARS = 40  # classes at most that the picture of gains shows
ALPHA = 0.05  # what is called more than chance
STYLE = {
    'font.size': 9,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'svg.fonttype': 'none',  # letters that the browser draws, in any script
    'font.family': 'sans-serif',
}
COLOURS = ('#4477aa', '#cc6633')


def embedded(content, kind):
    """A file as a URL that holds it."""
    return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def embedded_figure(figure):
    """A figure of matplotlib as a URL that holds it, an SVG file."""
    file = io.BytesIO()
    figure.savefig(file, format='svg', bbox_inches='tight', metadata={'Date': None})
    plt.close(figure)
    return embedded(file.getvalue(), 'image/svg+xml')


def draw_calibration(results):
    """The accuracy of the clips of each bin, by their mean confidence."""
    figure, (axis, counts) = plt.subplots(
        2, 1, figsize=(4.6, 5), sharex=True, height_ratios=(4, 1), layout='constrained'
    )
    axis.plot((0, 1), (0, 1), color='0.6', linewidth=0.8, linestyle='--')
    bars = []
    for number, result in enumerate(results):
        _, bins = calibration(result)
        centre = np.array([bin['confidence'] for bin in bins])
        share = np.array([bin['right'] / bin['clips'] for bin in bins])
        ends = np.array([wilson(bin['right'], bin['clips']) for bin in bins])
        bar = axis.errorbar(
            centre,
            share,
            abs(ends.T - share),
            color=COLOURS[number],
            marker='o',
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=2,
        )
        bars.append(bar)
        counts.hist(
            result.confidence,
            bins=BINS,
            range=(0, 1),
            color=COLOURS[number],
            histtype='step',
            linewidth=1.2,
        )
    axis.set(ylabel='share that is right', ylim=(-0.02, 1.02))
    counts.set(xlabel='confidence', ylabel='clips', xlim=(-0.01, 1.01))
    names = [result.name for result in results]
    put_legend(axis, bars, names, loc='upper left', frameon=False)
    return figure


def draw_gains(changes, classes, names):
    """The classes whose accuracy differs most, as bars.

    Args:
        changes (dict): of compare_classes.
        classes (list[str]): a name a label.
        names (list[str]): of the two results.
    """
    order = sorted(changes, key=lambda label: changes[label]['difference'])
    if len(order) > BARS:  # those in between gain and lose the least
        order = order[: BARS // 2] + order[-BARS // 2 :]
    figure, axis = plt.subplots(
        figsize=(6.4, 0.7 + 0.19 * len(order)), layout='constrained'
    )
    sure = [changes[label]['q'] <= ALPHA for label in order]
    axis.barh(
        range(len(order)),
        [100 * changes[label]['difference'] for label in order],
        color=[COLOURS[1] if certain else '0.75' for certain in sure],
    )
    axis.axvline(0, color='0.3', linewidth=0.8)
    axis.set_yticks(range(len(order)), [classes[label] for label in order])
    axis.tick_params(axis='y', length=0)
    axis.margins(y=0.01)
    axis.set_xlabel(f'{names[1]} − {names[0]}, percentage points of a class’s clips')
    return figure


def name_classes(counts, classes):
    """The first few of (label, number) pairs, in words."""
    counts = sorted(counts, key=lambda item: -item[1])
    text = ', '.join(f'{classes[label]} {count}' for label, count in counts[:NAMED])
    more = len(counts) - NAMED
    return text + (f' and {more} more' if more > 0 else '')


def class_rows(results, changes, classes):
    """A row a class that occurs or is predicted: for the table of classes."""
    rows = []
    totals = results[0].confusion.sum(1)
    columns = [result.confusion for result in results]
    for label, name in enumerate(classes):
        total = int(totals[label])
        if not total and not any(column[:, label].any() for column in columns):
            continue
        cells = []
        for result, matrix in zip(results, columns):
            right = int(matrix[label, label])
            others = [
                (int(other), int(matrix[label, other]))
                for other in np.flatnonzero(matrix[label])
                if other != label
            ]
            taken = [
                (int(other), int(matrix[other, label]))
                for other in np.flatnonzero(matrix[:, label])
                if other != label
            ]
            of_class = result.labels == label
            cells.append(
                dict(
                    accuracy=right / total if total else None,
                    interval=wilson(right, total) if total else None,
                    top5=float(result.top5[of_class].mean()) if total else None,
                    predicted_as=name_classes(others, classes),
                    taken_for_it=name_classes(taken, classes),
                )
            )
        rows.append(
            dict(
                label=label,
                name=name,
                clips=total,
                cells=cells,
                change=changes.get(label),
            )
        )
    return rows


def matrix_of(result, order, classes):
    """What the picture of a confusion matrix has: only cells with clips.

    Args:
        result (Result): a test's.
        order (list[int]): labels, from the top and from the left.
        classes (list[str]): a name a label.
    """
    matrix = result.confusion[np.ix_(order, order)]
    totals = matrix.sum(1)
    return dict(
        name=result.name,
        names=[classes[label] for label in order],
        cells=[
            dict(
                row=int(row),
                column=int(column),
                count=int(matrix[row, column]),
                share=float(matrix[row, column] / totals[row]),
            )
            for row, column in np.argwhere(matrix)
        ],
        totals=totals.tolist(),
    )


def pair_rows(result):
    """The pairs of classes that are confused most."""
    return [
        dict(
            label=a,
            other=b,
            count=count,
            clips=int(result.confusion[a].sum()),
            back=int(result.confusion[b, a]),
        )
        for a, b, count in confused_pairs(result)[:PAIRS]
    ]


def wrong_rows(results, number, videos, strips, unread):
    """The clips that a result has most surely wrong."""
    result = results[number]
    rows = []
    for place in result.wrong[:SURELY_WRONG].tolist():
        rows.append(
            dict(
                line=place + 1,
                video=videos[place],
                label=int(result.labels[place]),
                predicted=int(result.predicted[place]),
                confidence=float(result.confidence[place]),
                of_label=float(result.probabilities[place, result.labels[place]]),
                picture=embedded(strips[place], 'image/jpeg')
                if place in strips
                else None,
                unread=unread.get(place),
                others=[
                    dict(
                        name=other.name,
                        predicted=int(other.predicted[place]),
                        confidence=float(other.confidence[place]),
                        right=bool(other.hits[place]),
                    )
                    for other in results
                    if other is not result
                ],
            )
        )
    return rows


def write_page(
    out, results, classes, videos, ann_file, config, strips=None, unread=None
):
    """Write the page.

    Args:
        out (str): the file.
        results (list[Result]): one or two, of one list.
        classes (list[str]): a name a label.
        videos (list[str]): of the list, as it names them.
        ann_file, config (str): names of the list and the config.
        strips (dict | None): JPEG files (bytes) of frames, by the clip's place.
        unread (dict | None): why there is none of a clip (str), by its place.

    Raises:
        OSError: it cannot be written.
    """
    changes, comparison, gains = {}, None, None
    order = order_classes(results)
    with plt.rc_context(STYLE):
        reliability = embedded_figure(draw_calibration(results))
        if len(results) == 2:
            changes = compare_classes(*results)
            comparison = compare(*results)
            names = [result.name for result in results]
            gains = embedded_figure(draw_gains(changes, classes, names))
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template('report_page.html')
    page = template.render(
        names=[result.name for result in results],
        classes=classes,
        ann_file=ann_file,
        config=config,
        clips=len(videos),
        occurring=int((results[0].confusion.sum(1) > 0).sum()),
        accuracies=[accuracies(result) for result in results],
        comparison=comparison,
        alpha=ALPHA,
        sure=sorted(
            (label for label in changes if changes[label]['q'] <= ALPHA),
            key=lambda label: -abs(changes[label]['difference']),
        ),
        changes=changes,
        gains=gains,
        rows=class_rows(results, changes, classes),
        has_top5=results[0].classes > 5,
        matrices=[matrix_of(result, order, classes) for result in results],
        pairs=[pair_rows(result) for result in results],
        wrong=[
            wrong_rows(results, number, videos, strips or {}, unread or {})
            for number in range(len(results))
        ],
        wrong_counts=[len(result.wrong) for result in results],
        errors=[calibration(result)[0] for result in results],
        confidences=[float(result.confidence.mean()) for result in results],
        bins=BINS,
        reliability=reliability,
    )
    write_whole(out, page)
