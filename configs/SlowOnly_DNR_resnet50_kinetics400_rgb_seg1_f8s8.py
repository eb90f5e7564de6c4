# SlowOnly with DNR, ResNet-50, on Kinetics-400: clips of 8 frames, every 8th of a
# video, trained from scratch. The network is mmaction2's; the config for mmaction v1
# is SlowOnly_DNR_resnet50_kinetics400_rgb_seg1_f8s8_mmaction_v1.py.
_base_ = './DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
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
            pretrained=None,
        ),
    ),
    spatial_temporal_module=dict(type='SimpleSpatialTemporalModule', temporal_size=8),
    cls_head=dict(dropout_ratio=0.5),
)
data = dict(
    train=dict(input_format='NCTHW'),
    val=dict(input_format='NCTHW'),
    test=dict(input_format='NCTHW'),
)
work_dir = './work_dirs/SlowOnly_DNR_r50_kinetics400_rgb_seg1_f8s8'
