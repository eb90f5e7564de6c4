# TSM, ResNet-50.
_base_ = './recipe.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='WithDNR',
        n_segment=8,
        num_groups=4,
        dnr='none',
        backbone=dict(
            type='ResNetTSM',
            depth=50,
            out_indices=(3,),
            num_segments=8,
            pretrained=None,
            pretrained2d=False,
        ),
    ),
)
work_dir = './work_dirs/gestures/tsm'
