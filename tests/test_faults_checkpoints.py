"""Faults of checkpoints, by way in: what is said, and what is there afterwards.

Scripts run in this process, which saves the seconds that it takes to import
them; test_real_processes runs commands. On the mmaction2 host;
tests/hosts/test_mmaction_v1_host.py has the faults of mmaction v1's.
"""

import collections
import functools
import http.server
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import read_checkpoint
from conftest import ROOT
from hosts import HostError
from mmengine.config import Config
from script_calls import ENV, call, make_clips
from test_checkpoint_files import repack

CONFIG = ROOT / 'tests' / 'three_stages.py'
TOOLS = ROOT / 'tools'
# Each way in: a script, and its arguments. {p} is the checkpoint.
WAYS = {
    'test': 'test_recognizer.py {c} {p} --out {t}/out.pkl --cfg-options',
    'resume': 'train_recognizer.py {c} --resume_from {p} --cfg-options',
    'load_from': 'train_recognizer.py {c} --cfg-options load_from={p}',
    'pretrained': 'train_recognizer.py {c} --cfg-options model.backbone.pretrained={p}',
    'recalibrate': 'recalibrate_norm.py {c} {p} {t}/out.pth --batches 1 --cfg-options',
}
LEFT = {'test': ['out.pkl'], 'recalibrate': ['out.pth']}  # where all is well
# What a text of a config would do if it were run.
CODE = "open('ran', 'w').close()"

pytestmark = [
    pytest.mark.filterwarnings('ignore:.*instance named of'),  # in one second
    pytest.mark.filterwarnings('ignore:.*pickle protocol'),
]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with data/arrow: 4 classes, of 8, 4 and 4 clips."""
    return make_clips(tmp_path_factory.mktemp('data'), 'data/arrow', 2, 1, 1)


def go(data, way, path, folder, *options):
    """One way in, in a folder of its own beside the data.

    Returns:
        tuple: the exit's code or text, what was printed, and the files that
        are there afterwards, without logs.
    """
    folder.mkdir(exist_ok=True)
    if not (folder / 'data').exists():
        (folder / 'data').symlink_to(data / 'data')
    before = {file for file in folder.rglob('*') if file.is_file()}
    script, *arguments = WAYS[way].format(c=CONFIG, p=path, t=folder).split()
    options = ['work_dir=work', 'data.workers_per_gpu=0', *options]
    code, output = call(TOOLS / script, *arguments, *options, cwd=folder)
    files = {file for file in folder.rglob('*') if file.is_file()} - before
    left = sorted(str(file.relative_to(folder)) for file in files)
    # Logs, what mmengine was told, and a lock, which nobody holds any more.
    logs = r'work/\d{8}_\d{6}(/|\.py$)|work/\.training\.lock$|data/'
    return code, output, [name for name in left if not re.match(logs, name)]


@pytest.fixture(scope='module')
def trained(data):
    """A checkpoint of one epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('CUDA_VISIBLE_DEVICES', '')
        code, output = call(
            TOOLS / 'train_recognizer.py',
            CONFIG,
            *('--cfg-options', 'total_epochs=1', 'work_dir=work'),
            'data.workers_per_gpu=0',
            cwd=data,
        )
    assert code == 0, output
    return data / 'work/epoch_1.pth'


# ---- files that would run code


class Code:
    """Unpickled with code allowed, it leaves a file."""

    def __reduce__(self):
        return open, ('ran', 'w')


def bare(path):
    path.write_bytes(pickle.dumps(dict(state_dict={}, x=Code()), protocol=2))


def zipped(path):
    torch.save(dict(state_dict={}, x=Code()), path)


def legacy(path):
    torch.save(
        dict(state_dict={}, x=Code()), path, _use_new_zipfile_serialization=False
    )


def nested(path):
    """In an array of objects, which NumPy unpickles, deep in what is needed."""
    array = np.array([Code()], dtype=object)
    history = dict(log_scalars=dict(loss=[collections.OrderedDict(x=(array,))]))
    torch.save(dict(state_dict={}, meta={}, message_hub=history), path)


# ---- files that are damaged, or of something else


def compressed(path):
    """A bomb: a thousandth of what it takes in memory."""
    torch.save(dict(state_dict=dict(x=torch.zeros(1000000))), path)
    repack(path, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10000


def flipped(path):
    """One bit in the middle of a tensor."""
    torch.save(dict(state_dict=dict(x=torch.arange(1000.0))), path)
    content = bytearray(path.read_bytes())
    at = content.index(torch.arange(400.0, 410).numpy().tobytes())
    content[at] ^= 1
    path.write_bytes(content)


def cut(path):
    torch.save(dict(state_dict=dict(x=torch.zeros(1000))), path)
    path.write_bytes(path.read_bytes()[:-100])


def torchscript(path):
    torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)).save(path)


ADVICE = 'no plain data and could run a program. Have its maker save the state dict'
FAULTS = {
    bare: ADVICE,
    zipped: ADVICE,
    legacy: ADVICE,
    nested: 'which is no plain data|it is damaged, or no checkpoint',
    compressed: r'its record \S*/data.pkl is compressed',
    flipped: r'it is damaged: the checksum of its record \S*data/0 is wrong',
    cut: 'it is damaged or cut short',
    torchscript: 'it is damaged, or no checkpoint of PyTorch|compressed',
    lambda path: path.touch(): 'it is empty',
    lambda path: path.write_text('weights'): 'it is damaged, or no checkpoint',
    lambda path: path.mkdir(): 'is a folder',
    lambda path: None: 'does not exist',
    lambda path: torch.save([1], path): 'it holds a list',
    lambda path: torch.save(
        dict(model={}, epoch=1), path
    ): "'model' in it is no tensor",
    lambda path: torch.save(dict(state_dict=dict(x=1)), path): 'is no dense tensor',
    lambda path: torch.save(dict(state_dict={}, meta=[1]), path): 'its meta is a list',
}
CASES = [
    pytest.param(
        way,
        fault,
        text,
        id=f'{way}-{number}-{fault.__name__.strip("<>")}',
        marks=() if fault is zipped or way == 'test' else pytest.mark.full,
    )
    for way in WAYS
    for number, (fault, text) in enumerate(FAULTS.items())
]


@pytest.mark.parametrize(('way', 'fault', 'text'), CASES)
def test_a_file_that_is_no_checkpoint(data, tmp_path, way, fault, text):
    path = tmp_path / 'fault.pth'
    fault(path)
    code, output, left = go(data, way, path, tmp_path / 'run')
    assert re.search(f'^error: .*{re.escape(str(path))} .*({text})', code), code
    assert '\n' not in code
    for word in ('weights_only', 'safe_globals', 'Traceback'):  # torch's advice
        assert word not in code + output
    assert left == []


def test_the_malicious_files_are(tmp_path, monkeypatch):
    """Loaded without care, each leaves its mark: the tests above could fail."""
    monkeypatch.chdir(tmp_path)
    for fault in (bare, zipped, legacy, nested):
        fault(tmp_path / 'a.pth')
        if fault is bare:
            pickle.loads((tmp_path / 'a.pth').read_bytes())
        else:
            torch.load('a.pth', weights_only=False)
        os.remove('ran')
    Config.fromstring(CODE, '.py')
    os.remove('ran')


# ---- code in the text of a config


@pytest.fixture(scope='module')
def coded(trained, tmp_path_factory):
    """The trained checkpoint, of mmengine's own kinds, with code in its texts."""
    from mmengine.logging import HistoryBuffer

    checkpoint = torch.load(trained, weights_only=True)
    checkpoint['meta'].update(cfg=CODE, config=CODE, number=np.float64(1))
    hub = checkpoint['message_hub']
    hub['runtime_info']['cfg'] = CODE
    hub['log_scalars'] = {
        name: HistoryBuffer(*(values.numpy() for values in history))
        for name, history in hub['log_scalars'].items()
    }
    path = tmp_path_factory.mktemp('coded') / 'coded.pth'
    torch.save(checkpoint, path)
    return path


def each_way(*default):
    """All ways in; those that are not named with --full."""
    return [
        pytest.param(way, marks=() if way in default else pytest.mark.full)
        for way in WAYS
    ]


@pytest.mark.parametrize('way', each_way('resume', 'test'))
def test_text_of_a_config_is_not_run(data, coded, tmp_path, way):
    """And plain data of mmengine's and NumPy's kinds is taken."""
    epochs = 2 if way == 'resume' else 1
    code, output, left = go(data, way, coded, tmp_path, f'total_epochs={epochs}')
    assert code == 0, output
    trained = ['.training_id', f'epoch_{epochs}.pth', 'last_checkpoint']
    assert left == LEFT.get(way, [f'work/{name}' for name in trained])
    assert 'open(' not in output
    if way == 'resume':  # the history goes on, and what comes next is the run's own
        hub = torch.load(tmp_path / 'work/epoch_2.pth', weights_only=True)
        hub = hub['message_hub']
        assert len(hub['log_scalars']['train/loss'][0]) == 2
        assert 'open(' not in hub['runtime_info']['cfg']


@pytest.mark.full
def test_real_processes(data, coded, tmp_path):
    """Commands end as they should: by exit codes, in two processes, and with
    mmaction2's own tools on a converted config."""
    import mmaction

    (tmp_path / 'data').symlink_to(data / 'data')
    zipped(tmp_path / 'zipped.pth')
    env = dict(ENV, PYTHON=sys.executable, PYTHONPATH=f'{ROOT}:{TOOLS}')
    tools = Path(mmaction.__file__).parent / '.mim/tools'
    options = ['--cfg-options', 'work_dir=work', 'data.workers_per_gpu=0']
    launch = [TOOLS / 'dist_train_recognizer.sh', CONFIG, 2, '--resume_from']
    convert = [sys.executable, TOOLS / 'convert_config.py', CONFIG, 'native.py']
    native = [sys.executable, tools / 'train.py', 'native.py']
    shutil.copy(coded, tmp_path / 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    for command, code in (
        ([*launch, 'zipped.pth', *options], 1),
        ([*convert, *options, 'total_epochs=2', f'load_from={coded}'], 0),
        ([*native, '--work-dir', '.', '--resume'], 0),
        ([*native, '--cfg-options', 'load_from=zipped.pth'], 1),
    ):
        done = subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
        assert done.returncode == code, done.stdout[-3000:]
        assert ('which is no plain data' in done.stdout) == bool(code)
    assert (tmp_path / 'epoch_2.pth').is_file()
    assert not list(tmp_path.glob('work/*.pth'))
    assert not (tmp_path / 'ran').exists()


# ---- weights of another network, and what a way in does not need


def renamed(state, change):
    return {change(name): value for name, value in state.items()}


def bits(state, *without):
    return {k: v for k, v in state.items() if not k.startswith(without)}


MISFITS = {
    'load_from': (
        (lambda s: {}, 'backbone.conv1 0 of 1'),
        (
            lambda s: renamed(bits(s, 'cls_head.'), lambda k: k[len('backbone.') :]),
            r'those of a backbone alone, which model.backbone.pretrained=',
        ),
        (lambda s: bits(s, 'backbone.'), 'backbone.layer1 0 of'),
        (lambda s: bits(s, 'backbone.layer3.'), 'backbone.layer3 0 of'),
        (lambda s: bits(s, 'backbone.layer3.1.'), 'only one of them has .*layer3.1'),
        (
            lambda s: dict(s, **{'backbone.conv1.weight': torch.zeros(64, 5, 7, 7)}),
            r'backbone.conv1.weight is \(64, 5, 7, 7\) there, \(64, 3, 7, 7\) here',
        ),
    ),
    'pretrained': (
        (lambda s: {}, 'it lacks conv1.weight'),
        (lambda s: bits(s, 'backbone.layer3.1.'), r'it lacks layer3.1.\S* \(of \d+\)'),
        (
            lambda s: dict(s, **{'backbone.conv1.weight': torch.zeros(64, 5, 7, 7)}),
            'size mismatch for conv1.weight',
        ),
    ),
    'resume': ((lambda s: bits(s, 'cls_head.'), 'It has no cls_head.fc_cls.weight'),),
}


@pytest.mark.parametrize(
    ('way', 'change', 'text'),
    [
        pytest.param(way, *case, marks=pytest.mark.full if number else ())
        for way, cases in MISFITS.items()
        for number, case in enumerate(cases)
    ],
)
def test_weights_that_do_not_fit(data, trained, tmp_path, way, change, text):
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint['state_dict'] = change(checkpoint['state_dict'])
    torch.save(checkpoint, tmp_path / 'other.pth')
    code, output, left = go(data, way, tmp_path / 'other.pth', tmp_path / 'run')
    assert re.search(f'^error: .*other.pth .*{text}', code), (code, output)
    assert '\n' not in code and 'Traceback' not in output
    assert left == []


@pytest.mark.parametrize(
    'way', ('load_from', pytest.param('pretrained', marks=pytest.mark.full))
)
def test_what_was_taken_is_said(data, trained, tmp_path, way):
    """On stdout and in the log: a head for other classes stays as it is."""
    checkpoint = torch.load(trained, weights_only=True)
    state = renamed(checkpoint['state_dict'], 'module.{}'.format)
    state['module.cls_head.fc_cls.weight'] = torch.zeros(9, 512)
    torch.save(state, tmp_path / 'other.pth')  # bare
    code, output, _ = go(
        *(data, way, tmp_path / 'other.pth', tmp_path / 'run', 'total_epochs=1')
    )
    assert code == 0, output
    (log,) = (tmp_path / 'run/work').glob('*/*.log')
    said = {
        'load_from': r'took tensors for backbone.conv1 1 of 1, .*cls_head 1 of 2. Of '
        'another shape, and left as they are: cls_head.fc_cls.weight',
        'pretrained': r'took (\d+) of \1 tensors',
    }[way]
    for text in (output, log.read_text()):
        assert re.search(f'other.pth: {said}', text), text


@pytest.mark.parametrize(
    ('way', 'broken'),
    (
        ('test', 'data.train.num_segments=3 data.val.input_size=7'),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in (
                ('test', 'data.train.ann_file=no.txt data.val.ann_file=no.txt'),
                ('recalibrate', 'data.test.num_segments=3 data.test.ann_file=no.txt'),
                ('resume', 'total_epochs=2 data.test.ann_file=no.txt'),
            )
        ),
    ),
)
def test_what_is_not_needed(data, trained, tmp_path, way, broken):
    """Neither the file that the training began with, nor unread splits."""
    options = ['model.backbone.pretrained=gone.pth', *broken.split()]
    if way != 'resume':
        options.append('load_from=gone.pth')
    code, output, _ = go(data, way, trained, tmp_path, *options)
    assert code == 0, output


@pytest.mark.parametrize(
    ('change', 'text'),
    (
        (lambda c: c.pop('optimizer'), "has no 'optimizer': only a checkpoint of"),
        (lambda c: c.pop('message_hub'), "has no 'message_hub'"),
        (lambda c: c.pop('meta'), "has no 'meta.epoch'"),
        (lambda c: c['meta'].update(iter='3'), "its 'meta.iter' is '3', and should"),
        (lambda c: c['meta'].update(iter=10**30), "its 'meta.iter' is 1000"),
        (lambda c: c['meta'].update(epoch=-1), "its 'meta.epoch' is -1, and should"),
        (lambda c: c['meta'].update(epoch=0), "its 'meta.epoch' is 0, and should be"),
        (
            lambda c: next(iter(c['state_dict'].values())).fill_(math.nan),
            'backbone.conv1.weight in it is not finite',
        ),
        (lambda c: c['meta'].update(seed='x'), "its 'meta.seed' is 'x', and should"),
        (lambda c: c['optimizer'].pop('param_groups'), 'has no state of an optimizer'),
        (
            lambda c: c['optimizer']['state'][0].update(momentum_buffer=torch.ones(3)),
            'momentum_buffer of parameter 0 is a tensor of (3,), and should have',
        ),
        (
            lambda c: c['message_hub'].update(runtime_info=[1]),
            "'message_hub.runtime_info' in it is [1], and should be a dict",
        ),
        (
            lambda c: c['message_hub']['log_scalars'].update(x=[torch.ones(2)]),
            "the history of 'x' in its message_hub is none",
        ),
    ),
)
def test_what_cannot_be_resumed(data, trained, tmp_path, change, text):
    checkpoint = torch.load(trained, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / 'other.pth')
    code, _, left = go(data, 'resume', tmp_path / 'other.pth', tmp_path / 'run')
    assert code.startswith('error: ') and text in code
    assert left == []


# ---- addresses


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of tmp_path/www, and the paths that were asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    (tmp_path / 'www/other').mkdir(parents=True)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    with http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(Handler, directory=str(tmp_path / 'www'))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{server.server_port}', asked
        server.shutdown()
        thread.join()


def test_addresses(server, tmp_path):
    address, asked = server
    for folder in ('.', 'other'):  # one name, two files
        state = dict(x=torch.full((2,), float(len(folder))))
        torch.save(state, tmp_path / 'www' / folder / 'a.pth')
    for _ in range(2):  # the second time from torch.hub's folder
        for path, value in (('a.pth', 1), ('other/a.pth', 5)):
            read = read_checkpoint(f'{address}/{path}')
            assert read['state_dict']['x'][0] == value
    assert asked == ['/a.pth', '/other/a.pth']
    shutil.copy(tmp_path / 'www/a.pth', tmp_path / 'www/a-0123abcd.pth')
    zipped(tmp_path / 'www/code.pth')
    for url, text in (
        (f'{address}/no.pth', 'cannot be downloaded: HTTP Error 404'),
        (f'{address}/a-0123abcd.pth', 'cannot be downloaded: invalid hash value'),
        (f'{address}/code.pth', 'which is no plain data'),
        ('http://127.0.0.1:1/a.pth', 'cannot be downloaded: .*refused'),
        ('http://127.0.0.1:1/', 'names no file'),
        ('torchvision://resnet18', r'is neither a file nor an http\(s\) URL'),
        ('s3://bucket/a.pth', r'is neither a file nor an http\(s\) URL'),
    ):
        with pytest.raises(HostError, match=f'{re.escape(url)} .*{text}'):
            read_checkpoint(url)
    assert not list((tmp_path / 'home').rglob('*.partial'))


@pytest.mark.parametrize('way', each_way())
def test_an_address_by_way_in(data, trained, server, tmp_path, way):
    address, asked = server
    shutil.copy(trained, tmp_path / 'www')
    code, output, left = go(
        *(data, way, f'{address}/epoch_1.pth', tmp_path / 'run'),
        f'total_epochs={2 if way == "resume" else 1}',
    )
    assert code == 0 and left, output
    assert asked == ['/epoch_1.pth']
