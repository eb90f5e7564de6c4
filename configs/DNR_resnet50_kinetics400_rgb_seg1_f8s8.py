# ResNet-DNR 50 on Kinetics-400: clips of 8 frames, every 8th frame of a
# video, trained from scratch on 8 GPUs x 8 videos.
# model settings
model = dict(
    type='TSN2D',
    backbone=dict(
        type='ResNet_DNR',
        pretrained=None,
        depth=50,
        out_indices=(3,),
        bn_eval=False,
        partial_bn=False,
        n_segment=8,
        num_groups=4,
        dnr='both',
        running_stats='grouped',
    ),
    spatial_temporal_module=dict(
        type='SimpleSpatialModule', spatial_type='avg', spatial_size=7
    ),
    segmental_consensus=dict(type='SimpleConsensus', consensus_type='avg'),
    cls_head=dict(
        type='ClsHead',
        with_avg_pool=False,
        temporal_feature_size=1,
        spatial_feature_size=1,
        dropout_ratio=0.4,
        in_channels=2048,
        num_classes=400,
    ),
)
train_cfg = None
test_cfg = None
# dataset settings
dataset_type = 'RawFramesDataset'
data_root = 'data/kinetics400/rawframes_train/'
data_root_val = 'data/kinetics400/rawframes_val/'
img_norm_cfg = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
data = dict(
    videos_per_gpu=8,
    workers_per_gpu=4,
    train=dict(
        type=dataset_type,
        ann_file='data/kinetics400/kinetics400_train_list_rawframes.txt',
        img_prefix=data_root,
        img_norm_cfg=img_norm_cfg,
        num_segments=1,
        new_length=8,
        new_step=8,
        random_shift=True,
        modality='RGB',
        image_tmpl='image_{:05d}.jpg',
        img_scale=256,
        input_size=224,
        div_255=False,
        flip_ratio=0.5,
        resize_keep_ratio=True,
        oversample=None,
        random_crop=False,
        more_fix_crop=False,
        multiscale_crop=True,
        scales=[1, 0.875, 0.75, 0.66],
        max_distort=1,
        test_mode=False,
    ),
    val=dict(
        type=dataset_type,
        ann_file='data/kinetics400/kinetics400_val_list_rawframes.txt',
        img_prefix=data_root_val,
        img_norm_cfg=img_norm_cfg,
        num_segments=1,
        new_length=8,
        new_step=8,
        random_shift=False,
        modality='RGB',
        image_tmpl='image_{:05d}.jpg',
        img_scale=256,
        input_size=224,
        div_255=False,
        flip_ratio=0,
        resize_keep_ratio=True,
        oversample=None,
        random_crop=False,
        more_fix_crop=False,
        multiscale_crop=False,
        test_mode=True,
    ),
    test=dict(
        type=dataset_type,
        ann_file='data/kinetics400/kinetics400_val_list_rawframes.txt',
        img_prefix=data_root_val,
        img_norm_cfg=img_norm_cfg,
        num_segments=10,
        new_length=8,
        new_step=8,
        random_shift=False,
        modality='RGB',
        image_tmpl='image_{:05d}.jpg',
        img_scale=256,
        input_size=256,
        div_255=False,
        flip_ratio=0,
        resize_keep_ratio=True,
        oversample='three_crop',
        random_crop=False,
        more_fix_crop=False,
        multiscale_crop=False,
        test_mode=True,
    ),
)
# optimizer, for 8 GPUs x 8 videos; --auto-scale-lr scales the rate to others
optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0001)
auto_scale_lr = dict(enable=False, base_batch_size=64)
optimizer_config = dict(grad_clip=dict(max_norm=40, norm_type=2))
# learning policy
lr_config = dict(
    policy='CosineAnnealing',  # 'cosine' in the mmcv of 2020
    min_lr=0,
    warmup='linear',
    warmup_ratio=0.01,
    warmup_iters=127840,
)
checkpoint_config = dict(interval=1)
workflow = [('train', 1)]
# yapf:disable
log_config = dict(
    interval=20,
    hooks=[
        dict(type='TextLoggerHook'),
        # dict(type='TensorboardLoggerHook')
    ])
# yapf:enable
# runtime settings
total_epochs = 196
dist_params = dict(backend='nccl')
log_level = 'INFO'
work_dir = './work_dirs/DNR_r50_kinetics400_rgb_seg1_8x8_scratch'
load_from = None
resume_from = None
