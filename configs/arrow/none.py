# The BatchNorm ResNet-50, which does not see the order of frames.
_base_ = './recipe.py'
model = dict(backbone=dict(dnr='none'))
work_dir = './work_dirs/arrow/none'
