# Relay over groups of frames alone.
_base_ = './recipe.py'
model = dict(backbone=dict(dnr='cross_temporal'))
work_dir = './work_dirs/arrow/cross_temporal'
