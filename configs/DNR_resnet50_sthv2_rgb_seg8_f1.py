# ResNet-DNR 50 on Something-Something V2, from torchvision's ResNet-50 of
# ImageNet. tools/data/prepare_sthv2.py writes the lists. A mirrored video of
# something that moves to the left shows it moving to the right: its label
# changes, too.
_base_ = './DNR_resnet50_own_videos_from_imagenet.py'
model = dict(cls_head=dict(num_classes=174))
clip = dict(img_prefix='data/sthv2/videos', video_ext='webm')
data = dict(
    train=dict(
        ann_file='data/sthv2/train.txt',
        # Pulling, pushing, and turning the camera, to the left or right.
        flip_label_map={86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166},
        **clip,
    ),
    val=dict(ann_file='data/sthv2/val.txt', **clip),
    test=dict(ann_file='data/sthv2/val.txt', **clip),
)
work_dir = './work_dirs/DNR_r50_sthv2_rgb_seg8_f1'
