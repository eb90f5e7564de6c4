# The study of small batches: BatchNorm, frozen BatchNorm, GroupNorm and DNR with 1, 2,
# 4 and 8 clips a GPU, on the arrow study's clips.
#
# All runs take the same number of steps, those of the recipe's epochs with 8 clips. The
# rate is proportional to the clips a step (the linear scaling rule), and the warm-up is
# as long in steps.
#
# Frozen BatchNorm is used in fine-tuning, from a checkpoint trained with large batches.
# Here that is a BatchNorm network trained with 32 clips, on other clips of three of the
# five pairs. `frozen_bn` and `tuned_bn` both begin from it; the one keeps its running
# statistics, the other does not.
name = 'small_batches'
data = (
    'tools/data/make_arrow_dataset.py data/arrow112 --train 300 --val 20 --test 100, '
    'data/arrow112_first --pairs 3 --seed 1 --train 300 --val 1 --test 20, and '
    'data/arrow112_more --seed 2 --train 1200 --val 1 --test 1'
)

SEEDS = (0, 1, 2)
SMALL = ['model.spatial_temporal_module.spatial_size=2'] + [
    f'data.{split}.{key}=64'
    for split in ('train', 'val', 'test')
    for key in ('img_scale', 'input_size')
]
MORE = [
    'data.train.ann_file=data/arrow112_more/train.txt',
    'data.train.img_prefix=data/arrow112_more/rawframes/train',
]


def candidate(depth, epochs, *options, rate=0.02):
    """A recipe for 8 clips a GPU; the epochs of one that is chosen are whole eights."""
    return dict(depth=depth, epochs=epochs, options=list(options), rate=rate)


# 375 steps an epoch with the study's 3,000 clips, 1,500 with the 12,000 of `more`.
CANDIDATES = dict(
    usual=candidate(50, 12),
    r18=candidate(18, 24),
    r18_64=candidate(18, 24, *SMALL),
    more_r18_64=candidate(18, 8, *SMALL, *MORE),
    more_r18=candidate(18, 8, *MORE),
    more_r18_r005=candidate(18, 8, *MORE, rate=0.005),
    more_r18_r01=candidate(18, 8, *MORE, rate=0.01),
    more_r18_r04=candidate(18, 8, *MORE, rate=0.04),
    more_r18_e16=candidate(18, 16, *MORE),
    more_r18_e16_r04=candidate(18, 16, *MORE, rate=0.04),
    more=candidate(50, 8, *MORE),
)
# What part `search` has found: under it, BatchNorm with 8 clips recognizes the process
# of 98 % of the validation clips.
CHOSEN = CANDIDATES['more_r18_e16']


def depth(network, number):
    """The options that make a network so deep."""
    if number == 50:
        return []
    where = 'backbone.backbone' if network == 'gn' else 'backbone'
    return [f'model.{where}.depth={number}', 'model.cls_head.in_channels=512']


def with_clips(recipe, clips):
    """The options of a recipe with so many clips a GPU, in as many steps."""
    return [
        f'data.videos_per_gpu={clips}',
        f'total_epochs={recipe["epochs"] * clips // 8}',
        f'optimizer.lr={recipe["rate"] * clips / 8}',
        *recipe['options'],
    ]


def first(seed):
    """The training from which fine-tuning begins."""
    return dict(
        name='first_bn_s{seed}',
        config='bn.py',
        of=dict(part=['first'], seed=[seed]),
        options=[
            *CHOSEN['options'],
            'data.train.ann_file=data/arrow112_first/train.txt',
            'data.train.img_prefix=data/arrow112_first/rawframes/train',
            'data.test.ann_file=data/arrow112_first/test.txt',
            'data.test.img_prefix=data/arrow112_first/rawframes/test',
            'model.cls_head.num_classes=6',
            'data.videos_per_gpu=32',
            'total_epochs=48',
            f'optimizer.lr={CHOSEN["rate"] * 4}',
            *depth('bn', CHOSEN['depth']),
        ],
        evaluations=['pairs'],
    )


def final(networks, config, seed, evaluation='pairs', **more):
    """The runs whose figures are reported, with one seed."""
    return dict(
        name='{network}_b{batch}_s{seed}',
        config=config,
        of=dict(
            part=['final'],
            seed=[seed],
            batch={clips: with_clips(CHOSEN, clips) for clips in (8, 4, 2, 1)},
            network={name: depth(name, CHOSEN['depth']) for name in networks},
        ),
        evaluations=[evaluation],
        **more,
    )


runs = [
    dict(
        name='search_{network}_{recipe}_s{seed}',
        config='{network}.py',
        of=dict(
            part=['search'],
            seed=SEEDS,
            recipe={
                name: with_clips(recipe, 8) + depth('bn', recipe['depth'])
                for name, recipe in CANDIDATES.items()
            },
            network=['bn'],
        ),
        # On the validation clips: the test clips are for the runs below.
        options=[
            'data.test.ann_file=data/arrow112/val.txt',
            'data.test.img_prefix=data/arrow112/rawframes/val',
        ],
        evaluations=['pairs'],
    )
]
for seed in SEEDS:  # so that a study that is stopped has whole ones
    runs += [
        first(seed),
        # These are evaluated with other statistics than the running ones, too.
        final(['bn', 'dnr'], '{network}.py', seed, 'statistics'),
        final(['gn'], 'gn.py', seed),
        final(['frozen_bn'], 'frozen_bn.py', seed, begin='first_bn_s{seed}'),
        final(['tuned_bn'], 'bn.py', seed, begin='first_bn_s{seed}'),
    ]
