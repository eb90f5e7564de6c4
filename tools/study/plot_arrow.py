#!/usr/bin/env python
"""Draw the arrow-of-time study, and write its table into docs/study.md.

    python tools/study/plot_arrow.py

From the files that tools/study/arrow_study.py left in --results and nothing else:

    ASSETS/arrow_curves.svg      validation accuracy by epoch
    ASSETS/arrow_ablation.svg    top-1, pair and order accuracy of the configs
    ASSETS/arrow_sizes.svg       by clips a batch, and by groups of frames
    ASSETS/arrow_evaluation.svg  by the statistics that evaluation uses
    ASSETS/arrow_confusion.svg   none against both
    ASSETS/arrow_relay.svg       what the relay does with a clip played
                                 forwards and backwards

Figures are the mean over seeds; bands and error bars are one standard
deviation (n - 1; none for a single run), within 0 to 1, dots are the runs.
The table goes between two marker lines of --page, and to the standard output.
The same results give the same files.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools'))

from analysis.plotting import PlotError, plt, save  # noqa: E402
from study.arrow_results import read  # noqa: E402
from study.arrow_table import make_table, put_table  # noqa: E402
from study.plot_accuracies import (  # noqa: E402
    draw_ablation,
    draw_curves,
    draw_evaluation,
    draw_sizes,
)
from study.plot_confusion import draw_confusion  # noqa: E402
from study.plot_relay import draw_relay  # noqa: E402

# Functions of the runs and the relay, which return a figure, or None where
# what it shows is not there.
PICTURES = {
    'curves': draw_curves,
    'ablation': draw_ablation,
    'confusion': draw_confusion,
    'evaluation': draw_evaluation,
    'sizes': draw_sizes,
    'relay': draw_relay,
}
STYLE = {
    'font.size': 9,
    'axes.titlesize': 10,
    'savefig.facecolor': 'white',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'legend.frameon': False,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--results',
        type=Path,
        metavar='FOLDER',
        default=ROOT / 'results' / 'arrow',
        help="the study's --out (default: results/arrow)",
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
        default=ROOT / 'docs' / 'study.md',
        help='for the table (default: docs/study.md)',
    )
    args = parser.parse_args()
    try:
        runs, relay = read(args.results)
        table = make_table(runs)
        args.assets.mkdir(parents=True, exist_ok=True)
        with plt.rc_context(STYLE):
            for name, draw in PICTURES.items():
                path = args.assets / f'arrow_{name}.svg'
                figure = draw(runs, relay)
                if figure is None:
                    print(f'no {path}: {args.results} has not what it shows')
                    continue
                save(figure, path, '--assets')
                print(f'wrote {path}')
        put_table(args.page, table)
    except PlotError as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        sys.exit(f'error: {error.filename}: {error.strerror}')
    print(f'wrote the table into {args.page}:\n\n{table}')


if __name__ == '__main__':
    main()
