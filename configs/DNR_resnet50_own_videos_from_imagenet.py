# As DNR_resnet50_own_videos.py, from torchvision's ResNet-50 of ImageNet.
_base_ = './DNR_resnet50_own_videos.py'
model = dict(
    backbone=dict(
        pretrained='https://download.pytorch.org/models/resnet50-0676ba61.pth'
    )
)
work_dir = './work_dirs/DNR_r50_own_videos_from_imagenet'
