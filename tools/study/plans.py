"""The runs of a study with all that they take: configs, settings, files, commands."""

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple, Optional

from hosts import HostError, mmaction2
from hosts.checkpoint_folder import checkpoints_in
from hosts.lists import read_list
from hosts.options import add_cfg_options

from study.definition import Run
from study.evaluations import OF_NETWORK

ROOT = Path(__file__).resolve().parents[2]
BACKBONE = 'backbone.pth'  # of a run that others begin from, in its folder


class Plan(NamedTuple):
    """A run with all that it takes."""

    run: Run
    v1: object  # mmengine.Config, in mmaction v1's schema
    options: list  # KEY=VALUE, for --cfg-options
    settings: dict  # what another run would have to share to be the same
    folder: Path  # its own, for checkpoints and logs
    result: Path  # its JSON
    begin: Optional[Path]  # the backbone that it begins from

    @property
    def epochs(self):
        return self.v1.total_epochs

    @property
    def steps(self):
        """Of the optimizer, in the whole training."""
        clips = len(read_list(self.v1.data.train.ann_file))
        return -(-clips // self.v1.data.videos_per_gpu) * self.epochs

    @property
    def backbone(self):
        """Where the run's last backbone is, if other runs begin from it."""
        return self.folder / BACKBONE

    @property
    def checkpoint(self):
        """The last one."""
        return self.folder / f'epoch_{self.epochs}.pth'

    def is_done(self):
        """Whether the run's result is there."""
        return self.result.exists()

    def epochs_done(self):
        """The epochs that are behind the run, by its checkpoints."""
        return min(self.epochs, max(checkpoints_in(self.folder), default=0))

    def read_state(self):
        """What is known of the run so far: settings, and seconds a step."""
        try:
            return json.loads((self.folder / 'state.json').read_text())
        except FileNotFoundError:
            return dict(settings=self.settings, seconds={})


class Planner:
    """Makes the plans of a study's runs, and checks what they take.

    Args:
        study (Study): it.
        options (list[str]): KEY=VALUE, set in all runs, after the study's own.
        work_dir, out (Path): folders for checkpoints and for results.
    """

    def __init__(self, study, options, work_dir, out):
        self.study, self.options = study, list(options)
        self.work_dir, self.out = work_dir, out
        self.plans = {}
        self.configs, self.lists = {}, {}
        self.parser = argparse.ArgumentParser()
        add_cfg_options(self.parser)

    def plan(self, run):
        """Resolve the config of a run, and check it.

        Args:
            run (Run): of the study.

        Returns:
            Plan: the same for the same run.

        Raises:
            HostError: the config, the options or the data are at fault, or
                results or checkpoints of other settings are in the way.
        """
        if run.name not in self.plans:
            self.plans[run.name] = self._plan(run)
        return self.plans[run.name]

    def _plan(self, run):
        options = [*run.options, *self.options]
        v1, settings = self._resolve(run.config, tuple(options), run.validate)
        begin = None
        if run.begin is not None:
            first = self.plan(self.study.find(run.begin))
            begin = first.backbone
            options.append(f'load_from={begin}')
            settings = dict(
                settings, begin=dict(run=run.begin, settings=digest_of(first.settings))
            )
        plan = Plan(
            run,
            v1,
            options,
            settings,
            self.work_dir / run.name,
            self.out / f'{run.name}.json',
            begin,
        )
        for path in (plan.result, plan.folder / 'state.json'):
            if path.exists():
                check_settings(path, plan)
        return plan

    def _resolve(self, config, options, validate):
        """A config and the settings that its results depend on.

        Seeds share them.

        Returns:
            tuple: mmengine.Config and dict.
        """
        key = config, options, validate
        if key not in self.configs:
            parsed = self.parser.parse_args(
                ['--cfg-options', *options] if options else []
            )
            v1 = mmaction2.load_config(config, parsed.cfg_options)
            mmaction2.translate(v1, validate=validate)
            settings = dict(config=v1.to_dict(), **self._describe_data(v1, validate))
            classes = v1.model.cls_head.num_classes
            if len(settings['classes']) != classes:
                raise HostError(
                    f'model.cls_head.num_classes={classes}, but '
                    f'{Path(v1.data.test.ann_file).parent} has '
                    f'{len(settings["classes"])} classes'
                )
            self.configs[key] = v1, json.loads(json.dumps(settings))
        return self.configs[key]

    def _describe_data(self, v1, validate):
        """What a run's data are: as they were generated, or its lists' digests."""
        splits = ('train', 'val', 'test') if validate else ('train', 'test')
        lists = {split: v1.data[split].ann_file for split in splits}
        data = Path(lists['test']).parent
        try:
            classes = (data / 'classes.txt').read_text().split()
            if (data / 'dataset.json').exists():
                described = json.loads((data / 'dataset.json').read_text())
            else:
                described = {s: self._digest_of_list(lists[s]) for s in splits}
        except OSError as error:
            raise HostError(
                f'cannot read {error.filename}: {error.strerror}. Make the data '
                f'first: {self.study.data}'
            ) from error
        return dict(data=described, classes=classes)

    def _digest_of_list(self, path):
        if path not in self.lists:
            content = Path(path).read_bytes()
            self.lists[path] = hashlib.sha256(content).hexdigest()[:16]
        return self.lists[path]


def digest_of(settings):
    """A short text that other settings do not have."""
    content = json.dumps(settings, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


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
    """The command lines of a run: train from the beginning, test, and evaluate.

    Args:
        plan (Plan): the run.

    Returns:
        dict[str, list[str]]: the script and its arguments, by the step's name.
        There is an evaluation where one of the run takes the network.
    """

    def script(name, *arguments):
        options = ['--cfg-options', *plan.options] if plan.options else []
        return [
            os.path.relpath(ROOT / 'tools' / name),
            plan.run.config,
            *map(str, arguments),
            *options,
        ]

    results = plan.folder / 'results.pkl'
    found = dict(
        train=script(
            'train_recognizer.py',
            *(['--validate'] if plan.run.validate else []),
            '--seed',
            plan.run.seed,
            '--work_dir',
            plan.folder,
        ),
        test=script('test_recognizer.py', plan.checkpoint, '--out', results),
    )
    names = [name for name in plan.run.evaluations if name in OF_NETWORK]
    if names:
        found['evaluate'] = script(
            'study/evaluate_run.py',
            plan.checkpoint,
            results,
            '--out',
            plan.folder / 'evaluation.json',
            '--seed',
            plan.run.seed,
            '--evaluations',
            *names,
        )
    return found


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
