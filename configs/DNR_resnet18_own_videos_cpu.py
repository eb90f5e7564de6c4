# As DNR_resnet50_own_videos.py, small enough for a CPU: ResNet-18 and images of
# 32 x 32, as the quickstart's. They are whole frames, squeezed to a square: a crop
# loses what moves at the sides. No flips: a mirror would make left of right.
_base_ = './DNR_resnet50_own_videos.py'
model = dict(
    backbone=dict(depth=18),
    spatial_temporal_module=dict(spatial_size=1),
    cls_head=dict(dropout_ratio=0, in_channels=512),
)
clip = dict(img_scale=(32, 32), input_size=32, resize_keep_ratio=False)
data = dict(
    workers_per_gpu=1,
    train=dict(flip_ratio=0, multiscale_crop=False, **clip),
    val=clip,
    test=clip,
)
optimizer = dict(lr=0.04)
auto_scale_lr = dict(base_batch_size=16)
lr_config = dict(warmup_iters=20)
total_epochs = 100
work_dir = './work_dirs/DNR_r18_own_videos_cpu'
