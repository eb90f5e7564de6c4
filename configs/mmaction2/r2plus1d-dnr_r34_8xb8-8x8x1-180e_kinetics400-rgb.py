# R(2+1)D with DNR in mmaction2's own recipe of R(2+1)D. That has SyncBN; dynamic
# normalizations keep statistics in each process, so the BatchNorms here do, too.
# Native: python MMACTION2/tools/train.py CONFIG, with this repository on PYTHONPATH.
# mmengine reads 'mmaction::' with pkg_resources, which setuptools 81 and older have.
_base_ = (
    'mmaction::recognition/r2plus1d/r2plus1d_r34_8xb8-8x8x1-180e_kinetics400-rgb.py'  # noqa: E501
)
custom_imports = dict(imports=['resnet_dnr'], allow_failed_imports=False)
network = {{_base_.model.backbone}}
network.norm_cfg = dict(type='BN3d', requires_grad=True, eps=1e-3)
model = dict(
    backbone=dict(_delete_=True, type='WithDNR', n_segment=8, backbone=network)
)
