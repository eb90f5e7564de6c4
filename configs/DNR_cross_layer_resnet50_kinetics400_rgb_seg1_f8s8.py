# Cross-layer DNR alone, otherwise as in the config below.
_base_ = './DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
model = dict(backbone=dict(dnr='cross_layer'))
work_dir = './work_dirs/DNR_cross_layer_r50_kinetics400_rgb_seg1_8x8_scratch'
