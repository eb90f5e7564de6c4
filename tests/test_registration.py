"""ResNet_DNR registers itself, wherever the file is imported.

Each test runs in a process of its own. Miniatures stand in for mmaction v1
and mmaction2, with their folders and the rules of their registries;
setup/test_install_into_mmaction.py has more on v1. mmaction2 itself is used
where it is installed.
"""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

needs_mmaction2 = pytest.mark.skipif(
    importlib.util.find_spec('mmengine') is None
    or importlib.util.find_spec('mmaction') is None,
    reason='mmaction2 is not installed',
)

V1 = """
from torch import nn


class Registry:
    def __init__(self):
        self.module_dict = {}

    def register_module(self, cls):
        if not issubclass(cls, nn.Module):
            raise TypeError(f'{cls} is no nn.Module')
        if cls.__name__ in self.module_dict:
            raise KeyError(f'{cls.__name__} is registered already')
        self.module_dict[cls.__name__] = cls
        return cls


BACKBONES = Registry()
"""
MMACTION2 = """
class Registry:
    def __init__(self):
        self.module_dict = {}

    def register_module(self, name=None, force=False, module=None):
        if module is None:
            return lambda cls: self.register_module(name, force, cls)
        name = name or module.__name__
        if name in self.module_dict and not force:
            raise KeyError(f'{name} is registered already')
        self.module_dict[name] = module
        return module


MODELS = Registry()
"""
# The registry's module, its text, its object and where backbones lie.
HOSTS = {
    'v1': (
        'mmaction.models.registry',
        V1,
        'BACKBONES',
        'mmaction.models.tenons.backbones',
    ),
    'mmaction2': (
        'mmaction.registry',
        MMACTION2,
        'MODELS',
        'mmaction.models.backbones',
    ),
}


def python(code, *path):
    """Run code with folders on the path, in front of what is installed."""
    done = subprocess.run(
        [sys.executable, '-c', code],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        env={
            **os.environ,
            'PYTHONPATH': os.pathsep.join(map(str, [ROOT, *path])),
            'OMP_NUM_THREADS': '1',
        },
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(params=sorted(HOSTS))
def miniature(request, tmp_path):
    """A folder with a host in it, what HOSTS says, and the inner module.

    v1's folder tenons has no __init__.py, as upstream.
    """
    registry, text, name, backbones = HOSTS[request.param]
    folder = tmp_path / backbones.replace('.', '/')
    folder.mkdir(parents=True)
    for package in {tmp_path / 'mmaction', tmp_path / 'mmaction/models', folder}:
        (package / '__init__.py').touch()
    (tmp_path / (registry.replace('.', '/') + '.py')).write_text(text)
    for path in ROOT.glob('*dnr*.py'):
        shutil.copy(path, folder)
    start = f'from {registry} import {name} as R\nd = R.module_dict\n'
    return tmp_path, start, f'{backbones}.resnet_dnr'


def test_without_a_host():
    """Nothing but torch is imported for it."""
    python("""
import sys

import torch


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmaction', 'mmengine', 'mmcv', 'cv2',
                                  'triton'):
            raise ModuleNotFoundError(f'no {name}', name=name)


sys.meta_path.insert(0, Refuse())
before = {name.split('.')[0] for name in sys.modules}
from resnet_dnr import ResNet_DNR
added = {name.split('.')[0] for name in sys.modules} - before
assert added - set(sys.builtin_module_names) <= {
    'add_dnr', 'resnet_dnr', 'resnet_dnr_fused', 'resnet_dnr_kernels'} | set(
    getattr(sys, 'stdlib_module_names', added)), added
model = ResNet_DNR(18, out_indices=(3, ))
assert model(torch.zeros(8, 3, 32, 32)).shape == (8, 512, 1, 1)
""")


@pytest.mark.full
def test_a_folder_is_no_host(tmp_path):
    """`git clone .../mmaction` leaves one beside whoever imports the file."""
    (tmp_path / 'mmaction' / 'mmaction').mkdir(parents=True)
    python(
        f"""
import sys
sys.path[:] = [path for path in sys.path if 'site-packages' not in path]
import mmaction
assert list(mmaction.__path__) == [{str(tmp_path / 'mmaction')!r}]
sys.path[:] = {sys.path!r}
import resnet_dnr
""",
        tmp_path,
    )


@pytest.mark.full
def test_a_host_that_cannot_be_imported_is_no_missing_host(tmp_path):
    (tmp_path / 'mmaction').mkdir()
    (tmp_path / 'mmaction/__init__.py').write_text('import not_there\n')
    python(
        """
try:
    import resnet_dnr
except ModuleNotFoundError as error:
    assert error.name == 'not_there', error
else:
    raise AssertionError('the fault of the host is hidden')
""",
        tmp_path,
    )


def test_inside_a_host(miniature):
    folder, start, inner = miniature
    python(
        f'{start}assert d == {{}}\n'
        f'from {inner} import ResNet_DNR\n'
        f'assert d["ResNet_DNR"] is ResNet_DNR\n'
        f'assert ResNet_DNR.__module__ == {inner!r}\n'
        f'assert d["WithDNR"].__module__ == {inner.replace("resnet", "add")!r}\n',
        folder,
    )


@pytest.mark.full
def test_beside_a_host(miniature):
    folder, start, _ = miniature
    python(
        f'from resnet_dnr import ResNet_DNR\n{start}'
        'assert d["ResNet_DNR"] is ResNet_DNR\n'
        'assert d["WithDNR"].__module__ == "add_dnr"\n',
        folder,
    )


@pytest.mark.full
@pytest.mark.parametrize('order', ['inside first', 'beside first'])
def test_inside_and_beside_the_first_counts(miniature, order):
    folder, start, inner = miniature
    names = [inner, 'resnet_dnr']
    if order == 'beside first':
        names.reverse()
    python(
        f'from importlib import import_module, reload\n{start}'
        f'a, b = map(import_module, {names})\n'
        'assert a.ResNet_DNR is not b.ResNet_DNR\n'
        'first = a.ResNet_DNR\n'
        'assert d["ResNet_DNR"] is first\n'
        'with_dnr = d["WithDNR"]\n'
        'reload(a), reload(b)\n'
        'assert d == {"ResNet_DNR": first, "WithDNR": with_dnr}\n'
        'first(18, num_stages=1, strides=(1, ), dilations=(1, ), '
        'out_indices=(0, ))\n',
        folder,
    )


@pytest.mark.full
@needs_mmaction2
def test_beside_mmaction2_through_a_config(tmp_path):
    """custom_imports, a whole recognizer, its init_weights and forward."""
    (tmp_path / 'config.py').write_text("""
custom_imports = dict(imports=['resnet_dnr'], allow_failed_imports=False)
model = dict(
    type='Recognizer2D',
    backbone=dict(type='ResNet_DNR', depth=18, n_segment=4, num_groups=2,
                  out_indices=(3, ), bn_eval=False, pretrained='dnr.pth'),
    cls_head=dict(type='TSNHead', num_classes=5, in_channels=512),
    data_preprocessor=dict(type='ActionDataPreprocessor'))
""")
    python(
        f"""
import os
import sys

import torch
from mmengine.config import Config

os.chdir({str(tmp_path)!r})
cfg = Config.fromfile('config.py')
assert 'resnet_dnr' in sys.modules  # by custom_imports
from resnet_dnr import ResNet_DNR
weights = ResNet_DNR(18, n_segment=4, num_groups=2).state_dict()
torch.save(weights, 'dnr.pth')

from mmaction.registry import MODELS
from mmaction.utils import register_all_modules
register_all_modules()
assert MODELS.get('ResNet_DNR') is ResNet_DNR
assert type(MODELS.build(dict(type='ResNet_DNR', depth=34))) is ResNet_DNR

model = MODELS.build(cfg.model)
assert type(model.backbone) is ResNet_DNR
model.init_weights()
for name, value in model.backbone.state_dict().items():
    assert torch.equal(value, weights[name]), name
features, _ = model.extract_feat(torch.randn(2, 4, 3, 32, 32))
assert features.shape == (8, 512, 1, 1)
model.train()
loss = model.cls_head(features, num_segs=4).sum()
loss.backward()
assert all(p.grad is not None for p in model.parameters())
""",
        tmp_path,
    )


@pytest.mark.full
@needs_mmaction2
def test_imported_by_two_names_beside_mmaction2(tmp_path):
    shutil.copy(ROOT / 'resnet_dnr.py', tmp_path / 'my_dnr.py')
    python(
        """
from resnet_dnr import ResNet_DNR
import my_dnr
from mmaction.registry import MODELS
assert MODELS.get('ResNet_DNR') is ResNet_DNR is not my_dnr.ResNet_DNR
""",
        tmp_path,
    )
