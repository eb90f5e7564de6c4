# BatchNorm.
_base_ = './recipe.py'
model = dict(backbone=dict(dnr='none'))
work_dir = './work_dirs/small_batches/bn'
