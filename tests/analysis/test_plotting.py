"""tools/analysis/plotting.py: names as they are, files whole or not at all."""

import numpy as np
import pytest
from analysis.plotting import plt, put_legend, save
from hosts import HostError
from prediction.drawing import draw_curve
from prediction.recognizer import Prediction
from script_calls import small_files

NAMES = ['_a', '$_$^', 'b']  # the first two mean something to matplotlib


def test_names_are_drawn_as_they_are(tmp_path):
    figure, axes = plt.subplots()
    lines = [axes.plot([0, 1], [0, n])[0] for n in range(3)]
    put_legend(axes, lines, NAMES)
    axes.set_title(NAMES[1])
    with plt.rc_context({'svg.fonttype': 'none'}):
        save(figure, tmp_path / 'a.svg', '--out')
    text = (tmp_path / 'a.svg').read_text()
    assert [text.count(f'>{name}<') for name in NAMES] == [1, 2, 1]


def test_a_curve_of_such_names(tmp_path):
    windows = [
        Prediction('$_$^.mp4', NAMES, np.float32(scores), None, start, start + 1)
        for start, scores in enumerate([[0, 1, 2], [3, 1, 0]])
    ]
    draw_curve(tmp_path / 'a.png', windows, 2)
    assert plt.imread(tmp_path / 'a.png').std() > 0.1


def test_full_disk(tmp_path):
    """What a user can mend, for all scripts that draw."""
    figure, _ = plt.subplots()
    (tmp_path / 'a.png').write_bytes(b'as it was')
    with small_files(1000), pytest.raises(HostError, match='--out .*a.png: File too'):
        save(figure, tmp_path / 'a.png', '--out')
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']
    assert (tmp_path / 'a.png').read_bytes() == b'as it was'
