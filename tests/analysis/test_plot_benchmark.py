"""tools/analysis/plot_benchmark.py."""

import json
from xml.etree import ElementTree

from conftest import ROOT
from script_calls import call

PLOT = str(ROOT / 'tools' / 'analysis' / 'plot_benchmark.py')
SETTING = dict(precision='tf32', layout='contiguous', compile='off')
CONTENT = dict(
    benchmark='backbones',
    reference='none',
    device='GPU',
    rows=[
        dict(
            SETTING,
            mode=mode,
            precision=precision,
            depth=18,
            clips=1,
            frames=frames,
            groups=1,
            size=32,
            models={
                'none': dict(ratio=1, device_busy_ms=2.0),
                'dnr': dict(ratio=1.2, device_busy_ms=2.1),
                'against': dict(ratio=1.5, device_busy_ms=None),
                'plain': dict(error='none'),
            },
        )
        for mode in ('train', 'eval')
        for precision in ('tf32', 'bf16')
        for frames in (2, 4)
    ],
)


def test_plot(tmp_path):
    (tmp_path / 'all.json').write_text(json.dumps(CONTENT))
    code, output = call(PLOT, 'all.json', '--out', 'ratio.svg', cwd=tmp_path)
    assert (code, output) == (0, 'wrote ratio.svg\n')
    svg = ElementTree.parse(tmp_path / 'ratio.svg').getroot()
    assert svg.tag.endswith('svg')
    # The text is drawn as shapes, with the words as comments.
    words = (tmp_path / 'ratio.svg').read_text()
    for word in (
        'frames',
        'time / time of none',
        'dnr train tf32',
        'dnr train tf32, device busy',
        'against eval bf16',
    ):
        assert f'<!-- {word} -->' in words
    assert 'against train tf32, device busy' not in words
    assert 'plain' not in words


def test_faults(tmp_path):
    files = dict(
        text='no json',
        list='[1]',
        other='{"rows": []}',
        loop='{"benchmark": "training"}',
        cold='{"benchmark": "cold"}',
        one=json.dumps(dict(CONTENT, rows=CONTENT['rows'][:1])),
        all=json.dumps(CONTENT),
        reference=json.dumps(dict(CONTENT, reference='dnr')),
    )
    for name, text in files.items():
        (tmp_path / f'{name}.json').write_text(text)
    for command, message in (
        ('no.json', 'cannot read no.json: No such file'),
        ('text.json', 'text.json is no JSON file'),
        ('list.json', 'list.json was not written by'),
        ('all.json other.json', 'other.json was not written by'),
        ('loop.json', 'loop.json has no ratios: it is of tools/analysis/'),
        ('cold.json', 'benchmark.py --cold'),
        ('one.json', 'nothing to draw: measure more than one value'),
        ('all.json reference.json', 'different references: dnr, none'),
        ('all.json --out a.foo', "cannot write --out a.foo: Format 'foo'"),
        ('all.json --out no/a.svg', 'cannot write --out no/a.svg'),
    ):
        code, _ = call(PLOT, '--out', 'a.svg', *command.split(), cwd=tmp_path)
        assert message in code, command
    assert not list(tmp_path.glob('*.svg'))
