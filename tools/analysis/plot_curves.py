#!/usr/bin/env python
"""Draw loss and accuracy of trainings, from the logs in their work folders.

    python tools/analysis/plot_curves.py work_dirs/A work_dirs/B --out curves.svg

Left, the training loss over iterations; right, the top-1 accuracy of
--validate over epochs, where a run has it. A line a run, named after its
folder. Nothing is smoothed: a logged loss is itself the mean over
log_config.interval iterations.

Both hosts' logs are read:
  mmaction2      WORK_DIR/TIMESTAMP/vis_data/scalars.json
  mmaction v1    WORK_DIR/TIMESTAMP.log.json
A run that was resumed has several, which are put together in order: from the
epoch on in which a later one begins, the earlier ones no longer count. Logs
without a training loss (of testing) are left out. A last line that is cut
short, as in a training that runs or was killed, is left out too.

mmaction v1 counts iterations from each epoch's start and does not log how
many there are. The largest number in the log is taken for it; without
--validate this is too small by less than a log interval.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.plotting import PlotError, plt, put_legend, save  # noqa: E402

# mmaction2's, mmaction v1's, and that of mmcv 1.x with mmaction2 0.x.
ACCURACIES = ('acc/top1', 'top1 acc', 'top1_acc')


def read_rows(path):
    """The lines of a log, JSON objects.

    Args:
        path (Path): the file.

    Returns:
        list[tuple]: (int, dict), the line's number from 1 and its content.

    Raises:
        PlotError: the file cannot be read, or a line is broken that is not
            the last, still to be ended.
    """
    try:
        lines = path.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise PlotError(f'cannot read {path}: {error}') from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines) and not line.endswith('\n'):
                break
            raise PlotError(f'{path}, line {number} is no JSON: {error}') from error
        if not isinstance(row, dict):
            raise PlotError(f'{path}, line {number} is no JSON object')
        rows.append((number, row))
    return rows


def read_log(path):
    """Losses and accuracies in one log, of either host.

    Args:
        path (Path): the file.

    Returns:
        tuple: a list of (epoch, iteration, loss) and one of (epoch,
        iteration or None, top-1 in percent). Epochs count from 1. On mmaction
        v1, iterations are those of the epoch.

    Raises:
        PlotError: the file or a line in it is broken.
    """
    losses, accuracies = [], []
    epochs_from_0 = False
    for number, row in read_rows(path):
        key = next((key for key in ACCURACIES if key in row), None)
        try:
            if 'loss' in row and row.get('mode', 'train') == 'train':
                losses.append((int(row['epoch']), int(row['iter']), float(row['loss'])))
            elif key and 'mode' in row:
                epoch = int(row['epoch'])
                accuracies.append((epoch, int(row['iter']), 100 * float(row[key])))
                if losses and epoch < losses[-1][0]:
                    epochs_from_0 = True
            elif key:
                accuracies.append((int(row['step']), None, 100 * float(row[key])))
        except (KeyError, TypeError, ValueError) as error:
            raise PlotError(
                f'{path}, line {number} is of no training by epochs: '
                f'{type(error).__name__}: {error}'
            ) from error
    if epochs_from_0:
        # mmaction v1 validates before it counts the epoch that is over. Its
        # iteration is then the last one of the epoch; mmcv's own validation
        # gives the number of validation batches instead.
        accuracies = [(epoch + 1, *rest) for epoch, *rest in accuracies]
    else:
        accuracies = [(epoch, None, top1) for epoch, _, top1 in accuracies]
    return losses, accuracies


def read_run(folder):
    """Loss and accuracy of one run.

    Args:
        folder (Path): its work_dir.

    Returns:
        tuple: a list of (iteration, loss) and one of (epoch, top-1 in
        percent), which may be empty.

    Raises:
        PlotError: there is no log of a training, or a broken one.
    """
    if not folder.is_dir():
        raise PlotError(f'{folder} is no folder')
    mmengine = sorted(folder.glob('*/vis_data/scalars.json'))
    mmcv = sorted(folder.glob('*.log.json'))
    if mmengine and mmcv:
        raise PlotError(
            f'{folder} has logs of both hosts, such as '
            f'{mmengine[0]} and {mmcv[0]}: they are two runs'
        )
    losses, accuracies = [], []
    for path in mmengine or mmcv:
        later = read_log(path)
        if later[0]:
            begin = later[0][0][0]
            losses = [p for p in losses if p[0] < begin] + later[0]
            accuracies = [p for p in accuracies if p[0] < begin] + later[1]
    if not losses:
        raise PlotError(
            f'{folder} has no log of a training: no training loss in '
            f'*/vis_data/scalars.json (mmaction2) or *.log.json (mmaction '
            f'v1). Is it a work_dir, and has log_config.interval passed?'
        )
    length = 0
    if mmcv:
        length = max(p[1] or 0 for p in losses + accuracies)
    return (
        [((epoch - 1) * length + iteration, loss) for epoch, iteration, loss in losses],
        [(epoch, top1) for epoch, _, top1 in accuracies],
    )


def draw(runs, out):
    """Write the figure.

    Args:
        runs (dict[str, tuple]): by name, as :func:`read_run` returns them.
        out (str): the file; its ending says the format.

    Raises:
        PlotError: the file cannot be written.
    """
    panels = 2 if any(accuracy for _, accuracy in runs.values()) else 1
    figure, axes = plt.subplots(
        1,
        panels,
        figsize=(4.2 * panels + 0.6, 3.6),
        squeeze=False,
        layout='constrained',
    )
    lines = []
    for number, curves in enumerate(runs.values()):
        style = dict(
            color=f'C{number % 10}',
            linewidth=1.2,
            linestyle=('-', '--', '-.')[number // 10 % 3],
        )
        for axis, points, marker in zip(axes[0], curves, (None, 'o')):
            if len(points) == 1:
                marker = 'o'  # a line of one point cannot be seen
            (line,) = axis.plot(
                [x for x, _ in points],
                [y for _, y in points],
                marker=marker,
                markersize=3,
                **style,
            )
        lines.append(line)
    axes[0, 0].set(xlabel='iteration', ylabel='training loss')
    axes[0, 0].set_ylim(bottom=0)
    if panels == 2:
        axes[0, 1].set(xlabel='epoch', ylabel='validation top-1, %', ylim=(0, 102))
        axes[0, 1].xaxis.get_major_locator().set_params(integer=True)
    for axis in axes[0]:
        axis.grid(color='0.9')
    put_legend(
        figure,
        lines,
        list(runs),
        loc='outside lower center',
        ncols=min(3, len(runs)),
        fontsize='small',
    )
    save(figure, out, '--out')


def name_runs(folders):
    """A name a folder: its own, or its path where others have that name.

    Raises:
        PlotError: a folder is named twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder, count in Counter(resolved).items():
        if count > 1:
            raise PlotError(f'{folder} is given twice')
    names = Counter(folder.name for folder in resolved)
    return [
        path.name if names[path.name] == 1 else str(folder)
        for path, folder in zip(resolved, folders)
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'folders',
        nargs='+',
        metavar='WORK_DIR',
        type=Path,
        help='work_dir of a training',
    )
    parser.add_argument(
        '--out',
        required=True,
        metavar='FILE',
        help='the figure; its ending says the format, such as .svg or .png',
    )
    args = parser.parse_args()
    try:
        runs = dict(zip(name_runs(args.folders), map(read_run, args.folders)))
        draw(runs, args.out)
    except PlotError as error:
        sys.exit(f'error: {error}')
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
