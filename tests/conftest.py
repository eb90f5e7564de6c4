"""Shared by all tests: the repository's modules are importable."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools'), str(ROOT / 'tests')]

# For the tests that need a checkout of mmaction v1. Taken out of the
# environment, where it would choose the host of all the others.
V1_CHECKOUT = os.environ.pop('MMACTION_ROOT', None)
