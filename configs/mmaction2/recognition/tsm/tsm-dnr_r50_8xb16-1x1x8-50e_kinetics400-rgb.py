# TSM with DNR in mmaction2's own recipe of TSM.
# For mmaction2's own tools, with this repository on PYTHONPATH, after
#   cp -r configs/mmaction2/recognition MMACTION2/configs/
_base_ = './tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb.py'
custom_imports = dict(imports=['resnet_dnr'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='WithDNR',
        n_segment=8,
        backbone={{_base_.model.backbone}},
    )
)
