# The method: cross-temporal and cross-layer DNR.
_base_ = './recipe.py'
model = dict(backbone=dict(dnr='both'))
work_dir = './work_dirs/arrow/both'
