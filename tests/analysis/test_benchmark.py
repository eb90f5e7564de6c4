"""tools/analysis/benchmark.py and plot_benchmark.py, real processes on a CPU."""

import contextlib
import functools
import json
import os
import re
import runpy
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import torch
from analysis import benchmark
from conftest import ROOT

CONFIG = str(ROOT / 'configs' / 'DNR_resnet18_arrow_demo.py')
BENCHMARK = str(ROOT / 'tools' / 'analysis' / 'benchmark.py')
PLOT = str(ROOT / 'tools' / 'analysis' / 'plot_benchmark.py')
ENV = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
ENV.pop('MMACTION_ROOT', None)
SMALL = [
    '--depth',
    '18',
    '--clips',
    '1',
    '--groups',
    '1',
    '--size',
    '32',
    '--repeats',
    '2',
]
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
        assert len(x) == self.n_segment
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

function = Toy
class Plain:
    pass
"""


def run(*command, cwd, code=0):
    """Run a Python script to its end and return what it printed."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=ENV,
        timeout=300,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == code, result.stdout[-3000:]
    return result.stdout


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """A folder with toy.py and results/all.json, and what was printed."""
    folder = tmp_path_factory.mktemp('benchmark')
    (folder / 'toy.py').write_text(TOY)
    output = run(
        BENCHMARK,
        *SMALL,
        '--compare',
        'none',
        'dnr',
        'plain',
        '--against',
        'toy.py:Toy',
        '--frames',
        2,
        4,
        '--mode',
        'train',
        'eval',
        '--precision',
        'tf32',
        'bf16',
        '--layout',
        'channels_last',
        '--threads',
        1,
        '--out',
        'results/all.json',
        cwd=folder,
    )
    return folder, output


def test_json(measured):
    folder, _ = measured
    content = json.loads((folder / 'results/all.json').read_text())
    assert content['benchmark'] == 'backbones'
    assert content['reference'] == 'none'
    assert content['against'] == 'toy.py:Toy'
    assert (content['repeats'], content['warmup'], content['threads']) == (2, 1, 1)
    assert content['versions']['torch'] == torch.__version__
    assert set(content['versions']) == {'python', 'torch', 'triton', 'cuda', 'cudnn'}
    assert content['device'].startswith('CPU')
    assert '--layout channels_last' in content['command']
    assert {'date', 'commit'} <= set(content)
    assert content['cores'] >= 1 and content['load_average'] >= 0
    rows = content['rows']
    assert [(row['mode'], row['precision'], row['frames']) for row in rows] == [
        (mode, precision, frames)
        for mode in ('train', 'eval')
        for precision in ('tf32', 'bf16')
        for frames in (2, 4)
    ]
    for row in rows:
        assert [
            row[key]
            for key in ('layout', 'compile', 'depth', 'clips', 'groups', 'size')
        ] == ['channels_last', 'off', 18, 1, 1, 32]
        assert row['against_not_taken'] == dict(
            out_indices=[3], bn_eval=False, num_groups=1
        )
        assert list(row['models']) == ['none', 'dnr', 'plain', 'against']
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
    assert set(benchmark.profile(step, cpu).values()) == {None}
    monkeypatch.setattr(torch.profiler, 'profile', lambda **_: Profiler())
    found = benchmark.profile(step, cpu)
    assert found == dict(
        device_ops=5,
        device_busy_ms=pytest.approx(1.032),
        kernels={'Memset': [1, 1], 'n' * 60: [2, 0.03], 'triton_fused': [2, 0.002]},
    )
    assert list(found['kernels'])[:2] == ['Memset', 'n' * 60]  # longest first
    assert len(steps) == 2


def test_table(measured):
    _, output = measured
    assert '[8/8] eval bf16 channels_last off 18 1 4 1 32: none ' in output
    assert (
        'note: against takes no out_indices=(3,), bn_eval=False, num_groups=1'
    ) in output
    table = output[output.index('\nlayout channels_last') :].splitlines()
    assert table[1] == (
        'layout channels_last, compile off, depth 18, clips 1, groups 1, size 32'
    )
    assert table[2].split()[:5] == ['mode', 'precision', 'frames', 'backbone', 'ms']
    assert len(table) == 3 + 8 * 4 + 1
    assert re.match(
        r'train +tf32 +2 +none +[\d.]+ +[\d.]+ +[\d.]+ +1\.000 '
        r'+- +- +-$',
        table[3],
    )
    assert max(map(len, table[2:-1])) <= 120


def test_failed_row(measured):
    """It says why, the others stand, and the exit status tells."""
    folder, _ = measured
    output = run(
        BENCHMARK,
        *SMALL,
        '--compare',
        'none',
        '--against',
        'toy.py:Fails',
        '--frames',
        4,
        2,
        '--mode',
        'eval',
        '--out',
        'failed.json',
        cwd=folder,
        code=1,
    )
    error = 'RuntimeError: toy: reason'
    assert re.search(rf'^4 +against +{error}$', output, re.M)
    assert 'error: 1 measurement(s) failed' in output
    first, second = json.loads((folder / 'failed.json').read_text())['rows']
    assert first['models']['against'] == dict(error=error)
    assert first['models']['none']['ratio'] == 1
    assert second['models']['against']['ratio'] > 0


def test_killed(measured):
    """What was measured before is in the file."""
    folder, _ = measured
    run(
        BENCHMARK,
        *SMALL,
        '--compare',
        'none',
        '--against',
        'toy.py:Dies',
        '--frames',
        2,
        4,
        '--mode',
        'eval',
        '--out',
        'killed.json',
        cwd=folder,
        code=-9,
    )
    (row,) = json.loads((folder / 'killed.json').read_text())['rows']
    assert row['frames'] == 2 and row['models']['against']['ratio'] > 0


def options(**values):
    """The arguments of the command line that measure_times reads."""
    return type(
        'Arguments',
        (),
        dict(dict(device=torch.device('cpu'), repeats=1, warmup=1), **values),
    )


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


def test_failed_reference(measured):
    """Times without a ratio."""
    folder, _ = measured
    pair = benchmark.load_class(f'{folder}/toy.py:Pair')
    results = benchmark.measure_times(
        SETTING, ['against', 'none'], options(against_class=pair)
    )
    assert results['against'] == dict(
        error='TypeError: the backbone returns a tuple, not one tensor'
    )
    assert results['none']['median_ms'] > 0
    assert results['none']['ratio'] is None


def test_backends(monkeypatch):
    """What each name builds."""
    built = []

    def record(**kwargs):
        built.append((kwargs['dnr'], kwargs['backend']))
        assert kwargs == dict(
            depth=18,
            out_indices=(3,),
            bn_eval=False,
            n_segment=2,
            num_groups=1,
            dnr=kwargs['dnr'],
            backend=kwargs['backend'],
        )
        return torch.nn.Conv2d(3, 4, 3)

    monkeypatch.setattr(benchmark, 'ResNet_DNR', record)
    for name in ('none', 'dnr', 'plain'):
        assert not benchmark.build(name, SETTING, options()).training
    assert built == [('none', 'auto'), ('both', 'auto'), ('both', 'plain')]


def test_step():
    """Forward and backward in training, gradients anew; none elsewhere."""
    x = torch.randn(2, 3, 8, 8)
    model = torch.nn.Conv2d(3, 4, 3)
    benchmark.make_step(model, x, SETTING)()
    assert model.weight.grad is None
    step = benchmark.make_step(model, x, dict(SETTING, mode='train'))
    step()
    first = model.weight.grad
    step()
    assert model.weight.grad is not first
    assert torch.equal(model.weight.grad, first)


def test_precision():
    kept = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
    )
    try:
        for precision, expected in (
            ('tf32', ('high', True)),
            ('bf16', ('high', True)),
            ('fp32', ('highest', False)),
        ):
            x = benchmark.prepare(dict(SETTING, precision=precision), 'cpu')
            assert x.shape == (2, 3, 32, 32) and x.dtype == torch.float32
            assert (
                torch.get_float32_matmul_precision(),
                torch.backends.cudnn.allow_tf32,
            ) == expected
    finally:
        torch.set_float32_matmul_precision(kept[0])
        torch.backends.cudnn.allow_tf32 = kept[1]
        torch.backends.cudnn.benchmark = kept[2]


FAULTS = [
    ('--device tpu', '--device tpu should be cpu, cuda or cuda:INDEX'),
    ('--device meta', '--device meta should be cpu, cuda or cuda:INDEX'),
    ('--device cuda:99', 'CUDA devices'),
    ('--depth 20', '--depth 20 should be one of [18, 34, 50, 101, 152]'),
    ('--frames 8 4 --groups 8', '--groups 8 does not divide --frames 4'),
    ('--clips 0', "argument --clips: invalid count value: '0'"),
    ('--compare dnr dnr', '--compare names a backbone twice'),
    ('--compare dnr torchvision', 'torchvision cannot be imported'),
    ('--against {t}/no.py:Toy', '{t}/no.py is no Python file'),
    ('--against {t}/toy.py', '{t}/toy.py should be FILE:CLASS'),
    ('--against {t}/toy.py:Other', 'no torch.nn.Module named Other'),
    ('--against {t}/toy.py:Plain', 'no torch.nn.Module named Plain'),
    (
        '--against {t}/relative.py:Toy',
        'relative.py cannot be imported on its '
        'own (ImportError: attempted relative import',
    ),
    ('--out {t}/a.txt', '--out {t}/a.txt should end in .json'),
    ('--out {t}/toy.py/a.json', 'cannot write --out {t}/toy.py/a.json'),
    ('--iters 3', '--iters is for --e2e CONFIG alone'),
    ('--e2e {c} --depth 18', '--depth is not for --e2e'),
]


def test_faults(tmp_path, capsys, monkeypatch):
    """Each ends before any measurement, with a line that names it."""
    (tmp_path / 'toy.py').write_text(TOY)
    (tmp_path / 'relative.py').write_text('from ..registry import BACKBONES')
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    for command, message in FAULTS:
        monkeypatch.setattr(
            sys, 'argv', ['benchmark.py', *command.format(c=CONFIG, t=tmp_path).split()]
        )
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(BENCHMARK, run_name='__main__')
        assert exit.value.code == 2, command
        printed = capsys.readouterr()
        assert message.format(t=tmp_path) in printed.err, command
        assert not printed.out, command


def test_faults_of_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command, root, message in (
        ('no.py', '', 'config no.py does not exist'),
        (f'{CONFIG} --cfg-options total_epoch=3', '', 'no total_epoch'),
        (CONFIG, '/mmaction', 'unset MMACTION_ROOT'),
    ):
        monkeypatch.setenv('MMACTION_ROOT', root)
        monkeypatch.setattr(sys, 'argv', ['benchmark.py', '--e2e', *command.split()])
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(BENCHMARK, run_name='__main__')
        assert str(exit.value).startswith('error: '), command
        assert message in str(exit.value), command


def test_loop_timer(monkeypatch):
    """Time goes to the part that it was spent in, once the split begins."""
    now = 0
    monkeypatch.setattr(benchmark.time, 'perf_counter', lambda: now)
    timer = benchmark.LoopTimer(2, 3, torch.device('cpu'))
    with pytest.raises(benchmark.LoopDone) as done:
        for iteration in range(100):
            for part, seconds in (
                ('data', 1),
                ('other', 10),
                ('transfer', 100),
                ('compute', 1000),
            ):
                now += seconds
                timer.lap(part)
            now += 10000
            timer.end_iteration(iteration)
    assert done.value.args == (7,)
    assert timer.seconds == 3 * 11111
    assert timer.laps == dict(data=3, transfer=300, compute=3000, other=30030)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with data/arrow: 4 classes, 16, 4 and 4 clips."""
    folder = tmp_path_factory.mktemp('run')
    run(
        ROOT / 'tools' / 'data' / 'make_arrow_dataset.py',
        'data/arrow',
        '--pairs',
        2,
        '--size',
        32,
        '--train',
        4,
        '--val',
        1,
        '--test',
        1,
        cwd=folder,
    )
    return folder


@pytest.mark.parametrize('processes', [1, 2])
def test_training_loop(data, processes):
    """Over epochs of 4 iterations; under torchrun, all processes count."""
    launcher = (
        ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
        if processes == 2
        else []
    )
    output = run(
        *launcher,
        BENCHMARK,
        '--e2e',
        CONFIG,
        '--iters',
        3,
        '--out',
        'loop.json',
        '--launcher',
        'pytorch' if launcher else 'none',
        '--cfg-options',
        f'data.videos_per_gpu={4 // processes}',
        cwd=data,
    )
    content = json.loads((data / 'loop.json').read_text())
    assert content['benchmark'] == 'training'
    assert content['config'] == CONFIG
    assert content['cfg_options'] == [f'data.videos_per_gpu={4 // processes}']
    assert (content['processes'], content['clips'], content['iters']) == (
        processes,
        4 // processes,
        3,
    )
    assert content['fraction'] == pytest.approx(
        content['clips_per_s'] / content['on_device_clips_per_s']
    )
    assert list(content['parts_ms']) == ['data', 'transfer', 'compute', 'other']
    assert all(value > 0 for value in content['parts_ms'].values())
    assert output.count('training loop') == 1
    assert f'{processes} process(es), {4 // processes} clips' in output
    assert 'Traceback' not in output
    # No logs and checkpoints are left.
    assert sorted(os.listdir(data)) == ['data', 'loop.json']


def test_plot(measured, tmp_path):
    folder, _ = measured
    output = run(PLOT, 'results/all.json', '--out', tmp_path / 'ratio.svg', cwd=folder)
    assert f'wrote {tmp_path}/ratio.svg' in output
    svg = ElementTree.parse(tmp_path / 'ratio.svg').getroot()
    assert svg.tag.endswith('svg')
    # The text is drawn as shapes, with the words as comments.
    words = (tmp_path / 'ratio.svg').read_text()
    for word in (
        'frames',
        'time / time of none',
        'dnr train tf32',
        'against eval bf16',
    ):
        assert f'<!-- {word} -->' in words


def test_plot_faults(measured, tmp_path, monkeypatch):
    folder, _ = measured
    content = json.loads((folder / 'results/all.json').read_text())
    files = dict(
        text='no json',
        list='[1]',
        other='{"rows": []}',
        loop='{"benchmark": "training"}',
        one=json.dumps(dict(content, rows=content['rows'][:1])),
        all=json.dumps(content),
        reference=json.dumps(dict(content, reference='dnr')),
    )
    for name, text in files.items():
        (tmp_path / f'{name}.json').write_text(text)
    monkeypatch.chdir(tmp_path)
    for command, message in (
        ('no.json', 'cannot read no.json: No such file'),
        ('text.json', 'text.json is no JSON file'),
        ('list.json', 'list.json was not written by'),
        ('all.json other.json', 'other.json was not written by'),
        ('loop.json', 'loop.json has no ratios'),
        ('one.json', 'nothing to draw: measure more than one value'),
        ('all.json reference.json', 'different references: dnr, none'),
        ('all.json --out a.foo', "cannot write --out a.foo: Format 'foo'"),
        ('all.json --out no/a.svg', 'cannot write --out no/a.svg'),
    ):
        monkeypatch.setattr(
            sys, 'argv', ['plot_benchmark.py', '--out', 'a.svg', *command.split()]
        )
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(PLOT, run_name='__main__')
        assert message in str(exit.value.code), command
    assert not list(tmp_path.glob('*.svg'))


def speed_rows():
    """The lines of the README's tables of training steps, from the JSON."""

    def rows(name):
        path = ROOT / 'results/benchmark' / f'{name}.json'
        for row in json.loads(path.read_text())['rows']:
            none, dnr = row['models']['none'], row['models']['dnr']
            yield (
                row,
                none,
                dnr,
                f'{row["precision"]}, {row["layout"].replace("_", " ")} |',
                f'{none["median_ms"]:.1f} | {dnr["median_ms"]:.1f} '
                f'| {dnr["ratio"]:.2f} |',
            )

    for _, none, dnr, setting, times in rows('h200_training_step'):
        busy, peak = 'device_busy_ms', 'peak_gib'
        yield (
            f'| {setting} {times} {none[busy]:.1f} and {dnr[busy]:.1f} '
            f'| {dnr[busy] / none[busy]:.2f} '
            f'| {dnr[peak] / none[peak]:.2f} |'
        )
    for row, _, _, setting, times in rows('h200_compiled'):
        yield f'| {setting} `{row["compile"]}` | {times}'


def test_readme_has_the_measured_times():
    lines = (ROOT / 'README.md').read_text().splitlines()
    for row in speed_rows():
        assert row in lines
