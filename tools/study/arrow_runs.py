"""The runs of the arrow study: what each is of, its config and its files."""

import argparse
import json
import math
import os
from pathlib import Path
from typing import NamedTuple

from hosts import HostError, mmaction2
from hosts.checkpoint_folder import checkpoints_in
from hosts.options import add_cfg_options

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)
BATCH, GROUPS = 8, 4  # of configs/arrow/recipe.py
EPOCHS = {8: 1, 4: 0.75, 2: 0.5}  # of the recipe's, by clips a batch


class Run(NamedTuple):
    """What a run is of: names of a config, and numbers."""

    config: str
    batch: int
    groups: int
    seed: int

    @property
    def name(self):
        return f'{self.config}_b{self.batch}_g{self.groups}_s{self.seed}'

    def has_relay(self):
        """Whether this is the run whose relay is recorded."""
        return self == Run('both', BATCH, GROUPS, SEEDS[0])


# In the order in which they begin: first what the method is judged by, then,
# early, the longest.
RUNS = [
    Run(config, batch, groups, seed)
    for configs, batch, groups in (
        (('both', 'none', 'cross_temporal', 'cross_layer'), BATCH, GROUPS),
        (('both', 'none'), 2, GROUPS),
        (('both', 'none'), 4, GROUPS),
        (('both',), BATCH, 2),
        (('both',), BATCH, 8),
    )
    for seed in SEEDS
    for config in configs
]


class Plan(NamedTuple):
    """A run with all that it takes."""

    run: Run
    v1: object  # mmengine.Config, in mmaction v1's schema
    options: list  # KEY=VALUE, for --cfg-options
    settings: dict  # what another run would have to share to be the same
    folder: Path  # its own, for checkpoints and logs
    result: Path  # its JSON

    @property
    def epochs(self):
        return self.v1.total_epochs

    def is_done(self):
        """Whether all that the run should leave is there."""
        relay = self.result.with_name('relay.json')
        return self.result.exists() and (relay.exists() or not self.run.has_relay())

    def epochs_done(self):
        """The epochs that are behind the run, by its checkpoints."""
        return min(self.epochs, max(checkpoints_in(self.folder), default=0))

    def read_state(self):
        """What is known of the run so far: settings, and seconds a step."""
        try:
            return json.loads((self.folder / 'state.json').read_text())
        except FileNotFoundError:
            return dict(settings=self.settings, seconds={})


def make_plan(run, args):
    """Resolve the config of a run, and check it.

    Args:
        run (Run): the run.
        args (argparse.Namespace): of the command line.

    Returns:
        Plan

    Raises:
        HostError: the config, the options or the data are at fault, or
            results or checkpoints of other settings are in the way.
    """
    path = os.path.relpath(ROOT / 'configs' / 'arrow' / f'{run.config}.py')
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)

    def load(options):
        parsed = parser.parse_args(['--cfg-options', *options] if options else [])
        return mmaction2.load_config(path, parsed.cfg_options)

    v1 = load(args.cfg_options)
    options = list(args.cfg_options)
    if (run.batch, run.groups) != (BATCH, GROUPS):
        share = run.batch / BATCH
        options += [
            f'data.videos_per_gpu={run.batch}',
            f'model.backbone.num_groups={run.groups}',
            f'total_epochs={math.ceil(v1.total_epochs * EPOCHS[run.batch])}',
            f'optimizer.lr={v1.optimizer.lr * share}',
            f'lr_config.warmup_iters={round(v1.lr_config.warmup_iters / share)}',
        ]
        v1 = load(options)
    mmaction2.translate(v1, validate=True)
    data = Path(v1.data.test.ann_file).parent
    try:
        settings = dict(
            config=v1.to_dict(),
            data=json.loads((data / 'dataset.json').read_text()),
            classes=(data / 'classes.txt').read_text().split(),
        )
    except OSError as error:
        raise HostError(
            f'cannot read {error.filename}: {error.strerror}. Make the data '
            f'first: tools/data/make_arrow_dataset.py {data}'
        ) from error
    classes = v1.model.cls_head.num_classes
    if len(settings['classes']) != classes:
        raise HostError(
            f'model.cls_head.num_classes={classes}, but {data} '
            f'has {len(settings["classes"])} classes'
        )
    plan = Plan(
        run,
        v1,
        options,
        json.loads(json.dumps(settings)),
        args.work_dir / run.name,
        args.out / f'{run.name}.json',
    )
    for path in (plan.result, plan.folder / 'state.json'):
        if path.exists():
            check_settings(path, plan)
    return plan


def check_settings(path, plan):
    """A file of an earlier study is of the same settings.

    Raises:
        HostError: it is not; the text names up to five that differ.
    """

    def flatten(value, name):
        if isinstance(value, dict):
            return {
                key: leaf
                for part in value
                for key, leaf in flatten(value[part], f'{name}.{part}').items()
            }
        return {name: value}

    try:
        found = json.loads(path.read_text())['settings']
    except (ValueError, KeyError, TypeError) as error:
        raise HostError(
            f'{path} is no file of this study: remove it or give another folder'
        ) from error
    found, wanted = flatten(found, ''), flatten(plan.settings, '')
    differing = [
        key for key in {**found, **wanted} if found.get(key) != wanted.get(key)
    ]
    if differing:
        raise HostError(
            f'{path} is of other settings ('
            + '; '.join(
                f'{key[1:]} {found.get(key)}, not {wanted.get(key)}'
                for key in differing[:5]
            )
            + '): remove it or give other folders by --out and --work-dir'
        )


def commands(plan):
    """The command lines of a run: train from the beginning, and test."""

    def script(name, *arguments):
        options = ['--cfg-options', *plan.options] if plan.options else []
        return [
            os.path.relpath(ROOT / 'tools' / name),
            os.path.relpath(ROOT / 'configs' / 'arrow' / f'{plan.run.config}.py'),
            *map(str, arguments),
            *options,
        ]

    return dict(
        train=script(
            'train_recognizer.py',
            '--validate',
            '--seed',
            plan.run.seed,
            '--work_dir',
            plan.folder,
        ),
        test=script(
            'test_recognizer.py',
            plan.folder / f'epoch_{plan.epochs}.pth',
            '--out',
            plan.folder / 'results.pkl',
        ),
    )


def validation(folder):
    """Validation accuracy by epoch, from the logs of a run's training.

    Args:
        folder (Path): the work_dir. Each piece of a training that was
            interrupted has a log of its own in it; the later one counts.

    Returns:
        list: of [epoch, top1]. An epoch whose validation was interrupted is
        left out: training goes on after it.
    """
    found = {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            try:
                values = json.loads(line)
            except ValueError:  # the process was stopped while it wrote
                continue
            if 'acc/top1' in values and values['step'] > 0:
                found[values['step']] = values['acc/top1']
    return sorted(map(list, found.items()))
