# As DNR_resnet50_kinetics400_rgb_seg1_f8s8.py, from video files: the lists that
# tools/data/prepare_kinetics400.py writes. No frames need to be cut, and a core
# reads fewer clips a second than from JPEG; docs/data.md compares.
_base_ = './DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
clip = dict(type='VideoDataset', img_prefix='data/kinetics400/videos')
data = dict(
    train=dict(ann_file='data/kinetics400/kinetics400_train_list_videos.txt', **clip),
    val=dict(ann_file='data/kinetics400/kinetics400_val_list_videos.txt', **clip),
    test=dict(ann_file='data/kinetics400/kinetics400_val_list_videos.txt', **clip),
)
work_dir = './work_dirs/DNR_r50_kinetics400_video_seg1_8x8_scratch'
