"""The command lines, as real processes on the mmaction2 host, on a CPU.

tests/hosts/test_mmaction_v1_host.py does the same on mmaction v1.
"""

import os
import pickle
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

CONFIG = str(ROOT / 'tests' / 'three_stages.py')
TRAIN = [str(ROOT / 'tools' / 'dist_train_recognizer.sh'), CONFIG]
TEST = [str(ROOT / 'tools' / 'dist_test_recognizer.sh'), CONFIG]
# One thread a process: rounding does not depend on the number of processes.
ENV = dict(
    os.environ, PYTHON=sys.executable, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''
)
ENV.pop('MMACTION_ROOT', None)


def run(*command, cwd, code=0, timeout=300):
    """Run a command to its end and return what it printed."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ENV,
        timeout=timeout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == code, result.stdout[-3000:]
    return result.stdout


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with data/arrow: 4 classes, 16, 4 and 7 clips."""
    folder = tmp_path_factory.mktemp('run')
    run(
        sys.executable,
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
        2,
        cwd=folder,
    )
    lines = (folder / 'data/arrow/test.txt').read_text().splitlines()
    # 7 videos: 2 processes do not divide them. In another order.
    (folder / 'data/arrow/test.txt').write_text('\n'.join(lines[:0:-1]) + '\n')
    return folder


@pytest.fixture(scope='module')
def trained(data):
    """The folder after one epoch on 2 processes, and what was printed."""
    output = run(
        *TRAIN,
        2,
        '--validate',
        '--seed',
        0,
        '--cfg-options',
        'total_epochs=1',
        'log_config.interval=1',
        cwd=data,
    )
    return data, output


def checkpoint(data):
    return data / 'work_dirs/DNR_r18_arrow_demo/epoch_1.pth'


def test_train(trained):
    data, output = trained
    # 16 clips in batches of 8 on 2 processes: one iteration.
    assert re.search(r'Epoch\(train\)\s+\[1\]\[1/1\]', output)
    assert re.search(r'Epoch\(val\) \[1\]\[1/1\].*acc/top1', output)
    state = torch.load(checkpoint(data), weights_only=True)['state_dict']
    assert state['backbone.layer1.0.bn2.running_mean'].shape == (4, 64)
    assert state['backbone.layer1.0.bn2.num_batches_tracked'] == 1
    assert 'Traceback' not in output
    assert 'warning' not in output.lower()


@pytest.fixture(scope='module')
def results(trained):
    """The pickle of 2 processes, and what was printed."""
    data, _ = trained
    output = run(*TEST, checkpoint(data), 2, '--out', 'two/results.pkl', cwd=data)
    return pickle.loads((data / 'two/results.pkl').read_bytes()), output


def test_results_pickle(data, results):
    scores, output = results
    assert isinstance(scores, list) and len(scores) == 7
    assert all(s.shape == (1, 4) and s.dtype == np.float32 for s in scores)
    labels = [
        int(line.split()[2])
        for line in (data / 'data/arrow/test.txt').read_text().splitlines()
    ]
    top1 = np.mean(np.concatenate(scores).argmax(1) == labels)
    assert f'Top-1 Accuracy = {100 * top1:.02f}' in output
    assert 'Top-5 Accuracy = 100.00' in output
    assert 'Mean Class Accuracy = ' in output
    assert os.listdir(data / 'two') == ['results.pkl']
    assert 'warning' not in output.lower()


@pytest.mark.full
def test_one_process_without_launcher(data, results):
    """The same scores in the list's order, to rounding.

    The batches have other sizes, and a convolution's rounding may depend on
    the size.
    """
    expected = np.concatenate(results[0])
    rounding = 1e-5 * np.abs(expected).max()
    differences = np.abs(expected[:, None] - expected).max(2)
    differences = differences[~np.eye(len(expected), dtype=bool)]
    assert differences.min() > 10 * rounding  # or the order would not show
    lines = (data / 'data/arrow/test.txt').read_text().splitlines()
    (data / 'reversed.txt').write_text('\n'.join(lines[::-1]) + '\n')
    run(
        sys.executable,
        ROOT / 'tools/test_recognizer.py',
        CONFIG,
        checkpoint(data),
        '--out',
        'reversed.pkl',
        '--use_softmax',
        '--cfg-options',
        'data.test.ann_file=reversed.txt',
        cwd=data,
    )
    scores = np.concatenate(pickle.loads((data / 'reversed.pkl').read_bytes()))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[::-1], expected, rtol=0, atol=rounding)


def read_or_empty(path):
    try:
        return path.read_bytes()
    except OSError:  # of a process that has ended
        return b''


@pytest.mark.full
def test_killed_and_resumed(trained, tmp_path):
    data, _ = trained
    process = subprocess.Popen(
        [*TRAIN, '2', '--work_dir', str(tmp_path), '--cfg-options', 'total_epochs=50'],
        cwd=data,
        env=ENV,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = tmp_path / 'epoch_1.pth'
    deadline = time.time() + 200
    while not first.exists() and time.time() < deadline:
        time.sleep(0.2)
    # The launcher and its workers, which it puts in sessions of their own.
    for cmdline in Path('/proc').glob('[0-9]*/cmdline'):
        if str(tmp_path).encode() in read_or_empty(cmdline):
            os.kill(int(cmdline.parent.name), signal.SIGKILL)
    process.wait()
    output = run(
        *TRAIN,
        2,
        '--work_dir',
        tmp_path,
        '--resume_from',
        first,
        '--cfg-options',
        'total_epochs=2',
        'log_config.interval=1',
        cwd=data,
    )
    assert 'resumed epoch: 1' in output
    # Nothing more to do, and another network.
    for options, message in (
        ('total_epochs=1', 'has 1 of total_epochs=1 behind it'),
        ('model.backbone.num_groups=2', ' here and '),
    ):
        assert message in run(
            sys.executable,
            ROOT / 'tools/train_recognizer.py',
            CONFIG,
            '--work_dir',
            tmp_path,
            '--resume_from',
            first,
            '--cfg-options',
            options,
            cwd=data,
            code=1,
        )
    assert 'Epoch(train) [1]' not in re.sub(' +', ' ', output)
    assert (tmp_path / 'epoch_2.pth').exists()


@pytest.mark.parametrize(
    'script, arguments',
    [
        ('train', '{c} --resume_from {p} --cfg-options total_epochs=2'),
        pytest.param(
            'train',
            '{c} --cfg-options total_epochs=1 load_from={p}',
            marks=pytest.mark.full,
        ),
        ('test', '{c} {p} --out {t}/results.pkl --cfg-options'),
    ],
)
def test_a_checkpoint_is_read_once(trained, tmp_path, monkeypatch, script, arguments):
    """And the backbone is built once; in this process, to count both."""
    import resnet_dnr

    data, _ = trained
    path = str(checkpoint(data))
    read, built = [], []
    load, init = torch.load, resnet_dnr.ResNet_DNR.__init__

    def counted_load(path, *args, **kwargs):
        read.append(str(path))
        return load(path, *args, **kwargs)

    def counted_init(self, *args, **kwargs):
        built.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(torch, 'load', counted_load)
    monkeypatch.setattr(resnet_dnr.ResNet_DNR, '__init__', counted_init)
    monkeypatch.chdir(data)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.delenv('MMACTION_ROOT', raising=False)
    arguments = arguments.format(c=CONFIG, p=path, t=tmp_path).split()
    arguments += [f'work_dir={tmp_path}', 'data.workers_per_gpu=0']
    monkeypatch.setattr(sys, 'argv', [f'{script}_recognizer.py', *arguments])
    runpy.run_path(str(ROOT / f'tools/{script}_recognizer.py'), run_name='__main__')
    assert read == [path]
    assert len(built) == 1
    if script == 'train':
        (log,) = tmp_path.glob('*/*.log')
        assert f'Load checkpoint from {path}' in log.read_text()
        (written,) = tmp_path.glob('*.pth')
        assert written.name == f'epoch_{2 if "--resume_from" in arguments else 1}.pth'


@pytest.mark.full
def test_missing_frame_stops_all(trained, tmp_path):
    """Every rank ends, soon, and the message names the file."""
    data, _ = trained
    broken = tmp_path / 'rawframes'
    shutil.copytree(data / 'data/arrow/rawframes/train', broken)
    victim = sorted(broken.glob('grow/*/image_00004.jpg'))[0]
    victim.unlink()
    output = run(
        *TRAIN,
        2,
        '--work_dir',
        tmp_path / 'work',
        '--cfg-options',
        f'data.train.img_prefix={broken}',
        cwd=data,
        code=1,
    )
    assert f'error: cannot read frame {victim}' in output
    assert 'Traceback' not in output


def failure(monkeypatch, folder, script, *arguments):
    """The text that a command ends with, run in this process.

    That saves the imports; the exit is the script's own.
    """
    script = f'{script}_recognizer.py'
    monkeypatch.chdir(folder)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.delenv('MMACTION_ROOT', raising=False)
    monkeypatch.setattr(sys, 'argv', [script, *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')
    return str(exit.value)


def test_checkpoint_of_another_network(trained, tmp_path, monkeypatch):
    data, _ = trained
    state = torch.load(checkpoint(data), weights_only=True)
    del state['state_dict']['backbone.layer3.1.bn2.relay.hidden_map.0.bias']
    path, out = tmp_path / 'less.pth', tmp_path / 'no.pkl'
    torch.save(state, path)
    error = failure(monkeypatch, data, 'test', CONFIG, path, '--out', out)
    assert f'{path} is no checkpoint of this model' in error
    assert 'has no backbone.layer3.1.bn2.relay.hidden_map.0.bias' in error
    assert not out.exists()


class Opens:
    """A pickle that would run code when loaded."""

    def __reduce__(self):
        return open, ('pwned', 'w')


def faults(tmp_path):
    torch.save(dict(state_dict={}, x=Opens()), tmp_path / 'code.pth')
    (tmp_path / 'text.pth').write_text('no checkpoint')
    (tmp_path / 'empty.pth').write_text('')
    torch.save([1], tmp_path / 'list.pth')
    torch.save(dict(state_dict=[1]), tmp_path / 'inner.pth')
    (tmp_path / 'folder.pkl').mkdir()
    torch.save(dict(state_dict={}), tmp_path / 'weights.pth')
    (tmp_path / 'file').write_text('')
    return [
        ('test', 'no-config.py x.pth', 'config no-config.py does not exist'),
        ('test', '{c} no.pth', 'checkpoint no.pth does not exist'),
        ('test', '{c} {t}/code.pth', 'cannot be loaded as a checkpoint'),
        ('test', '{c} {t}/text.pth', 'cannot be loaded as a checkpoint'),
        ('test', '{c} {t}/empty.pth', 'cannot be loaded as a checkpoint'),
        ('test', '{c} {t}/list.pth', 'it holds a list'),
        ('test', '{c} {t}/inner.pth', 'its state_dict is a list'),
        ('test', '{c} {t}', 'is a folder'),
        ('test', '{c} {t}/weights.pth --out {t}/folder.pkl', 'it is a folder'),
        ('test', '{c} {t}/weights.pth --out a.txt', 'should end in .pkl'),
        ('test', '{c} {t}/weights.pth --fcn_testing', '--fcn_testing is for'),
        ('test', '{c} {t}/weights.pth --out {t}/file/a.pkl', 'cannot write --out'),
        ('train', '{c} --resume_from {t}/weights.pth', "has no 'optimizer'"),
        ('train', '{c} --gpus 2', 'dist_train_recognizer.sh'),
        ('train', '{c} --cfg-options total_epoch=3', 'has no total_epoch'),
        ('train', '{c} --cfg-options total_epochs=0', 'total_epochs'),
        ('train', '{c} --cfg-options optimizer.type=SDG', "type='SDG'"),
        (
            'train',
            '{c} --cfg-options load_from={t}/text.pth',
            'cannot be loaded as a checkpoint',
        ),
        (
            'train',
            '{c} --cfg-options model.backbone.pretrained=no.pth',
            'pretrained: checkpoint no.pth does not exist',
        ),
        (
            'train',
            '{c} --cfg-options model.backbone.out_indices=(2,3)',
            'should name the one stage',
        ),
        (
            'train',
            '{c} --cfg-options load_from=no.pth',
            'checkpoint no.pth does not exist',
        ),
        (
            'train',
            '{c} --cfg-options data.train.ann_file=no.txt',
            'annotation file no.txt does not exist',
        ),
        (
            'train',
            '{c} --cfg-options model.cls_head.in_channels=2048',
            'model.cls_head.in_channels=2048, but',
        ),
        (
            'train',
            '{c} --cfg-options model.backbone.num_groups=3',
            'model.backbone: with n_segment=8, num_groups must be one of (1, 2, 4, 8)',
        ),
        (
            'train',
            '{c} --cfg-options model.backbone.num_group=2',
            'did you mean num_groups?',
        ),
        ('train', '{c} --launcher slurm', '--launcher slurm needs CUDA'),
    ]


# Runners of one second have one name.
@pytest.mark.filterwarnings('ignore:.*instance named of')
def test_faults(data, tmp_path, monkeypatch):
    """Each ends with a line that names it, before any work."""
    for script, command, message in faults(tmp_path):
        arguments = command.format(c=CONFIG, t=tmp_path).split()
        if script == 'train':
            arguments += ['--work_dir', tmp_path / 'work']
        error = failure(monkeypatch, data, script, *arguments)
        assert error.startswith('error: '), command
        assert message in error, command
    assert not Path('pwned').exists()
    assert not list(tmp_path.glob('work/*.pth'))


def test_shell_scripts_usage():
    for script in TRAIN[0], TEST[0]:
        output = run(script, cwd=ROOT, code=2)
        assert f'tools/{Path(script).name} CONFIG' in output
    output = run(*TRAIN, 'two', cwd=ROOT, code=2)
    assert "GPUS should be a number of processes, got 'two'" in output


@pytest.mark.full
def test_several_machines(data, trained):
    """Two machines of one process each, joined by address and port."""
    import socket

    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    processes = [
        subprocess.Popen(
            [*TEST, checkpoint(data), '1', '--out', 'machines.pkl'],
            cwd=data,
            env=dict(
                ENV,
                NNODES='2',
                NODE_RANK=str(rank),
                PORT=str(port),
                MASTER_ADDR='127.0.0.1',
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    assert 'Top-1 Accuracy' in outputs[0]
    assert 'Top-1 Accuracy' not in outputs[1]
    assert len(pickle.loads((data / 'machines.pkl').read_bytes())) == 7


@pytest.mark.full
def test_convert_config(trained, tmp_path):
    """The native config trains and tests with mmaction2's own tools."""
    import mmaction

    tools = Path(mmaction.__file__).parent / '.mim/tools'
    data, _ = trained
    out = tmp_path / 'native.py'
    run(
        sys.executable,
        ROOT / 'tools/convert_config.py',
        CONFIG,
        out,
        '--cfg-options',
        'total_epochs=1',
        cwd=data,
    )
    header = out.read_text().splitlines()
    path = re.search('PYTHONPATH=(.*)', header[2])[1]
    assert header[3].endswith(f'tools/train.py {out}')
    ENV['PYTHONPATH'] = path
    try:
        output = run(
            sys.executable,
            tools / 'train.py',
            out,
            '--work-dir',
            tmp_path / 'work',
            cwd=data,
        )
        assert re.search(r'Epoch\(val\) \[1\]\[1/1\].*acc/top1', output)
        output = run(
            sys.executable,
            tools / 'test.py',
            out,
            tmp_path / 'work/epoch_1.pth',
            cwd=data,
        )
        assert re.search(r'Epoch\(test\) \[1/1\].*acc/top1', output)
    finally:
        del ENV['PYTHONPATH']
