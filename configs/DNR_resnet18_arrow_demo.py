# A small ResNet-DNR on generated clips, for a first run on any machine:
# tools/quickstart.sh makes the data and runs this on 2 processes.
# To see what the network does without DNR:
#   --cfg-options model.backbone.dnr=none work_dir=work_dirs/arrow_demo_bn
_base_ = './DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
model = dict(
    backbone=dict(depth=18),
    spatial_temporal_module=dict(spatial_size=1),
    cls_head=dict(dropout_ratio=0, in_channels=512, num_classes=4),
)
# Clips of 10 frames: without random_shift, v1's rule takes the middle 8. No
# flip: it would turn a move to the left into one to the right.
clip = dict(
    new_step=1,
    random_shift=False,
    img_scale=32,
    input_size=32,
    flip_ratio=0,
    multiscale_crop=False,
    oversample=None,
)
data = dict(
    videos_per_gpu=8,
    workers_per_gpu=1,
    train=dict(
        ann_file='data/arrow/train.txt', img_prefix='data/arrow/rawframes/train', **clip
    ),
    val=dict(
        ann_file='data/arrow/val.txt', img_prefix='data/arrow/rawframes/val', **clip
    ),
    test=dict(
        ann_file='data/arrow/test.txt',
        img_prefix='data/arrow/rawframes/test',
        num_segments=1,
        **clip,
    ),
)
optimizer = dict(lr=0.05)
auto_scale_lr = dict(base_batch_size=16)
lr_config = dict(warmup_ratio=0.1, warmup_iters=20)
total_epochs = 6
work_dir = './work_dirs/DNR_r18_arrow_demo'
