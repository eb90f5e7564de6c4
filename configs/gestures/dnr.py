# ResNet-DNR 50.
_base_ = './recipe.py'
model = dict(backbone=dict(dnr='both'))
work_dir = './work_dirs/gestures/dnr'
