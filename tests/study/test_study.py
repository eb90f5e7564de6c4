"""tools/study/study.py: the arrow study, tiny, on a CPU, both against none, one seed.

Its trainings and tests are real processes; it is interrupted once and gone on with.
What it learns is test_arrow_learning.py's.
"""

import fcntl
import json
import pickle
import re
import signal
import time

import numpy as np
import pytest
from script_calls import make_clips, start
from studies import ARROW, BOTH, BROKEN, NONE, STUDY, TINY, result, study
from study.study import STOPPED


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with data/small."""
    return make_clips(
        tmp_path_factory.mktemp('study'), 'data/small', train=16, val=2, test=5
    )


@pytest.fixture(scope='module')
def interrupted(data):
    """The folder after a study that was stopped in the second epoch."""
    work = data / 'work_dirs/arrow'
    process = start(STUDY, ARROW, '--only', BOTH, *TINY, cwd=data)
    until = time.monotonic() + 200
    try:
        while not (work / BOTH / 'epoch_1.pth').exists():
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
    output = study(
        '--only',
        BOTH,
        NONE,
        BROKEN,
        *TINY,
        cwd=data,
        code=1,
    )
    return data, output


@pytest.mark.full
def test_stopping(interrupted):
    _, code, output = interrupted
    assert code == STOPPED
    assert 'stopped with 1 of 1 runs to go' in output


@pytest.mark.full
def test_what_was_trained_is_gone_on_from(small):
    folder, _ = small
    log = (folder / 'work_dirs/arrow' / BOTH / 'train.log').read_text()
    assert re.search('resumed epoch: 1,', log)
    assert log.count('Epoch(train) [1][8/8]') == 1
    for name in (BOTH, NONE):
        content = result(folder, name)
        assert content['validation'][-1][0] == 2
        assert set(content['seconds']) == {'train', 'test', 'evaluate'}


@pytest.mark.full
def test_a_run_that_fails_names_its_log_and_the_others_go_on(small):
    folder, output = small
    log = f'work_dirs/arrow/{BROKEN}/train.log'
    assert f'error: {BROKEN}: train failed with exit status 1, see {log}' in output
    assert 'epoch_1.pth cannot be loaded as a checkpoint' in output
    assert f'1 of 3 runs failed, see above: {BROKEN}' in output
    assert not (folder / f'results/arrow/{BROKEN}.json').exists()
    assert len(list((folder / 'results/arrow').iterdir())) == 3


@pytest.mark.full
def test_evaluation_tells_the_truth(small):
    folder, _ = small
    labels = np.repeat(range(4), 5)
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
            assert np.sum(figures['confusion'], 1).tolist() == [5] * 4
    printed = (folder / f'work_dirs/arrow/{BOTH}/test.log').read_text()
    top1 = result(folder, BOTH)['evaluation']['grouped']['top1']
    assert f'Top-1 Accuracy = {100 * top1:.02f}' in printed


@pytest.mark.full
def test_json_says_what_it_is_of(small):
    folder, _ = small
    content = result(folder, BOTH)
    assert content['run'] == dict(config='both', batch=8, groups=4, seed=0)
    assert content['commit'] == 'of the test'
    assert content['device'].startswith('CPU')
    assert {'python', 'torch', 'mmaction2', 'mmengine'} <= set(content['versions'])
    assert content['settings']['config']['optimizer']['lr'] == 0.05
    assert content['settings']['data']['train'] == 16
    assert '--validate --seed 0' in content['commands']['train']
    assert 'epoch_2.pth --out' in content['commands']['test']


@pytest.mark.full
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


@pytest.mark.full
def test_finished_runs_are_skipped(small):
    folder, _ = small
    path = folder / f'results/arrow/{BOTH}.json'
    before = path.stat().st_mtime_ns
    output = study('--only', BOTH, NONE, *TINY, cwd=folder)
    assert '2 of 2 runs are there' in output
    assert path.stat().st_mtime_ns == before


@pytest.mark.full
def test_other_settings_do_not_mix(small):
    folder, _ = small
    output = study(
        '--only',
        BOTH,
        *TINY,
        'optimizer.lr=0.06',
        cwd=folder,
        code=1,
    )
    assert (
        f'results/arrow/{BOTH}.json is of other settings ('
        'config.optimizer.lr 0.05, not 0.06)' in output
    )


def test_time_limit(data):
    output = study(
        '--only',
        NONE,
        '--time-limit',
        1,
        '--work-dir',
        'other',
        '--out',
        'other',
        *TINY,
        cwd=data,
        code=STOPPED,
    )
    assert 'stopped with 1 of 1 runs to go' in output


def test_faults_come_before_any_run(data):
    output = study(
        '--out',
        'new',
        '--only',
        'neither',
        *TINY,
        cwd=data,
        code=1,
    )
    assert '--only neither fits none of both_b8_g4_s0, ' in output
    assert not (data / 'new').exists()


CHAIN = """
name, data = 'chain', 'make them'
runs = [
    dict(
        name='{first}_s{seed}',
        config='CONFIG',
        of=dict(seed=[0], first=['first', 'broken']),
        evaluations=['pairs'],
    ),
    *(
        dict(
            name='after_' + first + '_s{seed}',
            config='CONFIG',
            of=dict(seed=[0]),
            begin=first + '_s{seed}',
            evaluations=['order'],
        )
        for first in ('first', 'broken')
    ),
]
"""


@pytest.mark.full
def test_runs_that_begin_from_others(data):
    """What is asked for alone brings what it begins from; a failure is handed on."""
    file = data / 'chain.py'
    file.write_text(CHAIN.replace('CONFIG', str(ARROW.with_name('both.py'))))
    work, results = data / 'work_dirs/chain', data / 'results/chain'
    (work / 'broken_s0').mkdir(parents=True)
    (work / 'broken_s0/epoch_1.pth').write_text('no checkpoint')
    output = study('--only', 'after_*', *TINY, file=file, cwd=data, code=1)
    assert 'error: broken_s0: train failed with exit status 1' in output
    assert '1 runs would begin from broken_s0, and cannot' in output
    names = {path.name for path in results.iterdir()}
    assert names == {'first_s0.json', 'after_first_s0.json'}
    log = (work / 'after_first_s0/train.log').read_text()
    assert 'first_s0/backbone.pth: took tensors for backbone.conv1 1 of 1' in log
    assert 'cls_head 0 of 2' in log
    # Checkpoints fill disks: the backbone is what stays.
    assert [p.name for p in work.glob('*/*.pth') if 'broken' not in str(p)] == [
        'backbone.pth'
    ]
    content = json.loads((results / 'after_first_s0.json').read_text())
    assert content['begin'] == 'first_s0'
    scores = {name: np.array(values) for name, values in content['scores'].items()}
    assert {values.shape for values in scores.values()} == {(20, 4)}
    assert content['labels'] == np.repeat(range(4), 5).tolist()
    assert abs(scores['plain'] - scores['reversed']).max() > 1e-3
    first = json.loads((results / 'first_s0.json').read_text())
    assert set(first['evaluation']['test']) == {'top1', 'pair', 'order', 'confusion'}
    # Without the backbone, the run is done again for a run that needs it.
    (work / 'first_s0/backbone.pth').unlink()
    (results / 'after_first_s0.json').unlink()
    study('--only', 'after_first*', *TINY, file=file, cwd=data)
    assert (work / 'first_s0/backbone.pth').exists()
    assert (results / 'after_first_s0.json').exists()
