"""Video files and labels of mirrored videos, on the mmaction2 host."""

import multiprocessing
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from hosts import HostError
from hosts.frame_indices import frame_indices
from hosts.mmaction2_config import IMPORTS, VIDEO_IMPORTS, load_config, translate
from hosts.videos import (
    BrokenVideo,
    Replacements,
    check_flip_label_map,
    check_skip_broken,
    video_files,
)
from mmengine.registry import DATASETS, init_default_scope
from mmengine.utils import import_modules_from_strings
from video_files import Video
from videos import make_video

CONFIGS = ROOT / 'configs'
OWN = str(CONFIGS / 'DNR_resnet18_own_videos_cpu.py')
SEGMENTED = ('ucf101', 'hmdb51', 'sthv1', 'sthv2')


@pytest.fixture(autouse=True)
def mmaction_scope():
    import_modules_from_strings(IMPORTS + VIDEO_IMPORTS)
    init_default_scope('mmaction')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Four videos, the third broken, and two lists of them."""
    folder = tmp_path_factory.mktemp('videos')
    (folder / 'a b').mkdir()
    for seed, name in enumerate(('a b/ä', 'short', 'last')):
        make_video(folder / f'{name}.mp4', frames=3 if seed == 1 else 12, seed=seed)
    (folder / 'broken.mp4').write_bytes(b'no video')
    (folder / 'all.txt').write_text('a b/ä 0\nshort 1\nbroken 0\nlast 1\n')
    (folder / 'good.txt').write_text('a b/ä 0\nshort 1\nlast 1\n')
    return folder


def config(folder, **train):
    v1 = load_config(OWN)
    for split in ('train', 'val', 'test'):
        v1.data[split].ann_file = str(folder / 'good.txt')
        v1.data[split].img_prefix = str(folder)
    v1.data.train.update(train)
    v1.work_dir = str(folder / 'work')
    return v1


def train_set(folder, **train):
    return DATASETS.build(translate(config(folder, **train)).train_dataloader.dataset)


def test_clip(folder):
    """The frames of v1's rule, in their order."""
    data = train_set(folder, random_shift=False)
    assert len(data) == 3
    results = data.pipeline.transforms[0](data.get_data_info(0))
    rule = dict(num_segments=8, new_length=1, new_step=1)
    numbers = frame_indices(
        12, **rule, random_shift=False, temporal_jitter=False, test_mode=False
    )
    assert results['frame_inds'].tolist() == numbers.tolist()
    with Video(folder / 'a b/ä.mp4') as video:
        frames = [image() for image in video]
    for image, number in zip(results['imgs'], numbers):
        assert np.array_equal(image, frames[number - 1])
    item = data[1]  # a video of 3 frames
    assert item['inputs'].shape == (8, 3, 32, 32)
    assert item['data_samples'].gt_labels.item.item() == 1


def test_broken_file_ends_the_run(folder):
    data = train_set(folder, ann_file=str(folder / 'all.txt'))
    with pytest.raises(
        BrokenVideo, match=r'all.txt, line 3: .*broken.mp4 cannot be read: Invalid data'
    ):
        data[2]


def test_skip_broken(folder, caplog):
    """The next video stands for it, and workers count it together."""
    v1 = config(folder, ann_file=str(folder / 'all.txt'), skip_broken=True)
    cfg = translate(v1)
    assert cfg.default_hooks.count_replaced.type == 'CountReplacedHook'
    data = DATASETS.build(cfg.train_dataloader.dataset)
    context = multiprocessing.get_context('fork')
    loader = torch.utils.data.DataLoader(
        data, num_workers=2, collate_fn=list, multiprocessing_context=context
    )
    labels = [
        item.gt_labels.item.item()
        for (item,) in (
            [sample['data_samples'] for sample in batch] for batch in loader
        )
    ]
    assert labels == [0, 1, 1, 1]
    assert data.replacements.take_count() == 1
    assert data.replacements.take_count() == 0


def test_not_one_good_video():
    def load(index):
        raise BrokenVideo(f'line {index + 1}')

    told = []
    with pytest.raises(HostError, match='list.txt: not one of its videos can be read'):
        Replacements(3, 'list.txt').first_good(1, load, told.append)
    assert [text.split(';')[0] for text in told] == ['line 2', 'line 3', 'line 1']


def test_missing_files(folder):
    (folder / 'more.txt').write_text('last 0\ngone 1\naway/gone 1\n')
    arguments = str(folder / 'more.txt'), str(folder), 'mp4'
    with pytest.raises(
        HostError, match=r'more.txt, line 2: .*gone.mp4 does not exist; 2 of 3 videos'
    ):
        video_files(*arguments)
    assert len(video_files(*arguments, skip_broken=True)) == 3
    with pytest.raises(HostError, match='video_ext'):
        video_files(str(folder / 'good.txt'), str(folder), 'avi', skip_broken=True)


def test_endings_in_the_list(folder):
    (folder / 'endings.txt').write_text('last.mp4 0\nother.mov 1\n')
    shutil.copy(folder / 'short.mp4', folder / 'other.mov')
    data = train_set(folder, ann_file=str(folder / 'endings.txt'), video_ext=None)
    assert data[1]['inputs'].shape == (8, 3, 32, 32)
    with pytest.raises(HostError, match='the list has the endings: set video_ext=None'):
        video_files(str(folder / 'endings.txt'), str(folder), 'mp4')


@pytest.mark.parametrize('split', ['val', 'test'])
def test_skip_broken_is_for_training(split):
    check_skip_broken('train', dict(skip_broken=True))
    with pytest.raises(HostError, match=f'data.{split}.skip_broken=True.*check_videos'):
        check_skip_broken(split, dict(skip_broken=True))


@pytest.mark.parametrize(
    'labels, fault',
    [
        ({86: 87}, '86 becomes 87, but 87 becomes 87.*add 87: 86'),
        ({1: 2, 2: 3, 3: 1}, '1 becomes 2, but 2 becomes 3'),
        ({1: 174, 174: 1}, 'has 174, which is no label of the 174 classes'),
        ({'1': 2, 2: '1'}, "has '1', which is no label"),
        ({1: -1, -1: 1}, 'has -1, which is no label'),
        ({}, 'should be a dict such as'),
        ([86, 87], 'should be a dict such as'),
    ],
)
def test_wrong_flip_label_map(labels, fault):
    with pytest.raises(HostError, match=f'^data.train.flip_label_map.*{fault}'):
        check_flip_label_map('train', dict(flip_label_map=labels), 174)


def test_flip_label_map_without_flips():
    data = dict(flip_label_map={0: 1, 1: 0}, flip_ratio=0)
    with pytest.raises(HostError, match='flip_ratio=0 flips no video'):
        check_flip_label_map('train', data, 2)


def test_mirrored_videos_change_their_label(folder):
    data = train_set(folder, flip_ratio=1, flip_label_map={0: 1, 1: 0})
    plain = train_set(folder, flip_ratio=0)
    for index, label in enumerate((0, 1, 1)):
        assert plain[index]['data_samples'].gt_labels.item.item() == label
        assert data[index]['data_samples'].gt_labels.item.item() == 1 - label


@pytest.mark.parametrize(
    'key, value', [('use_decord', True), ('type', 'LMDBFramesDataset')]
)
def test_what_this_host_lacks(folder, key, value):
    with pytest.raises(HostError, match=f'data.train.{key}=.*cannot be honoured'):
        translate(config(folder, **{key: value}))


@pytest.mark.parametrize('name', SEGMENTED)
def test_configs_of_data_sets(name):
    """Clips of 8 segments of a frame; labels of left and right, by the map."""
    v1 = load_config(str(CONFIGS / f'DNR_resnet50_{name}_rgb_seg8_f1.py'))
    cfg = translate(v1, validate=True)
    classes = dict(ucf101=101, hmdb51=51, sthv1=174, sthv2=174)[name]
    assert cfg.model.cls_head.num_classes == classes
    kind = 'V1RawFrames' if name == 'sthv1' else 'V1Videos'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.type == kind
        rule = loader.dataset.pipeline[0]
        assert (rule.num_segments, rule.new_length) == (8, 1)
    (flip,) = [t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'Flip']
    maps = dict(
        sthv1={2: 4, 4: 2, 30: 41, 41: 30, 52: 66, 66: 52},
        sthv2={86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166},
    )
    assert flip.flip_label_map == maps.get(name)


@pytest.mark.parametrize('start', ['', '_from_imagenet', '_from_kinetics'])
def test_configs_of_own_videos(start):
    v1 = load_config(str(CONFIGS / f'DNR_resnet50_own_videos{start}.py'))
    cfg = translate(v1, validate=True)
    assert bool(cfg.load_from) == (start == '_from_kinetics')
    assert bool(cfg.model.backbone.pretrained) == (start == '_from_imagenet')
