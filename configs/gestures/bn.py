# The BatchNorm ResNet-50, which averages over frames.
_base_ = './recipe.py'
model = dict(backbone=dict(dnr='none'))
work_dir = './work_dirs/gestures/bn'
