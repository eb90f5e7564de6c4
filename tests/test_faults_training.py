"""What can go wrong with a training and its checkpoints.

The command lines run in this process, on mmaction2: that saves the imports.
tests/test_faults_processes.py has the kills. docs/reliability.md says what is
promised.
"""

import errno
import io
import logging
import math
import os
import re
import subprocess
import sys
import types

import hosts.resuming as resuming
import numpy as np
import pytest
import torch
from conftest import ROOT
from hosts import HostError
from hosts.checkpoint_folder import (
    link_latest,
    newest_checkpoint,
    newest_first,
    record_last,
    remove_old,
)
from hosts.locks import FolderLock
from hosts.mmaction2_components import SeededClips, V1Results
from hosts.mmaction2_hooks import V1CheckpointHook
from hosts.mmaction2_runner import replay, say_once
from hosts.training_state import (
    check_loss,
    check_state,
    drawn_seed,
    last_finite,
    naming_folder,
    one_clip_warning,
)
from mmengine.registry import PARAM_SCHEDULERS
from script_calls import call, make_clips

CONFIG = ROOT / 'tests' / 'three_stages.py'
SCRIPT = ROOT / 'tools' / 'train_recognizer.py'
# One iteration of 2 clips an epoch; the rate is 0.05 from the first epoch on.
SMALL = (
    'data.videos_per_gpu=2 data.workers_per_gpu=0 log_config.interval=1 '
    'lr_config.warmup=None checkpoint_config.interval=2'
).split()
# Runners of one second have one name.
pytestmark = pytest.mark.filterwarnings('ignore:.*instance named of')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = make_clips(tmp_path_factory.mktemp('clips'), 'data/arrow', 1, 1, 1)
    clips = folder / 'data/arrow/train.txt'
    clips.write_text(''.join(clips.read_text().splitlines(True)[:2]))
    return folder


def train(data, work_dir, *options, arguments=()):
    """Train in this process.

    Returns:
        tuple: what it ends with, what it printed, and the rate of each epoch.
    """
    options = ['--work_dir', work_dir, *arguments, '--cfg-options', *SMALL, *options]
    code, output = call(SCRIPT, CONFIG, *options, cwd=data)
    rates = re.findall(r'Epoch\(train\) +\[(\d+)\].* lr: (\S+)', output)
    return code, output, {int(epoch): float(rate) for epoch, rate in rates}


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """A work_dir with epochs 2 and 4 of 4."""
    folder = tmp_path_factory.mktemp('work')
    code, output, rates = train(data, folder, 'total_epochs=4', arguments=['--seed', 3])
    assert code == 0, output
    assert rates == pytest.approx(cosine(0.05, 4, range(4)), abs=1e-6)
    return folder


def cosine(rate, epochs, which):
    """The rate of a training from the start, by epoch counted from 1."""
    return {n + 1: rate / 2 * (1 + math.cos(math.pi * n / epochs)) for n in which}


# ---- resuming


def linked(trained, folder, *names):
    """A folder with the same checkpoints, of which it may lose some."""
    folder.mkdir()
    for name in names:
        os.link(trained / name, folder / name)
    return folder


@pytest.mark.full
def test_more_epochs_have_the_rates_of_a_straight_run(data, trained, tmp_path):
    folder = linked(trained, tmp_path / 'work', 'epoch_2.pth', 'epoch_4.pth')
    code, output, rates = train(data, folder, 'total_epochs=8', arguments=['--resume'])
    assert code == 0, output
    assert f'resuming from {folder}/epoch_4.pth' in output
    expected = cosine(0.05, 8, range(4, 8))
    assert [round(rate, 4) for rate in expected.values()] == [
        0.025,
        0.0154,
        0.0073,
        0.0019,
    ]
    assert rates == pytest.approx(expected, abs=1e-6)
    assert 'eta: -' not in output
    # The next time there is nothing to do, which is no fault unless asked for.
    code, output, rates = train(data, folder, 'total_epochs=8', arguments=['--resume'])
    assert (code, rates) == (0, {})
    assert f'all 8 epochs are done: {folder}/epoch_8.pth' in output


def test_a_changed_rate_and_batch_take_effect(data, trained, tmp_path):
    code, output, rates = train(
        data,
        tmp_path / 'work',
        'total_epochs=3',
        'optimizer.lr=0.1',
        'optimizer.weight_decay=0.01',
        'data.videos_per_gpu=1',
        arguments=['--resume_from', trained / 'epoch_2.pth'],
    )
    assert code == 0, output
    assert rates[3] == pytest.approx(cosine(0.1, 3, [2])[3], abs=1e-6)
    assert 'the batch is 1 x 1 clips, and that of' in output
    assert 'eta: -' not in output
    state = torch.load(tmp_path / 'work/epoch_3.pth', weights_only=True)
    (group,) = state['optimizer']['param_groups']
    assert group['weight_decay'] == 0.01
    assert state['meta']['iter'] == 6  # 3 epochs of 2
    assert state['meta']['seed'] == 3


@pytest.mark.parametrize(
    'arguments, options, message',
    [
        ('--seed 4', '', '--seed 4 cannot take effect: {c} was trained with --seed 3'),
        ('', 'optimizer.type=Adam', 'optimizer.momentum=0.9 is unknown: Adam has'),
        ('', 'optimizer.lr=-1', 'optimizer.lr=-1 should be a number of at least 0'),
        ('', 'total_epochs=2', '{c} has 4 of total_epochs=2 behind it'),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    data, trained, tmp_path, arguments, options, message
):
    path = trained / 'epoch_4.pth'
    code, output, _ = train(
        data,
        tmp_path / 'work',
        *f'total_epochs=5 {options}'.split(),
        arguments=['--resume_from', path, *arguments.split()],
    )
    assert code.startswith('error: ')
    assert message.format(c=path) in code
    assert not list(tmp_path.glob('work/*.pth'))


def sgd(**settings):
    return dict(type='SGD', lr=0.1, **settings)


@pytest.mark.parametrize(
    'before, after, message',
    [
        (sgd(momentum=0.9), sgd(momentum=0.5, nesterov=True), None),
        (dict(type='Adam', lr=1), dict(type='AdamW', lr=2, betas=(0.5, 0.9)), None),
        (sgd(momentum=0.9), dict(type='Adam', lr=0.1), 'keeps exp_avg and exp_avg_sq'),
        (dict(type='Adam', lr=1), sgd(momentum=0.9), 'keeps momentum_buffer'),
        (sgd(momentum=0.9), sgd(), 'keeps nothing for each'),
        (dict(type='Adam', lr=1), dict(type='Adam', lr=1, amsgrad=True), 'max_exp'),
    ],
)
def test_optimizers_that_go_on(before, after, message):
    """Settings are the config's; what an optimizer keeps must fit it."""

    def make(config, weight):
        config = dict(config)
        return getattr(torch.optim, config.pop('type'))([weight], **config)

    weight = torch.nn.Parameter(torch.ones(3))
    old = make(before, weight)
    weight.sum().backward()
    old.step()
    checkpoint = dict(optimizer=old.state_dict())
    new = make(after, weight)
    arguments = after, new.param_groups, checkpoint, 'x.pth'
    if message:
        with pytest.raises(HostError, match=message):
            resuming.check_optimizer(*arguments)
        return
    resuming.check_optimizer(*arguments)
    settings = resuming.settings_of(new)
    new.load_state_dict(old.state_dict())
    resuming.put_back(new, settings)
    assert resuming.settings_of(new) == settings
    for name, value in old.state[weight].items():
        assert torch.equal(torch.as_tensor(new.state[weight][name]), value)
    new.step()


def test_notes_of_other_programs():
    meta = {5: 'x', 'epoch': 1, 'iter': 4, 'processes': 2, 'videos_per_gpu': 8}
    batch = resuming.describe_batch(1, 8)
    warning = resuming.batch_warning(dict(meta=meta), 'x.pth', batch, 4)
    assert warning.startswith('the batch is 1 x 8 clips, and that of x.pth was 2 x 8')


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda state: state[0].update(exp_avg=torch.ones(2, 3)), 'is a tensor of (2'),
        (lambda state: state[0].update(exp_avg='x'), "of parameter 0 is 'x', and"),
        (lambda state: state[0].update(step=torch.ones(3)), 'should have shape ()'),
        (lambda state: state[0]['exp_avg'].fill_(math.inf), 'exp_avg of parameter 0 '),
        (lambda state: state.update({5: state.pop(0)}), 'of parameter 5, which is in'),
        (lambda state: state[0].update(step=1), None),
    ],
)
def test_states_that_do_not_fit(change, message):
    """torch puts any state into an optimizer, whose next step then fails."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    change(saved['state'])
    arguments = dict(type='Adam'), optimizer.param_groups, dict(optimizer=saved), 'x'
    if message:
        with pytest.raises(HostError, match=re.escape(message)):
            resuming.check_optimizer(*arguments)
    else:
        resuming.check_optimizer(*arguments)


@pytest.mark.parametrize('epochs', [1, 3])
def test_replayed_schedules_are_those_of_a_straight_run(epochs):
    """To the bit: with a warm-up in it, and a rate by iteration."""

    def make():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.05)
        common = dict(default_args=dict(optimizer=optimizer))
        return optimizer, [
            PARAM_SCHEDULERS.build(config, **common)
            for config in (
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=8),
                dict(type='CosineAnnealingLR', T_max=6, by_epoch=True),
                dict(type='MultiStepLR', milestones=[2], by_epoch=True),
            )
        ]

    straight, schedulers = make()
    for _ in range(epochs):
        for _ in range(5):
            straight.step()
            schedulers[0].step()
        for scheduler in schedulers[1:]:
            scheduler.step()
    resumed, schedulers = make()
    replay(schedulers, epochs, 5)
    assert resumed.param_groups[0]['lr'] == straight.param_groups[0]['lr']


def test_another_number_of_processes_is_told():
    batch = resuming.describe_batch(2, 8)
    known = dict(meta=dict(epoch=3, iter=30, processes=4, videos_per_gpu=8))
    assert 'is 2 x 8 clips, and that of x.pth was 4 x 8 clips' in (
        resuming.batch_warning(known, 'x.pth', batch, 20)
    )
    unknown = dict(meta=dict(epoch=3, iter=30))  # of an earlier version
    assert 'has 20 iterations, and those of x.pth had 10' in (
        resuming.batch_warning(unknown, 'x.pth', batch, 20)
    )
    known['meta']['processes'] = 2
    for checkpoint, length in (known, 20), (unknown, 10):
        assert resuming.batch_warning(checkpoint, 'x.pth', batch, length) is None


def test_a_clip_draws_by_its_place():
    class Draws:
        def __getitem__(self, index):
            return index, np.random.rand()

    class Clips(SeededClips, Draws):
        pass

    clips = Clips()
    first = clips[3, drawn_seed(0, 1, 2)]
    np.random.rand(5)
    assert clips[3, drawn_seed(0, 1, 2)] == first
    assert clips[3, drawn_seed(0, 1, 3)] != first
    assert clips[3][0] == 3


# ---- the newest whole checkpoint


def put(folder, *epochs):
    for epoch in epochs:
        state = dict(state_dict={}, meta=dict(epoch=epoch, launch='this'))
        torch.save(state, folder / f'epoch_{epoch}.pth')


def test_a_damaged_last_checkpoint_names_none(tmp_path):
    (tmp_path / 'epoch_2.pth').touch()
    (tmp_path / 'last_checkpoint').write_bytes(bytes(range(256)))
    assert newest_first(tmp_path) == [str(tmp_path / 'epoch_2.pth')]


def test_the_newest_whole_checkpoint(tmp_path, capsys):
    assert newest_checkpoint(tmp_path / 'none') == (None, None)
    put(tmp_path, 1, 2, 10)
    (tmp_path / 'epoch_11.pth.7.tmp').touch()
    (tmp_path / 'best.pth').touch()
    path = str(tmp_path / 'epoch_10.pth')
    assert newest_checkpoint(tmp_path)[0] == path
    # The one that was written last, though the folder has later epochs.
    record_last(tmp_path / 'epoch_2.pth')
    assert [os.path.basename(name)[6:-4] for name in newest_first(tmp_path)] == [
        '2',
        '10',
        '1',
    ]
    link_latest('epoch_1.pth', tmp_path / 'latest.pth')
    link_latest('epoch_10.pth', tmp_path / 'latest.pth')
    os.remove(tmp_path / 'last_checkpoint')
    assert newest_checkpoint(tmp_path)[0] == path
    # Half a checkpoint is passed by, and said.
    whole = (tmp_path / 'epoch_10.pth').read_bytes()
    (tmp_path / 'epoch_10.pth').write_bytes(whole[: len(whole) // 2])
    assert newest_checkpoint(tmp_path)[0] == str(tmp_path / 'epoch_2.pth')
    assert f'passed by: {path} cannot be loaded' in capsys.readouterr().out
    for epoch in 1, 2:
        (tmp_path / f'epoch_{epoch}.pth').write_text('')
    with pytest.raises(HostError, match='none of the 3 checkpoints in .* is whole'):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize(
    'resume, restarts, launch, expected',
    [
        (False, 0, 'this', 'asked'),
        (True, 0, None, 'newest'),
        # Restarted: the newest of this launch, and else what was asked for.
        (False, 2, 'this', 'newest'),
        (False, 2, 'another', 'asked'),
        (False, 2, None, 'asked'),
    ],
)
def test_what_a_training_goes_on_from(
    tmp_path, monkeypatch, resume, restarts, launch, expected
):
    put(tmp_path, 4)
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', str(restarts))
    monkeypatch.delenv('DNR_LAUNCH_ID', raising=False)
    if launch:
        monkeypatch.setenv('DNR_LAUNCH_ID', launch)
    chosen = resuming.choose_checkpoint(tmp_path, 'asked.pth', resume)
    newest = str(tmp_path / 'epoch_4.pth')
    assert chosen.path == dict(asked='asked.pth', newest=newest)[expected]


@pytest.mark.parametrize('resume', [False, True])
def test_an_earlier_training_is_told(tmp_path, capsys, resume):
    put(tmp_path, 4)
    resuming.begin(lock := FolderLock(tmp_path), None, resume)
    lock.release()
    told = 'has checkpoints of an earlier training, up to epoch_4.pth'
    assert (told in capsys.readouterr().out) != resume
    # Nothing is replaced where the checkpoint that is asked for is not there.
    with pytest.raises(HostError, match='does not exist'):
        resuming.begin(lock := FolderLock(tmp_path), str(tmp_path / 'no.pth'), False)
    lock.release()
    assert told not in capsys.readouterr().out


def test_an_earlier_training_is_not_gone_on_with(data, trained, tmp_path):
    """A new one is, in whose folder it is: from its first step on."""
    names = 'epoch_2.pth', 'epoch_4.pth', '.training_id'
    folder = linked(trained, tmp_path / 'work', *names)

    def id_of(epoch):
        path = folder / f'epoch_{epoch}.pth'
        return torch.load(path, weights_only=True)['meta']['training']

    # It ends before its first checkpoint, which is not the other one's.
    code, _, _ = train(data, folder, 'optimizer.lr=1e30', 'total_epochs=9')
    assert 'No checkpoint has been written yet' in code
    code, output, rates = train(data, folder, 'total_epochs=1', arguments=['--resume'])
    assert code == 0, output
    assert 'passed by: 2 checkpoints of an earlier training than the one' in output
    assert 'holds no checkpoint to go on from: training starts' in output
    assert list(rates) == [1] and id_of(1) != id_of(4)
    (folder / 'epoch_1.pth').write_bytes(b'')
    error, _, _ = train(data, folder, 'total_epochs=2', arguments=['--resume'])
    assert f'none of the 1 checkpoints in {folder} is whole' in error
    # Asked for, the earlier one is gone on with, and from then on by --resume.
    asked = ['--resume_from', folder / 'epoch_4.pth']
    code, output, _ = train(data, folder, 'total_epochs=5', arguments=asked)
    assert code == 0, output
    assert id_of(5) == id_of(4)
    code, output, _ = train(data, folder, 'total_epochs=5', arguments=['--resume'])
    assert code == 0
    assert f'all 5 epochs are done: {folder}/epoch_5.pth' in output


def test_what_is_refused_leaves_a_folder_to_its_training(data, trained, tmp_path):
    folder = linked(trained, tmp_path / 'work', 'epoch_4.pth', '.training_id')
    error, _, _ = train(data, folder, 'model.backbone.depth=19')
    assert error.startswith('error: ')
    (tmp_path / 'empty.pth').touch()
    error, _, _ = train(data, folder, f'load_from={tmp_path}/empty.pth')
    assert error.startswith('error: ')
    code, output, _ = train(data, folder, 'total_epochs=4', arguments=['--resume'])
    assert code == 0
    assert f'all 4 epochs are done: {folder}/epoch_4.pth' in output


def test_another_list_is_told(data, trained, tmp_path):
    path = trained / 'epoch_4.pth'
    checkpoint = torch.load(path, weights_only=True)
    ann_file = data / 'data/arrow/train.txt'
    assert resuming.list_warning(checkpoint, path, ann_file) is None
    other = tmp_path / 'other.txt'
    other.write_text(ann_file.read_text().replace(' 0\n', ' 1\n'))
    warning = resuming.list_warning(checkpoint, path, other)
    assert warning.startswith(f'{other} has another content than the list that {path} ')
    del checkpoint['meta']['train_list']  # of an earlier version
    assert resuming.list_warning(checkpoint, path, other) is None


# ---- checkpoints that are kept


def saving(folder, epoch, error=None):
    """Let the hook save, by a Runner's stand-in that writes or fails."""

    def save_checkpoint(out_dir, name, **kwargs):
        if error:
            raise error
        # What is deleted is deleted after this.
        before = sorted(os.listdir(folder))
        (folder / name).write_text('new')
        events.append((name, before))

    events = []
    runner = types.SimpleNamespace(
        epoch=epoch - 1,
        iter=epoch,
        max_epochs=9,
        work_dir=str(folder),
        cfg=dict(),
        model=torch.nn.Linear(1, 1),
        logger=types.SimpleNamespace(info=print),
        save_checkpoint=save_checkpoint,
    )
    V1CheckpointHook(interval=1, max_keep_ckpts=1).after_train_epoch(runner)
    return events


def test_the_old_checkpoint_goes_after_the_new_one_is_there(tmp_path):
    saving(tmp_path, 1)
    ((name, before),) = saving(tmp_path, 2)
    assert name == 'epoch_2.pth' and 'epoch_1.pth' in before
    assert sorted(os.listdir(tmp_path)) == ['epoch_2.pth', 'last_checkpoint']
    last = tmp_path / 'last_checkpoint'
    assert last.read_text() == str(tmp_path / 'epoch_2.pth')
    # A full disk: nothing is lost, and what is named is there.
    with pytest.raises(OSError):
        saving(tmp_path, 3, OSError(errno.ENOSPC, 'No space left on device'))
    assert sorted(os.listdir(tmp_path)) == ['epoch_2.pth', 'last_checkpoint']
    assert last.read_text() == str(tmp_path / 'epoch_2.pth')


def test_later_epochs_of_another_training_stay(tmp_path):
    put(tmp_path, 1, 2, 3, 8)
    remove_old(tmp_path, 3, 2)
    assert sorted(os.listdir(tmp_path)) == ['epoch_2.pth', 'epoch_3.pth', 'epoch_8.pth']
    remove_old(tmp_path, 3, -1)
    assert len(os.listdir(tmp_path)) == 3


def test_a_disk_that_cannot_be_written(tmp_path):
    put(tmp_path, 5)
    with pytest.raises(HostError) as caught, naming_folder(tmp_path, None):
        raise OSError(errno.ENOSPC, 'No space left on device')
    assert str(caught.value) == (
        f'cannot write in {tmp_path}: No space left on device. The last '
        f'checkpoint with finite weights is {tmp_path}/epoch_5.pth'
    )
    with pytest.raises(FileNotFoundError), naming_folder(tmp_path, None):
        open(tmp_path / 'no')


# ---- what is not finite


def test_a_loss_that_is_not_finite(tmp_path):
    check_loss(1.0, 1, 1, 1, None)
    for loss in math.nan, math.inf, -math.inf:
        with pytest.raises(HostError, match='in epoch 3, iteration 2 of 9. No checkp'):
            check_loss(loss, 3, 2, 9, lambda: last_finite(tmp_path, None))
    assert 'is a.pth' in last_finite(tmp_path, 'a.pth')
    model = torch.nn.BatchNorm1d(2)
    check_state(model, 1, None)
    model.running_var[1] = math.nan
    with pytest.raises(HostError, match='running_var is not finite after epoch 1'):
        check_state(model, 1, lambda: 'x')


def test_statistics_of_one_clip_are_told(data, tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    assert one_clip_warning(network, 2) is None
    assert '1 layers, the first 1, take' in one_clip_warning(network, 1)
    network[1] = torch.nn.SyncBatchNorm(4)
    assert one_clip_warning(network, 1)  # of one process
    network[1] = torch.nn.GroupNorm(2, 4)
    assert one_clip_warning(network, 1) is None
    options = 'data.videos_per_gpu=1', 'accumulate=2', 'total_epochs=1'
    code, output, _ = train(data, tmp_path, *options)
    said = 'data.videos_per_gpu=1: 15 layers, the first backbone.bn1, take'
    assert code == 0 and output.count(said) == 1


def test_a_training_that_blows_up_harms_no_checkpoint(data, trained, tmp_path):
    folder = linked(trained, tmp_path / 'work', 'epoch_2.pth')
    code, output, _ = train(
        data,
        folder,
        'total_epochs=9',
        'optimizer.lr=1e30',
        'checkpoint_config.max_keep_ckpts=1',
        arguments=['--resume'],
    )
    assert code.startswith('error: ')
    assert re.search('the loss is (nan|inf)|not finite after epoch', code)
    named = re.search(r'with finite weights is (\S+\.pth)\. A lower', code)[1]
    assert named in newest_first(folder)
    for path in newest_first(folder):
        state = torch.load(path, weights_only=True)['state_dict']
        assert all(value.isfinite().all() for value in state.values()), path
    assert not list(folder.glob('*.tmp'))


def test_scores_that_are_not_finite(tmp_path):
    out = tmp_path / 'results.pkl'
    score = np.float32([[0, 1]])
    results = [(score, 1), (score * math.nan, 0), (score, 1), (score - math.inf, 1)]
    with pytest.raises(HostError) as caught:
        V1Results(str(out)).compute_metrics(results)
    assert 'scores of 2 of 4 videos are not finite, first of video 2' in str(caught)
    assert not out.exists()


# ---- folders


def test_a_launcher_that_has_not_started_it(data, tmp_path, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    error, _, _ = train(data, tmp_path, arguments=['--launcher', 'pytorch'])
    assert error.startswith('error: --launcher pytorch: RANK is not set, so this was')


def test_a_folder_in_use_or_that_is_none(data, tmp_path):
    code = (
        f'import sys; sys.path.insert(0, {str(ROOT / "tools")!r})\n'
        'from hosts.locks import FolderLock\n'
        'lock = FolderLock(sys.argv[1]); lock.acquire()\n'
        'print("locked", flush=True); input()'
    )
    with subprocess.Popen(
        [sys.executable, '-c', code, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        holder.stdout.readline()
        (tmp_path / 'epoch_3.pth.12.tmp').touch()
        error, _, _ = train(data, tmp_path)
        holder.kill()
    assert f'error: another training runs in {tmp_path}: process {holder.pid}' in error
    # What the other one writes is let alone.
    assert sorted(os.listdir(tmp_path)) == ['.training.lock', 'epoch_3.pth.12.tmp']
    (tmp_path / 'file').touch()
    error, _, _ = train(data, tmp_path / 'file' / 'work')
    assert error.startswith(f'error: cannot make work_dir {tmp_path}/file/work: ')
    # Leftovers of the dead, and nothing else, go at the start.
    (tmp_path / 'mine.tmp').touch()
    resuming.begin(lock := FolderLock(tmp_path), None, False)
    lock.release()
    assert sorted(os.listdir(tmp_path)) == ['.training.lock', 'file', 'mine.tmp']


def test_lines_of_a_log_that_are_lost_are_told_once(capfd):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, 'No space left on device')

    handler = logging.StreamHandler(Full())
    say_once(handler)
    for _ in range(3):
        handler.handle(logging.makeLogRecord(dict(msg='x')))
    error = capfd.readouterr().err
    assert error.startswith('note: lines of the log are lost: [Errno 28]')
    assert error.count('\n') == 1
