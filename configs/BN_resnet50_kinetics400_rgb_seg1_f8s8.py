# The BatchNorm ResNet-50 that DNR is compared with, otherwise as in the
# config below.
_base_ = './DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
model = dict(backbone=dict(dnr='none'))
work_dir = './work_dirs/BN_r50_kinetics400_rgb_seg1_8x8_scratch'
