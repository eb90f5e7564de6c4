#!/usr/bin/env python
"""A trained recognizer as an ONNX file, checked against ONNX Runtime.

    tools/analysis/export_onnx.py CONFIG CHECKPOINT --out model.onnx
    tools/analysis/export_onnx.py CONFIG CHECKPOINT --out backbone.onnx --backbone

The whole recognizer takes clips, (N, T, 3, H, W) uint8: frames of the size of
data.test, BGR as OpenCV reads them. It normalizes them and gives scores, (N,
classes) float32, raw. Where testing takes several clips or crops of a video,
its score is the mean over these. The backbone alone takes normalized images,
float32, and gives features, (N * T, C, h, w). N is free; the file's metadata
say the rest.

The file is there once ONNX Runtime gives with it, for one, two and three clips,
what PyTorch gives.
"""

import importlib.util
import json
import logging
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hosts import HostError, need_mmaction2, run  # noqa: E402

need_mmaction2('tools/analysis/export_onnx.py')

import torch  # noqa: E402
from hosts.checks import check_out  # noqa: E402
from video_inputs import load_recognizer, testing_config  # noqa: E402
from whole_files import replacing  # noqa: E402

from analysis.network import Network, clip_shape, config_parser  # noqa: E402

PACKAGES = 'onnx', 'onnxscript', 'onnxruntime'
TOLERANCE = 1e-3  # of the largest number that comes out; rounding gives 1e-6


def check_packages():
    """What an export takes is installed.

    Raises:
        HostError: it is not; the text says what to install.
    """
    if tuple(map(int, torch.__version__.split('.')[:2])) < (2, 8):
        raise HostError(f'exports take PyTorch 2.8 or newer, not {torch.__version__}')
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise HostError(
            f'{", ".join(missing)} is missing: pip install {" ".join(missing)}'
        )


def make_clips(count, shape, backbone_only):
    """Clips of noise, always the same: as the network takes them."""
    generator = torch.Generator().manual_seed(count)
    if backbone_only:
        return torch.randn(count, *shape, generator=generator)
    return torch.randint(
        0, 256, (count, *shape), dtype=torch.uint8, generator=generator
    )


def check_file(path, network, shape, backbone_only):
    """ONNX Runtime gives with a file what PyTorch gives with the network.

    Args:
        path (str): the ONNX file.
        network (Network): that it is of.
        shape (tuple[int]): of a clip.
        backbone_only (bool): what the network is.

    Returns:
        float: the largest difference, by the largest number that comes out.

    Raises:
        HostError: it gives something else.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    worst = 0.0
    for count in (1, 2, 3):
        clips = make_clips(count, shape, backbone_only)
        with torch.no_grad():
            expected = network(clips)
        (actual,) = session.run(None, {'clips': clips.numpy()})
        if actual.shape != tuple(expected.shape):
            raise HostError(
                f'for {count} clips the file gives {actual.shape}, PyTorch '
                f'{tuple(expected.shape)}; nothing was written'
            )
        difference = (torch.from_numpy(actual) - expected).abs().max()
        worst = max(worst, float(difference / expected.abs().max()))
    if not worst <= TOLERANCE:  # nor is NaN
        raise HostError(
            f'ONNX Runtime and PyTorch differ by {worst:.1e} of the largest '
            f'number; nothing was written'
        )
    return worst


def export(network, shape, backbone_only, metadata):
    """A network as an ONNX program.

    Args:
        network (Network): on the CPU.
        shape (tuple[int]): of a clip.
        backbone_only (bool): what it is.
        metadata (dict): names to texts, for the file.

    Returns:
        torch.onnx.ONNXProgram
    """
    with warnings.catch_warnings():
        # torch's own, of how it copies its trees.
        warnings.filterwarnings('ignore', '.*LeafSpec', FutureWarning)
        # Of torchvision's operations, which no network here has.
        logging.getLogger('torch.onnx').setLevel(logging.ERROR)
        program = torch.onnx.export(
            network,
            (make_clips(2, shape, backbone_only),),
            input_names=['clips'],
            output_names=['features' if backbone_only else 'scores'],
            dynamic_shapes={'clips': {0: torch.export.Dim('clips')}},
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props.update(metadata)
    return program


def export_onnx(args):
    """Run the command."""
    check_packages()
    check_out(args.out, ('.onnx',))
    config = testing_config(args.config, args.cfg_options)
    shape = clip_shape(config)
    recognizer = load_recognizer(config, args.checkpoint, 'cpu')
    network = Network(recognizer, args.backbone)
    images = recognizer.data_preprocessor
    metadata = dict(
        config=Path(args.config).name,
        clip='x'.join(map(str, shape)),
        pipeline=json.dumps(config.test_dataloader.dataset.pipeline),
    )
    if args.backbone:
        metadata.update(
            channels='RGB' if images.to_rgb else 'BGR',
            mean=json.dumps(images.mean.flatten().tolist()),
            std=json.dumps(images.std.flatten().tolist()),
        )
    print('exporting; this takes a minute or two', flush=True)
    program = export(network, shape, args.backbone, metadata)
    with replacing(args.out) as temporary:
        program.save(temporary)
        worst = check_file(temporary, network, shape, args.backbone)
    print(
        f'wrote {args.out}: clips (N, {", ".join(map(str, shape))}), '
        f'{"float32" if args.backbone else "uint8"}; ONNX Runtime differs from '
        f'PyTorch by {worst:.1e} of the largest number'
    )


def parse_args():
    parser = config_parser(__doc__)
    parser.add_argument(
        '--out', default='model.onnx', help='the file (default: %(default)s)'
    )
    parser.add_argument('--backbone', action='store_true', help='the backbone alone')
    return parser.parse_args()


if __name__ == '__main__':
    run(export_onnx, parse_args())
