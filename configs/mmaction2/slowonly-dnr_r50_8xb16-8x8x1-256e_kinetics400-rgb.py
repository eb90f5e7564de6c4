# SlowOnly with DNR in mmaction2's own recipe of SlowOnly.
# Native: python MMACTION2/tools/train.py CONFIG, with this repository on PYTHONPATH.
# mmengine reads 'mmaction::' with pkg_resources, which setuptools 81 and older have.
_base_ = (
    'mmaction::recognition/slowonly/slowonly_r50_8xb16-8x8x1-256e_kinetics400-rgb.py'  # noqa: E501
)
custom_imports = dict(imports=['resnet_dnr'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='WithDNR',
        n_segment=8,
        backbone={{_base_.model.backbone}},
    )
)
