"""The five prepare_*.py, on miniature sets in the official formats."""

import json

import pytest
from conftest import ROOT
from script_calls import call, run

TOOLS = ROOT / 'tools' / 'data'


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def touch(root, *names):
    write(root, dict.fromkeys(names, ''))


KINETICS = 'label,youtube_id,time_start,time_end,split\n'
UCF = {
    'ann/classInd.txt': '1 ApplyLipstick\n2 Archery\n',
    'ann/trainlist01.txt': 'ApplyLipstick/v_A_g08_c01.avi 1\n'
    'Archery/v_B_g08_c01.avi 2\n',
    'ann/testlist01.txt': 'Archery/v_B_g01_c01.avi\nArchery/v_B_g01_c02.avi\n',
}
STHV1 = 'ann/something-something-v1-{}.csv'
STHV2 = 'ann/something-something-v2-{}.json'
LABELS = [
    'Pushing something from left to right',
    'Pushing something from right to left',
]


def entries(*videos):
    return json.dumps(
        [
            dict(
                id=key,
                label=LABELS[label].replace('something', 'a cup'),
                template=LABELS[label].replace('something', '[something]'),
                placeholders=['a cup'],
            )
            for key, label in videos
        ]
    )


SETS = {
    'kinetics400': (
        {
            'ann/train.csv': KINETICS
            + 'playing "x",abc-_123456,4,14,train\nabseiling,-0_bcdefghi,0,10,train\n',
            'ann/val.csv': KINETICS + 'abseiling,zzzzzzzzzzz,15,25,val\n',
            'ann/test.csv': 'youtube_id,time_start,time_end,split\nx,1,2,test\n',
        },
        ['train/abc-_123456_000004_000014.mp4', 'val/abseiling/zzzzzzzzzzz.mp4'],
        {
            'kinetics400_train_list_videos.txt': ['train/abc-_123456_000004_000014 1'],
            'kinetics400_val_list_videos.txt': ['val/abseiling/zzzzzzzzzzz 0'],
            'classes.txt': ['abseiling', 'playing "x"'],
        },
        '1 videos are missing, the first is -0_bcdefghi_000000_000010',
    ),
    'ucf101': (
        UCF,
        [
            'ApplyLipstick/v_A_g08_c01.avi',
            'Archery/v_B_g08_c01.avi',
            'Archery/v_B_g01_c02.avi',
        ],
        {
            'train_split1.txt': [
                'ApplyLipstick/v_A_g08_c01 0',
                'Archery/v_B_g08_c01 1',
            ],
            'test_split1.txt': ['Archery/v_B_g01_c02 1'],
            'classes.txt': ['ApplyLipstick', 'Archery'],
        },
        '1 videos are missing, the first is Archery/v_B_g01_c01',
    ),
    'hmdb51': (
        {
            'ann/brush_hair_test_split1.txt': 'a b_0.avi 1 \nc_0.avi 2 \nd_0.avi 0 \n',
            'ann/wave_test_split1.txt': 'c_0.avi 1 \ne_0.avi 2 \n',
        },
        ['brush_hair/a b_0.avi', 'wave/c_0.avi', 'brush_hair/c_0.avi'],
        {
            'train_split1.txt': ['brush_hair/a b_0 0', 'wave/c_0 1'],
            'test_split1.txt': ['brush_hair/c_0 0'],
            'classes.txt': ['brush_hair', 'wave'],
        },
        '1 videos are missing, the first is wave/e_0',
    ),
    'sthv2': (
        {
            STHV2.format('labels'): json.dumps(
                {name: str(label) for label, name in enumerate(LABELS)}
            ),
            STHV2.format('train'): entries(('7', 1), ('9', 0)),
            STHV2.format('validation'): entries(('8', 0)),
        },
        ['7.webm', '8.webm'],
        {'train.txt': ['7 1'], 'val.txt': ['8 0'], 'classes.txt': LABELS},
        "video_ext='webm'",
    ),
    'sthv1': (
        {
            STHV1.format('labels'): '\n'.join(LABELS) + '\n',
            STHV1.format('train'): f'100218;{LABELS[1]}\n24413;{LABELS[0]}\n',
            STHV1.format('validation'): f'3;{LABELS[0]}\n4;{LABELS[0]}\n',
        },
        ['100218/00001.jpg', '100218/00002.jpg', '3/00001.jpg', '4/00002.jpg'],
        {'train.txt': ['100218 2 1'], 'val.txt': ['3 1 0'], 'classes.txt': LABELS},
        'videos/4: it has 1 frames, but they go up to 00002.jpg',
    ),
}


@pytest.mark.parametrize('name', SETS)
def test_prepare(tmp_path, name):
    """Lists and names as the training wants them, twice."""
    annotations, videos, expected, said = SETS[name]
    write(tmp_path, annotations)
    touch(tmp_path / 'videos', *videos)
    for _ in range(2):
        output = run(TOOLS / f'prepare_{name}.py', 'ann', 'videos', 'out', cwd=tmp_path)
        assert said in output
        for file, lines in expected.items():
            assert (tmp_path / 'out' / file).read_text().splitlines() == lines
    assert (tmp_path / 'out/videos' / videos[0]).is_file()
    if name.startswith('sth'):
        assert 'flip_label_map={0: 1, 1: 0}' in output


@pytest.mark.parametrize(
    'name, change, fault',
    [
        ('ucf101', {'ann/classInd.txt': '2 Archery\n'}, "line 1: '2 Archery' is not"),
        ('ucf101', {'ann/testlist01.txt': 'Box/v.avi\n'}, "'Box' is none of the 2"),
        ('ucf101', {'ann/trainlist01.txt': ''}, 'trainlist01.txt is empty'),
        ('kinetics400', {'ann/val.csv': 'label\nx\n'}, 'no column youtube_id'),
        (
            'kinetics400',
            {'ann/val.csv': KINETICS + 'abseiling,x,a,b,val\n'},
            'val.csv, line 2: time_start and time_end should be numbers',
        ),
        ('hmdb51', {'ann/wave_test_split1.txt': 'a.avi 3\n'}, 'and 0, 1 or 2'),
        ('hmdb51', {'ann/a_test_split2.txt': 'a.avi 1\n'}, 'has no'),
        ('sthv2', {STHV2.format('train'): '{'}, 'is no JSON'),
        ('sthv2', {STHV2.format('labels'): '{"a": "1"}'}, 'labels are not 0 to 0'),
        ('sthv2', {STHV2.format('train'): '[1]'}, 'entry 1 has no id or template'),
        ('sthv1', {STHV1.format('train'): '1;no\n'}, "line 1: 'no' is none of the 2"),
        ('sthv1', {STHV1.format('train'): '1\n'}, "'1' should be ID;CLASS"),
    ],
)
def test_faults(tmp_path, name, change, fault):
    write(tmp_path, dict(SETS[name][0], **change))
    touch(tmp_path / 'videos', *SETS[name][1])
    script = TOOLS / f'prepare_{name}.py'
    code, output = call(script, 'ann', 'videos', 'out', cwd=tmp_path)
    assert isinstance(code, str) and code.startswith('error: '), output
    assert fault in code and '\n' not in code
    assert not (tmp_path / 'out').exists()


def test_nothing_there(tmp_path):
    write(tmp_path, UCF)
    touch(tmp_path / 'videos', 'other.avi')
    script = TOOLS / 'prepare_ucf101.py'
    code, _ = call(script, 'ann', 'videos', 'out', cwd=tmp_path)
    assert code == 'error: not one video of the annotations is in videos'
    code, _ = call(script, 'nowhere', 'videos', 'out', cwd=tmp_path)
    assert code == 'error: nowhere is no folder'
