#!/usr/bin/env python
"""Where a network looks: Grad-CAM's heat map on the frames of a video.

    tools/analysis/gradcam.py CONFIG CHECKPOINT wave.mp4 --out gradcam

It leaves gradcam.mp4, the frames that the network sees with the heat map on
them, and gradcam.png, a sheet of frames with the same below. The map is
mmaction2's: the gradient of a class's score by a layer's features. The class is
the predicted one, or --label.
"""

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hosts import HostError, need_mmaction2, run  # noqa: E402

need_mmaction2('tools/analysis/gradcam.py')

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from hosts.checks import check_out  # noqa: E402
from hosts.options import nearest  # noqa: E402
from prediction.drawing import writing_video  # noqa: E402
from video_inputs import (  # noqa: E402
    class_names,
    clip_inputs,
    images_of,
    load_recognizer,
    testing_config,
)

from analysis.clips import collate  # noqa: E402
from analysis.network import clip_shape, config_parser  # noqa: E402
from analysis.plotting import plt, save  # noqa: E402

SIDE = 256  # pixels at least, of the video's height
RATE = 4  # frames a second of it
ROWS = 6  # clips at most that the sheet shows
COARSE = 4  # places a side; below, a map hardly says where


def choose_layer(model, name):
    """A layer of the backbone, in the words of mmaction2's GradCAM.

    Args:
        model (nn.Module): the recognizer.
        name (str | None): such as layer3; None for the last one.

    Returns:
        str: such as backbone/layer3.

    Raises:
        HostError: there is no such layer.
    """
    layers = model.backbone.res_layers[: model.backbone.out_indices[0] + 1]
    if name and name not in layers:
        raise HostError(f'--layer {name} is none; {nearest(name, layers)}')
    return f'backbone/{name or layers[-1]}'


def choose_label(text, names):
    """A class by its name or number.

    Raises:
        HostError: there is no such class.
    """
    if text in names:
        return names.index(text)
    if text.isdigit() and int(text) < len(names):
        return int(text)
    raise HostError(f'--label {text} is no class; {nearest(text, names)}')


def heat_maps(model, layer, clip, label=None):
    """Grad-CAM of a clip.

    Args:
        model (nn.Module): the recognizer.
        layer (str): of :func:`choose_layer`.
        clip (dict): of video_inputs.clip_inputs.
        label (int | None): the class to explain; None for the predicted one.

    Returns:
        tuple: maps, np.ndarray (images, H, W, 3) uint8, the colours of
        matplotlib's jet in BGR; the scores, Tensor (classes,); and how many
        places of a frame a map has a value for: height and width.
    """
    from mmaction.utils import GradCAM

    with warnings.catch_warnings():
        # Of a hook that torch wants registered by another call.
        warnings.filterwarnings('ignore', '.*backward hook', FutureWarning)
        camera = GradCAM(model, layer, colormap='jet')
        data = collate([clip])
        if label is not None:
            data['data_samples'][0].set_gt_labels(label)
        # It blends with the images as they are, BGR: here with none of them.
        colours, scores = camera(data, use_labels=label is not None, alpha=1.0)
    colours = colours.flatten(0, 1).numpy()[..., ::-1]
    maps = (255 * colours).round().astype(np.uint8)
    return maps, scores[0].detach().cpu(), camera.target_activations.shape[-2:]


def draw_sheet(images, blended, frames, title):
    """Frames in rows of a clip each, with the heat map below.

    Args:
        images, blended (np.ndarray): (images, H, W, 3) uint8, BGR.
        frames (int): T, images of a clip.
        title (str): above them.
    """
    clips = len(images) // frames
    shown = np.unique(np.linspace(0, clips - 1, min(ROWS, clips)).round().astype(int))
    rows = [
        np.hstack(pictures[frames * clip : frames * (clip + 1)])
        for clip in shown
        for pictures in (images, blended)
    ]
    sheet = np.vstack(rows)[..., ::-1]
    if len(shown) < clips:
        title += f'; {len(shown)} of {clips} clips'
    width = 10
    figure, axis = plt.subplots(
        figsize=(width, width * sheet.shape[0] / sheet.shape[1] + 0.4),
        layout='constrained',
    )
    axis.imshow(sheet)
    axis.set_axis_off()
    axis.set_title(title, loc='left', fontsize=10)
    return figure


def gradcam(args):
    """Run the command."""
    sheet, video = f'{args.out}.png', f'{args.out}.mp4'
    check_out(sheet, ('.png',))
    check_out(video, ('.mp4',))
    config = testing_config(args.config, args.cfg_options)
    names = class_names(config, args.labels)
    label = None if args.label is None else choose_label(args.label, names)
    model = load_recognizer(config, args.checkpoint)
    layer = choose_layer(model, args.layer)
    clip = clip_inputs(config, args.video)
    maps, scores, (rows, columns) = heat_maps(model, layer, clip, label)
    shares = torch.softmax(scores.double(), 0)
    best = int(scores.argmax())
    told = best if label is None else label
    text = f'{Path(args.video).name}: {names[best]} {shares[best]:.0%}'
    explained = (
        f'Grad-CAM of {layer.split("/")[1]}, {columns} x {rows} a frame: '
        f'red speaks for {names[told]}'
    )
    images = images_of(clip).permute(0, 2, 3, 1).numpy()
    blended = (images // 2 + maps // 2).astype(np.uint8)
    figure = draw_sheet(images, blended, clip_shape(config)[0], f'{text}; {explained}')
    save(figure, sheet, '--out')
    scale = max(1, -(-SIDE // images.shape[1]))
    size = scale * images.shape[2], scale * images.shape[1]
    with writing_video(video, RATE) as writer:
        for number, image in enumerate(blended):
            image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
            writer.write(number / RATE, image)
    print(f'{text}\nwrote {sheet} and {video}: {explained}')
    if min(rows, columns) < COARSE and not args.layer:
        print('the map is coarse: an earlier stage has a finer one, as --layer layer2')


def parse_args():
    parser = config_parser(__doc__)
    parser.add_argument('video', help='video file, or folder of frames')
    parser.add_argument('--labels', metavar='FILE', help="the classes' names, by label")
    parser.add_argument('--label', help='class to explain; default: the predicted one')
    parser.add_argument('--layer', help='such as layer3; default: the last stage')
    parser.add_argument(
        '--out',
        default='gradcam',
        metavar='NAME',
        help='leaves NAME.png and NAME.mp4 (default: %(default)s)',
    )
    return parser.parse_args()


if __name__ == '__main__':
    run(gradcam, parse_args())
