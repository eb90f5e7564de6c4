"""tools/plain_data.py: stand-ins keep what they are given, if it is plain."""

import numpy as np
import pytest
from plain_data import Array, DType, History, scalar, to_plain


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
