# As DNR_resnet50_own_videos.py, small enough for a CPU: ResNet-18 and images of
# 64 x 64, whole frames: a crop of a small image loses much of what moves. No flips: a
# mirror would make left of right.
_base_ = './DNR_resnet50_own_videos.py'
model = dict(
    backbone=dict(depth=18),
    spatial_temporal_module=dict(spatial_size=2),
    cls_head=dict(dropout_ratio=0, in_channels=512),
)
clip = dict(img_scale=(64, 64), input_size=64, resize_keep_ratio=False)
data = dict(
    workers_per_gpu=1,
    train=dict(flip_ratio=0, multiscale_crop=False, **clip),
    val=clip,
    test=clip,
)
optimizer = dict(lr=0.02)
auto_scale_lr = dict(base_batch_size=16)
lr_config = dict(warmup_iters=20)
total_epochs = 20
work_dir = './work_dirs/DNR_r18_own_videos_cpu'
