"""tools/analysis/gradcam.py: the map is Grad-CAM's, on the frames of testing."""

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from networks import NAMES, TOOLS, frames_of, small  # noqa: F401
from script_calls import call
from video_files import Video
from videos import make_video

SCRIPT = TOOLS / 'gradcam.py'


def test_maps_are_the_gradient_by_the_features(small):  # noqa: F811
    from analysis.gradcam import choose_layer, heat_maps
    from video_inputs import clip_inputs, load_recognizer, testing_config

    config = testing_config(str(small / 'config.py'))
    model = load_recognizer(config, str(small / 'small.pth'), 'cpu')
    clip = clip_inputs(config, str(frames_of(small)[0]))
    data = model.data_preprocessor(dict(inputs=[clip['inputs']], data_samples=[]))
    with torch.no_grad():
        features = model.backbone(data['inputs'][0])
    contrasts = []
    for label in (None, 0, 1, 2, 3):
        maps, scores, places = heat_maps(model, choose_layer(model, None), clip, label)
        assert maps.shape == (8, 32, 32, 3) and tuple(places) == (8, 8)
        # By hand: the class's weights by the features, where that is positive.
        told = int(scores.argmax()) if label is None else label
        weights = model.cls_head.fc_cls.weight[told].detach()
        heat = torch.einsum('tchw,c->thw', features, weights).clamp(min=0)[None, None]
        heat = torch.nn.functional.interpolate(heat, (8, 32, 32), mode='trilinear')
        heat = (heat - heat.min()) / (heat.max() - heat.min() + 1e-20)
        colours = 255 * matplotlib.colormaps['jet'](heat[0, 0].numpy())[..., 2::-1]
        assert abs(colours - maps).max() <= 6  # a step of the colours
        contrasts.append(maps.std())
    assert max(contrasts) > 20


def test_a_sheet_and_a_video(small):  # noqa: F811
    make_video(small / 'clip.mp4', frames=20, size=(48, 40))
    code, output = call(
        *(SCRIPT, 'config.py', 'small.pth', 'clip.mp4', '--labels', 'classes.txt'),
        *('--out', 'made/heat', '--label', NAMES[2], '--layer', 'layer1'),
        cwd=small,
    )
    assert code == 0, output
    assert f'layer1, 8 x 8 a frame: red speaks for {NAMES[2]}' in output
    sheet = cv2.imread(str(small / 'made/heat.png'))
    assert sheet.shape[1] == 1500 and sheet.std() > 20
    with Video(small / 'made/heat.mp4') as video:
        assert len(video) == 8
        first = video.read([0])[0]
    assert first.shape == (256, 256, 3)
    left = sorted(path.name for path in (small / 'made').iterdir())
    assert left == ['heat.mp4', 'heat.png']


def test_several_clips_are_rows(small):  # noqa: F811
    from analysis.gradcam import ROWS, draw_sheet
    from analysis.plotting import plt

    images = np.zeros((80, 16, 16, 3), np.uint8)
    figure = draw_sheet(images, images, 8, 'title')
    assert figure.axes[0].images[0].get_array().shape == (2 * ROWS * 16, 8 * 16, 3)
    assert figure.axes[0].get_title('left') == 'title; 6 of 10 clips'
    plt.close(figure)


@pytest.mark.parametrize(
    'arguments, message',
    (
        (['none.mp4'], 'none.mp4 cannot be read: there is no such file'),
        (['classes.txt'], 'classes.txt cannot be read: '),
        (['data'], 'data has no image_00001.jpg'),
        (['data', '--layer', 'layer4'], '--layer layer4 is none; did you mean layer1?'),
        (['data', '--label', '4'], '--label 4 is no class; the names are'),
        (['data', '--out', 'config.py/a'], 'cannot write --out config.py/a.png'),
        (
            ['data', '--cfg-options', 'model.backbone.depth=34'],
            'small.pth is no checkpoint of this model',
        ),
    ),
)
def test_what_is_refused(small, arguments, message):  # noqa: F811
    code, _ = call(SCRIPT, 'config.py', 'small.pth', *arguments, cwd=small)
    assert str(code).startswith('error: ') and message in code
    assert not list(small.glob('gradcam.*'))
