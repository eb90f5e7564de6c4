"""tools/analysis/benchmark_steps.py: steps on a CPU, by the command line."""

import contextlib
import functools
import json
import os
import re
from argparse import Namespace

import pytest
import torch
from analysis import benchmark_steps
from benchmarks import BENCHMARK, SETTING, SMALL, TOY
from script_calls import call, run, state_as_before


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """A folder with toy.py and results/all.json, and what was printed."""
    folder = tmp_path_factory.mktemp('benchmark')
    (folder / 'toy.py').write_text(TOY)
    (folder / 'older').mkdir()
    (folder / 'older/resnet_dnr.py').write_text(TOY)
    code, output = call(
        BENCHMARK,
        *SMALL,
        *('--compare none dnr --against toy.py:Toy --root older'.split()),
        *('--frames 2 --mode train eval --precision tf32 bf16'.split()),
        *('--layout channels_last --threads 1 --repeats 2'.split()),
        *('--out results/all.json'.split()),
        cwd=folder,
    )
    assert code == 0, output
    return folder, output


def test_json(measured):
    folder, _ = measured
    content = json.loads((folder / 'results/all.json').read_text())
    assert content['benchmark'] == 'backbones'
    assert content['reference'] == 'none'
    assert content['against'] == 'toy.py:Toy'
    assert content['root'] == 'older'
    assert (content['repeats'], content['warmup'], content['threads']) == (2, 1, 1)
    assert content['versions']['torch'] == torch.__version__
    assert content['device'].startswith('CPU')
    assert '--layout channels_last' in content['command']
    rows = content['rows']
    assert [(row['mode'], row['precision']) for row in rows] == [
        (mode, precision)
        for mode in ('train', 'eval')
        for precision in ('tf32', 'bf16')
    ]
    for row in rows:
        assert [
            row[key]
            for key in (
                'layout',
                'compile',
                'depth',
                'clips',
                'frames',
                'groups',
                'size',
            )
        ] == ['channels_last', 'off', 18, 1, 2, 1, 32]
        assert row['against_not_taken'] == dict(
            out_indices=[3], bn_eval=False, num_groups=1
        )
        assert list(row['models']) == ['none', 'dnr', 'against', 'root']
        assert row['models']['none']['ratio'] == 1
        for result in row['models'].values():
            assert 0 < result['p10_ms'] <= result['median_ms']
            assert result['median_ms'] <= result['p90_ms']
            assert result['ratio'] > 0
            assert [
                result[key] for key in ('peak_gib', 'device_ops', 'device_busy_ms')
            ] == [None] * 3
    # Written under another name, and renamed.
    assert os.listdir(folder / 'results') == ['all.json']


def test_table(measured):
    _, output = measured
    assert '[4/4] eval bf16 channels_last off 18 1 2 1 32: none ' in output
    assert (
        'note: against takes no out_indices=(3,), bn_eval=False, num_groups=1'
    ) in output
    assert 'root is older' in output
    table = output[output.index('\nlayout channels_last') :].splitlines()
    assert table[1] == (
        'layout channels_last, compile off, depth 18, clips 1, '
        'frames 2, groups 1, size 32'
    )
    assert table[2].split()[:4] == ['mode', 'precision', 'backbone', 'ms']
    assert len(table) == 3 + 4 * 4 + 1
    assert re.match(
        r'train +tf32 +none +[\d.]+ +[\d.]+ +[\d.]+ +1\.000 +- +- +-$', table[3]
    )
    assert max(map(len, table[2:-1])) <= 120


def test_failed_row(measured):
    """It says why, the others stand, and the exit status tells."""
    folder, _ = measured
    code, output = call(
        BENCHMARK,
        *SMALL,
        *('--compare none --against toy.py:Fails --frames 4 2 --mode eval'.split()),
        *('--repeats 1 --out failed.json'.split()),
        cwd=folder,
    )
    error = 'RuntimeError: toy: reason'
    assert re.search(rf'^4 +against +{error}$', output, re.M)
    assert code == 'error: 1 measurement(s) failed, see above'
    first, second = json.loads((folder / 'failed.json').read_text())['rows']
    assert first['models']['against'] == dict(error=error)
    assert first['models']['none']['ratio'] == 1
    assert second['models']['against']['ratio'] > 0


@pytest.mark.full
def test_killed(measured):
    """What was measured before is in the file."""
    folder, _ = measured
    run(
        BENCHMARK,
        *SMALL,
        *('--compare none --against toy.py:Dies --frames 2 4 --mode eval'.split()),
        *('--repeats 1 --out killed.json'.split()),
        cwd=folder,
        code=-9,
    )
    (row,) = json.loads((folder / 'killed.json').read_text())['rows']
    assert row['frames'] == 2 and row['models']['against']['ratio'] > 0


def test_failed_reference(measured):
    """Times without a ratio."""
    folder, _ = measured
    args = Namespace(
        device=torch.device('cpu'),
        repeats=1,
        warmup=1,
        against=f'{folder}/toy.py:Pair',
    )
    with state_as_before():
        results = benchmark_steps.measure_times(SETTING, ['against', 'none'], args)
    assert results['against'] == dict(
        error='TypeError: the backbone returns a tuple, not one tensor'
    )
    assert results['none']['median_ms'] > 0
    assert results['none']['ratio'] is None


def test_precision():
    with state_as_before():
        for precision, expected in (
            ('tf32', ('high', True)),
            ('bf16', ('high', True)),
            ('fp32', ('highest', False)),
        ):
            x = benchmark_steps.prepare(dict(SETTING, precision=precision), 'cpu')
            assert x.shape == (2, 3, 32, 32) and x.dtype == torch.float32
            assert (
                torch.get_float32_matmul_precision(),
                torch.backends.cudnn.allow_tf32,
            ) == expected


@pytest.mark.filterwarnings('ignore:CUDA is not available')
def test_profile_adds_up_kernels_of_a_name(monkeypatch):
    class Profiler(contextlib.nullcontext):
        def __enter__(self):
            return self

        def export_chrome_trace(self, path):
            event = dict(cat='kernel', name='n' * 60 + 'long', dur=10.0)
            fused = dict(cat='kernel', name='triton_fused_7', dur=1.0)
            with open(path, 'w') as file:
                json.dump(
                    dict(
                        traceEvents=[
                            event,
                            dict(event, name='n' * 60 + 'other', dur=20.0),
                            fused,
                            dict(fused, name='triton_fused_12'),
                            dict(cat='gpu_memset', name='Memset', dur=1000.0),
                            dict(cat='cpu_op', name='aten::add', dur=5.0),
                            dict(name='no category'),
                        ]
                    ),
                    file,
                )

    steps = []
    step = functools.partial(steps.append, 1)
    cpu = torch.device('cpu')
    assert set(benchmark_steps.profile(step, cpu).values()) == {None}
    monkeypatch.setattr(torch.profiler, 'profile', lambda **_: Profiler())
    found = benchmark_steps.profile(step, cpu)
    assert found == dict(
        device_ops=5,
        device_busy_ms=pytest.approx(1.032),
        kernels={'Memset': [1, 1], 'n' * 60: [2, 0.03], 'triton_fused': [2, 0.002]},
    )
    assert list(found['kernels'])[:2] == ['Memset', 'n' * 60]  # longest first
    assert len(steps) == 2
