# The arrow study: does a network learn the order of frames? docs/study.md.
# A run is one of the four configs here with a batch size, a number of groups and a
# seed. The learning rate is proportional to the batch size, and the warm-up as long in
# clips. Small batches make more steps an epoch and get fewer epochs.
name = 'arrow'
data = 'tools/data/make_arrow_dataset.py data/arrow112 --train 300 --val 20 --test 100'
keep_checkpoints = True

SEEDS = (0, 1, 2)
# By clips a batch; 8 is the recipe's.
BATCHES = {
    8: [],
    4: [
        'data.videos_per_gpu=4',
        'total_epochs=9',
        'optimizer.lr=0.01',
        'lr_config.warmup_iters=600',
    ],
    2: [
        'data.videos_per_gpu=2',
        'total_epochs=6',
        'optimizer.lr=0.005',
        'lr_config.warmup_iters=1200',
    ],
}
GROUPS = {
    number: [f'model.backbone.num_groups={number}'] if number != 4 else []
    for number in (2, 4, 8)
}


def group(configs, batch, groups, seeds, **more):
    return dict(
        name='{config}_b{batch}_g{groups}_s{seed}',
        config='{config}.py',
        of=dict(
            batch={batch: BATCHES[batch]},
            groups={groups: GROUPS[groups]},
            seed=seeds,
            config=configs,
        ),
        validate=True,
        **dict(dict(evaluations=['statistics']), **more),
    )


# First what the method is judged by, then, early, the longest. The relay of one run is
# recorded, too.
runs = [
    group(['both'], 8, 4, [0], evaluations=['statistics', 'relay']),
    group(['none', 'cross_temporal', 'cross_layer'], 8, 4, [0]),
    group(['both', 'none', 'cross_temporal', 'cross_layer'], 8, 4, [1, 2]),
    group(['both', 'none'], 2, 4, SEEDS),
    group(['both', 'none'], 4, 4, SEEDS),
    group(['both'], 8, 2, SEEDS),
    group(['both'], 8, 8, SEEDS),
]
