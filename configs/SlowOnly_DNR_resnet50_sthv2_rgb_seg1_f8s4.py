# SlowOnly with DNR, ResNet-50, on Something-Something V2: clips of 8 frames, every
# 4th of a video, from torchvision's ResNet-50 of ImageNet, inflated.
_base_ = './DNR_resnet50_sthv2_rgb_seg8_f1.py'
model = dict(
    type='TSN3D',
    backbone=dict(
        _delete_=True,
        type='WithDNR',
        n_segment=8,
        num_groups=4,
        dnr='both',
        running_stats='grouped',
        backbone=dict(
            type='ResNet3dSlowOnly',
            depth=50,
            out_indices=(3,),
            lateral=False,
            pretrained='https://download.pytorch.org/models/resnet50-0676ba61.pth',
        ),
    ),
    spatial_temporal_module=dict(type='SimpleSpatialTemporalModule', temporal_size=8),
)
clip = dict(input_format='NCTHW', num_segments=1, new_length=8, new_step=4)
data = dict(
    train=dict(**clip),
    val=dict(**clip),
    test=dict(**clip),
)
work_dir = './work_dirs/SlowOnly_DNR_r50_sthv2_rgb_seg1_f8s4'
