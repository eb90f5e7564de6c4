# TSM with DNR, ResNet-50.
_base_ = './tsm.py'
model = dict(backbone=dict(dnr='both'))
work_dir = './work_dirs/gestures/tsm_dnr'
