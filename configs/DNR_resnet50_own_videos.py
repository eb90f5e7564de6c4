# Your own videos, by the lists that tools/data/list_videos.py leaves in
# data/own: a clip is 8 frames, one of each eighth of a video. From scratch; the
# configs beside this one begin with a checkpoint. Set num_classes to yours:
#   --cfg-options model.cls_head.num_classes=10
_base_ = './DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
model = dict(cls_head=dict(dropout_ratio=0.5, num_classes=2))
clip = dict(
    type='VideoDataset',
    img_prefix='data/own/videos',
    num_segments=8,
    new_length=1,
    new_step=1,
)
data = dict(
    train=dict(ann_file='data/own/train.txt', **clip),
    val=dict(ann_file='data/own/val.txt', **clip),
    test=dict(ann_file='data/own/test.txt', input_size=224, oversample=None, **clip),
)
# For 8 GPUs x 8 videos. With fewer, --auto-scale-lr lowers the rate.
optimizer = dict(lr=0.02, weight_decay=5e-4)
lr_config = dict(warmup_ratio=0.1, warmup_iters=100)
checkpoint_config = dict(interval=1, max_keep_ckpts=2)
total_epochs = 50
work_dir = './work_dirs/DNR_r50_own_videos'
