# ResNet-DNR.
_base_ = './recipe.py'
model = dict(backbone=dict(dnr='both'))
work_dir = './work_dirs/small_batches/dnr'
