# The recipe of the study of gestures, for the networks beside this file: 8 frames of
# 112 x 112, one of each eighth of a clip, the whole frame squeezed to a square.
# study.py sets the lists of each fold, the rate, the number of epochs and how clips are
# augmented: here, frames are drawn at random within their eighths, crops have 85 to
# 100 % of the frame, nothing is mirrored, and colours stay.
_base_ = '../DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
model = dict(
    spatial_temporal_module=dict(spatial_size=4),
    cls_head=dict(dropout_ratio=0, num_classes=10),
)
clip = dict(
    img_prefix='data/gestures/frames',
    num_segments=8,
    new_length=1,
    new_step=1,
    img_scale=(112, 112),
    input_size=112,
    resize_keep_ratio=False,
    flip_ratio=0,
    multiscale_crop=False,
    oversample=None,
)
data = dict(
    videos_per_gpu=8,
    workers_per_gpu=1,
    train=dict(ann_file='data/gestures/fold1/train_rawframes.txt', **clip),
    val=dict(ann_file='data/gestures/fold1/test_rawframes.txt', **clip),
    test=dict(ann_file='data/gestures/fold1/test_rawframes.txt', **clip),
)
# Left and right are labels 4 and 5.
#
# mmaction v1's rule leaves out up to 7 frames at the end of a clip, which is half of a
# short one: mmaction2's UniformSample reaches all of it, for 2D and 3D networks alike.
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
                dict(type='FormatShape', input_format='NCHW'),
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
                dict(type='FormatShape', input_format='NCHW'),
                dict(type='PackActionInputs'),
            ]
        )
    ),
)
amp = 'bf16'
channels_last = True
optimizer = dict(lr=0.02, weight_decay=5e-4)
lr_config = dict(warmup_ratio=0.1, warmup_iters=50)
checkpoint_config = dict(interval=20, max_keep_ckpts=1)
log_config = dict(interval=100)
total_epochs = 80
