"""tools/analysis/benchmark_backbones.py: what is built, and a step of it."""

from argparse import Namespace

import pytest
import torch
from analysis import benchmark_backbones
from benchmarks import SETTING, TOY
from conftest import ROOT
from hosts import HostError

import resnet_dnr

# What a checkout's resnet_dnr.py may be: one file, or one that looks for the
# fused one beside it, as ours does, by its own package.
ONE_FILE = """
import torch

class ResNet_DNR(torch.nn.Conv2d):
    beside = None

    def __init__(self, dnr, **kwargs):
        assert dnr == 'both' and kwargs['depth'] == 18
        super().__init__(3, 4, 3)
"""
TWO_FILES = (
    ONE_FILE
    + """
import importlib
package = __name__.rpartition('.')[0]
name = (package and package + '.') + 'resnet_dnr_fused'
ResNet_DNR.beside = importlib.import_module(name).__file__
"""
)


def options(**values):
    """The arguments of the command line that a backbone is built by."""
    return Namespace(
        **dict(dict(device=torch.device('cpu'), against=None, root=None), **values)
    )


def test_backends(monkeypatch):
    """What each name builds."""
    built = []

    def record(**kwargs):
        built.append((kwargs.pop('dnr'), kwargs.pop('backend')))
        assert kwargs == dict(
            depth=18, out_indices=(3,), bn_eval=False, n_segment=2, num_groups=1
        )
        return torch.nn.Conv2d(3, 4, 3)

    monkeypatch.setattr(resnet_dnr, 'ResNet_DNR', record)
    for name in ('none', 'dnr', 'plain'):
        assert not benchmark_backbones.build(name, SETTING, options()).training
    assert built == [('none', 'auto'), ('both', 'auto'), ('both', 'plain')]


def test_another_class(tmp_path):
    """It gets those arguments that it takes."""
    (tmp_path / 'toy.py').write_text(TOY)
    model = benchmark_backbones.build(
        'against', SETTING, options(against=f'{tmp_path}/toy.py:Toy')
    )
    assert model.n_segment == 2


def test_another_checkout(tmp_path):
    """With the file beside it, not the one here."""
    for name, text in (('one', ONE_FILE), ('two', TWO_FILES)):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'resnet_dnr.py').write_text(text)
    fused = tmp_path / 'two/resnet_dnr_fused.py'
    fused.touch()
    for name, beside in (('one', None), ('two', str(fused))):
        args = options(root=str(tmp_path / name))
        model = benchmark_backbones.build('root', SETTING, args)
        assert model.beside == beside
        assert not isinstance(model, resnet_dnr.ResNet_DNR)


def test_this_checkout_as_another():
    """Both copies compute the same, each by a class of its own."""
    args = options(root=str(ROOT))
    x = benchmark_backbones.make_input(SETTING, args.device)
    with torch.no_grad():
        root, dnr = (
            benchmark_backbones.build(name, SETTING, args) for name in ('root', 'dnr')
        )
        assert torch.equal(root(x), dnr(x))
    assert type(root) is not type(dnr)


def test_faults_of_another_checkout(tmp_path):
    for text, message in (
        (None, f'--root: there is no {tmp_path}/resnet_dnr.py'),
        ('import nothing', 'cannot be imported (ModuleNotFoundError: No module'),
        ('ResNet_DNR = None', 'has no torch.nn.Module named ResNet_DNR'),
    ):
        if text:
            (tmp_path / 'resnet_dnr.py').write_text(text)
        with pytest.raises(HostError) as error:
            benchmark_backbones.load_root(str(tmp_path))
        assert message in str(error.value)


def test_step():
    """Forward and backward in training, gradients anew; none elsewhere."""
    x = torch.randn(2, 3, 8, 8)
    model = torch.nn.Conv2d(3, 4, 3)
    benchmark_backbones.make_step(model, x, SETTING)()
    assert model.weight.grad is None
    step = benchmark_backbones.make_step(model, x, dict(SETTING, mode='train'))
    step()
    first = model.weight.grad
    step()
    assert model.weight.grad is not first
    assert torch.equal(model.weight.grad, first)
