# ResNet-DNR 50 on the first split of UCF101, from a checkpoint of a training on
# Kinetics-400. tools/data/prepare_ucf101.py writes the lists; the other splits:
#   --cfg-options data.train.ann_file=data/ucf101/train_split2.txt
#   data.val.ann_file=data/ucf101/test_split2.txt
#   data.test.ann_file=data/ucf101/test_split2.txt
_base_ = './DNR_resnet50_own_videos_from_kinetics.py'
model = dict(cls_head=dict(dropout_ratio=0.8, num_classes=101))
clip = dict(img_prefix='data/ucf101/videos', video_ext='avi')
data = dict(
    train=dict(ann_file='data/ucf101/train_split1.txt', **clip),
    val=dict(ann_file='data/ucf101/test_split1.txt', **clip),
    test=dict(ann_file='data/ucf101/test_split1.txt', **clip),
)
work_dir = './work_dirs/DNR_r50_ucf101_rgb_seg8_f1'
