# ResNet-DNR 50 with a group for each frame.
_base_ = './dnr.py'
model = dict(backbone=dict(num_groups=8))
work_dir = './work_dirs/gestures/dnr_g8'
