# As DNR_resnet50_own_videos.py, from a checkpoint of a training on
# Kinetics-400; the classes' weights, which do not fit, begin at random.
_base_ = './DNR_resnet50_own_videos.py'
load_from = 'work_dirs/DNR_r50_kinetics400_rgb_seg1_8x8_scratch/epoch_196.pth'
optimizer = dict(lr=0.01)
total_epochs = 25
work_dir = './work_dirs/DNR_r50_own_videos_from_kinetics'
