# SlowOnly with DNR, ResNet-50, on Kinetics-400, on mmaction v1's own network.
_base_ = './SlowOnly_DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
model = dict(
    backbone=dict(
        backbone=dict(
            _delete_=True,
            type='ResNet_I3D',
            depth=50,
            pretrained=None,
            out_indices=(3,),
            inflate_freq=(0, 0, 1, 1),
            conv1_kernel_t=1,
            conv1_stride_t=1,
            pool1_kernel_t=1,
            pool1_stride_t=1,
            no_pool2=True,
            bn_eval=False,
        ),
    ),
)
