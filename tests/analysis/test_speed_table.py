"""tools/analysis/speed_table.py, and the tables of the pages that it made."""

import json
import re

import pytest
from analysis import speed_table
from conftest import ROOT
from script_calls import call

SCRIPT = str(ROOT / 'tools/analysis/speed_table.py')
RESULTS = ROOT / 'results/benchmark'
MARKER = re.compile(r'<!-- rows of (.+): (\w+) -->')


def models(none, dnr, **more):
    """A row's backbones, from a figure each that all others are made of."""
    return {
        name: dict(
            median_ms=ms, ratio=ms / none, device_busy_ms=ms - 1, peak_gib=ms / 10
        )
        for name, ms in dict(none=none, dnr=dnr, **more).items()
    }


ROW = dict(
    precision='bf16',
    layout='channels_last',
    mode='train',
    compile='off',
    clips=8,
    frames=8,
    size=224,
)
ONE_CLIP = dict(ROW, clips=1, models=models(10, 15, root=20))
GRAPH = dict(ROW, compile='reduce-overhead', models=models(10, 11))
VIDEO = dict(ROW, mode='eval', clips=30, size=256, models=models(10, 10.4))
COLD = dict(
    benchmark='cold',
    rows=[
        dict(
            precision='tf32',
            compile='off',
            images=dict(first_s=[64, 224], shape_s=[32, 160], evaluation_s=[240, 256]),
            models={
                name: dict(first_s=s, shape_s=s / 2, evaluation_s=s / 4)
                for name, s in dict(none=1, dnr=8, root=80).items()
            },
        ),
        dict(
            precision='bf16',
            compile='reduce-overhead',
            models=dict(none=dict(first_s=50), dnr=dict(error='no'), root={}),
        ),
    ],
)


def steps(*rows):
    return dict(benchmark='backbones', rows=rows)


@pytest.mark.parametrize(
    'kind, content, rows',
    [
        (
            'steps',
            steps(ONE_CLIP),
            ['bf16, channels last | 10.0 | 15.0 | 1.50 | 9.0 | 14.0 | 1.56 | 1.50'],
        ),
        (
            'steps',
            steps(dict(ROW, models=dict(none={}, dnr=dict(error='no')))),
            ['bf16, channels last | - | - | - | - | - | - | -'],
        ),
        (
            'compiled',
            steps(GRAPH),
            ['bf16, channels last | `reduce-overhead` | 10.0 | 11.0 | 1.10'],
        ),
        ('clips', steps(ONE_CLIP), ['1 | 9.0 | 14.0 | 1.56 | 1.50']),
        ('evaluation', steps(VIDEO), ['bf16, channels last | 10.0 | 10.4 | 1.04']),
        (
            'against',
            steps(dict(ROW, models=models(10, 20, against=50))),
            ['bf16, channels last | 10.0 | 20.0 | 50.0 | 2.50'],
        ),
        (
            'root',
            steps(ONE_CLIP),
            ['bf16, channels last, 1 clip | 10.0 | 20.0 | 15.0 | 9.0 | 19.0 | 14.0'],
        ),
        (
            'cold',
            COLD,
            [
                'first training step, 64 images of 224 x 224 | 1.0 | 80.0 | 8.0',
                'first step of another shape, 32 images of 160 x 160 '
                '| 0.5 | 40.0 | 4.0',
                'first evaluation, 240 images of 256 x 256 | 0.2 | 20.0 | 2.0',
                'first compiled step, bf16, `reduce-overhead` | 50.0 | - | -',
            ],
        ),
        (
            'loop',
            dict(
                processes=2,
                rows=[
                    dict(data=d, settings=w, clips_per_s=n, fraction=0.834)
                    for d, w, n in (
                        ('frames', 'plain', 311.4),
                        ('videos', 'plain', 100.0),
                        ('frames', 'bf16+bn', 467.1),
                    )
                ],
            ),
            [
                '2 GPUs | frames | `plain` | 311 | 1.00 | 83 %',
                '2 GPUs | videos | `plain` | 100 | 1.00 | 83 %',
                '2 GPUs | frames | `bf16+bn` | 467 | 1.50 | 83 %',
            ],
        ),
        (
            'brief',
            steps(dict(ROW, models=models(10, 13)), GRAPH, VIDEO),
            [
                'training step | 10.0 ms | 13.0 ms | 1.30',
                'training step in a CUDA graph | 10.0 ms | 11.0 ms | 1.10',
                'evaluation of one video, 240 images of 256 x 256 '
                '| 10.0 ms | 10.4 ms | 1.04',
            ],
        ),
        (
            'brief',
            COLD,
            ['first training step on a fresh machine, tf32 | 1.0 s | 8.0 s | 8.00'],
        ),
    ],
)
def test_rows(kind, content, rows):
    assert speed_table.make_rows(kind, [content]) == [f'| {row} |' for row in rows]


def test_names_of_all_kinds_of_rows():
    assert [
        speed_table.Row(dict(row, models={})).name_all().split(', ', 2)[2:]
        for row in (ROW, GRAPH, ONE_CLIP, VIDEO)
    ] == [[], ['CUDA graph'], ['1 clip'], ['evaluation of 240 images of 256 x 256']]


def test_script(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps(steps(GRAPH)))
    code, output = call(SCRIPT, 'compiled', 'a.json', cwd=tmp_path)
    marker, *rows = output.splitlines()
    assert MARKER.fullmatch(marker).groups() == ('a.json', 'compiled')
    assert code == 0 and len(rows) == 1
    code, _ = call(SCRIPT, 'root', 'a.json', cwd=tmp_path)
    assert code == "error: no root in these files: KeyError('root')"
    code, _ = call(SCRIPT, 'root', 'no.json', cwd=tmp_path)
    assert code == 'error: cannot read no.json: No such file or directory'


def tables(page):
    """Of a page: (kind, files, rows) of each table under a marker."""
    for match in MARKER.finditer(page):
        lines = page[match.end() :].strip().splitlines()
        table = []
        for line in lines:
            if not line.startswith('|'):
                break
            table.append(line)
        yield match[2], match[1].split(), table[2:]  # without titles


def wrong_rows(page, root):
    """The rows of a page's tables that its files do not give."""
    for kind, files, rows in tables(page):
        contents = [json.loads((root / name).read_text()) for name in files]
        if not rows:
            yield f'{files}: no table under the marker'
        known = speed_table.make_rows(kind, contents)
        yield from (row for row in rows if row not in known)


def test_a_wrong_row_is_found(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps(steps(GRAPH)))
    marker = speed_table.make_marker('evaluation', ['a.json'])
    titles = '\n\n| | a | b | c |\n|---|---|---|---|\n'
    right = '| bf16, channels last | 10.0 | 11.0 | 1.10 |\n'
    wrong = right.replace('11.0', '11.1')
    page = f'text\n\n{marker}{titles}{right}{wrong}\ntext\n'
    assert list(wrong_rows(page, tmp_path)) == [wrong.strip()]
    assert list(wrong_rows(f'{marker}\n\ntext', tmp_path))


@pytest.mark.parametrize('name', ['docs/speed.md', 'docs/kernels.md', 'README.md'])
def test_pages_have_the_measured_times(name):
    path = ROOT / name
    if not path.exists():
        pytest.skip(f'there is no {name}')
    page = path.read_text()
    if not MARKER.search(page):
        pytest.skip(f'{name} has no table with a marker of speed_table.py')
    assert list(wrong_rows(page, ROOT)) == []
