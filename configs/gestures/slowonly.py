# SlowOnly, ResNet-50: the same recipe, for a 3D network.
_base_ = './recipe.py'
model = dict(
    type='TSN3D',
    backbone=dict(
        _delete_=True,
        type='WithDNR',
        n_segment=8,
        num_groups=4,
        dnr='none',
        backbone=dict(
            type='ResNet3dSlowOnly',
            depth=50,
            out_indices=(3,),
            lateral=False,
            pretrained=None,
        ),
    ),
    spatial_temporal_module=dict(type='SimpleSpatialTemporalModule', temporal_size=8),
)
clip = dict(input_format='NCTHW', num_segments=1, new_length=8)
data = dict(train=dict(**clip), val=dict(**clip), test=dict(**clip))
native = dict(
    train_dataloader=dict(
        dataset=dict(
            pipeline=[
                dict(type='UniformSample', clip_len=8),
                dict(type='V1ReadFrames'),
                dict(type='Resize', scale=(128, 128), keep_ratio=False),
                dict(
                    type='RandomResizedCrop',
                    area_range=(0.85, 1.0),
                    aspect_ratio_range=(0.8, 1.25),
                ),
                dict(type='Resize', scale=(112, 112), keep_ratio=False),
                dict(type='Flip', flip_ratio=0, flip_label_map={4: 5, 5: 4}),
                dict(type='ColorJitter', brightness=0, contrast=0, saturation=0, hue=0),
                dict(type='FormatShape', input_format='NCTHW'),
                dict(type='PackActionInputs'),
            ]
        )
    ),
    test_dataloader=dict(
        dataset=dict(
            pipeline=[
                dict(type='UniformSample', clip_len=8, test_mode=True),
                dict(type='V1ReadFrames'),
                dict(type='Resize', scale=(112, 112), keep_ratio=False),
                dict(type='FormatShape', input_format='NCTHW'),
                dict(type='PackActionInputs'),
            ]
        )
    ),
)
work_dir = './work_dirs/gestures/slowonly'
