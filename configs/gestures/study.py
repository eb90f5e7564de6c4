# The study of gestures: real clips of ten gestures, four folds that keep scenes apart.
# Networks from scratch, and after pretraining on the arrow study's clips.
name = 'gestures'
data = 'tools/study/prepare_gestures.sh VIDEOS CLIPS_CSV'

SEEDS = (0, 1, 2)
NETWORKS = ('bn', 'tsm', 'dnr', 'tsm_dnr', 'slowonly', 'slowonly_dnr')
FOLDS = (1, 2, 3, 4)
RATES, EPOCHS = (0.005, 0.01, 0.02), (20, 40)

# To be what part `search`, which has not run, finds for each test fold, without it: the
# rate and the number of epochs. `plot_study.py` prints these lines. One recipe serves
# all networks; OWN is the best of BatchNorm's and of TSM's.
RECIPE = dict(
    scratch={1: (0.01, 40), 2: (0.01, 40), 3: (0.01, 40), 4: (0.01, 40)},
    arrow={1: (0.01, 40), 2: (0.01, 40), 3: (0.01, 40), 4: (0.01, 40)},
)
OWN = dict(bn=RECIPE, tsm=RECIPE)

# The arrow study's clips have the same processes in all runs. Its recipe, on the
# sampling and cropping of this study.
PRETRAINING = [
    'data.train.ann_file=data/arrow112/train.txt',
    'data.train.img_prefix=data/arrow112/rawframes/train',
    'data.test.ann_file=data/arrow112/test.txt',
    'data.test.img_prefix=data/arrow112/rawframes/test',
    'optimizer.lr=0.02',
    'optimizer.weight_decay=0.0001',
    'lr_config.warmup_iters=300',
    'checkpoint_config.interval=2',
    'total_epochs=8',
]


def training(rate, epochs):
    return [f'optimizer.lr={rate}', f'total_epochs={epochs}']


def final(start, networks, recipes, name, of):
    """The runs whose figures are reported, of some networks with their recipe."""
    begin = dict(begin='pre_{network}_s{seed}') if start == 'arrow' else {}
    return dict(
        name=name,
        config='{network}.py',
        of=dict(
            part=[of],
            start=[start],
            seed=SEEDS,
            fold={fold: training(*recipes[start][fold]) for fold in FOLDS},
            network=networks,
        ),
        options=[
            'data.train.ann_file=data/gestures/fold{fold}/train_rawframes.txt',
            'data.test.ann_file=data/gestures/fold{fold}/test_rawframes.txt',
        ],
        evaluations=['order'],
        **begin,
    )


def search(start, networks):
    """Runs without a test fold: two others to train on, the third to test on."""
    begin = dict(begin='pre_{network}_s{seed}') if start == 'arrow' else {}
    return dict(
        name='search_' + start + '_{network}_f{fold}_r{rate}_e{epochs}_s{seed}',
        config='{network}.py',
        of=dict(
            part=['search'],
            start=[start],
            seed=[0],
            rate=RATES,
            epochs=EPOCHS,
            fold=FOLDS,
            network=networks,
        ),
        options=[
            'data.train.ann_file=data/gestures/search{fold}/train_rawframes.txt',
            'data.test.ann_file=data/gestures/search{fold}/val_rawframes.txt',
            'optimizer.lr={rate}',
            'total_epochs={epochs}',
        ],
        evaluations=['top1'],
        **begin,
    )


runs = [
    dict(
        name='pre_{network}_s{seed}',
        config='{network}.py',
        of=dict(part=['pretraining'], seed=SEEDS, network=NETWORKS),
        options=PRETRAINING,
        evaluations=['pairs'],
    ),
    *(search(start, ('bn', 'tsm', 'dnr')) for start in ('arrow', 'scratch')),
    *(
        final(start, NETWORKS, RECIPE, start + '_{network}_f{fold}_s{seed}', 'one')
        for start in ('arrow', 'scratch')
    ),
    *(
        final(
            start,
            [network],
            OWN[network],
            'own_' + start + '_{network}_f{fold}_s{seed}',
            'own',
        )
        for network in OWN
        for start in ('arrow', 'scratch')
    ),
]
