# GroupNorm: mmaction2's ResNet.
_base_ = './recipe.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='WithDNR',
        n_segment=8,
        dnr='none',
        backbone=dict(
            type='ResNet',
            depth=50,
            out_indices=(3,),
            norm_cfg=dict(type='GN', num_groups=32),
            pretrained=None,
        ),
    ),
)
work_dir = './work_dirs/small_batches/gn'
