# The study of gestures: real clips of ten gestures, four folds that keep scenes apart.
# Networks from scratch, and after pretraining on the arrow study's clips.
import itertools

name = 'gestures'
data = 'tools/study/prepare_gestures.sh VIDEOS CLIPS_CSV'

SEEDS = (0, 1, 2)
NETWORKS = ('bn', 'tsm', 'dnr', 'dnr_g8', 'tsm_dnr', 'slowonly', 'slowonly_dnr')
FOLDS = (1, 2, 3, 4)

PIPELINE = 'native.train_dataloader.dataset.pipeline'
AUGMENTED = [
    f'{PIPELINE}.3.area_range=(0.6,1.0)',
    f'{PIPELINE}.5.flip_ratio=0.5',
    f'{PIPELINE}.6.brightness=0.4',
    f'{PIPELINE}.6.contrast=0.4',
    f'{PIPELINE}.6.saturation=0.4',
]
# What part `search` tries: rates and epochs, and whether clips are augmented.
RECIPES = dict(
    r02_e80=['optimizer.lr=0.02', 'total_epochs=80'],
    r02_e80_augmented=['optimizer.lr=0.02', 'total_epochs=80', *AUGMENTED],
    r04_e80_augmented=['optimizer.lr=0.04', 'total_epochs=80', *AUGMENTED],
    r04_e160_augmented=['optimizer.lr=0.04', 'total_epochs=160', *AUGMENTED],
)
# Twice as long as the longest of these. They were added when the runs with one recipe
# for all networks were known, and are for a recipe of DNR's and of TSM's own. BatchNorm
# guesses with all.
LONGER = dict(
    r02_e320_augmented=['optimizer.lr=0.02', 'total_epochs=320', *AUGMENTED],
    r04_e320_augmented=['optimizer.lr=0.04', 'total_epochs=320', *AUGMENTED],
)
# From scratch, the shortest and the longest of the four: with the first, all guess.
FROM_SCRATCH = {name: RECIPES[name] for name in ('r02_e80', 'r04_e160_augmented')}
# What `search` has found for each test fold, without it: `plot_study.py` prints these
# lines. One recipe serves all networks; OWN is the best of a network's own. From
# scratch there is none: TSM's is the same, and with the two recipes tried, BatchNorm
# and DNR guess.
RECIPE = dict(
    arrow={
        1: 'r02_e80_augmented',
        2: 'r04_e160_augmented',
        3: 'r02_e80',
        4: 'r04_e160_augmented',
    },
    scratch={
        1: 'r04_e160_augmented',
        2: 'r04_e160_augmented',
        3: 'r02_e80',
        4: 'r04_e160_augmented',
    },
)
OWN = dict(
    bn=dict(arrow={1: 'r02_e80', 2: 'r04_e160_augmented', 3: 'r02_e80', 4: 'r02_e80'}),
    tsm=dict(
        arrow={
            1: 'r02_e320_augmented',
            2: 'r04_e320_augmented',
            3: 'r04_e160_augmented',
            4: 'r02_e320_augmented',
        }
    ),
    dnr=dict(
        arrow={
            1: 'r02_e320_augmented',
            2: 'r02_e80',
            3: 'r02_e320_augmented',
            4: 'r02_e80',
        }
    ),
)

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
    'total_epochs=12',
]


def final(
    name,
    part,
    start,
    networks,
    recipe,
    seeds=SEEDS,
    evaluations=('order',),
    options=(),
    lists='fold',
):
    """The runs whose figures are reported, of some networks with their recipe.

    Yields:
        dict: a group for each seed and test fold, whose recipe was found without it.
    """
    begin = dict(begin='pre_{network}_s{seed}') if start == 'arrow' else {}
    for seed, fold in itertools.product(seeds, FOLDS):
        chosen = recipe[start][fold]
        yield dict(
            name=name + '_{network}_f{fold}_s{seed}',
            config='{network}.py',
            of=dict(
                part=[part],
                start=[start],
                seed=[seed],
                fold=[fold],
                recipe={chosen: {**RECIPES, **LONGER}[chosen]},
                network=networks,
            ),
            options=[
                f'data.train.ann_file=data/gestures/{lists}{fold}/train_rawframes.txt',
                f'data.test.ann_file=data/gestures/{lists}{fold}/test_rawframes.txt',
                *options,
            ],
            evaluations=evaluations,
            **begin,
        )


def search(start, networks, recipes=RECIPES):
    """Runs without a test fold: two others to train on, the third to test on."""
    begin = dict(begin='pre_{network}_s{seed}') if start == 'arrow' else {}
    return dict(
        name='search_' + start + '_{network}_f{fold}_{recipe}',
        config='{network}.py',
        of=dict(
            part=['search'],
            start=[start],
            seed=[0],
            recipe=recipes,
            fold=FOLDS,
            network=networks,
        ),
        options=[
            'data.train.ann_file=data/gestures/search{fold}/train_rawframes.txt',
            'data.test.ann_file=data/gestures/search{fold}/val_rawframes.txt',
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
    search('arrow', ('bn', 'tsm', 'dnr')),
    search('arrow', ('tsm', 'dnr'), LONGER),
    search('scratch', ('bn', 'tsm', 'dnr'), FROM_SCRATCH),
]
# What ResNet_DNR's statistics do is evaluated, too. DNR with 8 groups is not trained
# from scratch.
OTHERS = [network for network in NETWORKS if network not in ('dnr', 'dnr_g8')]
reported = []
for start, dnr in dict(arrow=('dnr', 'dnr_g8'), scratch=('dnr',)).items():
    reported += final(start, 'one', start, OTHERS, RECIPE)
    reported += final(
        start, 'one', start, dnr, RECIPE, evaluations=('order', 'statistics')
    )
for network in OWN:
    reported += final('own_arrow', 'own', 'arrow', [network], OWN[network])
# Is it the length? Is it the precision? DNR without bf16. Is it the scenes? Test clips
# of scenes that are trained on, too.
longer = dict(arrow=dict.fromkeys(FOLDS, 'r04_e320_augmented'))
reported += final('longer', 'longer', 'arrow', ['dnr'], longer, [0])
reported += final(
    'float32', 'float32', 'arrow', ['dnr'], RECIPE, [0], options=['amp=None']
)
reported += final('mixed', 'mixed', 'arrow', ['dnr', 'tsm'], RECIPE, [0], lists='mixed')
# Seed by seed, so that a study that is stopped has whole ones.
runs += sorted(reported, key=lambda group: group['of']['seed'])
