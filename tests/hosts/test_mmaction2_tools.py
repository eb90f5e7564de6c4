"""A converted config runs with mmaction2's own tools, with the scores of our test."""

import importlib.util
import pickle

import numpy as np
import pytest
import torch
from conftest import ROOT
from script_calls import call, make_clips
from videos import make_video

from resnet_dnr import ResNet_DNR

DEMO = str(ROOT / 'configs' / 'DNR_resnet18_arrow_demo.py')
CONVERT = ROOT / 'tools' / 'convert_config.py'
TEST = ROOT / 'tools' / 'test_recognizer.py'
TINY = f"""\
_base_ = {DEMO!r}
model = dict(
    backbone=dict(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,)),
    spatial_temporal_module=dict(spatial_size=8),
    cls_head=dict(in_channels=64),
)
data = dict(workers_per_gpu=0)
"""
VIDEOS = """
clip = dict(
    type='VideoDataset', ann_file='videos.txt', img_prefix='videos',
    num_segments=8, new_length=1,
)
data = dict(workers_per_gpu=0, train=clip, val=clip, test=clip)
"""


# The inferencer's visualizer has no folder for pictures, and is asked for none.
NO_PICTURES = pytest.mark.filterwarnings('ignore:Failed to add:UserWarning')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Clips as frames and as videos, a converted config of each, and a checkpoint."""
    folder = make_clips(
        tmp_path_factory.mktemp('tools'), 'data/arrow', train=1, val=1, test=1
    )
    (folder / 'videos').mkdir()
    for n, frames in enumerate((5, 30)):
        make_video(folder / 'videos' / f'{n}.mp4', frames)
    (folder / 'videos.txt').write_text('0 0\n1 1\n')
    torch.manual_seed(0)
    backbone = ResNet_DNR(
        18, num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,), bn_eval=False
    )
    backbone.init_weights()
    for _ in range(3):
        backbone(torch.randn(16, 3, 32, 32))
    state = {f'backbone.{name}': value for name, value in backbone.state_dict().items()}
    state['cls_head.fc_cls.weight'] = torch.randn(4, 64)
    state['cls_head.fc_cls.bias'] = torch.zeros(4)
    torch.save(dict(state_dict=state), folder / 'start.pth')
    for name, text in (('frames', TINY), ('videos', TINY + VIDEOS)):
        (folder / f'{name}.py').write_text(text)
        code, log = call(CONVERT, f'{name}.py', f'native_{name}.py', cwd=folder)
        assert code == 0, log
    return folder


def our_scores(folder, name):
    code, log = call(
        TEST, f'{name}.py', 'start.pth', '--out', f'{name}.pkl', cwd=folder
    )
    assert code == 0, log
    return np.concatenate(pickle.loads((folder / f'{name}.pkl').read_bytes()))


def rows_of(path):
    return [line.rsplit(' ', 2) for line in path.read_text().splitlines()]


def test_inference_recognizer_on_videos(folder, monkeypatch):
    """A path is enough; the pipeline is that of the config."""
    from mmaction.apis import inference_recognizer, init_recognizer

    monkeypatch.chdir(folder)
    model = init_recognizer('native_videos.py', 'start.pth', device='cpu')
    scores = [
        inference_recognizer(model, f'videos/{n}.mp4').pred_scores.item.numpy()
        for n in (0, 1)
    ]
    np.testing.assert_allclose(scores, our_scores(folder, 'videos'), atol=1e-5)


@NO_PICTURES
def test_inferencer_on_videos(folder, monkeypatch):
    """By dicts; and by paths where decord is, which mmaction2 opens them with."""
    from mmaction.apis.inferencers import MMAction2Inferencer

    monkeypatch.chdir(folder)
    kinds = ['dict'] + ['video'] * (importlib.util.find_spec('decord') is not None)
    wanted = our_scores(folder, 'videos')
    for kind in kinds:
        inferencer = MMAction2Inferencer(
            'native_videos.py', 'start.pth', device='cpu', input_format=kind
        )
        paths = [f'videos/{n}.mp4' for n in (0, 1)]
        inputs = (
            [dict(filename=p, label=-1) for p in paths] if kind == 'dict' else paths
        )
        scores = [
            result['rec_scores'][0] for result in inferencer(inputs)['predictions']
        ]
        np.testing.assert_allclose(scores, wanted, atol=1e-5)


@NO_PICTURES
def test_inferencer_on_frames(folder, monkeypatch):
    """Folders of frames, numbered from 1 by the template of the config."""
    from mmaction.apis.inferencers import ActionRecogInferencer

    monkeypatch.chdir(folder)
    inferencer = ActionRecogInferencer(
        'native_frames.py',
        'start.pth',
        device='cpu',
        input_format='rawframes',
        pack_cfg=dict(filename_tmpl='image_{:05d}.jpg'),
    )
    names = [name for name, _, _ in rows_of(folder / 'data/arrow/test.txt')]
    results = inferencer([f'data/arrow/rawframes/test/{name}' for name in names])
    scores = [result['pred_scores'] for result in results['predictions']]
    np.testing.assert_allclose(scores, our_scores(folder, 'frames'), atol=1e-5)


def test_inference_recognizer_on_frames(folder, monkeypatch):
    from mmaction.apis import inference_recognizer, init_recognizer

    monkeypatch.chdir(folder)
    model = init_recognizer('native_frames.py', 'start.pth', device='cpu')
    scores = []
    for name, frames, _ in rows_of(folder / 'data/arrow/test.txt'):
        clip = dict(
            frame_dir=f'data/arrow/rawframes/test/{name}',
            total_frames=int(frames),
            filename_tmpl='image_{:05d}.jpg',
            label=-1,
        )
        scores.append(inference_recognizer(model, clip).pred_scores.item.numpy())
    np.testing.assert_allclose(scores, our_scores(folder, 'frames'), atol=1e-5)
