# TSM with DNR, ResNet-50, on Something-Something V2, from torchvision's ResNet-50 of
# ImageNet. mmaction2 has the network, mmaction v1 has not.
_base_ = './DNR_resnet50_sthv2_rgb_seg8_f1.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='WithDNR',
        n_segment=8,
        num_groups=4,
        dnr='both',
        running_stats='grouped',
        backbone=dict(
            type='ResNetTSM',
            depth=50,
            out_indices=(3,),
            num_segments=8,
            pretrained='https://download.pytorch.org/models/resnet50-0676ba61.pth',
        ),
    ),
)
work_dir = './work_dirs/TSM_DNR_r50_sthv2_rgb_seg8_f1'
