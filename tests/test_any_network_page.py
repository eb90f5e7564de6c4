"""docs/any_network.md: each example runs as it is written."""

import importlib.util
import re

import pytest
import torch
from conftest import ROOT

TEXT = (ROOT / 'docs/any_network.md').read_text(encoding='utf-8')
EXAMPLES = re.findall(
    r'(?:<!-- needs (\w+) -->\n)?```python\n(.*?)```', TEXT, re.DOTALL
)
NEEDS = dict(
    torchvision='.venv/bin/pip install torchvision --index-url '
    'https://download.pytorch.org/whl/cpu',
    mmaction2='./tools/setup/setup_env.sh',
)
SHAPE = re.compile(r'^(\w+) = .*# .*?(\([\d, ]+\))$', re.MULTILINE)


def test_there_are_five():
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize(
    'needs, code',
    [
        pytest.param(
            *example, marks=pytest.mark.full if 'SlowOnly' in example[1] else ()
        )
        for example in EXAMPLES
    ],
    ids=map(str, range(1, len(EXAMPLES) + 1)),
)
def test_example(needs, code):
    """And gives the shape that its comment says; it trains a step."""
    module = {'mmaction2': 'mmaction', '': 'torch'}.get(needs, needs)
    if importlib.util.find_spec(module) is None:
        pytest.skip(f'needs {needs}: {NEEDS[needs]}')
    values = {}
    exec(compile(code, 'docs/any_network.md', 'exec'), values)
    ((name, shape),) = SHAPE.findall(code)
    assert tuple(values[name].shape) == eval(shape)
    values[name].square().mean().backward()
    network = values['network']
    relays = [p for n, p in network.named_parameters() if 'relay.' in n]
    assert relays and all(torch.isfinite(p.grad).all() for p in relays)
