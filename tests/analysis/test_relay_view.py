"""tools/analysis/relay_view.py: what the relays' cells gave, for a user's clip."""

import html
import re
import shutil

import pytest
import torch
from networks import TOOLS, frames_of, small  # noqa: F401
from script_calls import call

SCRIPT = TOOLS / 'relay_view.py'


def test_relays_are_the_cells_run_by_hand(small):  # noqa: F811
    """h and c of the first block are those of the cell on its inputs' means."""
    from analysis.clips import predict
    from analysis.relays import relay_of, watch_relays
    from video_inputs import clip_inputs, load_recognizer, testing_config

    config = testing_config(str(small / 'config.py'))
    model = load_recognizer(config, str(small / 'small.pth'), 'cpu')
    clip = clip_inputs(config, str(frames_of(small)[0]))
    both = [clip, dict(clip, inputs=clip['inputs'].flip(0))]
    layer, seen = model.backbone.layer1[0].bn2, []
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    relayed = watch_relays(model.backbone)
    predict(model, both)
    assert set(relayed) == {'layer1.0.bn2', 'layer1.1.bn2'}
    values = relayed['layer1.0.bn2']
    assert values.shape == (2, 2, 4, 64)
    means = seen[0].detach().reshape(2, 4, 2, 64, -1).mean((2, 4))
    cell, h, c = layer.relay, torch.zeros(2, 64), torch.zeros(2, 64)
    for group in range(4):
        with torch.no_grad():
            state = torch.stack((h, c))
            h, c, *_ = cell(means[:, group : group + 1], state)
        h, c = h.reshape(2, 64), c.reshape(2, 64)
        torch.testing.assert_close(values[0, :, group], h, atol=1e-5, rtol=0)
        torch.testing.assert_close(values[1, :, group], c, atol=1e-5, rtol=0)
    name, (drawn,) = relay_of([dict(relayed)])
    for row, key in enumerate('hc'):
        chosen = relayed[name][row]
        torch.testing.assert_close(
            torch.tensor(drawn[key]), chosen[0], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            torch.tensor(drawn[f'reversed_{key}']), chosen[1], atol=1e-5, rtol=0
        )


def test_a_picture_of_two_clips(small):  # noqa: F811
    """Each column says which video it is of, and what is predicted of it."""
    frames = frames_of(small)[0]
    names = ['rotate_clockwise', 'not_clockwise', 'a <b>&$x$', '_ "é"']
    (small / 'names.txt').write_text('\n'.join(names), encoding='utf-8')
    copy = small / 'copies' / frames.name
    shutil.copytree(frames, copy)
    code, output = call(
        *(SCRIPT, 'config.py', 'small.pth', frames, copy, '--layer', 'layer1.1.bn2'),
        *('--labels', 'names.txt', '--out', 'relay.svg'),
        cwd=small,
    )
    assert code == 0 and 'wrote relay.svg: layer1.1.bn2' in output, output
    told = re.findall(r': (\S.*); backwards: (.*)', output)
    assert len(told) == 2
    assert {text.rsplit(' ', 1)[0] for texts in told for text in texts} <= set(names)
    # The letters are outlines; each line's text stands beside them.
    drawn = re.findall(r'<!-- (.*) -->', (small / 'relay.svg').read_text())
    drawn = [html.unescape(text) for text in drawn]
    place = f'data/arrow/rawframes/test/{frames.parent.name}/{frames.name}'
    for name, texts in zip((place, f'copies/{frames.name}'), told):
        assert name in drawn
        assert f'— forwards: {texts[0]}' in drawn
        assert f'- - backwards: {texts[1]}' in drawn


def test_titles_have_room():
    """Columns are as wide as what stands above them."""
    from analysis.plotting import plt
    from analysis.relay_drawing import draw_relays
    from matplotlib.text import Text

    values = [[0.1, 0.2], [0.3, 0.4]]
    clip = dict(h=values, c=values, reversed_h=values, reversed_c=values)
    titles = ['short', 'w' * 60, 'x\ny']
    figure = draw_relays('layer1.0.bn2', [clip] * 3, titles)
    figure.draw_without_rendering()
    for axis, title in zip(figure.axes, titles):
        (text,) = (text for text in axis.findobj(Text) if text.get_text() == title)
        wide = text.get_window_extent().width
        assert wide <= axis.get_window_extent().width + 2
    plt.close(figure)


@pytest.mark.parametrize(
    'arguments, message',
    (
        (['x.mp4'], 'x.mp4 cannot be read: there is no such file'),
        (
            ['x.mp4', '--layer', 'layer1.0.bn1'],
            'no relay over groups of frames; did you',
        ),
        (['x.mp4', '--out', 'relay.gif'], 'should end in .svg or .png or .pdf'),
        (
            ['x.mp4', '--cfg-options', 'model.backbone.num_groups=8'],
            'small.pth is no checkpoint of this model',
        ),
    ),
)
def test_what_is_refused(small, arguments, message):  # noqa: F811
    code, _ = call(SCRIPT, 'config.py', 'small.pth', *arguments, cwd=small)
    assert str(code).startswith('error: ') and message in code


def test_a_network_without_such_a_relay(small):  # noqa: F811
    from networks import save_checkpoint

    for name, value in ('dnr', 'cross_layer'), ('num_groups', 1):
        options = {f'model.backbone.{name}': value}
        save_checkpoint(small, 'other.pth', cfg_options=options)
        code, _ = call(
            *(SCRIPT, 'config.py', 'other.pth', 'x.mp4'),
            *('--cfg-options', f'model.backbone.{name}={value}'),
            cwd=small,
        )
        assert code.startswith('error: config.py has no relay over groups of frames')
