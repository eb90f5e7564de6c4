"""tools/study/arrow_study.py and plot_arrow.py: a small study, on a CPU.

ResNet-18 on 32 x 32 clips of two pairs, both against none, one seed; in real
processes, interrupted once and gone on with.
"""

import fcntl
import functools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import ROOT
from hosts import HostError
from study import arrow_study, plot_arrow

TOOLS = ROOT / 'tools'
ENV = dict(os.environ, CUDA_VISIBLE_DEVICES='')
ENV.pop('MMACTION_ROOT', None)
SIZES = [
    f'data.{split}.{key}=32'
    for split in ('train', 'val', 'test')
    for key in ('img_scale', 'input_size')
]
PLACES = [
    f'data.{split}.{key}'
    for split in ('train', 'val', 'test')
    for key in (
        f'ann_file=data/small/{split}.txt',
        f'img_prefix=data/small/rawframes/{split}',
    )
]
SMALL = [
    '--jobs',
    2,
    '--commit',
    'of the test',
    '--cfg-options',
    *SIZES,
    *PLACES,
    'model.backbone.depth=18',
    'model.cls_head.in_channels=512',
    'model.cls_head.num_classes=4',
    'model.spatial_temporal_module.spatial_size=1',
    'data.workers_per_gpu=1',
    'optimizer.lr=0.05',
    'lr_config.warmup_iters=10',
    'log_config.interval=10',
    'total_epochs=3',
]
BOTH, NONE = 'both_b8_g4_s0', 'none_b8_g4_s0'
BROKEN = 'none_b8_g4_s1'


def start(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments, cwd, code=0):
    """Run a Python script to its end and return what it printed."""
    process = start(*arguments, cwd=cwd)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output[-3000:]
    return output


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with data/small."""
    folder = tmp_path_factory.mktemp('study')
    run(
        TOOLS / 'data/make_arrow_dataset.py',
        'data/small',
        '--pairs',
        2,
        '--size',
        32,
        '--train',
        80,
        '--val',
        5,
        '--test',
        30,
        cwd=folder,
    )
    return folder


@pytest.fixture(scope='module')
def interrupted(data):
    """The folder after a study that was stopped in the second epoch."""
    work = data / 'work_dirs/arrow'
    process = start(
        TOOLS / 'study/arrow_study.py', '--only', BOTH, NONE, *SMALL, cwd=data
    )
    until = time.monotonic() + 200
    try:
        while not all((work / name / 'epoch_1.pth').exists() for name in (BOTH, NONE)):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    with open(work / 'lock') as lock:  # free: no child lives
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return data, process.returncode, output


@pytest.fixture(scope='module')
def small(interrupted):
    """The folder after the study was gone on with, a broken run in it."""
    data, _, _ = interrupted
    broken = data / 'work_dirs/arrow' / BROKEN
    broken.mkdir()
    (broken / 'epoch_1.pth').write_text('no checkpoint')
    output = run(
        TOOLS / 'study/arrow_study.py',
        '--only',
        BOTH,
        NONE,
        BROKEN,
        *SMALL,
        cwd=data,
        code=1,
    )
    return data, output


def result(folder, name):
    return json.loads((folder / f'results/arrow/{name}.json').read_text())


def test_stopping(interrupted):
    _, code, output = interrupted
    assert code == arrow_study.STOPPED
    assert 'stopped with 2 of 2 runs to go' in output


def test_what_was_trained_is_gone_on_from(small):
    folder, _ = small
    for name in (BOTH, NONE):
        run_dir = folder / 'work_dirs/arrow' / name
        log = (run_dir / 'train.log').read_text()
        assert re.search('resumed epoch: 1,', log)
        assert log.count('Epoch(train) [1][40/40]') == 1
        content = result(folder, name)
        assert content['validation'][-1][0] == 3
        assert set(content['seconds']) == {'train', 'test', 'evaluate'}


def test_a_run_that_fails_names_its_log_and_the_others_go_on(small):
    folder, output = small
    log = f'work_dirs/arrow/{BROKEN}/train.log'
    assert f'error: {BROKEN}: train failed with exit status 1, see {log}' in output
    assert 'epoch_1.pth cannot be loaded as a checkpoint' in output
    assert f'1 of 3 runs failed, see above: {BROKEN}' in output
    assert not (folder / f'results/arrow/{BROKEN}.json').exists()
    assert len(list((folder / 'results/arrow').iterdir())) == 3


def test_both_sees_the_order_and_none_does_not(small):
    folder, _ = small
    both = result(folder, BOTH)['evaluation']['grouped']
    none = result(folder, NONE)['evaluation']['grouped']
    assert both['top1'] > 0.75
    assert both['order'] > 0.8
    assert none['pair'] > 0.6
    assert 0.35 < none['order'] < 0.65


def test_evaluation_tells_the_truth(small):
    folder, _ = small
    labels = np.repeat(range(4), 30)
    for name in (BOTH, NONE):
        content = result(folder, name)
        modes = content['evaluation']
        with open(folder / f'work_dirs/arrow/{name}/results.pkl', 'rb') as file:
            predicted = np.concatenate(pickle.load(file)).argmax(1)
        assert modes['grouped']['top1'] == (predicted == labels).mean()
        assert modes['grouped'] == content['test_script']
        assert content['largest_difference_of_a_score'] < 1e-4
        assert content['gap'] == pytest.approx(
            modes['batch']['top1'] - modes['grouped']['top1']
        )
        assert (modes['shared'] is None) == (name == NONE)
        for figures in filter(None, modes.values()):  # no clip is dropped
            assert np.sum(figures['confusion'], 1).tolist() == [30] * 4
    # Evaluation is not below training mode, where statistics of 8 clips
    # are noisy themselves, by more than a few points.
    both = result(folder, BOTH)
    assert both['gap'] < 0.06
    modes = both['evaluation']
    for mode in ('large_batch', 'recalibrated'):
        assert abs(modes[mode]['top1'] - modes['grouped']['top1']) < 0.06
    printed = (folder / f'work_dirs/arrow/{BOTH}/test.log').read_text()
    top1 = modes['grouped']['top1']
    assert f'Top-1 Accuracy = {100 * top1:.02f}' in printed


def test_wrong_running_statistics_are_estimated_anew(small, tmp_path):
    folder, _ = small
    shutil.copytree(folder / 'data', tmp_path / 'data')
    work = tmp_path / 'work_dirs/arrow' / BOTH
    shutil.copytree(folder / 'work_dirs/arrow' / BOTH, work)
    checkpoint = torch.load(work / 'epoch_3.pth', weights_only=False)
    for name, value in checkpoint['state_dict'].items():
        if name.endswith('running_mean'):
            value += 1
    torch.save(checkpoint, work / 'epoch_3.pth')
    (work / 'results.pkl').unlink()  # to test it again
    run(TOOLS / 'study/arrow_study.py', '--only', BOTH, *SMALL, cwd=tmp_path)
    modes = result(tmp_path, BOTH)['evaluation']
    right = result(folder, BOTH)['evaluation']
    assert modes['grouped']['top1'] < right['grouped']['top1'] - 0.2
    for mode in ('batch', 'large_batch', 'recalibrated'):
        assert modes[mode] == right[mode]


def test_json_says_what_it_is_of(small):
    folder, _ = small
    content = result(folder, BOTH)
    assert content['run'] == dict(config='both', batch=8, groups=4, seed=0)
    assert content['commit'] == 'of the test'
    assert content['device'].startswith('CPU')
    assert {'python', 'torch', 'mmaction2', 'mmengine'} <= set(content['versions'])
    assert content['settings']['config']['optimizer']['lr'] == 0.05
    assert content['settings']['data']['train'] == 80
    assert '--validate --seed 0' in content['commands']['train']
    assert 'epoch_3.pth --out' in content['commands']['test']


def test_relay(small):
    folder, _ = small
    relay = result(folder, 'relay')
    assert [clip['label'] for clip in relay['clips']] == ['brighten', 'grow']
    assert re.fullmatch(r'layer\d\.\d\.bn2', relay['layer'])
    for clip in relay['clips']:
        h, c, reversed_h, reversed_c = (
            np.array(clip[key]) for key in ('h', 'c', 'reversed_h', 'reversed_c')
        )
        assert h.shape == c.shape == reversed_h.shape == reversed_c.shape
        assert len(h) == 4
        assert (h > 0).all() and (h < 1).all()
        assert abs(h - reversed_h).max() > 1e-3
    assert (
        sum(
            (clip['predicted'], clip['reversed_predicted'])
            == (clip['label'], clip['reversed_label'])
            for clip in relay['clips']
        )
        >= 1
    )


def test_finished_runs_are_skipped(small):
    folder, _ = small
    path = folder / f'results/arrow/{BOTH}.json'
    before = path.stat().st_mtime_ns
    output = run(
        TOOLS / 'study/arrow_study.py', '--only', BOTH, NONE, *SMALL, cwd=folder
    )
    assert '2 of 2 runs are there' in output
    assert path.stat().st_mtime_ns == before


def test_other_settings_do_not_mix(small):
    folder, _ = small
    output = run(
        TOOLS / 'study/arrow_study.py',
        '--only',
        BOTH,
        *SMALL,
        'optimizer.lr=0.06',
        cwd=folder,
        code=1,
    )
    assert (
        f'results/arrow/{BOTH}.json is of other settings ('
        'config.optimizer.lr 0.05, not 0.06)' in output
    )


def test_time_limit(data):
    output = run(
        TOOLS / 'study/arrow_study.py',
        '--only',
        NONE,
        '--time-limit',
        1,
        '--work-dir',
        'other',
        '--out',
        'other',
        *SMALL,
        cwd=data,
        code=arrow_study.STOPPED,
    )
    assert 'stopped with 1 of 1 runs to go' in output


def make_plans(monkeypatch, folder, *options):
    """What a command line plans, in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['arrow_study.py', *map(str, SMALL), *options])
    return functools.partial(arrow_study.make_plan, args=arrow_study.parse_args())


@pytest.mark.parametrize(
    'option, text',
    [
        ('model.cls_head.num_classes=6', 'num_classes=6, but data/small has 4'),
        (
            'data.test.ann_file=data/none/test.txt',
            'Make the data first: tools/data/make_arrow_dataset.py data/none',
        ),
        ('optimizer.type=Nothing', 'is no optimizer'),
        ('nothing=1', 'none.py has no nothing'),
    ],
)
def test_faults_of_a_config(data, monkeypatch, option, text):
    plan = make_plans(monkeypatch, data, option)
    with pytest.raises(HostError, match=text):
        plan(arrow_study.Run('none', 8, 4, 1))


def test_faults_come_before_any_run(data):
    output = run(
        TOOLS / 'study/arrow_study.py',
        '--out',
        'new',
        '--only',
        'neither',
        *SMALL,
        cwd=data,
        code=1,
    )
    assert '--only neither fits none of both_b8_g4_s0, ' in output
    assert not (data / 'new').exists()


def test_accuracies():
    # Pairs (0, 1) and (2, 3): right, mirrored, other pair, right.
    found = arrow_study.accuracies(np.array([0, 0, 1, 3]), np.array([0, 1, 2, 3]), 4)
    assert found == dict(
        top1=0.5,
        pair=0.75,
        order=2 / 3,
        confusion=[[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
    )
    nothing = arrow_study.accuracies(np.array([0, 2]), np.array([3, 1]), 4)
    assert (nothing['top1'], nothing['pair'], nothing['order']) == (0, 0, None)


def test_validation_of_an_interrupted_training(tmp_path):
    def log(piece, *lines):
        folder = tmp_path / piece / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text('\n'.join(lines))

    log(
        '20260101_000000',
        '{"loss": 1.0, "step": 10}',
        '{"acc/top1": 0.1, "step": 1}',
        '{"acc/top1": 0.2, "step": 2}',
        '{"acc/to',
    )
    log(
        '20260101_000100',
        '{"acc/top1": 0.25, "step": 2}',
        '{"acc/top1": 0.3, "step": 3}',
    )
    assert arrow_study.validation(tmp_path) == [[1, 0.1], [2, 0.25], [3, 0.3]]


def test_runs():
    names = [run.name for run in arrow_study.RUNS]
    assert len(names) == len(set(names)) == 3 * (4 + 2 + 4)
    assert sum(run.has_relay() for run in arrow_study.RUNS) == 1


def test_smaller_batches_have_smaller_rates_and_fewer_epochs(data, monkeypatch):
    plan = make_plans(monkeypatch, data)(arrow_study.Run('both', 2, 8, 1))
    assert plan.v1.data.videos_per_gpu == 2
    assert plan.v1.model.backbone.num_groups == 8
    assert plan.v1.optimizer.lr == pytest.approx(0.05 / 4)
    assert plan.v1.lr_config.warmup_iters == 40
    assert plan.v1.total_epochs == 2  # half of 3


README = f'above\n{plot_arrow.BEGIN}\nold\n{plot_arrow.END}\nbelow\n'


def draw(results, folder, code=0, readme=README):
    folder.mkdir(exist_ok=True)
    (folder / 'README.md').write_text(readme)
    return run(
        TOOLS / 'study/plot_arrow.py',
        '--results',
        results,
        '--assets',
        folder,
        '--readme',
        folder / 'README.md',
        cwd=folder,
        code=code,
    )


def test_pictures_and_table(small, tmp_path):
    results = small[0] / 'results/arrow'
    draw(results, tmp_path / 'one')
    draw(results, tmp_path / 'two')
    names = sorted(path.name for path in (tmp_path / 'one').iterdir())
    assert names == [
        'README.md',
        *sorted(f'arrow_{name}.svg' for name in plot_arrow.PICTURES),
    ]
    for name in names:
        content = (tmp_path / 'one' / name).read_bytes()
        assert content == (tmp_path / 'two' / name).read_bytes()
        if name.endswith('.svg'):
            ElementTree.fromstring(content)
    text = (tmp_path / 'one/README.md').read_text()
    assert text.startswith('above\n') and text.endswith('\nbelow\n')
    assert 'old' not in text
    top1 = result(small[0], BOTH)['evaluation']['grouped']['top1']
    assert f'| `both` | 8 | 4 | 1 | {100 * top1:.1f} |' in text
    assert '| `none` | 8 | - | 1 |' in text


def test_readme_has_the_table_of_the_results():
    runs, _ = plot_arrow.read(ROOT / 'results/arrow')
    assert plot_arrow.make_table(runs) in (ROOT / 'README.md').read_text()


def test_table_is_of_means_and_deviations(small):
    both = result(small[0], BOTH)
    runs = [json.loads(json.dumps(both)) for _ in range(3)]
    for content, top1 in zip(runs, (0.9, 0.94, 0.95)):
        content['evaluation']['grouped']['top1'] = top1
    table = plot_arrow.make_table({('both', 8, 4): runs})
    assert '| `both` | 8 | 4 | 3 | 93.0 ± 2.6 |' in table


def test_plot_faults(small, tmp_path):
    results = small[0] / 'results/arrow'
    assert 'has no results: run tools/study/arrow_study.py' in draw(
        tmp_path / 'nothing', tmp_path / 'a', code=1
    )
    output = draw(results, tmp_path / 'b', code=1, readme='no markers')
    assert f'should have the line {plot_arrow.BEGIN} once' in output
    assert (tmp_path / 'b/README.md').read_text() == 'no markers'
    mixed = tmp_path / 'mixed'
    shutil.copytree(results, mixed)
    other = result(small[0], NONE)
    other['settings']['data']['seed'] = 1
    (mixed / 'other.json').write_text(json.dumps(other))
    assert 'are of different data' in draw(mixed, tmp_path / 'c', code=1)
    other = result(small[0], NONE)
    other['settings']['config']['total_epochs'] += 1
    (mixed / 'other.json').write_text(json.dumps(other))
    assert (
        f'with {other["run"]["batch"]} clips a batch are of different '
        f'epochs' in draw(mixed, tmp_path / 'c', code=1)
    )
    other['run']['batch'] += 1
    (mixed / 'other.json').write_text(json.dumps(other))
    draw(mixed, tmp_path / 'c')
    (mixed / 'other.json').write_text('{}')
    assert 'was not written by tools/study/arrow_study.py' in draw(
        mixed, tmp_path / 'd', code=1
    )
