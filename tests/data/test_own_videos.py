"""list_videos.py, check_videos.py and extract_frames.py, as processes."""

import json
import os
import re

import cv2
import pytest
from conftest import ROOT
from script_calls import call, run
from videos import make_video

TOOLS = ROOT / 'tools' / 'data'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Six videos in two folders of classes."""
    folder = tmp_path_factory.mktemp('own')
    for name in ('turn left', 'turn_right'):
        (folder / 'clips' / name).mkdir(parents=True)
        for number in range(3):
            make_video(
                folder / 'clips' / name / f'ä {number}.mp4', frames=6, seed=number
            )
    (folder / 'clips' / 'notes.txt').touch()
    return folder


def list_videos(folder, *arguments):
    return call(TOOLS / 'list_videos.py', *arguments, cwd=folder)


def read(path):
    return path.read_text().splitlines()


@pytest.fixture(scope='module')
def listed(folder):
    output = run(
        TOOLS / 'list_videos.py',
        'clips',
        'own',
        '--test',
        '.34',
        '--val',
        0,
        cwd=folder,
    )
    assert 'model.cls_head.num_classes=2' in output
    assert 'flip_label_map={0: 1, 1: 0}' in output
    return folder


def test_folders_of_classes(listed):
    own = listed / 'own'
    assert read(own / 'classes.txt') == ['turn left', 'turn_right']
    assert not (own / 'val.txt').exists()
    train, test = read(own / 'train.txt'), read(own / 'test.txt')
    assert [line[-1] for line in train] == ['0', '0', '1', '1']
    assert [line[-1] for line in test] == ['0', '1']
    assert sorted(train + test) == [
        f'{name}/ä {number} {label}'
        for label, name in enumerate(('turn left', 'turn_right'))
        for number in range(3)
    ]
    assert (own / 'videos' / 'turn left' / 'ä 0.mp4').is_file()


def test_again(listed):
    """The same files; another folder of videos is refused."""
    before = {path: path.read_bytes() for path in (listed / 'own').glob('*.txt')}
    assert list_videos(listed, 'clips', 'own', '--test', '.34', '--val', 0)[0] == 0
    assert before == {path: path.read_bytes() for path in before}
    (listed / 'others/a').mkdir(parents=True)
    (listed / 'others/b').mkdir()
    for name in 'ab':
        make_video(listed / f'others/{name}/1.avi', codec='mpeg4')
    code, _ = list_videos(listed, 'others', 'own')
    assert code.startswith('error: own/videos is not others: remove it')
    code, output = list_videos(listed, 'others', 'avi')
    assert code == 0 and "video_ext='avi'" in output


def test_lists_of_an_earlier_split_go(listed):
    """With what was made of them; the same split again leaves all there."""
    arguments = listed, 'clips', 'again', '--val', '.34'
    assert list_videos(*arguments, '--test', '.34')[0] == 0
    made = [
        listed / f'again/{split}{end}.txt'
        for split in ('train', 'val', 'test')
        for end in ('_clean', '_rawframes', '_clean_rawframes')
    ]
    for path in made:
        path.write_text('')
    assert list_videos(*arguments, '--test', '.34')[0] == 0
    assert all(path.exists() for path in made)
    code, output = list_videos(*arguments, '--test', 0)
    assert code == 0 and not (listed / 'again/test.txt').exists()
    assert 'again/test.txt: removed, since this split has none' in output
    assert 'again/train_rawframes.txt: removed, since train.txt is another' in output
    assert not any(path.exists() for path in made)


def test_table(listed):
    rows = ['path,person,class'] + [
        f'turn left/ä {number}.mp4,{"abc"[number]},{"xyx"[number]}'
        for number in range(3)
    ]
    (listed / 'clips.csv').write_text('\n'.join(rows + ['gone.mp4,a,x']) + '\n')
    table = '--csv', 'clips.csv', '--group', 'person'
    groups = '--test-groups', 'c', '--val-groups', 'b'
    code, output = list_videos(listed, 'clips', 'groups', *table, *groups)
    assert code == 0, code
    assert 'left out: clips.csv, line 5: gone.mp4 is no video in clips' in output
    for name, line in (('train', '0 0'), ('val', '1 1'), ('test', '2 0')):
        assert read(listed / f'groups/{name}.txt') == [f'turn left/ä {line}']
    # At random, no group is in two lists.
    code, _ = list_videos(listed, 'clips', 'drawn', *table, '--seed', 3)
    assert code == 0
    lists = [read(listed / f'drawn/{name}.txt') for name in ('train', 'val', 'test')]
    assert [len(lines) for lines in lists] == [1, 1, 1]


@pytest.mark.parametrize(
    'arguments, table, fault',
    [
        (['nowhere'], None, 'nowhere is no folder'),
        (['clips', '--test', 1], None, '--test should be a share'),
        (['clips', '--test', 0.6, '--val', 0.6], None, 'leave nothing to train on'),
        (['clips', '--group', 'x'], None, '--group is a column of a CSV file'),
        (['clips', '--val-groups', 'x'], None, 'need --group'),
        (['clips/turn left'], None, '0 videos of 0 classes'),
        (['clips'], 'path,class\nclips/ä,x\n', 'paths count from that folder'),
        (['clips'], 'path,kind\na,b\n', 'line 1: there is no column class'),
        (['clips'], 'path,class\nturn left/ä 0,\n', 'line 2: class is empty'),
        (
            ['clips'],
            'path,class\nturn left/ä 0,x\nturn left/ä 0.mp4,y\n',
            'line 3: .* is in line 2, too',
        ),
        (['clips'], 'path,class\nturn left/ä 0,x\n', '1 videos of 1 classes'),
        (['clips'], b'path,class\n\xe4,x\n', 'line 2: the byte 0xe4 is not UTF-8'),
    ],
)
def test_faults(folder, tmp_path, arguments, table, fault):
    if table:
        content = table if isinstance(table, bytes) else table.encode()
        (tmp_path / 'table.csv').write_bytes(content)
        arguments = [*arguments, '--csv', tmp_path / 'table.csv']
    code, _ = list_videos(folder, arguments[0], tmp_path / 'out', *arguments[1:])
    assert code.startswith('error: ') and code.count('\n') == 0
    assert re.search(fault, code), code


@pytest.fixture
def spoilt(folder, tmp_path):
    """A list with a broken video, one that is missing and a short one."""
    videos = tmp_path / 'videos'
    videos.mkdir()
    for name in ('a b', 'short'):
        make_video(videos / f'{name}.mp4', frames=2 if name == 'short' else 6)
    (videos / 'broken.mp4').write_bytes(b'no video')
    (tmp_path / 'list.txt').write_text('a b 0\nbroken 1\ngone 0\nshort 1\n')
    return tmp_path


def test_check(spoilt):
    command = TOOLS / 'check_videos.py', 'list.txt', '--min-frames', 3, '--workers', 2
    output = run(*command, cwd=spoilt)
    assert 'list.txt, line 2: videos/broken.mp4: Invalid data' in output
    assert 'list.txt, line 3: videos/gone: there is no such video' in output
    assert 'line 4: videos/short.mp4: it has 2 of at least 3 frames' in output
    assert '1 of 4 videos are good' in output
    assert read(spoilt / 'list_clean.txt') == ['a b 0']
    kept = json.loads((spoilt / 'list_checked.json').read_text())
    assert kept['a b.mp4']['frames'] == 6
    # What is known is not decoded again; what has changed is.
    kept['a b.mp4']['frames'] = 7
    (spoilt / 'list_checked.json').write_text(json.dumps(kept))
    make_video(spoilt / 'videos/broken.mp4', frames=5)
    output = run(*command, cwd=spoilt)
    assert '2 of 4 videos are good' in output
    kept = json.loads((spoilt / 'list_checked.json').read_text())
    assert kept['a b.mp4']['frames'] == 7 and kept['broken.mp4']['frames'] == 5


def test_check_names_doubts(spoilt):
    """Labels without a class, videos of two labels, and of two lists."""
    (spoilt / 'classes.txt').write_text('one\ntwo\n')
    (spoilt / 'list.txt').write_text('a b 0\nshort 2\na b 1\n')
    (spoilt / 'other.txt').write_text('short.mp4 1\n')
    output = run(TOOLS / 'check_videos.py', 'list.txt', 'other.txt', cwd=spoilt)
    assert 'line 2: videos/short.mp4: its label 2 is of none of the 2 classes' in output
    assert read(spoilt / 'list_clean.txt') == ['a b 0', 'a b 1']
    assert 'list.txt, line 3: a b.mp4 has label 1, but in line 1 it has 0' in output
    assert 'other.txt, line 1: short.mp4 is in list.txt, too' in output


def test_extract(spoilt):
    command = TOOLS / 'extract_frames.py', 'list.txt', 'frames', '--short-side', 24
    output = run(*command, '--workers', 2, cwd=spoilt)
    assert 'list.txt, line 2: videos/broken.mp4: Invalid data' in output
    assert read(spoilt / 'list_rawframes.txt') == ['a b 6 0', 'short 2 1']
    frames = spoilt / 'frames' / 'a b'
    assert sorted(os.listdir(frames)) == [f'image_{n:05d}.jpg' for n in range(1, 7)]
    assert cv2.imread(str(frames / 'image_00006.jpg')).shape == (24, 32, 3)
    assert sorted(os.listdir(spoilt / 'frames')) == ['a b', 'extracted.json', 'short']
    # A run that was stopped goes on: what is there stays, the rest is cut.
    inode = os.stat(frames).st_ino
    make_video(spoilt / 'videos/broken.mp4', frames=3)
    code, _ = call(*command[:-1], 48, cwd=spoilt)
    assert code.startswith('error: frames has frames of other settings')
    run(*command, cwd=spoilt)
    assert read(spoilt / 'list_rawframes.txt') == ['a b 6 0', 'broken 3 1', 'short 2 1']
    assert os.stat(frames).st_ino == inode
