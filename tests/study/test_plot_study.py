"""tools/study/plot_study.py: pictures and table of the study in results/arrow."""

import json
import shutil
from xml.etree import ElementTree

import pytest
from conftest import ROOT
from script_calls import call
from studies import BOTH, NONE
from study import arrow_results, plot_study, report_arrow

PLOT = ROOT / 'tools/study/plot_study.py'
BEGIN, END = plot_study.markers('arrow')
STUDY = ROOT / 'results/arrow'
PAGE = f'above\n{BEGIN}\nold\n{END}\nbelow\n'


@pytest.fixture
def results(tmp_path):
    """A folder with two runs of the study, and the relay."""
    folder = tmp_path / 'results/arrow'
    folder.mkdir(parents=True)
    for name in (BOTH, NONE, 'relay'):
        shutil.copy(STUDY / f'{name}.json', folder)
    return folder


def draw(results, folder, page=PAGE):
    """Draw into a folder, its page.md included; returns as call does."""
    folder.mkdir(exist_ok=True)
    (folder / 'page.md').write_text(page)
    arguments = [
        'arrow',
        '--results',
        results.parent,
        '--assets',
        folder,
        '--page',
        'page.md',
    ]
    return call(PLOT, *arguments, cwd=folder)


@pytest.mark.full
def test_pictures_and_table(results, tmp_path):
    """The same, run after run."""
    for folder in ('one', 'two'):
        code, output = draw(results, tmp_path / folder)
        assert code == 0, output
    names = sorted(path.name for path in (tmp_path / 'one').iterdir())
    assert names == [
        *sorted(f'arrow_{name}.svg' for name in report_arrow.PICTURES),
        'page.md',
    ]
    for name in names:
        content = (tmp_path / 'one' / name).read_bytes()
        assert content == (tmp_path / 'two' / name).read_bytes()
        if name.endswith('.svg'):
            ElementTree.fromstring(content)
    text = (tmp_path / 'one/page.md').read_text()
    runs, _ = arrow_results.read(results)
    table = report_arrow.make_table(runs)
    assert text == PAGE.replace('\nold\n', f'\n\n{table}\n\n')
    assert table in output
    top1 = runs['both', 8, 4][0]['evaluation']['grouped']['top1']
    assert f'| `both` | 8 | 4 | 1 | {100 * top1:.1f} |' in text
    assert '| `none` | 8 | - | 1 |' in text


def test_what_is_not_there_is_not_drawn(results, tmp_path):
    (results / 'relay.json').unlink()
    code, output = draw(results, tmp_path / 'out')
    assert code == 0
    assert f'no {tmp_path}/out/arrow_relay.svg: {results} has not what' in output
    assert not (tmp_path / 'out/arrow_relay.svg').exists()


def test_page_has_the_table_of_the_results():
    page = ROOT / 'docs/study.md'
    if not page.exists():
        pytest.skip('there is no docs/study.md')
    runs, _ = arrow_results.read(STUDY)
    block = f'{BEGIN}\n\n{report_arrow.make_table(runs)}\n\n{END}'
    assert block in page.read_text()


def test_table_is_of_means_and_deviations(results):
    runs, _ = arrow_results.read(results)
    (both,) = runs['both', 8, 4]
    same = [json.loads(json.dumps(both)) for _ in range(3)]
    for content, top1 in zip(same, (0.9, 0.94, 0.95)):
        content['evaluation']['grouped']['top1'] = top1
    table = report_arrow.make_table({('both', 8, 4): same})
    assert '| `both` | 8 | 4 | 3 | 93.0 ± 2.6 |' in table


def test_faults(results, tmp_path):
    def fault(page=PAGE, folder=results):
        code, _ = draw(folder, tmp_path / 'out', page)
        return str(code)

    def add(change):
        """One more run of none, changed."""
        other = json.loads((results / f'{NONE}.json').read_text())
        change(other)
        (results / 'other.json').write_text(json.dumps(other))

    (tmp_path / 'nothing/arrow').mkdir(parents=True)
    assert 'has no results: run tools/study/study.py' in fault(
        folder=tmp_path / 'nothing/arrow'
    )
    assert f'should have the line {BEGIN} once' in fault('no markers')
    assert (tmp_path / 'out/page.md').read_text() == 'no markers'
    add(lambda run: run['settings']['data'].update(seed=-1))
    assert 'are of different data' in fault()
    add(lambda run: run['settings']['config'].update(total_epochs=1))
    assert 'with 8 clips a batch are of different epochs' in fault()
    (results / 'other.json').write_text('{}')
    assert 'is no result of the study arrow' in fault()


def test_other_batches_may_have_other_epochs(results):
    other = json.loads((results / f'{NONE}.json').read_text())
    other['settings']['config']['total_epochs'] += 1
    other['run']['batch'] = 4
    (results / 'other.json').write_text(json.dumps(other))
    runs, _ = arrow_results.read(results)
    assert sorted(runs) == [('both', 8, 4), ('none', 4, 4), ('none', 8, 4)]
