"""tools/analysis/benchmark_cold.py: the first minute, in fresh processes on a CPU."""

import json
import os
import re
from argparse import Namespace

import pytest
import torch
from analysis import benchmark_cold
from benchmarks import BENCHMARK, SETTING, SMALL, TOY
from script_calls import call

# resnet_dnr.py of another checkout. What it puts into the caches at a new shape is
# what a cache of Triton's looks like; a copy elsewhere is the same kernel.
TOY_CHECKOUT = """
import os
import torch

class ResNet_DNR(torch.nn.Module):
    def __init__(self, dnr, n_segment, **kwargs):
        super().__init__()
        assert dnr == 'both'
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.seen = []
        print('OUTPUT of the backbone')

    def forward(self, x):
        if (self.training, x.shape) not in self.seen:
            self.seen.append((self.training, x.shape))
            for cache, name in (('TRITON_CACHE_DIR', 'k.cubin'),
                                ('TRITON_CACHE_DIR', 'k.json'),
                                ('TORCHINDUCTOR_CACHE_DIR', 'k.cubin')):
                folder = os.path.join(os.environ[cache], f'hash{len(self.seen)}')
                os.makedirs(folder, exist_ok=True)
                open(os.path.join(folder, name), 'w').close()
        return self.conv(x)
"""


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """A folder with cold.json of toys, and what was printed."""
    folder = tmp_path_factory.mktemp('cold')
    (folder / 'toy.py').write_text(TOY)
    (folder / 'old').mkdir()
    (folder / 'old/resnet_dnr.py').write_text(TOY_CHECKOUT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TRITON_CACHE_DIR', str(folder / 'of the user'))
        code, output = call(
            BENCHMARK,
            '--cold',
            *SMALL,
            *('--frames 2 --threads 1 --compare dnr'.split()),
            *('--against toy.py:Toy --root old --out cold.json'.split()),
            cwd=folder,
        )
    assert code == 0, output
    return folder, output


@pytest.mark.full
def test_json(measured):
    folder, _ = measured
    content = json.loads((folder / 'cold.json').read_text())
    assert content['benchmark'] == 'cold'
    assert (content['reference'], content['root']) == ('dnr', 'old')
    assert content['device'].startswith('CPU')
    assert content['threads'] == 1
    (row,) = content['rows']
    assert row['compile'] == 'off' and row['precision'] == 'tf32'
    assert row['images'] == dict(
        first_s=[2, 32], shape_s=[4, 32], evaluation_s=[60, 32]
    )
    assert list(row['models']) == ['dnr', 'against', 'root']
    for result in row['models'].values():
        assert {'kernels_by_phase', *benchmark_cold.COLUMNS} == set(result)
        assert all(result[key] > 0 for key in result if key.endswith('_s'))
    left = set(os.listdir(folder)) - {'__pycache__'}  # which Python may write
    assert left == {'cold.json', 'old', 'toy.py'}


@pytest.mark.full
def test_kernels_are_counted(measured):
    """By phase, in empty caches of the process's own, a copy once."""
    folder, _ = measured
    models = json.loads((folder / 'cold.json').read_text())['rows'][0]['models']
    assert models['dnr']['kernels'] == 0
    assert models['root']['kernels'] == 3
    assert models['root']['kernels_by_phase'] == dict(
        start=0, build=0, first=1, second=0, shape=1, evaluation=1
    )


@pytest.mark.full
def test_table(measured):
    _, output = measured
    assert 'OUTPUT' not in output
    lines = output.splitlines()
    assert lines[-5].startswith('backbone')
    assert re.fullmatch(r'root +([\d.]+ +){6}3', lines[-2])


def options(**values):
    """The arguments of the command line that the rows are measured by."""
    defaults = {key: [value] for key, value in SETTING.items()}
    return Namespace(**dict(defaults, root=None, threads=None, **values))


@pytest.mark.parametrize(
    'name, error',
    [('Fails', 'RuntimeError: toy: reason'), ('Dies', 'exit status -9: ')],
)
def test_failure_keeps_what_was_measured(tmp_path, name, error):
    (tmp_path / 'toy.py').write_text(TOY)
    args = options(device=torch.device('cpu'), against=f'{tmp_path}/toy.py:{name}')
    setting = dict(SETTING, mode='train', frames=4)
    result = benchmark_cold.measure(setting, 'against', args)
    assert result['error'] == error
    assert result['build_s'] > 0 and result['first_s'] is None


def test_rows():
    """Without --precision, each has its usual one."""

    def rows(compile, precision):
        args = options()
        args.compile, args.precision = compile, precision
        return [
            (setting['compile'], setting['precision'])
            for setting in benchmark_cold.cold_settings(args)
        ]

    assert rows(['off', 'reduce-overhead'], None) == [
        ('off', 'tf32'),
        ('reduce-overhead', 'bf16'),
    ]
    assert rows(['default'], ['fp32', 'bf16']) == [
        ('default', 'fp32'),
        ('default', 'bf16'),
    ]


def test_compiled_steps_are_two(tmp_path, monkeypatch):
    """A compiler's process ends after them."""
    (tmp_path / 'toy.py').write_text(TOY)
    monkeypatch.setattr(torch, 'compile', lambda model, **_: model)
    phases = benchmark_cold.Phases(torch.device('cpu'), tmp_path)
    args = Namespace(device=torch.device('cpu'), against=f'{tmp_path}/toy.py:Toy')
    setting = dict(SETTING, mode='train', compile='default')
    benchmark_cold.run_phases(phases, setting, 'against', args)
    assert list(phases.result['kernels_by_phase']) == [
        'start',
        'build',
        'first',
        'second',
    ]


@pytest.mark.parametrize(
    'clips, size, shape, video',
    [(8, 224, (4, 160), (30, 256)), (1, 32, (2, 32), (30, 32))],
)
def test_shapes(clips, size, shape, video):
    setting = dict(SETTING, clips=clips, size=size)
    other = benchmark_cold.other_shape(setting)
    assert (other['clips'], other['size']) == shape
    evaluated = benchmark_cold.evaluation(setting)
    assert (evaluated['clips'], evaluated['size'], evaluated['mode']) == (
        *video,
        'eval',
    )
