# The recipe of the arrow-of-time study, for the four configs beside this one:
# a ResNet-50 from scratch on clips that tools/data/make_arrow_dataset.py makes,
# five pairs of a process and its exact reversal, one GPU x 8 clips.
# tools/study/reproduce_arrow.sh makes the data and runs the study.
_base_ = '../DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
# No dropout: it would be one more difference between training mode and
# evaluation mode, which the study compares.
model = dict(
    spatial_temporal_module=dict(spatial_size=4),
    cls_head=dict(dropout_ratio=0, num_classes=10),
)
# Clips of 10 frames: without random_shift, v1's rule takes the middle 8. No
# flip: it would turn a move to the left into one to the right.
clip = dict(
    new_step=1,
    random_shift=False,
    img_scale=112,
    input_size=112,
    flip_ratio=0,
    multiscale_crop=False,
    oversample=None,
)
data = dict(
    videos_per_gpu=8,
    workers_per_gpu=2,
    train=dict(
        ann_file='data/arrow112/train.txt',
        img_prefix='data/arrow112/rawframes/train',
        **clip,
    ),
    val=dict(
        ann_file='data/arrow112/val.txt',
        img_prefix='data/arrow112/rawframes/val',
        **clip,
    ),
    test=dict(
        ann_file='data/arrow112/test.txt',
        img_prefix='data/arrow112/rawframes/test',
        num_segments=1,
        **clip,
    ),
)
optimizer = dict(lr=0.02)
auto_scale_lr = dict(base_batch_size=8)
lr_config = dict(warmup_ratio=0.1, warmup_iters=300)
# Two, so that one is whole while the next is written.
checkpoint_config = dict(interval=1, max_keep_ckpts=2)
log_config = dict(interval=50)
total_epochs = 12
