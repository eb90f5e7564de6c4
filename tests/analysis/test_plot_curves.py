"""tools/analysis/plot_curves.py and its plotting.py, on both hosts' logs."""

import errno
import json
import os
import runpy
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from analysis import plot_curves
from conftest import ROOT
from matplotlib.figure import Figure

SCRIPT = str(ROOT / 'tools/analysis/plot_curves.py')


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return path


def mmengine_rows(epochs, length=10, interval=4, loss=2.0):
    """What mmengine logs of some epochs, as the mmaction2 host sets it."""
    rows = []
    for epoch in epochs:
        for step in range(interval, length + 1, interval):
            iteration = (epoch - 1) * length + step
            rows.append(
                dict(
                    lr=0.1,
                    loss=loss / iteration,
                    top1_acc=0.5,
                    epoch=epoch,
                    iter=iteration,
                    step=iteration,
                )
            )
        rows.append({'acc/top1': epoch / 10, 'acc/top5': 1.0, 'step': epoch})
    return rows


def mmengine_log(folder, stamp, rows):
    return write(folder / stamp / 'vis_data/scalars.json', rows)


def v1_rows(epochs, length=10, interval=4, first_epoch=0):
    """What mmcv 1.7.2 logs of mmaction v1; val counts epochs from 0."""
    rows = []
    for epoch in epochs:
        for step in range(interval, length + 1, interval):
            iteration = (epoch - 1) * length + step
            rows.append(
                dict(
                    mode='train',
                    epoch=epoch,
                    iter=step,
                    lr=0.1,
                    loss_cls=2 / iteration,
                    loss=2 / iteration,
                )
            )
        rows.append(
            {
                'mode': 'val',
                'epoch': epoch - 1 + first_epoch,
                'iter': length if first_epoch == 0 else 77,
                'lr': 0.1,
                'top1 acc': epoch / 10,
                'top5 acc': 1.0,
            }
        )
    return rows


def close(points):
    return [(x, pytest.approx(y)) for x, y in points]


# The three epochs of 10 iterations that the logs below are of.
LOSSES = [(i, 2 / i) for i in (4, 8, 14, 18, 24, 28)]
TOP1 = [(1, 10), (2, 20), (3, 30)]


def test_mmaction2(tmp_path):
    mmengine_log(tmp_path, '20260101_000000', mmengine_rows([1, 2, 3]))
    losses, top1 = plot_curves.read_run(tmp_path)
    assert losses == close(LOSSES)
    assert top1 == close(TOP1)


def test_mmaction_v1(tmp_path):
    write(tmp_path / '20260101_000000.log.json', v1_rows([1, 2, 3]))
    losses, top1 = plot_curves.read_run(tmp_path)
    assert losses == close(LOSSES)
    assert top1 == close(TOP1)


def test_mmcv_that_validates_by_itself(tmp_path):
    """Its epochs count from 1, its iterations are of the validation."""
    write(tmp_path / '20260101_000000.log.json', v1_rows([1, 2, 3], first_epoch=1))
    losses, top1 = plot_curves.read_run(tmp_path)
    # As far as the log tells, an epoch has 8 iterations.
    assert [x for x, _ in losses] == [4, 8, 12, 16, 20, 24]
    assert top1 == close(TOP1)


def test_resumed_on_mmaction2(tmp_path):
    """Killed in epoch 3, resumed from epoch 1; another loss from there on."""
    rows = mmengine_rows([1, 2, 3], loss=200.0)
    mmengine_log(tmp_path, '20260101_000000', mmengine_rows([1]) + rows[3:-1])
    mmengine_log(tmp_path, '20260101_000001', mmengine_rows([2, 3]))
    # Tested and recalibrated in between and after; and one killed at once.
    for stamp in '20260101_000002', '20260100_000000':
        mmengine_log(tmp_path, stamp, [{'acc/top1': 0.9, 'step': 0}])
    mmengine_log(tmp_path, '20260101_000003', [])
    write(tmp_path / '20260101_000004/20260101_000004.json', [{'acc/top1': 0.9}])
    losses, top1 = plot_curves.read_run(tmp_path)
    assert losses == close(LOSSES)
    assert top1 == close(TOP1)


def test_resumed_on_mmaction_v1(tmp_path):
    """The length of an epoch is known from the first part alone."""
    write(tmp_path / '20260101_000000.log.json', v1_rows([1, 2]))
    meta = dict(mmact_version='0.1.rc0', epoch=2, iter=20, time='today')
    write(tmp_path / '20260101_000001.log.json', [meta] + v1_rows([3], interval=4)[:1])
    losses, top1 = plot_curves.read_run(tmp_path)
    assert losses == close(LOSSES[:5])
    assert top1 == close(TOP1[:2])


def test_started_anew(tmp_path):
    """The last training from epoch 1 is the run."""
    mmengine_log(tmp_path, '20260101_000000', mmengine_rows([1, 2, 3, 4], loss=9.0))
    mmengine_log(tmp_path, '20260101_000001', mmengine_rows([1, 2, 3]))
    losses, top1 = plot_curves.read_run(tmp_path)
    assert losses == close(LOSSES)
    assert top1 == close(TOP1)


def test_torn_last_line(tmp_path):
    """A training that runs: the line that is being written is left out."""
    path = mmengine_log(tmp_path, '20260101_000000', mmengine_rows([1, 2, 3]))
    text = path.read_text()
    for cut in 5, len(text.splitlines()[-1]) - 1:
        path.write_text(text[:-cut])
        losses, top1 = plot_curves.read_run(tmp_path)
        assert losses == close(LOSSES)
        assert top1 == close(TOP1[:2])
    # An end of line that is still to come: all of it is there.
    path.write_text(text[:-1])
    assert plot_curves.read_run(tmp_path)[1] == close(TOP1)


def draw(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', [SCRIPT, *map(str, arguments)])
    runpy.run_path(SCRIPT, run_name='__main__')


def texts(path):
    """Comments of an SVG file: matplotlib writes each text into one."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    return {
        node.text.strip()
        for node in ElementTree.parse(path, parser).iter(ElementTree.Comment)
    }


def test_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in 'a/run', 'b/run', 'other':
        mmengine_log(Path(folder), '20260101_000000', mmengine_rows([1, 2]))
    write(Path('v1/20260101_000000.log.json'), v1_rows([1]))
    draw(monkeypatch, 'a/run', 'b/run', 'other/', 'v1', '--out', 'all.svg')
    assert capsys.readouterr().out == 'wrote all.svg\n'
    assert {
        'a/run',
        'b/run',
        'other',
        'v1',
        'training loss',
        'iteration',
        'epoch',
        'validation top-1, %',
    } <= texts('all.svg')
    draw(monkeypatch, 'other', '--out', 'one.png')
    assert Path('one.png').read_bytes().startswith(b'\x89PNG')


def test_without_validation(tmp_path, monkeypatch):
    rows = [row for row in mmengine_rows([1]) if 'loss' in row]
    mmengine_log(tmp_path, '20260101_000000', rows)
    draw(monkeypatch, tmp_path, '--out', tmp_path / 'a.svg')
    found = texts(tmp_path / 'a.svg')
    assert 'training loss' in found and 'epoch' not in found


LINE = '{"loss": 1.0, "epoch": 1, "iter": 4}\n'


@pytest.mark.parametrize(
    'content, message',
    [
        (LINE + '{"loss": 1.0, "ep\n' + LINE, 'scalars.json, line 2 is no JSON'),
        (LINE + 'torn\n', 'scalars.json, line 2 is no JSON'),
        (LINE + '[1]\n', 'scalars.json, line 2 is no JSON object'),
        (
            LINE + '{"loss": 1.0, "iter": 8}\n',
            "line 2 is of no training by epochs: KeyError: 'epoch'",
        ),
        (LINE + '{"loss": "x", "epoch": 1, "iter": 8}\n', 'line 2 is of no'),
        (LINE + '{"acc/top1": 0.5}\n', "KeyError: 'step'"),
        ('{"acc/top1": 0.5, "step": 0}\n', 'has no log of a training'),
        ('', 'has no log of a training'),
        ('\udcff', 'cannot read '),
        (None, 'has no log of a training'),
    ],
)
def test_broken_logs(tmp_path, monkeypatch, content, message):
    if content is not None:
        path = tmp_path / 'run/20260101_000000/vis_data/scalars.json'
        path.parent.mkdir(parents=True)
        path.write_bytes(content.encode(errors='surrogateescape'))
    (tmp_path / 'run').mkdir(exist_ok=True)
    with pytest.raises(SystemExit) as exit:
        draw(monkeypatch, tmp_path / 'run', '--out', tmp_path / 'a.svg')
    assert str(exit.value).startswith('error: ')
    assert message in str(exit.value)
    assert f'{tmp_path}/run' in str(exit.value)
    assert not (tmp_path / 'a.svg').exists()


@pytest.mark.parametrize(
    'arguments, message',
    [
        ('run no --out a.svg', 'no is no folder'),
        ('run ./run/ --out a.svg', 'run is given twice'),
        ('run --out a.what', 'cannot write --out a.what'),
        ('run --out no/a.svg', 'cannot write --out no/a.svg'),
        ('both --out a.svg', 'has logs of both hosts'),
    ],
)
def test_wrong_arguments(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for folder in 'run', 'both':
        mmengine_log(Path(folder), '20260101_000000', mmengine_rows([1]))
    write(Path('both/20260101_000000.log.json'), v1_rows([1]))
    with pytest.raises(SystemExit) as exit:
        draw(monkeypatch, *arguments.split())
    assert str(exit.value).startswith('error: ')
    assert message in str(exit.value)


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    mmengine_log(tmp_path / 'run', '20260101_000000', mmengine_rows([1]))
    out = tmp_path / 'a.svg'
    out.write_text('the last one')

    def fill_the_disk(figure, path, **_):
        Path(path).write_text('half')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Figure, 'savefig', fill_the_disk)
    with pytest.raises(SystemExit) as exit:
        draw(monkeypatch, tmp_path / 'run', '--out', out)
    assert f'cannot write --out {out}: No space left' in str(exit.value)
    assert out.read_text() == 'the last one'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.svg', 'run']
