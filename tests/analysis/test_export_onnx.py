"""tools/analysis/export_onnx.py: the file gives what testing gives."""

import json

import numpy as np
import pytest
import torch
from networks import TOOLS, frames_of, small  # noqa: F401
from script_calls import call

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split('.')[:2])) < (2, 8),
    reason=f'torch {torch.__version__}; exports are for 2.8 or newer',
)
SCRIPT = TOOLS / 'export_onnx.py'


def load(path):
    return onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])


@pytest.fixture(scope='module')
def model(small):  # noqa: F811
    """The recognizer of `small`, and its testing config."""
    from video_inputs import load_recognizer, testing_config

    config = testing_config(str(small / 'config.py'))
    return config, load_recognizer(config, str(small / 'small.pth'), 'cpu')


@pytest.mark.full
def test_scores_are_those_of_testing(small, model):  # noqa: F811
    from analysis.clips import collate
    from video_inputs import clip_inputs

    code, output = call(
        SCRIPT, 'config.py', 'small.pth', '--out', 'new/a.onnx', cwd=small
    )
    assert code == 0 and 'clips (N, 8, 3, 32, 32), uint8' in output, output
    assert [path.name for path in (small / 'new').iterdir()] == ['a.onnx']
    session = load(small / 'new/a.onnx')
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.type, given.shape[1:]) == ('tensor(uint8)', [8, 3, 32, 32])
    assert isinstance(given.shape[0], str) and made.name == 'scores'
    assert session.get_modelmeta().custom_metadata_map['clip'] == '8x3x32x32'
    config, recognizer = model
    clip = clip_inputs(config, str(frames_of(small)[0]))
    other = dict(clip, inputs=clip['inputs'].flip(0))
    clips = [clip, other, clip, clip]
    with torch.no_grad():
        samples = recognizer.test_step(collate(clips))
    expected = torch.stack([sample.pred_scores.item for sample in samples]).numpy()
    order = abs(expected[0] - expected[1]).max()  # of frames, matters
    assert order > 1e-2 * abs(expected).max()
    inputs = torch.stack([clip['inputs'] for clip in clips]).numpy()
    (scores,) = session.run(None, {'clips': inputs})
    np.testing.assert_allclose(scores, expected, atol=1e-4 * abs(expected).max())


@pytest.mark.full
def test_the_backbone_alone(small, model):  # noqa: F811
    code, output = call(
        *(SCRIPT, 'config.py', 'small.pth', '--out', 'b.onnx', '--backbone'), cwd=small
    )
    assert code == 0 and 'float32' in output, output
    session = load(small / 'b.onnx')
    known = session.get_modelmeta().custom_metadata_map
    assert known['channels'] == 'RGB' and len(json.loads(known['mean'])) == 3
    clips = torch.randn(3, 8, 3, 32, 32)
    with torch.no_grad():
        expected = model[1].backbone(clips.flatten(0, 1)).numpy()
    (features,) = session.run(None, {'clips': clips.numpy()})
    np.testing.assert_allclose(features, expected, atol=1e-4 * abs(expected).max())


def test_a_file_that_differs_is_refused(small, model):  # noqa: F811
    """What is written is what is checked."""
    from analysis import export_onnx
    from analysis.network import Network
    from hosts import HostError

    path = small / 'linear.onnx'

    class Other(torch.nn.Module):
        def forward(self, clips):
            return clips.flatten(1)[:, :4].float()

    program = export_onnx.export(Other().eval(), (8, 3, 32, 32), False, {})
    program.save(str(path))
    with pytest.raises(HostError, match='differ by .*; nothing was written'):
        export_onnx.check_file(str(path), Network(model[1]), (8, 3, 32, 32), False)


@pytest.mark.parametrize(
    'arguments, message',
    (
        (['config.py', 'none.pth'], 'checkpoint none.pth does not exist'),
        (['config.py', 'config.py'], 'config.py cannot be loaded as a checkpoint'),
        (['config.py', 'small.pth', '--out', 'a.pt'], '--out a.pt should end in .onnx'),
        (
            ['config.py', 'small.pth', '--cfg-options', 'model.backbone.dnr=none'],
            'small.pth is no checkpoint of this model',
        ),
    ),
)
def test_what_is_refused(small, arguments, message):  # noqa: F811
    code, _ = call(SCRIPT, *arguments, cwd=small)
    assert str(code).startswith('error: ') and message in code
    assert not (small / 'model.onnx').exists()


def test_packages_that_are_missing(monkeypatch):
    from analysis import export_onnx
    from hosts import HostError

    monkeypatch.setattr(export_onnx, 'PACKAGES', ('onnx', 'no_such_package'))
    with pytest.raises(HostError, match='pip install no_such_package'):
        export_onnx.check_packages()
