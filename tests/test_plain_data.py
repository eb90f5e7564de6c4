"""tools/plain_data.py: stand-ins keep what they are given, if it is plain."""

import contextlib
import pickle
import re
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_data import Array, DType, History, read_arrays, scalar, to_plain


def stand_in(array, raw=None):
    """What comes of an array that was pickled."""
    dtype = DType(array.dtype.str[1:], False, True)
    dtype.__setstate__((3, array.dtype.str[0], None, None, None, -1, -1, 0))
    result = Array()
    raw = array.tobytes() if raw is None else raw
    result.__setstate__((1, array.shape, dtype, False, raw))
    return result


@pytest.mark.parametrize('code', ('O8', 'V4', 'f8,O8', 'M8', 'f', '', 'U9999999999'))
def test_other_kinds_than_numbers_and_texts(code):
    with pytest.raises((ValueError, TypeError)):
        DType(code)


def test_flags_of_a_dtype_are_not_taken():
    dtype = DType('f8', False, True)
    dtype.__setstate__((3, '<', None, None, None, 1, 1, 63))
    assert dtype.dtype == np.dtype('<f8') and not dtype.dtype.hasobject
    for parts in ((('f8', (2,)), None, None), (None, ('a',), dict(a=1))):
        with pytest.raises(ValueError, match='several parts'):
            dtype.__setstate__((3, '<', *parts, -1, -1, 0))


@pytest.mark.parametrize('raw', (b'', bytes(15), bytes(17)))
def test_an_array_of_other_bytes_than_its_shape_says(raw):
    with pytest.raises((ValueError, TypeError)):
        stand_in(np.zeros(2), raw)


def test_numbers_become_pythons():
    dtype = DType('i8')
    value = scalar(dtype, np.int64(-5).tobytes())
    assert value == -5 and type(value) is int


def test_stand_ins_in_containers_that_hold_themselves():
    history = History()
    history.__setstate__(
        dict(_log_history=stand_in(np.ones(1)), _count_history=stand_in(np.arange(1)))
    )
    data = dict(a=[stand_in(np.arange(3))], b=(history, dict(c=stand_in(np.ones(2)))))
    data['a'].append(data)
    data['d'] = data['b']
    plain = to_plain(data)
    assert plain is data and plain['a'][1] is data
    assert plain['a'][0].tolist() == [0, 1, 2]
    assert plain['b'][1]['c'].tolist() == [1, 1]
    assert [value.tolist() for value in plain['b'][0]] == [[1], [0]]
    assert plain['d'] is plain['b']


def test_containers_are_met_once():
    """Ten lists that hold the last ten times over: 10 ** 30 ways through."""
    data = []
    for _ in range(30):
        data = [data] * 10
    assert to_plain(data) is data


@pytest.mark.parametrize('protocol', range(6))
def test_arrays_of_a_pickle_of_any_protocol(tmp_path, protocol):
    wanted = [
        np.arange(6, dtype='f4').reshape(1, 6),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.zeros((0, 3), '>i2'),
        np.float32(0.5),
        {'a': (1, 'text', None)},
    ]
    path = tmp_path / 'arrays.pkl'
    path.write_bytes(pickle.dumps(wanted, protocol))
    got = read_arrays(path)
    for one, other in zip(got[:3], wanted):
        np.testing.assert_array_equal(one, other)
        assert one.shape == other.shape and one.dtype == other.dtype.newbyteorder('=')
    assert got[3:] == wanted[3:]


@pytest.mark.parametrize(
    'call, name',
    (
        (b'cos\nsystem\n(Vtouch ran\ntR.', 'os.system'),
        (b'cbuiltins\neval\n(V1\ntR.', 'builtins.eval'),
        (b'cbuiltins\ngetattr\n.', 'builtins.getattr'),
        (b'cnumpy\nload\n.', 'numpy.load'),
        (b'cplain_data\nread_arrays\n.', 'plain_data.read_arrays'),
    ),
)
def test_names_in_a_pickle_are_refused(tmp_path, monkeypatch, call, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.pkl').write_bytes(call)
    with pytest.raises(ValueError, match=f'it holds {re.escape(name)}, which'):
        read_arrays('a.pkl')
    assert [path.name for path in tmp_path.iterdir()] == ['a.pkl']


@settings(max_examples=50)
@given(st.data())
def test_a_damaged_pickle_is_read_or_refused(data):
    whole = pickle.dumps([np.arange(4, dtype='f4').reshape(1, 4)] * 2)
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
            st.integers(0, 255)
        )
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with contextlib.suppress(ValueError):
            read_arrays(file.name)
