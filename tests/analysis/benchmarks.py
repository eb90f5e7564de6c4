"""Shared by the tests of tools/analysis/benchmark*.py: what they measure."""

from conftest import ROOT

CONFIG = str(ROOT / 'configs' / 'DNR_resnet18_arrow_demo.py')
BENCHMARK = str(ROOT / 'tools' / 'analysis' / 'benchmark.py')
SMALL = '--device cpu --depth 18 --clips 1 --groups 1 --size 32'.split()
SETTING = dict(
    mode='eval',
    precision='fp32',
    layout='contiguous',
    compile='off',
    depth=18,
    clips=1,
    frames=2,
    groups=1,
    size=32,
)
TOY = """
import os
import signal
import torch

class Toy(torch.nn.Module):
    def __init__(self, depth, n_segment=8):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.n_segment = n_segment

    def forward(self, x):
        assert len(x) % self.n_segment == 0
        return self.conv(x)

class Fails(Toy):
    def forward(self, x):
        if self.n_segment == 4:
            raise RuntimeError('toy:\\nreason\\nmore')
        return self.conv(x)

class Dies(Toy):
    def forward(self, x):
        if self.n_segment == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.conv(x)

class Pair(Toy):
    def forward(self, x):
        return x, x

class ResNet_DNR(Toy):  # of another checkout
    def __init__(self, dnr, depth, n_segment, **kwargs):
        assert dnr == 'both'
        super().__init__(depth, n_segment)

function = Toy
class Plain:
    pass
"""
