# A ResNet-18 to begin from where own videos are few: trained on generated clips of
# 64 x 64, five pairs of a process and its reversal.
#   python tools/data/make_arrow_dataset.py data/generated --size 64
_base_ = './DNR_resnet18_arrow_demo.py'
model = dict(
    spatial_temporal_module=dict(spatial_size=2), cls_head=dict(num_classes=10)
)
clip = dict(img_scale=64, input_size=64)
data = dict(
    train=dict(
        ann_file='data/generated/train.txt',
        img_prefix='data/generated/rawframes/train',
        **clip,
    ),
    val=dict(
        ann_file='data/generated/val.txt',
        img_prefix='data/generated/rawframes/val',
        **clip,
    ),
    test=dict(
        ann_file='data/generated/test.txt',
        img_prefix='data/generated/rawframes/test',
        **clip,
    ),
)
optimizer = dict(lr=0.04)
lr_config = dict(warmup_iters=200)
total_epochs = 8
work_dir = './work_dirs/DNR_r18_generated_clips'
