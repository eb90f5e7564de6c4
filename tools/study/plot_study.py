#!/usr/bin/env python
"""Write the tables of a study into its page, and draw its pictures.

    python tools/study/plot_study.py arrow
    python tools/study/plot_study.py small_batches gestures

From the files that tools/study/study.py left in results/STUDY and nothing else. Each
table goes between two marker lines of the page, and to the standard output. Pictures go
to ASSETS/STUDY_*.svg. The same results give the same files.
"""

import argparse
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools'))

from analysis.plotting import PlotError, plt, save  # noqa: E402
from whole_files import write_whole  # noqa: E402

# The page of each study. Its module, report_STUDY.py, has a function report(folder).
PAGES = dict(arrow='study.md', small_batches='small_batches.md', gestures='gestures.md')
STYLE = {
    'font.size': 9,
    'axes.titlesize': 10,
    'savefig.facecolor': 'white',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'legend.frameon': False,
}


def markers(name):
    """The lines before and after a table in the page."""
    text = '<!-- table {} written by tools/study/plot_study.py: {} -->'
    return text.format(name, 'begin'), text.format(name, 'end')


def put_table(page, name, table):
    """Put a table between its marker lines of a page.

    Raises:
        PlotError: it has not each of the two once, in order.
    """
    text, (begin, end) = page.read_text(), markers(name)
    if (text.count(begin), text.count(end)) != (1, 1) or (
        text.index(begin) > text.index(end)
    ):
        raise PlotError(
            f'{page} should have the line {begin} once, and {end} once after it'
        )
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    write_whole(page, f'{before}{begin}\n\n{table}\n\n{end}{after}')


def plot(name, args):
    """Do one study."""
    folder = args.results / name
    tables, pictures = importlib.import_module(f'study.report_{name}').report(folder)
    args.assets.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        for picture, draw in pictures.items():
            path = args.assets / f'{picture}.svg'
            figure = draw()
            if figure is None:
                print(f'no {path}: {folder} has not what it shows')
                continue
            save(figure, path, '--assets')
            print(f'wrote {path}')
    page = args.page or ROOT / 'docs' / PAGES[name]
    for table, text in tables.items():
        put_table(page, table, text)
        print(f'wrote the table {table} into {page}:\n\n{text}\n')


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('studies', nargs='+', metavar='STUDY', choices=PAGES)
    parser.add_argument(
        '--results',
        type=Path,
        metavar='FOLDER',
        default=ROOT / 'results',
        help='has a folder a study (default: results)',
    )
    parser.add_argument(
        '--assets',
        type=Path,
        metavar='FOLDER',
        default=ROOT / 'assets',
        help='for the pictures (default: assets)',
    )
    parser.add_argument(
        '--page',
        type=Path,
        metavar='FILE',
        help=f'for the tables (default, in docs: {", ".join(PAGES.values())})',
    )
    args = parser.parse_args()
    try:
        for name in args.studies:
            plot(name, args)
    except PlotError as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        sys.exit(f'error: {error.filename}: {error.strerror}')


if __name__ == '__main__':
    main()
