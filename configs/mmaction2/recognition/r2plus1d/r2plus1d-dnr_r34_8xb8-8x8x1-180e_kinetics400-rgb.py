# R(2+1)D with DNR in mmaction2's own recipe of R(2+1)D. That has SyncBN; dynamic
# normalizations keep statistics in each process, so the BatchNorms here do, too.
# For mmaction2's own tools, with this repository on PYTHONPATH, after
#   cp -r configs/mmaction2/recognition MMACTION2/configs/
_base_ = './r2plus1d_r34_8xb8-8x8x1-180e_kinetics400-rgb.py'
custom_imports = dict(imports=['resnet_dnr'], allow_failed_imports=False)
norm_cfg = dict(type='BN3d', requires_grad=True, eps=1e-3)
model = dict(
    backbone=dict(
        _delete_=True,
        type='WithDNR',
        n_segment=8,
        backbone=dict(
            type='ResNet2Plus1d',
            depth=34,
            pretrained=None,
            pretrained2d=False,
            norm_eval=False,
            conv_cfg=dict(type='Conv2plus1d'),
            norm_cfg=norm_cfg,
            conv1_kernel=(3, 7, 7),
            conv1_stride_t=1,
            pool1_stride_t=1,
            inflate=(1, 1, 1, 1),
            spatial_strides=(1, 2, 2, 2),
            temporal_strides=(1, 2, 2, 2),
            zero_init_residual=False,
        ),
    )
)
