"""The tools on mmaction2's own networks in WithDNR, of frames and of clips."""

import json

import pytest
from conftest import ROOT
from networks import TOOLS, frames_of, save_checkpoint, small  # noqa: F401
from script_calls import call

pytestmark = pytest.mark.full

CONFIG = """
_base_ = {base!r}
class_names = 'classes.txt'
model = dict(
    type={recognizer!r},
    backbone=dict(
        _delete_=True,
        type='WithDNR',
        n_segment=8,
        backbone=dict(
            type={network!r}, depth=18, pretrained='none.pth', {stages}
        ),
    ),
    {head}
)
data = dict({data})
"""
FORMAT = "{}=dict(input_format='NCTHW')"
NETWORKS = {
    'ResNetTSM': dict(
        recognizer='TSN2D',
        stages='out_indices=(3,)',
        head='',
        data='',
    ),
    'ResNet3dSlowOnly': dict(
        recognizer='TSN3D',
        # To export four stages takes minutes. A TSM has four.
        stages='num_stages=1, spatial_strides=(1,), temporal_strides=(1,), '
        'dilations=(1,), inflate=(0,), out_indices=(0,)',
        head='cls_head=dict(in_channels=64), spatial_temporal_module=dict('
        "_delete_=True, type='SimpleSpatialTemporalModule', spatial_type='avg', "
        'temporal_size=8, spatial_size=8)',
        data=', '.join(map(FORMAT.format, ('train', 'val', 'test'))),
    ),
}


@pytest.fixture(scope='module', params=list(NETWORKS))
def folder(request, small, tmp_path_factory):  # noqa: F811
    """A folder as `small` is, of another network."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / 'data').symlink_to(small / 'data')
    (folder / 'classes.txt').write_bytes((small / 'classes.txt').read_bytes())
    text = CONFIG.format(
        base=str(ROOT / 'configs' / 'DNR_resnet18_arrow_demo.py'),
        network=request.param,
        **NETWORKS[request.param],
    )
    (folder / 'config.py').write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_checkpoint(folder, 'a.pth')
    return folder


def test_the_tools(folder):
    """All say the same class, by the name that the config has for it."""
    video = frames_of(folder)[0]
    given = 'config.py', 'a.pth', video
    outputs = {}
    for tool, more in dict(gradcam=[], relay_view=['--out', 'relay.png']).items():
        code, outputs[tool] = call(TOOLS / f'{tool}.py', *given, *more, cwd=folder)
        assert code == 0, (code, outputs[tool])
    script = ROOT / 'tools' / 'predict.py'
    code, output = call(script, *given, '--out', 'r.json', cwd=folder)
    assert code == 0, (code, output)
    (video,) = json.loads((folder / 'r.json').read_text())['videos']
    best = video['top'][0]
    said = f': {best["name"]} {best["probability"]:.0%}'
    assert all(said in output for output in outputs.values()), (said, outputs)
    code, output = call(TOOLS / 'complexity.py', 'config.py', cwd=folder)
    assert code == 0 and 'depth 18, a clip of 8 frames of 32 x 32' in output, output


def test_export(folder):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    code, output = call(TOOLS / 'export_onnx.py', 'config.py', 'a.pth', cwd=folder)
    assert code == 0 and 'wrote model.onnx' in output, (code, output)
