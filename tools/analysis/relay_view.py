#!/usr/bin/env python
"""What the relay predicts over the groups of a clip, and of the clip reversed.

    tools/analysis/relay_view.py CONFIG CHECKPOINT wave.mp4 --out relay.svg

The picture has the scales h and the shifts c of one cross-temporal
normalization: of the clip played forwards (solid) and backwards (dashed), for
the channels in which these differ most. The layer is that which sees the order
of frames most, or --layer. Each video has a column, with its name and the
classes predicted of it, and all are of one layer. Where testing takes several
clips of a video, the one in the middle is shown.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hosts import HostError, need_mmaction2, run  # noqa: E402

need_mmaction2('tools/analysis/relay_view.py')

from hosts.checks import check_out  # noqa: E402
from hosts.options import nearest  # noqa: E402
from video_inputs import (  # noqa: E402
    class_names,
    clip_inputs,
    load_recognizer,
    testing_config,
)

from analysis.clips import predict  # noqa: E402
from analysis.network import clip_shape, config_parser  # noqa: E402
from analysis.plotting import save  # noqa: E402
from analysis.relay_drawing import draw_relays  # noqa: E402
from analysis.relays import relay_of, watch_relays  # noqa: E402
from resnet_dnr import CrossTemporalNorm  # noqa: E402

FORMATS = '.svg', '.png', '.pdf'


def middle_clip(clip, frames):
    """The clip in the middle of those that testing takes of a video.

    Args:
        clip (dict): of video_inputs.clip_inputs, with inputs (images, ...).
        frames (int): T, images of a clip.

    Returns:
        dict: the same, with inputs (T, ...), or (1, 3, T, ...) of a 3D network.
    """
    size = 1 if clip['inputs'].ndim == 5 else frames
    start = len(clip['inputs']) // size // 2 * size
    return dict(clip, inputs=clip['inputs'][start : start + size])


def reversed_clip(clip):
    """A clip of :func:`middle_clip` played backwards."""
    inputs = clip['inputs']
    return dict(clip, inputs=inputs.flip(2 if inputs.ndim == 5 else 0))


def short_names(videos):
    """What the picture calls videos: names of files, if these tell them apart.

    Args:
        videos (list[str]): paths.

    Returns:
        list[str]: a name a video. Where two files have the same name, their
        paths in the folder that has all.
    """
    names = [Path(video).name for video in videos]
    if len(set(names)) < len(set(videos)):
        paths = [os.path.abspath(video) for video in videos]
        names = [os.path.relpath(path, os.path.commonpath(paths)) for path in paths]
    return names


def relay_view(args):
    """Run the command."""
    check_out(args.out, FORMATS)
    config = testing_config(args.config, args.cfg_options)
    names = class_names(config, args.labels)
    model = load_recognizer(config, args.checkpoint)
    layers = [
        name
        for name, module in model.backbone.named_modules()
        if isinstance(module, CrossTemporalNorm) and module.num_groups > 1
    ]
    if not layers:
        raise HostError(
            f'{args.config} has no relay over groups of frames: '
            f'model.backbone.dnr={config.model.backbone.get("dnr", "both")!r} and '
            f'num_groups={config.model.backbone.get("num_groups", 4)}'
        )
    if args.layer and args.layer not in layers:
        raise HostError(
            f'--layer {args.layer} has no relay over groups of frames; '
            f'{nearest(args.layer, layers)}'
        )
    relayed = watch_relays(model.backbone)
    titles, recorded = [], []
    for video, name in zip(args.videos, short_names(args.videos)):
        clip = middle_clip(clip_inputs(config, video), clip_shape(config)[0])
        both = [clip, reversed_clip(clip)]
        texts = [f'{names[n]} {share:.0%}' for n, share in predict(model, both)]
        print(f'{video}: {texts[0]}; backwards: {texts[1]}')
        titles.append(f'{name}\n— forwards: {texts[0]}\n- - backwards: {texts[1]}')
        recorded.append(
            {
                name: values
                for name, values in relayed.items()
                if name == args.layer or not args.layer
            }
        )
    layer, clips = relay_of(recorded)
    save(draw_relays(layer, clips, titles), args.out, '--out')
    print(f'wrote {args.out}: {layer}')


def parse_args():
    parser = config_parser(__doc__)
    parser.add_argument(
        'videos', nargs='+', metavar='VIDEO', help='video file, or folder of frames'
    )
    parser.add_argument('--labels', metavar='FILE', help="the classes' names, by label")
    parser.add_argument(
        '--layer', metavar='NAME', help='such as layer3.0.bn2; default: see above'
    )
    parser.add_argument(
        '--out', default='relay.svg', help='the picture (default: %(default)s)'
    )
    return parser.parse_args()


if __name__ == '__main__':
    run(relay_view, parse_args())
