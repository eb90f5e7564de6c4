"""Faults in data and options on mmaction v1's side, on the real mmaction v1.

    MMACTION_ROOT=/path/to/mmaction .venv-v1/bin/python -m pytest \
        tests/hosts/test_v1_faults.py

test_faults_data.py and test_faults_options.py have what both hosts share.
"""

import os
import shutil
import subprocess
import sys
import sysconfig

import pytest
from conftest import ROOT, V1_CHECKOUT
from test_mmaction_v1_host import (
    inside,
    load,
    needs_v1,
    work,  # noqa: F401
)

# Prints what each case raises.
DATA = """
import os, sys, types
import cv2, numpy as np
from hosts import HostError
from mmaction import datasets

def refused(make):
    try:
        make()
        print('accepted')
    except HostError as error:
        print('HostError', error)

def frames(name, *sizes):
    os.makedirs(f'faults/{name}', exist_ok=True)
    for number, (width, height) in enumerate(sizes, 1):
        image = np.full((height, width, 3), 40, np.uint8)
        cv2.imwrite(f'faults/{name}/image_{number:05d}.jpg', image)

def dataset(kind, *lines, **options):
    os.makedirs('faults', exist_ok=True)
    with open('faults/list.txt', 'wb') as file:
        file.write(b'\\xef\\xbb\\xbf' + '\\r\\n'.join(lines).encode() + b'\\r\\n\\r\\n')
    return getattr(datasets, kind)(**{
        **dict(ann_file='faults/list.txt', img_prefix='faults', num_segments=1,
               new_length=8, input_size=32, img_scale=32, flip_ratio=0,
               img_norm_cfg=dict(mean=[0, 0, 0], std=[1, 1, 1], to_rgb=True)),
        **options})

frames_of = dict(image_tmpl='image_{:05d}.jpg')
frames('my wide', *[(200, 10)] * 10)
for crop in ({}, dict(oversample='three_crop'), dict(oversample='ten_crop')):
    wide = dataset('RawFramesDataset', 'my wide 10 0', img_scale=(40, 32),
                   **crop, **frames_of)
    refused(lambda: wide[0])
frames('31', *[(40, 31)] * 10)
small = dataset('RawFramesDataset', '31 10 0', img_scale=(40, 31),
                multiscale_crop=True, scales=[1], **frames_of)
refused(lambda: small[0])
frames('mixed', (40, 32), (32, 40), *[(40, 32)] * 8)
mixed = dataset('RawFramesDataset', 'mixed 10 0', random_shift=False, **frames_of)
refused(lambda: mixed[0])
frames('good', *[(40, 32)] * 10)
good = dataset('RawFramesDataset', 'good 10 0', 'my wide  10 2', **frames_of)
print(good[0]['img_group_0'].data.shape, good.get_ann_info(1))

# Videos: frames of growing red.
writer = cv2.VideoWriter('faults/red.avi', cv2.VideoWriter_fourcc(*'MJPG'), 5, (40, 32))
for number in range(12):
    image = np.zeros((32, 40, 3), np.uint8)
    image[..., 2] = 20 * number
    writer.write(image)
writer.release()
with open('faults/broken.avi', 'w') as file:
    file.write('no video')
video = dict(video_ext='avi', random_shift=False)
plain = dataset('VideoDataset', 'red 1', 'broken 0', 'missing 2', **video)
expected = plain[0]['img_group_0'].data.numpy()
red = expected.mean((2, 3))
print('grows', (np.diff(red[:7, 0]) > 10).all(), 'red', (red[1:, 2] < 9).all())
refused(lambda: plain[1])
refused(lambda: plain[2])
refused(lambda: dataset('VideoDataset', 'red 8 1 x', **video))
refused(lambda: dataset('VideoDataset', 'red -1', **video))

class Reader:  # what decord has of this
    def __init__(self, path):
        capture = cv2.VideoCapture(path)
        self.frames = []
        while True:
            read, image = capture.read()
            if not read:
                break
            self.frames.append(image[..., ::-1])
    def __len__(self):
        return len(self.frames)
    def __getitem__(self, index):
        return types.SimpleNamespace(asnumpy=lambda: self.frames[index])

module = sys.modules[datasets.VideoDataset.__module__]
module.decord = types.SimpleNamespace(VideoReader=Reader)
other = dataset('VideoDataset', 'red 1', use_decord=True, **video)
print('decord', (other[0]['img_group_0'].data.numpy() == expected).all())
"""


@needs_v1
def test_data(work):  # noqa: F811
    output = inside(work, DATA).splitlines()
    for line, crop in zip(output, ('center_crop', 'three_crop', 'ten_crop')):
        assert line.startswith('HostError video my wide: frames of 40 x 2 after res')
        assert f'do not fit {crop} of 32 x 32' in line
    assert 'video 31: frames of 40 x 31 after resizing do not fit multis' in output[3]
    assert output[4] == (
        'HostError video mixed: frames of several sizes: 32 x 40, 40 x 32'
    )
    assert output[5] == (
        "torch.Size([8, 3, 32, 32]) {'path': 'my wide', 'num_frames': 10, 'label': 2}"
    )
    assert output[6] == 'grows True red True'
    for line, text in (
        (output[7], 'line 2: video broken: no frame can be read'),
        (output[8], 'line 3: faults/missing.avi does not exist'),
    ):
        assert line == f'HostError faults/list.txt, {text}'
    assert 'line 1: \'red 8 1 x\' should be "path label"' in output[9]
    assert 'line 1: label -1 is not one of the classes' in output[10]
    assert output[11] == 'decord True'


CONFIGS = """
import argparse
import mmcv
from hosts import HostError, v1_config
host.add_backbone()

def check(task, options, **more):
    args = dict(config='config.py', validate=False, fcn_testing=False)
    if task == 'test':
        args['checkpoint'] = 'x.pth'
    try:
        cfg = v1_config.load_config('config.py', options)
        cfg.pop(options.get('del'), None)
        v1_config.check_config(cfg, argparse.Namespace(**{**args, **more}))
        print('accepted')
    except HostError as error:
        print(error)

flow = {'data.train.modality': 'Flow', 'model.modality': 'Flow',
        'model.in_channels': 10, 'data.train.image_tmpl': 'flow_{}_{:05d}.jpg'}
for task, options in (
    ('train', {}),
    ('test', {}),
    ('test', {'data.test.test_mode': False}),
    ('train', {'data.test.flip_ratio': 0.5}),  # which training does not read
    ('train', {'data.train.new_length': 40, **flow}),
    ('train', {'data.train.new_length': 8, **flow}),
    ('train', {'data.train.type': 'LMDBFramesDataset'}),
    ('train', {'data.train.type': 'VideoDataset', 'data.train.use_decord': True}),
    ('train', {'data.train.img_scal': 3}),
    ('train', {'data.train.img_scale': 20}),
    ('train', {'data.train.image_tmpl': 'image.jpg'}),
    ('train', {'data.video_per_gpu': 3}),
    ('train', {'model.cls_head.num_classes': 3}),
    ('train', {'model.cls_head.num_class': 3}),
    ('train', {'model.backbone.type': 'ResNetDNR'}),
    ('train', {'model.backbone.out_indices': (2,)}),
    ('train', {'model.backbone.out_indices': (2, 3)}),
    ('train', {'optimizer.lrr': 3}),
    ('train', {'common.img_scale': 3}),
    ('train', {'lr_config.policy': 'cosin'}),
    ('train', {'lr_config.warmup': 'linar'}),
    ('train', {'lr_config.warmup_itrs': 3}),
    ('train', {'checkpoint_config.max_keep': 3}),
    ('train', {'log_config.hooks': [dict(type='TextLogHook')]}),
    ('train', {'optimizer_config.grad_clp': None}),
    ('test', {'data.test.flip_ratio': 0.5}),
    ('test', {'model.backbone.out_indices': (2,)}),
):
    check(task, options)
check('train', {'data.val.type': 'LMDBFramesDataset'}, validate=True)
check('train', {'data.val.flip_ratio': 0.5}, validate=True)
with open('mirrored.txt', 'w') as file:
    file.write('left\\nup\\nright\\na\\nb\\nc\\n')
check('train', {'class_names': 'mirrored.txt', 'data.train.flip_ratio': 0.5})
check('test', {}, fcn_testing=True)
# mmcv puts a text as it is between quotes in what a checkpoint has of a config.
for value in ("it's", "a'+__import__('os').system('x')+'b", 'a\\nb', '{c'):
    cfg = v1_config.load_config('config.py', dict(work_dir=value))
    assert cfg.work_dir == mmcv.Config.fromstring(cfg.text, '.py').work_dir == value
"""


@needs_v1
def test_configs(work):  # noqa: F811
    output = inside(work, CONFIGS).splitlines()
    for line, wanted in zip(
        output,
        (
            'accepted',
            'accepted',
            'accepted',
            'accepted',
            'accepted',
            'the 16 channels of new_length=8 frames are no whole images of model.in_c',
            "data.train.type='LMDBFramesDataset' cannot be used by mmaction v1 here",
            'data.train.use_decord=True needs decord: pip install decord',
            'did you mean img_scale?',
            'data.train.img_scale=20: frames of any x 20 after',
            "data.train.image_tmpl='image.jpg' should have one place",
            'data.video_per_gpu is unknown; did you mean videos_per_gpu?',
            'train.txt, line 4: label 3 is not one of the 3 classes',
            'did you mean num_classes?',
            "model.backbone.type='ResNetDNR' is unknown; did you mean ResNet_DNR?",
            'leaves stages of 4 unused',
            'should name the one stage',
            'optimizer.lrr=3 is unknown: SGD has no such argument; did you mean lr?',
            'common is a variable of config.py that only helps to write it',
            "lr_config.policy='cosin' is unknown; did you mean Cosine",
            'lr_config: CosineLrUpdaterHook: "linar" is not a supported',
            "unexpected keyword argument 'warmup_itrs'",
            'checkpoint_config.max_keep is unknown; did you mean max_keep_ckpts?',
            'log_config.hooks: TextLogHook is not in the hook registry',
            'optimizer_config.grad_clp=None is unknown',
            'data.test.flip_ratio=0.5 makes every test different',
            'accepted',
            "data.val.type='LMDBFramesDataset' cannot be used",
            'data.val.flip_ratio=0.5 makes every validation different',
            'set data.train.flip_label_map={0: 2, 2: 0}',
            '--fcn_testing is for 3D recognizers',
        ),
    ):
        assert wanted in line
    assert len(output) == 31


# ---- v1's own scripts


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
    """An environment on top of this one, with the start-up hook in it."""
    folder = tmp_path_factory.mktemp('environment')
    command = [sys.executable, '-m', 'venv', '--without-pip', str(folder)]
    subprocess.run(command, check=True)
    python = folder / 'bin/python'
    (packages,) = folder.glob('lib/python*/site-packages')
    (packages / 'parent.pth').write_text(sysconfig.get_path('purelib') + '\n')
    hook = ROOT / 'tools/hosts/v1_startup.py'
    for _ in range(2):  # a second run changes nothing
        subprocess.run([python, hook], check=True, stdout=subprocess.DEVNULL)
    assert sorted(
        path.name for path in packages.iterdir() if path.suffix == '.pth'
    ) == [
        'parent.pth',
        'resnet_dnr_v1.pth',
    ]
    return folder


def execute(environment, *command, cwd, code=0, **env):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={
            **os.environ,
            'PATH': f'{environment}/bin:{os.environ["PATH"]}',
            'OMP_NUM_THREADS': '1',
            'CUDA_VISIBLE_DEVICES': '',
            **env,
        },
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def test_the_hook_leaves_others_alone(environment, tmp_path):
    """It takes effect where mmcv and v1 are imported together."""
    (tmp_path / 'mmcv.py').write_text('__version__ = "2.1.0"\n')
    code = """
import sys
import mmcv
print(mmcv.__version__, 'hosts' in sys.modules, sys.argv[1:], len(sys.path))
"""
    command = ['python', '-c', code, '--local-rank=1']
    paths = dict(PYTHONPATH=str(tmp_path))
    output = execute(environment, *command, cwd=tmp_path, **paths)
    without = execute(environment, 'python', '-S', *command[1:], cwd=tmp_path, **paths)
    assert output.startswith("2.1.0 False ['--local-rank=1'] ")
    assert without.startswith("2.1.0 False ['--local-rank=1'] ")


@needs_v1
@pytest.mark.full
def test_v1_s_own_scripts(environment, work, tmp_path):  # noqa: F811
    """Training, validation and testing, from inside v1's root, as its README has it."""
    root = tmp_path / 'mmaction'
    for folder in ('mmaction', 'tools', 'configs'):
        shutil.copytree(os.path.join(V1_CHECKOUT, folder), root / folder)
    install = ROOT / 'tools/setup/install_into_mmaction.py'
    execute(environment, 'python', install, root, cwd=tmp_path)
    for name in ('train', 'val', 'train.txt', 'val.txt'):
        (root / name).symlink_to(work / name)
    text = (work / 'config.py').read_text()
    text = text.replace('workers_per_gpu=0', 'workers_per_gpu=1')
    text = text.replace('total_epochs = 3', 'total_epochs = 1')
    (root / 'config.py').write_text(text)
    output = execute(
        environment,
        './tools/dist_train_recognizer.sh',
        'config.py',
        2,
        '--validate',
        cwd=root,
    )
    assert 'top1 acc' in output and (root / 'work/epoch_1.pth').is_file()
    # It has no run bit in v1.
    output = execute(
        environment,
        'bash',
        './tools/dist_test_recognizer.sh',
        'config.py',
        'work/epoch_1.pth',
        2,
        '--out',
        'results.pkl',
        cwd=root,
    )
    assert 'Top-1 Accuracy' in output
    assert [scores.shape for scores in load(root / 'results.pkl')] == [(1, 6)] * 5
