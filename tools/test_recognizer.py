#!/usr/bin/env python
"""Test a recognizer: mmaction v1's command line, on either host.

Leaves mmaction v1's results pickle: a list in annotation order, one float32
array of raw scores (1, num_classes) a video. Prints mean class, top-1 and
top-5 accuracy.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# At the top, as in train_recognizer.py.
from hosts import choose_host, run  # noqa: E402
from hosts.processes import end_quietly, end_with_launcher  # noqa: E402

if __name__ == '__main__':  # and before imports that take seconds
    end_quietly()
    end_with_launcher()
host = choose_host()
from hosts.options import add_cfg_options  # noqa: E402
from hosts.speed import add_options  # noqa: E402


def parse_args():
    parser = argparse.ArgumentParser(description='Test a recognizer')
    parser.add_argument('config', help="config file, in mmaction v1's schema")
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--launcher', default='none', choices=['none', 'pytorch', 'slurm', 'mpi']
    )
    parser.add_argument(
        '--out', default='default.pkl', help='results pickle (default: %(default)s)'
    )
    parser.add_argument(
        '--use_softmax',
        action='store_true',
        help="mmaction v1's: average softmax scores; accuracies stay the same, since "
        'there is one row of scores a video',
    )
    parser.add_argument(
        '--fcn_testing', action='store_true', help='for 3D recognizers only'
    )
    add_options(parser, training=False)
    add_cfg_options(parser)
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        help='set by old launchers, not used',
    )
    return parser.parse_args()


if __name__ == '__main__':
    run(host.test, parse_args())
