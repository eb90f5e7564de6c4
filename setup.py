"""Installs the backbone as the module resnet_dnr; torch is its one need.

resnet_dnr_fused and add_dnr come along where they lie beside it. The tools and configs
run from a checkout: see README.md.
"""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
MODULES = ('resnet_dnr', 'resnet_dnr_fused', 'resnet_dnr_kernels', 'add_dnr')


def version():
    """resnet_dnr's __version__, read without importing it: that needs torch."""
    text = (HERE / 'resnet_dnr.py').read_text(encoding='utf-8')
    found = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    if not found:
        raise RuntimeError("resnet_dnr.py has no line __version__ = '...'")
    return found[1]


setup(
    name='resnet-dnr',
    version=version(),
    description='ResNet with dynamic normalization and relay, a backbone for '
    'mmaction and mmaction2',
    license='MIT',
    py_modules=[name for name in MODULES if (HERE / f'{name}.py').exists()],
    python_requires='>=3.8',
    install_requires=['torch>=1.13'],
)
