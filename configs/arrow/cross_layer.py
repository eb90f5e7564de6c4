# Relay over layers alone.
_base_ = './recipe.py'
model = dict(backbone=dict(dnr='cross_layer'))
work_dir = './work_dirs/arrow/cross_layer'
