#!/usr/bin/env python
"""Print the rows of a page's speed table, from files of benchmark.py.

    python tools/analysis/speed_table.py steps results/benchmark/FILE.json

The first line that is printed is a comment with the kind and the files. A page
has it above its table, and a test looks each row of the table up here; titles,
and which rows there are, is the page's. Kinds, and their rows' cells after the
first (BatchNorm is the reference; ms are medians, ratios those of the rounds):

    steps       ms of BatchNorm, of dnr, ratio; device busy, and its ratio;
                ratio of the peaks of memory
    compiled    the mode; ms of BatchNorm, of dnr, ratio
    clips       device busy of BatchNorm, of dnr, ratio; ratio of the times
    evaluation  ms of BatchNorm, of dnr, ratio
    against     ms of BatchNorm, of dnr, of --against; the last by dnr's
    plain       ms of BatchNorm, of plain, ratio; ratio of the peaks of memory
    ablation    clips; what the kernels are without; ms; device busy
    root        ms of BatchNorm, of --root, of dnr; device busy of the three
    cold        seconds of BatchNorm, of --root if it is there, of dnr
    loop        clips a second, per cent of those with data on the device
    brief       BatchNorm, dnr, ratio; for bf16 and channels last, and of --cold
                the first step
"""

import argparse
import json
import sys
from pathlib import Path

IMAGES = '{0} images of {1} x {1}'
COLD = {
    'first_s': f'first training step, {IMAGES}',
    'shape_s': f'first step of another shape, {IMAGES}',
    'evaluation_s': f'first evaluation, {IMAGES}',
}


class Row:
    """A row of a file of steps, and the cells that tables are made of."""

    def __init__(self, row):
        self.row = row
        self.models = row['models']

    def name(self):
        return f'{self.row["precision"]}, {self.row["layout"].replace("_", " ")}'

    def name_all(self):
        """The name with whatever is not a step of 8 clips as it comes."""
        row, words = self.row, [self.name()]
        if row['compile'] != 'off':
            graph = row['compile'] == 'reduce-overhead'
            words.append('CUDA graph' if graph else 'compiled')
        if row['mode'] == 'eval':
            words.append(f'evaluation of {self.images()}')
        elif row['clips'] != 8:
            words.append(f'{row["clips"]} clip' + 's' * (row['clips'] > 1))
        return ', '.join(words)

    def images(self):
        return IMAGES.format(self.row['clips'] * self.row['frames'], self.row['size'])

    def value(self, key, name):
        return self.models[name].get(key)

    def figure(self, key, name):
        return show(self.value(key, name), '.1f')

    def milliseconds(self, *names):
        return [self.figure('median_ms', name) for name in names]

    def busy(self, *names):
        return [self.figure('device_busy_ms', name) for name in names]

    def ratio(self, name='dnr'):
        return show(self.models[name].get('ratio'), '.2f')

    def ratio_of(self, key, name='dnr', reference='none'):
        own, other = self.value(key, name), self.value(key, reference)
        return show(own / other if own and other else None, '.2f')


def show(value, form):
    return '-' if value is None else format(value, form)


def steps(row):
    return [
        row.name(),
        *row.milliseconds('none', 'dnr'),
        row.ratio(),
        *row.busy('none', 'dnr'),
        row.ratio_of('device_busy_ms'),
        row.ratio_of('peak_gib'),
    ]


def compiled(row):
    cells = evaluation(row)
    return [cells[0], f'`{row.row["compile"]}`', *cells[1:]]


def clips(row):
    return [
        str(row.row['clips']),
        *row.busy('none', 'dnr'),
        row.ratio_of('device_busy_ms'),
        row.ratio(),
    ]


def evaluation(row):
    return [row.name(), *row.milliseconds('none', 'dnr'), row.ratio()]


def against(row):
    return [
        row.name(),
        *row.milliseconds('none', 'dnr', 'against'),
        row.ratio_of('median_ms', 'against', 'dnr'),
    ]


def plain(row):
    return [
        row.name(),
        *row.milliseconds('none', 'plain'),
        row.ratio('plain'),
        row.ratio_of('peak_gib', 'plain'),
    ]


def root(row):
    names = ('none', 'root', 'dnr')
    return [row.name_all(), *row.milliseconds(*names), *row.busy(*names)]


STEPS = dict(
    steps=steps,
    compiled=compiled,
    clips=clips,
    evaluation=evaluation,
    against=against,
    plain=plain,
    root=root,
)


def cold(content):
    """The rows of a file of --cold, by what is timed."""
    rows = []
    for row in content['rows']:
        names = [name for name in ('none', 'root', 'dnr') if name in row['models']]

        def seconds(key, row=row, names=names):
            return [show(row['models'][name].get(key), '.1f') for name in names]

        if row['compile'] != 'off':
            name = f'first compiled step, {row["precision"]}, `{row["compile"]}`'
            rows.append([name, *seconds('first_s')])
            continue
        for key, text in COLD.items():
            rows.append([text.format(*row['images'][key]), *seconds(key)])
    return rows


def ablation(content):
    """The rows of a file of ablate_kernels.py."""
    return [
        [str(row.row['clips']), name, *row.milliseconds(name), *row.busy(name)]
        for row in map(Row, content['rows'])
        for name in row.models
        if name != 'none'
    ]


def loop(content):
    """The rows of a file of --e2e."""
    number = content['processes']
    return [
        [
            f'{number} GPU' + 's' * (number > 1),
            row['data'],
            f'`{row["settings"]}`',
            f'{row["clips_per_s"]:.0f}',
            f'{row["clips_per_s"] / _first(content, row)["clips_per_s"]:.2f}',
            f'{100 * row["fraction"]:.0f} %',
        ]
        for row in content['rows']
    ]


def _first(content, row):
    """The first row of the same data."""
    return next(other for other in content['rows'] if other['data'] == row['data'])


def brief(content):
    """The rows of a file of steps or of --cold, for the README."""
    rows = []
    for row in map(Row, content['rows']):
        setting = row.row
        key, unit, form = 'median_ms', 'ms', '.1f'
        name = 'training step'
        if content['benchmark'] == 'cold':
            if setting['compile'] != 'off':
                continue
            key, unit = 'first_s', 's'
            name = f'first training step on a fresh machine, {setting["precision"]}'
        elif row.name() != 'bf16, channels last':
            continue
        elif setting['mode'] == 'eval':
            name = f'evaluation of one video, {row.images()}'
        elif setting['compile'] == 'reduce-overhead':
            name += ' in a CUDA graph'
        elif setting['compile'] != 'off':
            continue
        ratio = row.ratio_of(key) if unit == 's' else row.ratio()
        none, dnr = (show(row.value(key, name), form) for name in ('none', 'dnr'))
        rows.append([name, f'{none} {unit}', f'{dnr} {unit}', ratio])
    return rows


def of_steps(kind):
    """The rows of a file of steps, by one of STEPS."""
    return lambda content: [STEPS[kind](Row(row)) for row in content['rows']]


KINDS = dict(
    {kind: of_steps(kind) for kind in STEPS},
    cold=cold,
    ablation=ablation,
    loop=loop,
    brief=brief,
)


def make_rows(kind, contents):
    """Rows of a table in Markdown.

    Args:
        kind (str): of KINDS.
        contents (list[dict]): of benchmark.py's files.

    Returns:
        list[str]: the lines.
    """
    return [
        f'| {" | ".join(cells)} |'
        for content in contents
        for cells in KINDS[kind](content)
    ]


def make_marker(kind, paths):
    """The comment that a page has above a table of these files."""
    return f'<!-- rows of {" ".join(map(str, paths))}: {kind} -->'


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('kind', choices=KINDS, help='of table')
    parser.add_argument('files', nargs='+', metavar='JSON', type=Path)
    args = parser.parse_args()
    try:
        contents = [json.loads(path.read_text()) for path in args.files]
        rows = make_rows(args.kind, contents)
    except OSError as error:
        sys.exit(f'error: cannot read {error.filename}: {error.strerror}')
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f'error: no {args.kind} in these files: {error!r}')
    print(make_marker(args.kind, args.files), *rows, sep='\n')


if __name__ == '__main__':
    main()
