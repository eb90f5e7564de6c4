"""Installs the backbone as the module resnet_dnr; torch is its one need.

The tools and configs run from a checkout: see README.md.
"""

from setuptools import setup

setup(
    name='resnet-dnr',
    version='0.1.0',
    description='ResNet with dynamic normalization and relay, a backbone for '
    'mmaction and mmaction2',
    license='MIT',
    py_modules=['resnet_dnr'],
    python_requires='>=3.8',
    install_requires=['torch>=1.13'],
)
