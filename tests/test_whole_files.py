"""tools/whole_files.py: the new file or the old one, and nothing beside it."""

import json
import os

import pytest
from whole_files import (
    remove_unfinished,
    replacing,
    temporary_name,
    write_json,
    write_or_keep,
    write_whole,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / 'file'
    write_whole(path, b'\x00old')
    assert path.read_bytes() == b'\x00old'
    write_whole(str(path), 'nëw\n')
    assert path.read_text(encoding='utf-8') == 'nëw\n'
    assert names(tmp_path) == ['file']


def test_json(tmp_path):
    write_json(tmp_path / 'a.json', dict(a=[1, 2]))
    assert (tmp_path / 'a.json').read_text() == '{\n "a": [\n  1,\n  2\n ]\n}\n'
    write_json(tmp_path / 'b.json', dict(a=[1, 2]), indent=None)
    assert (tmp_path / 'b.json').read_text() == '{"a": [1, 2]}\n'


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / 'a.json'
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, object())
    assert json.loads(path.read_text()) == 1
    assert names(tmp_path) == ['a.json']


def full(descriptor):
    raise OSError(28, 'No space left on device')


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    write_whole(path, b'old')
    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='No space left') as caught:
        write_whole(path, b'new')
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b'old'
    assert names(tmp_path) == ['file']


def test_what_cannot_be_written_to_its_place_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'temporary'))
    path = tmp_path / 'folder' / 'scores.pkl'
    with pytest.raises(FileNotFoundError) as caught:  # no temporary folder either
        write_or_keep(path, b'scores')
    assert caught.value.strerror == 'No such file or directory'
    (tmp_path / 'temporary').mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        write_or_keep(path, b'scores')
    assert caught.value.filename == str(path)
    (kept,) = (tmp_path / 'temporary').glob('*/*')
    assert caught.value.strerror.endswith(f'directory; it is kept as {kept}')
    assert kept.name == 'scores.pkl' and kept.read_bytes() == b'scores'
    kept.unlink()
    kept.parent.rmdir()
    monkeypatch.setattr('os.fsync', full)  # there is room nowhere
    path.parent.mkdir()
    with pytest.raises(OSError, match='No space left') as caught:
        write_or_keep(path, b'scores')
    assert 'kept' not in caught.value.strerror
    assert not list((tmp_path / 'temporary').iterdir())
    monkeypatch.undo()
    write_or_keep(path, b'scores')
    assert path.read_bytes() == b'scores'


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    path = tmp_path / 'folder' / 'file'
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(path, b'')
    assert caught.value.filename == str(path)
    path.mkdir(parents=True)
    with pytest.raises(OSError) as caught:  # a folder is in its place
        write_whole(path, b'')
    assert caught.value.filename == str(path)
    assert str(path) in str(caught.value) and '.tmp' not in str(caught.value)
    assert names(path.parent) == ['file']


def test_any_failure_in_the_block_leaves_the_old_file(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(KeyError):
        with replacing(path) as temporary:
            with open(temporary, 'w') as file:
                file.write('half')
            raise KeyError
    with pytest.raises(FileNotFoundError) as caught, replacing(path):
        open(tmp_path / 'other')
    assert caught.value.filename == str(tmp_path / 'other')
    assert path.read_text() == 'old'
    assert names(tmp_path) == ['file']


def test_the_old_file_is_there_until_the_block_ends(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with replacing(path) as temporary:
        assert temporary == temporary_name(path)
        with open(temporary, 'w') as file:
            file.write('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'


def test_what_a_killed_process_left_is_removed(tmp_path):
    folder = tmp_path / 'with [brackets]'
    folder.mkdir()
    for name in ('a.pth', 'b.json'):
        (folder / name).touch()
    if os.fork() == 0:
        with replacing(folder / 'a.pth') as temporary:
            open(temporary, 'w').close()
            os._exit(0)
    os.wait()
    assert len(names(folder)) == 3
    remove_unfinished(folder)
    assert names(folder) == ['a.pth', 'b.json']
