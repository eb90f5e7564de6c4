#!/usr/bin/env python
"""Train a recognizer: mmaction v1's command line, on either host.

The config is in mmaction v1's schema. It runs on mmaction2, or on mmaction v1
itself where MMACTION_ROOT names a checkout.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# At the top: spawned data loader workers import this file again, and need
# what importing the host sets up.
from hosts import choose_host, run  # noqa: E402
from hosts.options import seed_of  # noqa: E402
from hosts.processes import end_quietly, end_with_launcher  # noqa: E402

if __name__ == '__main__':  # and before imports that take seconds
    end_quietly()
    end_with_launcher()
host = choose_host()
from hosts.options import add_cfg_options  # noqa: E402
from hosts.speed import add_options  # noqa: E402


def parse_args():
    parser = argparse.ArgumentParser(description='Train a recognizer')
    parser.add_argument('config', help="config file, in mmaction v1's schema")
    parser.add_argument(
        '--work_dir', help="folder for logs and checkpoints, instead of the config's"
    )
    resume = parser.add_mutually_exclusive_group()
    resume.add_argument('--resume_from', help='checkpoint to go on from')
    resume.add_argument(
        '--resume',
        action='store_true',
        help='go on from the newest whole checkpoint in the work_dir, if there is one',
    )
    parser.add_argument(
        '--validate', action='store_true', help='validate after every epoch'
    )
    parser.add_argument('--gpus', type=int, default=1, help='GPUs without a launcher')
    parser.add_argument('--seed', type=seed_of, help='random seed')
    parser.add_argument(
        '--launcher', default='none', choices=['none', 'pytorch', 'slurm', 'mpi']
    )
    add_options(parser, training=True)
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
    run(host.train, parse_args())
