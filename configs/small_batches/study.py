# The study of small batches: BatchNorm, frozen BatchNorm, GroupNorm and DNR with 1, 2,
# 4 and 8 clips a GPU, on the arrow study's clips.
#
# All runs take the same number of steps, those of EPOCHS epochs with 8 clips. The rate
# is proportional to the clips a step (the linear scaling rule), and the warm-up is as
# long in steps.
#
# Frozen BatchNorm is used in fine-tuning, from a checkpoint trained with large batches.
# Here that is a BatchNorm network trained with 32 clips, on other clips of three of the
# five pairs. `frozen_bn` and `tuned_bn` both begin from it; the one keeps its running
# statistics, the other does not.
name = 'small_batches'
data = (
    'tools/data/make_arrow_dataset.py data/arrow112 --train 300 --val 20 --test 100, '
    'and data/arrow112_first --pairs 3 --seed 1 --train 300 --val 1 --test 20'
)

SEEDS = (0, 1, 2)
# To be what part `search` finds, which has not run: a recipe under which BatchNorm
# with 8 clips learns the processes. A depth of 50 or 18, and what else is set, SMALL
# or MORE. EPOCHS is a multiple of 8.
RATE, EPOCHS, DEPTH, OPTIONS = 0.02, 24, 50, []
BATCHES = {
    clips: [
        f'data.videos_per_gpu={clips}',
        f'total_epochs={EPOCHS * clips // 8}',
        f'optimizer.lr={RATE * clips / 8}',
    ]
    for clips in (8, 4, 2, 1)
}
SMALL = ['model.spatial_temporal_module.spatial_size=2'] + [
    f'data.{split}.{key}=64'
    for split in ('train', 'val', 'test')
    for key in ('img_scale', 'input_size')
]
MORE = [
    'data.train.ann_file=data/arrow112_more/train.txt',
    'data.train.img_prefix=data/arrow112_more/rawframes/train',
]


def depth(network, number):
    """The options that make a network so deep."""
    if number == 50:
        return []
    where = 'backbone.backbone' if network == 'gn' else 'backbone'
    return [f'model.{where}.depth={number}', 'model.cls_head.in_channels=512']


R18 = depth('bn', 18)


def candidate(epochs, rate, *options):
    return [f'total_epochs={epochs}', f'optimizer.lr={rate}', *options]


# 375 steps an epoch with the study's 3,000 clips, 1,500 with the 12,000 of `more`.
CANDIDATES = dict(
    usual=candidate(12, 0.02),
    r18=candidate(24, 0.02, *R18),
    r18_64=candidate(24, 0.02, *R18, *SMALL),
    more_r18_64=candidate(8, 0.02, *R18, *SMALL, *MORE),
    more_r18=candidate(8, 0.02, *R18, *MORE),
    more=candidate(8, 0.02, *MORE),
)


def final(networks, config, **more):
    """The runs whose figures are reported."""
    return dict(
        name='{network}_b{batch}_s{seed}',
        config=config,
        of=dict(part=['final'], seed=SEEDS, batch=BATCHES, network=networks),
        options=OPTIONS,
        evaluations=['pairs'],
        **more,
    )


runs = [
    dict(
        name='search_{network}_{recipe}_s{seed}',
        config='{network}.py',
        of=dict(part=['search'], seed=[0], recipe=CANDIDATES, network=['bn']),
        # On the validation clips: the test clips are for the runs below.
        options=[
            'data.test.ann_file=data/arrow112/val.txt',
            'data.test.img_prefix=data/arrow112/rawframes/val',
        ],
        evaluations=['pairs'],
    ),
    dict(
        name='first_bn_s{seed}',
        config='bn.py',
        of=dict(part=['first'], seed=SEEDS),
        options=[
            *OPTIONS,
            'data.train.ann_file=data/arrow112_first/train.txt',
            'data.train.img_prefix=data/arrow112_first/rawframes/train',
            'data.test.ann_file=data/arrow112_first/test.txt',
            'data.test.img_prefix=data/arrow112_first/rawframes/test',
            'model.cls_head.num_classes=6',
            'data.videos_per_gpu=32',
            'total_epochs=24',
            f'optimizer.lr={RATE * 4}',
            *depth('bn', DEPTH),
        ],
        evaluations=['pairs'],
    ),
    final({name: depth(name, DEPTH) for name in ('bn', 'gn', 'dnr')}, '{network}.py'),
    final({'frozen_bn': depth('bn', DEPTH)}, 'frozen_bn.py', begin='first_bn_s{seed}'),
    final({'tuned_bn': depth('bn', DEPTH)}, 'bn.py', begin='first_bn_s{seed}'),
]
