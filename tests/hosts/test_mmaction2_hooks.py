"""Checkpoints on mmaction2 are whole. test_faults_training.py has the rest."""

import pytest
from hosts.mmaction2_hooks import WholeFileBackend


def test_checkpoints_are_written_whole(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    WholeFileBackend().put(b'old', path)

    def full(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='No space left'):
        WholeFileBackend().put(b'new', path)
    assert path.read_bytes() == b'old'
    assert [p.name for p in tmp_path.iterdir()] == ['file']
