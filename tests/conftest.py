"""Shared by all tests: the repository's modules are importable.

Long tests are marked ``full``. They run with --full, or where a test is named
(FILE::TEST); see tools/run_tests.sh.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools'), str(ROOT / 'tests')]

# One thread: what is compared to the bit is summed in the same order, and a
# core that another program uses is not waited for.
os.environ.setdefault('OMP_NUM_THREADS', '1')

# The same examples in each run; a slow machine is no failure.
try:
    from hypothesis import settings
except ImportError:  # mmaction v1's environment has none
    pass
else:
    settings.register_profile('same', derandomize=True, deadline=None, database=None)
    settings.load_profile('same')

# For the tests that need a checkout of mmaction v1. Taken out of the
# environment, where it would choose the host of all the others.
V1_CHECKOUT = os.environ.pop('MMACTION_ROOT', None)


def pytest_addoption(parser):
    parser.addoption('--full', action='store_true', help='run the long tests too')


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config, items):
    named = any('::' in argument for argument in config.args)
    if config.getoption('--full') or named:
        return
    long = [item for item in items if item.get_closest_marker('full')]
    items[:] = [item for item in items if not item.get_closest_marker('full')]
    config.hook.pytest_deselected(items=long)
    config.left_out = len(long)


class Workers:
    """With pytest-xdist's -n, tests are collected in each worker, all in each."""

    def __init__(self, config):
        self.config = config

    def pytest_sessionfinish(self):
        if hasattr(self.config, 'workeroutput'):
            self.config.workeroutput['left_out'] = getattr(self.config, 'left_out', 0)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        if hasattr(node, 'workeroutput'):  # or it crashed
            self.config.left_out = node.workeroutput['left_out']


def pytest_configure(config):
    config.pluginmanager.register(Workers(config))


def pytest_terminal_summary(terminalreporter, config):
    """What did not run, why, and how to run it: a line for each reason."""
    skipped = Counter(
        report.longrepr[2] for report in terminalreporter.stats.get('skipped', [])
    )
    for reason, count in skipped.items():
        reason = reason.replace('Skipped: ', '', 1)
        terminalreporter.write_line(f'{count} skipped: {reason}')
    count = getattr(config, 'left_out', 0)
    if count:
        terminalreporter.write_line(
            f'{count} long tests were left out; to run all: ./tools/run_tests.sh --full'
        )
