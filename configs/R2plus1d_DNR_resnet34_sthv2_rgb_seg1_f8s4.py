# R(2+1)D with DNR, ResNet-34, on Something-Something V2: clips of 8 frames, every 4th
# of a video, trained from scratch. mmaction2 has the network.
_base_ = './SlowOnly_DNR_resnet50_sthv2_rgb_seg1_f8s4.py'
model = dict(
    backbone=dict(
        backbone=dict(
            _delete_=True,
            type='ResNet2Plus1d',
            depth=34,
            out_indices=(3,),
            pretrained=None,
            pretrained2d=False,
            conv_cfg=dict(type='Conv2plus1d'),
            norm_cfg=dict(type='BN3d', requires_grad=True, eps=1e-3),
            conv1_kernel=(3, 7, 7),
            temporal_strides=(1, 2, 2, 2),
            zero_init_residual=False,
        ),
    ),
    spatial_temporal_module=dict(temporal_size=1),
    cls_head=dict(in_channels=512),
)
work_dir = './work_dirs/R2plus1d_DNR_r34_sthv2_rgb_seg1_f8s4'
