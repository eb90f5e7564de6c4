# TSM with DNR, ResNet-50, on Kinetics-400: one frame of each of 8 segments, from
# torchvision's ResNet-50 of ImageNet. mmaction2 has the network, mmaction v1 has not.
_base_ = './DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='WithDNR',
        n_segment=8,
        num_groups=4,
        dnr='both',
        running_stats='grouped',
        backbone=dict(
            type='ResNetTSM',
            depth=50,
            out_indices=(3,),
            num_segments=8,
            pretrained='https://download.pytorch.org/models/resnet50-0676ba61.pth',
        ),
    ),
    cls_head=dict(dropout_ratio=0.5, init_std=0.001),
)
clip = dict(num_segments=8, new_length=1, new_step=1)
data = dict(
    train=dict(**clip),
    val=dict(**clip),
    test=dict(input_size=224, oversample=None, **clip),
)
# For 8 GPUs x 8 videos. With fewer, lower the rate by the same factor.
optimizer = dict(lr=0.01)
lr_config = dict(warmup_ratio=0.1, warmup_iters=1000)
total_epochs = 50
work_dir = './work_dirs/TSM_DNR_r50_kinetics400_rgb_seg8_f1'
