# As DNR_resnet18_own_videos_cpu.py, on the frames that
# tools/data/extract_frames.py has cut.
_base_ = './DNR_resnet18_own_videos_cpu.py'
clip = dict(type='RawFramesDataset', img_prefix='data/own/frames')
data = dict(
    train=dict(ann_file='data/own/train_rawframes.txt', **clip),
    val=dict(ann_file='data/own/val_rawframes.txt', **clip),
    test=dict(ann_file='data/own/test_rawframes.txt', **clip),
)
work_dir = './work_dirs/DNR_r18_own_frames_cpu'
