"""tools/analysis/relay_view.py: what the relays' cells gave, for a user's clip."""

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
    frames = frames_of(small)[0]
    code, output = call(
        *(SCRIPT, 'config.py', 'small.pth', frames, frames, '--layer', 'layer1.1.bn2'),
        *('--labels', 'classes.txt', '--out', 'relay.svg'),
        cwd=small,
    )
    assert code == 0 and 'wrote relay.svg: layer1.1.bn2' in output, output
    assert output.count('backwards: ') == 2
    assert '<svg' in (small / 'relay.svg').read_text()


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
