"""Rows of results: the JSON file and the table of tools/analysis/benchmark.py."""

import itertools

import torch
from hosts import HostError
from run_description import describe_run
from whole_files import write_json

from analysis.benchmark_backbones import MORE_MODELS, SETTINGS, load_class, not_taken

WIDTH = 120  # of the table, in characters


def combinations(args, keys=SETTINGS):
    """All settings of a command line: dicts with a value for each key."""
    return [
        dict(zip(keys, values))
        for values in itertools.product(*(getattr(args, key) for key in keys))
    ]


class Report:
    """What was measured, in rows: a combination of settings, and its backbones.

    Args:
        kind (str): of benchmark, 'backbones' or 'cold'.
        columns (dict[str, tuple]): from a result's key to its column's title
            and format.
        brief (tuple[str]): those of the columns' keys that are said at once.
        settings (list[dict]): those of the rows to come.
        args (argparse.Namespace): of the command line.
        more: for the file's head.
    """

    def __init__(self, kind, columns, brief, settings, args, **more):
        self.columns, self.brief = columns, brief
        self.settings, self.args = settings, args
        added = [name for name in MORE_MODELS if getattr(args, name)]
        self.names = args.compare + added
        self.rows = []
        self.content = dict(
            benchmark=kind,
            reference=self.names[0],
            against=args.against,
            root=args.root,
            **more,
            threads=args.threads or torch.get_num_threads(),
            **describe_run(args.device),
            rows=self.rows,
        )
        print(
            f'{self.content["device"]}, torch {torch.__version__}; '
            f'the reference is {self.names[0]}',
            flush=True,
        )
        for name in added:
            print(f'{name} is {getattr(args, name)}', flush=True)

    def add(self, setting, results, **more):
        """Add a row.

        Args:
            setting (dict): of the row.
            results (dict[str, dict]): by the backbones' names; of the
                columns' keys, or with 'error'.
            more: for the row in the file.
        """
        row = dict(setting, **more)
        if self.args.against:
            row['against_not_taken'] = not_taken(load_class(self.args.against), setting)
            if row['against_not_taken']:
                print(
                    'note: against takes no '
                    + ', '.join(
                        f'{key}={value!r}'
                        for key, value in row['against_not_taken'].items()
                    )
                    + ' and has a value of its own'
                )
        row['models'] = results
        self.rows.append(row)
        self.write()
        parts = [f'{name} {self.describe(result)}' for name, result in results.items()]
        print(
            f'[{len(self.rows)}/{len(self.settings)}] '
            f'{" ".join(map(str, setting.values()))}: {", ".join(parts)}',
            flush=True,
        )

    def describe(self, result):
        """A backbone's result in a few words."""
        if 'error' in result:
            return result['error']
        return ', '.join(
            f'{show(result[key], form)} {title}'
            for key, (title, form) in self.columns.items()
            if key in self.brief
        )

    def write(self):
        if self.args.out:
            write_json(self.args.out, self.content)

    def end(self):
        """Print the table.

        Raises:
            HostError: a measurement failed.
        """
        print_table(self.rows, self.columns)
        if self.args.out:
            print(f'wrote {self.args.out}')
        failed = sum(
            'error' in result for row in self.rows for result in row['models'].values()
        )
        if failed:
            raise HostError(f'{failed} measurement(s) failed, see above')


def show(value, form):
    return '-' if value is None else format(value, form)


def print_table(rows, columns):
    """Print what all rows have in common, and a line a backbone."""
    settings = [key for key in SETTINGS if key in rows[0]]
    varying = [key for key in settings if len({row[key] for row in rows}) > 1]
    print(
        '\n'
        + ', '.join(f'{key} {rows[0][key]}' for key in settings if key not in varying)
    )
    lines = [[*varying, 'backbone', *(name for name, _ in columns.values())]]
    errors = {}
    for row in rows:
        for name, result in row['models'].items():
            line = [str(row[key]) for key in varying] + [name]
            if 'error' in result:
                errors[len(lines)] = result['error']
            else:
                line += [show(result[key], form) for key, (_, form) in columns.items()]
            lines.append(line)
    widths = [
        max(len(line[i]) for line in lines if i < len(line))
        for i in range(len(lines[0]))
    ]
    names = len(varying) + 1
    for number, line in enumerate(lines):
        text = '  '.join(
            cell.ljust(width) if i < names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        )
        if number in errors:
            text += f'  {errors[number]}'
        print(text[:WIDTH])
