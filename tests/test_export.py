"""The evaluation model exports: torch.export, and ONNX with ONNX Runtime.

For any number of clips, what is exported takes clips, (N, T, 3, H, W): N is
then the one free size. Of a number of images that must be a multiple of T,
torch.export makes an expression that grows with every layer.
"""

import pytest
import torch
from torch import nn

from resnet_dnr import DynamicNorm, RelayCell, ResNet_DNR

pytestmark = [
    pytest.mark.skipif(
        tuple(map(int, torch.__version__.split('.')[:2])) < (2, 8),
        reason=f'torch {torch.__version__}; exports are for 2.8 or newer',
    ),
    # A trace must not warn of the model; the second is torch's own.
    pytest.mark.filterwarnings('error:::resnet_dnr'),
    pytest.mark.filterwarnings('ignore:.*LeafSpec:FutureWarning'),
]

T = 8


class Clips(nn.Module):
    """A backbone on clips: (N, T, 3, H, W) to (N * T, C', H', W')."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, clips):
        return self.backbone(clips.flatten(0, 1))


def build(depth, stages=4):
    """A network in evaluation mode in which every group of frames differs."""
    torch.manual_seed(0)
    backbone = ResNet_DNR(
        depth,
        num_stages=stages,
        strides=(1, 2, 2, 2)[:stages],
        dilations=(1,) * stages,
        out_indices=(stages - 1,),
        bn_eval=False,
        n_segment=T,
        num_groups=4,
        backend='plain',
    )
    backbone.init_weights()
    for module in backbone.modules():
        if isinstance(module, (nn.BatchNorm2d, DynamicNorm)):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
        elif isinstance(module, RelayCell):
            for weight in module.parameters():
                nn.init.normal_(weight, 0, 0.3)
    return Clips(backbone).eval()


def clips(count):
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, T, 3, 32, 32, generator=generator)


def export(model):
    """Export on 2 clips, for any number of them."""
    return torch.export.export(
        model, (clips(2),), dynamic_shapes={'clips': {0: torch.export.Dim('clips')}}
    )


def assert_agrees(run, model, tolerance):
    """run(clips) is the model's output, for other numbers of clips too."""
    for count in (2, 1, 5):
        with torch.no_grad():
            expected = model(clips(count))
        # Every frame's output is another one, so order and count matter.
        assert expected.flatten(1).unique(dim=0).size(0) == count * T
        actual = run(clips(count))
        assert actual.shape == expected.shape
        error = (actual - expected).abs().max() / expected.abs().max()
        assert error <= tolerance, f'{count} clips: {error:.1e}'


@pytest.fixture(scope='module')
def resnet18():
    """The model and its exported program, made once."""
    model = build(18)
    return model, export(model)


def check_program(model, program):
    with torch.no_grad():
        assert_agrees(program.module(), model, 1e-5)


@pytest.mark.full
def test_resnet18(resnet18):
    check_program(*resnet18)


@pytest.mark.full
def test_resnet50():
    model = build(50)
    check_program(model, export(model))


@pytest.mark.full
def test_images():
    """The backbone by itself exports, for as many images as it is shown."""
    backbone, images = build(50, stages=1).backbone, clips(2).flatten(0, 1)
    program = torch.export.export(backbone, (images,))
    with torch.no_grad():
        torch.testing.assert_close(
            program.module()(images), backbone(images), rtol=0, atol=1e-5
        )


def check_onnx(model, program, folder):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    onnxruntime = pytest.importorskip('onnxruntime')
    path = folder / 'model.onnx'
    torch.onnx.export(program, dynamo=True, verbose=False).save(path)
    session = onnxruntime.InferenceSession(
        str(path), providers=['CPUExecutionProvider']
    )
    count, *shape = session.get_inputs()[0].shape
    assert isinstance(count, str) and shape == [T, 3, 32, 32]  # N is free
    assert_agrees(
        lambda x: torch.from_numpy(session.run(None, {'clips': x.numpy()})[0]),
        model,
        1e-4,
    )


@pytest.mark.full
def test_onnx_resnet18(resnet18, tmp_path):
    check_onnx(*resnet18, tmp_path)


@pytest.mark.full
def test_onnx_bottlenecks(tmp_path):
    """ResNet-50's first stage alone: its whole graph takes a minute."""
    model = build(50, stages=1)
    check_onnx(model, export(model), tmp_path)


@pytest.mark.full
def test_onnx_basic_blocks(tmp_path):
    """And ResNet-18's, which is quicker still."""
    model = build(18, stages=1)
    check_onnx(model, export(model), tmp_path)
