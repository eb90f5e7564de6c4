"""tools/analysis/report.py: the page, read by a parser and shown by a browser."""

import base64
import html.parser
import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from networks import NAMES, TOOLS, small  # noqa: F401
from script_calls import ENV, call
from videos import make_video

SCRIPT = TOOLS / 'report.py'
SECTIONS = 'accuracy gains classes confusion pairs wrong calibration'.split()


def write_scores(path, labels, seed, spread):
    """A results pickle as testing writes it, right in some of the clips."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, spread, (len(labels), len(NAMES))).astype(np.float32)
    scores[np.arange(len(labels)), labels] += 1
    path.write_bytes(pickle.dumps([score[None] for score in scores]))
    return scores


@pytest.fixture(scope='module')
def work(small):  # noqa: F811
    """The folder of `small`, with two results of its list."""
    lines = (small / 'data/arrow/test.txt').read_text().splitlines()
    labels = [int(line.split()[2]) for line in lines]
    write_scores(small / 'bn.pkl', labels, 0, 2)
    write_scores(small / 'dnr.pkl', labels, 1, 0.6)
    return small


def report(folder, *arguments):
    return call(SCRIPT, *arguments, '--config', 'config.py', cwd=folder)


class Page(html.parser.HTMLParser):
    """The tags of a page, which must be closed in order, and its text."""

    VOID = {'meta', 'img', 'input'}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ('script', 'style'):
            self.words.append(data)

    @property
    def text(self):
        return ' '.join(' '.join(self.words).split())

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope='module')
def page(work):
    """The page of two results: the file."""
    code, output = report(work, 'bn.pkl', 'dnr.pkl', '--labels', 'classes.txt')
    assert code == 0, output
    assert 'wrote report.html' in output
    return work / 'report.html'


def test_the_page_stands_alone_and_has_all(page, work):
    text = page.read_text()
    content = Page(text)
    for tag, attributes in content.tags:
        for name in ('href', 'src', 'xlink:href', 'action', 'data'):
            if name in attributes:
                assert re.match(r'#|data:image/', attributes[name]), tag
    assert not re.search(r'url\(|@import|https?://', re.sub('base64,[^"]*', '', text))
    ids = [attributes['id'] for _, attributes in content.tags if 'id' in attributes]
    assert [name for name in ids if name in SECTIONS] == SECTIONS
    for name in NAMES:  # escaped, as the parser has given them back
        assert name in content.text
    # A picture of each wrong clip that is shown, of the frames themselves.
    shown = [a for a in content.of('img') if a['alt'].startswith('frames of')]
    wrong = 0
    for name in 'bn', 'dnr':
        scores = np.concatenate(pickle.loads((work / f'{name}.pkl').read_bytes()))
        lines = (work / 'data/arrow/test.txt').read_text().splitlines()
        labels = np.array([int(line.split()[2]) for line in lines])
        hits = scores.argmax(1) == labels
        assert f'{100 * hits.mean():.2f}' in content.text
        wrong += min(12, (~hits).sum())
    assert len(shown) == wrong > 0
    jpeg = re.search(r'data:image/jpeg;base64,([^"]+)', text)[1]
    image = cv2.imdecode(np.frombuffer(base64.b64decode(jpeg), 'u1'), 1)
    assert image.shape == (96, 8 * 96, 3) and image.std() > 5


def test_one_result_without_names(work):
    code, output = report(work, 'dnr.pkl', '--out', 'made/one.html')
    assert code == 0, output
    text = Page((work / 'made/one.html').read_text()).text
    assert 'against' not in text and 'Most surely wrong' in text
    assert text.count('No clip is wrong.') == 2  # of the pairs, and of the clips


def test_figures_in_a_file(work):
    code, output = report(work, 'bn.pkl', 'dnr.pkl', '--json', 'made/figures.json')
    assert code == 0, output
    assert output.endswith('wrote made/figures.json\n')
    figures = json.loads((work / 'made/figures.json').read_text())
    assert figures['config'] == 'config.py' and figures['versions']
    lines = (work / 'data/arrow/test.txt').read_text().splitlines()
    labels = np.array([int(line.split()[2]) for line in lines])
    right = {}
    for result in figures['results']:
        path = work / f'{result["name"]}.pkl'
        scores = np.concatenate(pickle.loads(path.read_bytes()))
        right[result['name']] = scores.argmax(1) == labels
        top1 = result['accuracies']['Top-1']
        assert top1['share'] == right[result['name']].mean()
        assert top1['low'] < top1['share'] <= top1['high']
        assert np.trace(result['confusion']) == right[result['name']].sum()
        assert np.sum(result['confusion']) == result['clips'] == len(labels)
    gained = right['dnr'] & ~right['bn']
    assert figures['difference']['gained'] == gained.sum()


def test_video_files_and_frames_that_cannot_be_read(work):
    (work / 'videos').mkdir()
    labels = [0, 1, 2, 3] * 3
    for number in range(12):
        make_video(work / f'videos/{number}.mp4', frames=16, size=(48, 40), seed=number)
    listed = ''.join(f'{n} {label}\n' for n, label in enumerate(labels))
    (work / 'videos.txt').write_text(listed)
    scores = -5 * np.eye(4, dtype=np.float32)[labels]  # all are wrong
    scores[:, 0] += np.arange(12)
    (work / 'v.pkl').write_bytes(pickle.dumps([score[None] for score in scores]))
    (work / 'videos/7.mp4').write_bytes(b'no video')
    code, output = report(
        *(work, 'v.pkl', '--out', 'v.html', '--cfg-options'),
        *('data.test.type=VideoDataset', 'data.test.ann_file=videos.txt'),
        'data.test.img_prefix=videos',
    )
    assert code == 0 and 'frames of 1 of 11 clips cannot be read' in output
    page = (work / 'v.html').read_text()
    assert page.count('data:image/jpeg') == 10  # of the eleven that are wrong
    assert 'No frames: videos/7.mp4 cannot be read' in Page(page).text


class Runs:
    """A pickle that makes a file when it is read the usual way."""

    def __reduce__(self):
        return os.mkdir, ('ran',)


def array(*shape, dtype='f4', value=0.5):
    return np.full(shape, value, dtype)


REFUSED = (
    ([array(1, 4)] * 11, 'the scores of 11 videos, but data/arrow/test.txt lists 12'),
    ([array(1, 5)] * 12, 'scores of 5 classes, but the config has 4'),
    ([array(1, 4)] * 7 + [array(1, 4, value=np.nan)] * 5, 'first of video 8 of'),
    ([array(1, 4, value=np.inf)] * 12, 'scores of 12 of 12 videos are not finite'),
    ([array(1, 4)] * 11 + [array(1, 3)], 'is no results file'),
    ([array(1, 4, dtype='i8')] * 12, 'is no results file'),
    (array(12, 4), 'is no results file'),
    ([], 'is no results file'),
    ([array(0, 4)] * 12, 'is no results file'),
    ([array(4)] * 12, 'is no results file'),
    ({'a': 1}, 'is no results file'),
    ([array(1, 4).astype(object)] * 12, 'is no results file: it is no whole pickle'),
    ([Runs()], 'is no results file: it holds posix.mkdir, which is no plain data'),
)


@pytest.mark.parametrize('content, message', REFUSED)
def test_results_that_are_refused(work, content, message):
    (work / 'bad.pkl').write_bytes(pickle.dumps(content))
    code, output = report(work, 'dnr.pkl', 'bad.pkl', '--out', 'bad.html')
    assert code.startswith('error: bad.pkl') and message in code, output
    assert '\n' not in code
    assert not (work / 'bad.html').exists() and not (work / 'ran').exists()


def test_a_file_that_is_cut_short(work):
    content = (work / 'dnr.pkl').read_bytes()
    for cut in (0, 1, 50, len(content) // 2, len(content) - 1):
        (work / 'cut.pkl').write_bytes(content[:cut])
        code, _ = report(work, 'cut.pkl', '--out', 'bad.html')
        assert code == 'error: cut.pkl is no results file: it is no whole pickle'


@pytest.mark.parametrize(
    'arguments, message',
    (
        (['none.pkl'], 'cannot read none.pkl: No such file'),
        (['data'], 'cannot read data: Is a directory'),
        (['bn.pkl', './bn.pkl'], 'bn.pkl is given twice'),
        (['bn.pkl', 'dnr.pkl', 'x.pkl'], '3 results are given; a page has one or two'),
        (['bn.pkl', '--json', 'a.txt'], '--json a.txt should end in .json'),
        (['bn.pkl', '--out', 'a.pdf'], '--out a.pdf should end in .html'),
        (['bn.pkl', '--out', 'config.py/a.html'], 'cannot write --out'),
        (['bn.pkl', '--labels', 'data/arrow/test.txt'], 'names 12 classes, but the'),
        (['bn.pkl', '--labels', 'none.txt'], 'cannot read none.txt'),
        (['bn.pkl', '--cfg-options', 'data.test.ann_file=x'], 'x does not exist'),
    ),
)
def test_arguments_that_are_refused(work, arguments, message):
    code, output = report(work, *arguments)
    assert str(code).startswith('error: ') and message in code, output


def test_the_process_on_mmaction_v1_and_its_exit_code(work):
    result = subprocess.run(
        [sys.executable, SCRIPT, 'bn.pkl', '--config', 'config.py'],
        cwd=work,
        env=dict(ENV, MMACTION_ROOT=str(work)),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and result.stdout == ''
    assert result.stderr.startswith('error: tools/analysis/report.py runs on mmaction2')
    assert result.stderr.count('\n') == 1


BROWSER = next(filter(None, map(shutil.which, ('chromium', 'google-chrome'))), None)
# What a reader does, and what the page then has, as JSON in its title.
ACTIONS = """<script>
const got = {};
const click = (n) => document.querySelectorAll('#class-table th')[n].click();
const column = (n) => [...document.querySelectorAll('#class-table tbody tr')]
  .filter((row) => !row.hidden).map((row) => row.cells[n].textContent);
click(0); got.down = column(0);
click(0); got.up = column(0);
filter.value = 'GR'; filter.dispatchEvent(new Event('input'));
got.filtered = column(1); got.told = document.getElementById('filtered').textContent;
const cell = document.querySelector('.matrix rect.cell');
cell.dispatchEvent(new MouseEvent('mouseover', { bubbles: true }));
got.cell = document.querySelector('.told').textContent;
const zoom = document.getElementById('zoom');
const width = () => document.querySelector('.matrix svg').getBoundingClientRect().width;
got.width = width(); zoom.value = 2; zoom.dispatchEvent(new Event('input'));
got.zoomed = width();
got.pictures = [...document.images].map((image) => image.naturalWidth);
got.wide = document.documentElement.scrollWidth - innerWidth;
document.title = JSON.stringify(got);
</script></body>"""


@pytest.mark.full
@pytest.mark.skipif(BROWSER is None, reason='no browser: apt-get install chromium')
def test_in_a_browser(page, tmp_path):
    acted = tmp_path / 'acted.html'
    acted.write_text(page.read_text().replace('</body>', ACTIONS))
    result = subprocess.run(
        [
            BROWSER,
            *('--headless', '--no-sandbox', '--disable-gpu', '--no-first-run'),
            *('--disable-background-networking', '--disable-component-update'),
            *('--enable-logging=stderr', f'--user-data-dir={tmp_path / "profile"}'),
            *('--window-size=1200,2000', f'--screenshot={tmp_path / "page.png"}'),
            *('--dump-dom', acted.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert 'CONSOLE' not in result.stderr  # where a script's errors go
    title = re.search('<title>(.*?)</title>', result.stdout, re.S)[1]
    got = json.loads(html.unescape(title))
    assert got['down'] == ['3', '2', '1', '0'] and got['up'] == ['0', '1', '2', '3']
    assert got['filtered'] == ['grow'] and got['told'] == '1 of 4 classes'
    assert re.fullmatch(r'.+ → .+: \d of 3 clips, \d+ %', got['cell'])
    assert 1.9 < got['zoomed'] / got['width'] <= 2  # scroll bars take some
    assert got['width'] < 500  # four classes: letters as in the text, not a poster
    assert all(got['pictures']) and got['wide'] <= 0
    shot = cv2.imread(str(tmp_path / 'page.png'))
    assert shot.shape[1] == 1200 and shot.std() > 10
