"""tools/checkpoint_files.py: what is read, filled in, and refused."""

import pytest
import torch
from checkpoint_files import fill_model, read_checkpoint, write_checkpoint
from hosts import HostError


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
        (dict(weight=torch.ones(2, 1)), 'size mismatch for weight'),
        (dict(more=torch.ones(1)), 'which has no more'),
    ):
        with pytest.raises(HostError, match=f'a.pth is no checkpoint.*{reason}'):
            fill_model(model, dict(state, **change), 'a.pth')
    with pytest.raises(HostError, match='It has no bias'):
        fill_model(model, {'weight': torch.ones(1, 1)}, 'a.pth')
