# ResNet-DNR 50 on Something-Something V1, which comes as frames, from
# torchvision's ResNet-50 of ImageNet. tools/data/prepare_sthv1.py writes the
# lists. A mirrored video of something that moves to the left shows it moving
# to the right: its label changes, too.
_base_ = './DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
model = dict(
    backbone=dict(
        pretrained='https://download.pytorch.org/models/resnet50-0676ba61.pth'
    ),
    cls_head=dict(dropout_ratio=0.5, num_classes=174),
)
clip = dict(
    img_prefix='data/sthv1/videos',
    image_tmpl='{:05d}.jpg',
    num_segments=8,
    new_length=1,
    new_step=1,
)
data = dict(
    train=dict(
        ann_file='data/sthv1/train.txt',
        # Turning the camera, pulling, and pushing, to the left or right.
        flip_label_map={2: 4, 4: 2, 30: 41, 41: 30, 52: 66, 66: 52},
        **clip,
    ),
    val=dict(ann_file='data/sthv1/val.txt', **clip),
    test=dict(ann_file='data/sthv1/val.txt', input_size=224, oversample=None, **clip),
)
# For 8 GPUs x 8 videos. With fewer, --auto-scale-lr lowers the rate.
optimizer = dict(lr=0.02, weight_decay=5e-4)
lr_config = dict(warmup_ratio=0.1, warmup_iters=1000)
checkpoint_config = dict(interval=1, max_keep_ckpts=2)
total_epochs = 50
work_dir = './work_dirs/DNR_r50_sthv1_rgb_seg8_f1'
