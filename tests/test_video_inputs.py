"""tools/video_inputs.py: what is shown is what testing scores."""

import pytest
import torch
import video_inputs  # pytest would take testing_config for a test
from conftest import ROOT
from hosts import HostError
from script_calls import make_clips
from videos import make_video

CONFIG = str(ROOT / 'configs' / 'DNR_resnet18_arrow_demo.py')


def test_frames_are_those_of_the_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    make_clips(tmp_path, 'data/arrow', 1, 1, 1)
    config = video_inputs.testing_config(CONFIG)
    dataset = config.test_dataloader.dataset
    folder = tmp_path / 'data/arrow/rawframes/test/grow/00000'
    shown = video_inputs.clip_inputs(config, str(folder))['inputs']
    from mmaction.registry import DATASETS

    lines = (tmp_path / 'data/arrow/test.txt').read_text().splitlines()
    place = [line.split()[0] for line in lines].index('grow/00000')
    assert torch.equal(DATASETS.build(dataset)[place]['inputs'], shown)
    assert shown.shape == (8, 3, 32, 32) and shown.dtype == torch.uint8
    assert shown.float().std() > 10
    # A frame that is numbered 0 is not used; one that is missing is told.
    name = 'image_{:05d}.jpg'.format
    (folder / name(0)).write_bytes((folder / name(3)).read_bytes())
    assert torch.equal(video_inputs.clip_inputs(config, str(folder))['inputs'], shown)
    (folder / name(4)).unlink()
    with pytest.raises(HostError, match='has 9 frames, but no image_00004.jpg'):
        video_inputs.clip_inputs(config, str(folder))
    (folder / name(1)).unlink()
    with pytest.raises(HostError, match='has no image_00001.jpg: it should be the'):
        video_inputs.clip_inputs(config, str(folder))


def test_a_config_of_frames_takes_a_video(tmp_path):
    make_video(tmp_path / 'a.mp4', frames=12, size=(48, 40))
    config = video_inputs.testing_config(CONFIG)
    options = {'data.test.type': 'VideoDataset', 'data.test.video_ext': None}
    videos = video_inputs.testing_config(CONFIG, options)
    shown = [
        video_inputs.clip_inputs(c, str(tmp_path / 'a.mp4'))['inputs']
        for c in (config, videos)
    ]
    assert torch.equal(*shown) and shown[0].shape == (8, 3, 32, 32)
    (tmp_path / 'b.mp4').write_bytes(b'no video')
    with pytest.raises(HostError, match='^[^ ]*b.mp4 cannot be read: '):
        video_inputs.clip_inputs(config, str(tmp_path / 'b.mp4'))
