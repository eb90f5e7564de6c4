# SlowOnly with DNR, ResNet-50.
_base_ = './slowonly.py'
model = dict(backbone=dict(dnr='both'))
work_dir = './work_dirs/gestures/slowonly_dnr'
