# ResNet-DNR 50 on the first split of HMDB51, from a checkpoint of a training on
# Kinetics-400. tools/data/prepare_hmdb51.py writes the lists; the other splits:
#   --cfg-options data.train.ann_file=data/hmdb51/train_split2.txt
#   data.val.ann_file=data/hmdb51/test_split2.txt
#   data.test.ann_file=data/hmdb51/test_split2.txt
_base_ = './DNR_resnet50_own_videos_from_kinetics.py'
model = dict(cls_head=dict(dropout_ratio=0.8, num_classes=51))
clip = dict(img_prefix='data/hmdb51/videos', video_ext='avi')
data = dict(
    train=dict(ann_file='data/hmdb51/train_split1.txt', **clip),
    val=dict(ann_file='data/hmdb51/test_split1.txt', **clip),
    test=dict(ann_file='data/hmdb51/test_split1.txt', **clip),
)
work_dir = './work_dirs/DNR_r50_hmdb51_rgb_seg8_f1'
