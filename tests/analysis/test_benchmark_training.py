"""tools/analysis/benchmark_training.py: the training loop by the clock, on a CPU."""

import json
import os

import pytest
import torch
from analysis import benchmark_training
from benchmarks import BENCHMARK, CONFIG
from script_calls import call, make_clips, run


def test_faults(tmp_path, monkeypatch):
    for command, root, message in (
        ('no.py', '', 'config no.py does not exist'),
        (f'{CONFIG} --cfg-options total_epoch=3', '', 'no total_epoch'),
        (CONFIG, '/mmaction', 'unset MMACTION_ROOT'),
    ):
        monkeypatch.setenv('MMACTION_ROOT', root)
        code, _ = call(BENCHMARK, '--e2e', *command.split(), cwd=tmp_path)
        assert code.startswith('error: '), command
        assert message in code, command


def test_loop_timer(monkeypatch):
    """Time goes to the part that it was spent in, once the split begins."""
    now = 0
    monkeypatch.setattr(benchmark_training.time, 'perf_counter', lambda: now)
    timer = benchmark_training.LoopTimer(2, 3, torch.device('cpu'))
    with pytest.raises(benchmark_training.LoopDone) as done:
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
    return make_clips(folder, 'data/arrow', train=4, val=1, test=1)


@pytest.mark.full
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
