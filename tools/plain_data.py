"""The plain data that a checkpoint may hold besides what torch itself allows.

And a results file: :func:`read_arrays` reads its pickle by the same rule.

torch.load(..., weights_only=True) takes tensors, numbers, texts and containers,
and nothing else. Checkpoints also hold NumPy's numbers and arrays, mmengine's
log histories, and dicts of other classes. Here each name that these have in a
file gets a stand-in, which only keeps what it is given: no code of NumPy or
mmengine sees what a file says. (numpy.dtype would take any flags from a file,
such as that an array's numbers are addresses of objects.) NumPy's numbers
become Python's. :func:`to_plain` puts the real thing in a stand-in's place.
"""

import argparse
import pickle
import re
from collections import Counter, OrderedDict

import numpy as np
import torch


class DType:
    """Stands for numpy.dtype: kinds of numbers and texts alone.

    Args:
        code (str): such as 'f8', without the byte order.
        *flags: not used.

    Raises:
        ValueError: it is of another kind.
    """

    def __init__(self, code, *flags):
        if not re.fullmatch(r'[biufcSU]\d{1,9}', code):
            raise ValueError(f'no kind of plain data: {code}')
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        if state[2:5] != (None, None, None):
            raise ValueError('a dtype of several parts')
        self.dtype = self.dtype.newbyteorder(state[1])

    def array(self, shape, raw, order='C'):
        """An array of its own of the bytes raw, which must be as many."""
        array = np.ndarray(shape, self.dtype, raw, order=order)
        if array.nbytes != len(raw):
            raise ValueError(f'{len(raw)} bytes for {array.nbytes}')
        return array.astype(self.dtype.newbyteorder('='), order)


class Array:
    """Stands for numpy.ndarray."""

    value = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, raw = state
        self.value = dtype.array(shape, raw, 'F' if fortran else 'C')

    def plain(self):
        """The array."""
        return self.value


def empty_array(cls, shape, code):
    """Stands for NumPy's _reconstruct, with whose result an array begins."""
    return Array()


def array_of(raw, dtype, shape, order):
    """Stands for NumPy's _frombuffer, as which pickle's protocol 5 has arrays."""
    array = Array()
    array.value = dtype.array(shape, raw, order)
    return array


def scalar(dtype, raw):
    """Stands for NumPy's function that makes a number, or a text: Python's own."""
    return dtype.array((), raw).item()


class History:
    """Stands for mmengine's HistoryBuffer."""

    numbers = ()

    def __setstate__(self, state):
        values = state['_log_history'].plain(), state['_count_history'].plain()
        self.numbers = [torch.from_numpy(value) for value in values]

    def plain(self):
        """The values and their counts: a list of two tensors of one length."""
        return list(self.numbers)


def no_bytes():
    """Stands for bytes, by which pickle writes none of them."""
    return b''


def method_name(owner, name):
    """Stands for getattr, by which a HistoryBuffer names its methods."""
    return str(name)


class Dict:
    """Stands for classes of dicts: a plain dict is made in their place."""

    def __new__(cls, *content):
        return dict(content[0]) if content and isinstance(content[0], dict) else {}


def stand_ins():
    """What may stand in a checkpoint, and what is made of it.

    Returns:
        list: for torch.serialization.add_safe_globals of PyTorch 2.6 or newer.
    """
    return [
        (Array, 'numpy.ndarray'),
        (DType, 'numpy.dtype'),
        *(  # before and since NumPy 2
            (function, f'{package}.multiarray.{name}')
            for package in ('numpy.core', 'numpy._core')
            for name, function in (('_reconstruct', empty_array), ('scalar', scalar))
        ),
        (History, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (method_name, 'builtins.getattr'),
        (no_bytes, 'builtins.bytes'),
        (Dict, 'mmengine.config.config.ConfigDict'),
        (Dict, 'collections.defaultdict'),
        *(int, float, list, dict),  # one of which a defaultdict names
        argparse.Namespace,
    ]


def encode(text, encoding):
    """Stands for _codecs.encode, as which pickle's old protocols have bytes."""
    if encoding != 'latin1':
        raise ValueError(f'bytes in {encoding}')
    return text.encode(encoding)


class ArrayUnpickler(pickle.Unpickler):
    """Reads a pickle of arrays in containers, and runs nothing of it."""

    NAMES = {
        'numpy.ndarray': Array,
        'numpy.dtype': DType,
        '_codecs.encode': encode,
        'builtins.bytes': no_bytes,
        '__builtin__.bytes': no_bytes,  # in the protocols of Python 2
        **{  # before and since NumPy 2
            f'{package}.{name}': stand_in
            for package in ('numpy.core', 'numpy._core')
            for name, stand_in in (
                ('multiarray._reconstruct', empty_array),
                ('multiarray.scalar', scalar),
                ('numeric._frombuffer', array_of),
            )
        },
    }

    def find_class(self, module, name):
        """The stand-in for a name that the pickle has."""
        try:
            return self.NAMES[f'{module}.{name}']
        except KeyError:
            raise pickle.UnpicklingError(
                f'it holds {module}.{name}, which is no plain data and could run '
                f'a program'
            ) from None


def read_arrays(path):
    """What a pickle of NumPy's arrays and numbers, in containers, holds.

    Args:
        path (str | Path): the file.

    Returns:
        the object; lists, tuples and dicts in it are Python's own.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, no pickle, or holds something else; the
            text says which.
    """
    with open(path, 'rb') as file:
        try:
            return to_plain(ArrayUnpickler(file).load())
        except pickle.UnpicklingError as error:
            text = str(error)
            reason = text if text.startswith('it holds') else 'it is no whole pickle'
        except OSError:
            raise
        except Exception:  # a damaged file can raise anything
            reason = 'it is no whole pickle'
    raise ValueError(reason)


def to_plain(value, done=None):
    """Put real data in the place of stand-ins, in dicts, lists and tuples.

    Args:
        value: what torch.load returned; dicts and lists are changed in place.
        done (dict | None): of the containers that were met, by id.

    Returns:
        the value, or what is in its place.
    """
    done = {} if done is None else done
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, (Array, History)):
        return value.plain()
    if isinstance(value, argparse.Namespace):
        to_plain(vars(value), done)
    elif type(value) in (dict, OrderedDict, Counter):
        done[id(value)] = value
        for key, item in value.items():
            value[key] = to_plain(item, done)
    elif type(value) is list:
        done[id(value)] = value
        value[:] = [to_plain(item, done) for item in value]
    elif type(value) is tuple:
        whole = tuple(to_plain(item, done) for item in value)
        done[id(value)] = whole
        return whole
    return value
