"""tools/checkpoint_files.py: what is read, filled in, and refused."""

import collections
import copy
import functools
import io
import random
import shutil
import zipfile

import numpy as np
import pytest
import torch
from checkpoint_files import fill_model, read_checkpoint, write_checkpoint
from hosts import HostError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / 'a.pth'
    written = dict(state_dict=dict(weight=torch.ones(2)), meta=dict(epoch=3))
    write_checkpoint(path, written)
    read = read_checkpoint(path)
    assert read['meta'] == written['meta']
    assert torch.equal(read['state_dict']['weight'], torch.ones(2))


def test_a_bare_state_dict(tmp_path):
    torch.save(dict(weight=torch.ones(2)), tmp_path / 'a.pth')
    assert list(read_checkpoint(tmp_path / 'a.pth')['state_dict']) == ['weight']


@pytest.mark.parametrize(
    ('content', 'reason'),
    (
        ([1], 'it holds a list'),
        (dict(state_dict=[1]), 'its state_dict is a list'),
        (dict(a=pytest.approx), 'pytest.*approx, which is no plain data'),
    ),
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, reason):
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(HostError, match=reason) as caught:
        read_checkpoint(tmp_path / 'a.pth')
    assert str(tmp_path / 'a.pth') in str(caught.value)
    assert 'weights_only' not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(HostError, match='is a folder'):
        read_checkpoint(tmp_path)
    with pytest.raises(HostError, match='does not exist'):
        read_checkpoint(tmp_path / 'a.pth')
    (tmp_path / 'empty.pth').touch()
    with pytest.raises(HostError, match='empty'):
        read_checkpoint(tmp_path / 'empty.pth')


def test_a_model_is_filled_or_refused():
    model = torch.nn.Linear(1, 1)
    state = {'module.weight': torch.ones(1, 1), 'module.bias': torch.ones(1)}
    fill_model(model, state, 'a.pth')
    assert model.bias.item() == model.weight.item() == 1
    for change, reason in (
        (dict(weight=torch.ones(2, 1)), r'weight is \(2, 1\) there, \(1, 1\) here'),
        (dict(more=torch.ones(1)), 'which has no more'),
    ):
        with pytest.raises(HostError, match=f'a.pth is no checkpoint.*{reason}'):
            fill_model(model, dict(state, **change), 'a.pth')
    with pytest.raises(HostError, match='It has no bias'):
        fill_model(model, {'weight': torch.ones(1, 1)}, 'a.pth')


# ---- any damage


def small():
    """A small checkpoint with all kinds of plain data."""
    from mmengine.config import ConfigDict
    from mmengine.logging import HistoryBuffer

    class State(collections.OrderedDict):
        pass

    return dict(
        state_dict=collections.OrderedDict(x=torch.arange(20.0), y=torch.ones(2, 2)),
        meta=dict(
            epoch=np.int64(3),
            classes=np.array(['a', 'bc']),
            mean=np.arange(6.0).reshape(2, 3).T,
            big=np.arange(3, dtype='>i4'),
            none=np.zeros((0, 2)),
            flag=np.bool_(True),
            counts=collections.Counter('aab'),
            lists=collections.defaultdict(list, a=[1]),
            options=ConfigDict(a=dict(b=(1, np.float32(2)))),
        ),
        message_hub=dict(
            log_scalars=dict(loss=HistoryBuffer([1.0, 2.0], [1, 3])), runtime_info={}
        ),
    )


def same(a, b):
    """Whether two checkpoints hold the same, to the bit."""
    return repr(a) == repr(b)


@pytest.mark.parametrize('zip_format', (True, False))
def test_plain_data_is_read(tmp_path, zip_format):
    content = small()
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=zip_format)
    read = read_checkpoint(tmp_path / 'a.pth')
    expected = copy.deepcopy(content)
    expected['meta']['big'] = expected['meta']['big'].astype('i4')
    expected['meta'].update(epoch=3, flag=True, lists=dict(a=[1]))
    expected['meta']['options'] = dict(a=dict(b=(1, 2.0)))
    history = [torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([1, 3])]
    expected['message_hub']['log_scalars']['loss'] = history
    assert same(read, expected)
    assert type(read['meta']['mean']) is np.ndarray
    # It can be written, and read with torch alone but for what is NumPy's.
    write_checkpoint(tmp_path / 'b.pth', read)
    assert same(read_checkpoint(tmp_path / 'b.pth'), expected)


def repack(path, method=zipfile.ZIP_STORED, change=lambda name, content: content):
    """Write a checkpoint's archive anew, with checksums that fit."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w', method) as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A checkpoint's file, its bytes and what is read of it."""
    path = tmp_path_factory.mktemp('whole') / 'a.pth'
    torch.save(small(), path)
    return path, path.read_bytes(), read_checkpoint(path)


many = functools.partial(
    settings,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@many(max_examples=100)
@given(
    at=st.floats(0, 1, exclude_max=True),
    kind=st.sampled_from(['flip', 'cut', 'remove', 'repeat']),
    bit=st.integers(0, 7),
    length=st.integers(1, 64),
)
def test_any_damage_is_refused_or_harmless(whole, at, kind, bit, length):
    """A flipped bit anywhere: what is read is what was written, or nothing."""
    path, content, expected = whole
    at = int(at * len(content))
    flip = bytes([content[at] ^ 1 << bit])
    after = {
        'flip': flip + content[at + 1 :],
        'cut': b'',
        'remove': content[at + length :],
        'repeat': content[max(0, at - length) :],
    }[kind]
    damaged = path.with_name('damaged.pth')
    damaged.write_bytes(content[:at] + after)
    try:
        read = read_checkpoint(damaged)
    except HostError as error:
        assert 'cannot be loaded as a checkpoint: it' in str(error)
    else:
        assert same(read, expected)


@many(max_examples=100)
@given(seed=st.integers(0, 2**32), zip_format=st.booleans())
def test_any_pickle_is_read_or_refused(whole, seed, zip_format):
    """Whatever a file says, with checksums that fit: no other error, no harm."""
    path, _, _ = whole
    rng = random.Random(seed)

    def change(name, content):
        if not name.endswith('data.pkl'):
            return content
        content = bytearray(content)
        for _ in range(rng.randrange(1, 4)):
            at, other = (rng.randrange(len(content)) for _ in range(2))
            content[at : at + rng.randrange(9)] = rng.choice(
                (bytes([rng.randrange(256)]), content[other : other + 12])
            )
        return bytes(content)

    fuzzed = path.with_name('fuzzed.pth')
    if zip_format:
        shutil.copy(path, fuzzed)
        repack(fuzzed, change=change)
    else:
        file = io.BytesIO()
        torch.save(small(), file, _use_new_zipfile_serialization=False)
        fuzzed.write_bytes(change('data.pkl', file.getvalue()))
    try:
        state = read_checkpoint(fuzzed)['state_dict']
    except HostError as error:
        assert '\n' not in str(error)
    else:
        assert all(type(value) is torch.Tensor for value in state.values())
        repr(state)
