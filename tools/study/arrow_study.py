#!/usr/bin/env python
"""The arrow-of-time study: train, test and evaluate all of its runs.

    python tools/data/make_arrow_dataset.py data/arrow112 \\
        --train 300 --val 20 --test 100
    python tools/study/arrow_study.py --jobs 4 --time-limit 540

A run is a config of configs/arrow with a batch size, a number of groups and a
seed, and is named after these: both_b8_g4_s0. The runs are the four configs
with batches of 8 clips and 4 groups; both and none with batches of 2 and 4;
both with 2 and 8 groups; three seeds each. The learning rate is proportional
to the batch size and the warm-up as long in clips. Small batches make more
steps an epoch, and get fewer epochs: three quarters with 4 clips, half with 2.

A run is trained by tools/train_recognizer.py and tested by
tools/test_recognizer.py, in processes of their own. The checkpoint is then
evaluated here, on all test clips, with

    grouped   the running statistics as trained: the testing script's scores
              again
    shared    for each layer one running mean and variance for all groups,
              which move towards those of each group in turn, as the published
              code has it (running_stats='shared'), over 20 batches of
              training clips, from the trained ones on; only for configs that
              have a cross-temporal relay
    batch     the statistics of each batch, as in training: batches of the
              training's size, of clips at random, the last one filled up
    large_batch
              the same with batches of 64, whose statistics are less noisy
    recalibrated
              running statistics that are estimated anew, as
              tools/recalibrate_norm.py does, from 100 batches of training
              clips, or what whole batches there are

and for each there are four figures:

    top1       clips whose class is predicted, of all
    pair       clips whose predicted class is of the right pair (labels 2k
               and 2k + 1), of all: the process, its direction ignored
    order      clips whose class is predicted, of those whose pair is: the
               direction, where the process is known; 0.5 by guessing. null
               where no pair is right
    confusion  number of clips, true classes down, predicted ones across

`gap` is top1 of batch less that of grouped. Accuracies are in 0 to 1.

Each run leaves OUT/NAME.json, written when all of it is known; one that is
there is not run again. An interrupted run goes on from its last checkpoint in
WORK_DIR/NAME, which also has the logs of its processes. The run both_b8_g4_s0
leaves OUT/relay.json as well: scales h and shifts c, (groups, channels), that
one cross-temporal layer predicts for a test clip of each pair and for the
same clip played backwards; of the layers, that which tells them apart most.

Exit status: 0, all runs are there; 1, something failed, and the text says
what; 3, stopped by --time-limit or a signal: the same command goes on.
"""

import argparse
import concurrent.futures
import copy
import fcntl
import fnmatch
import itertools
import json
import math
import os
import pickle
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

from analysis.benchmark import (  # noqa: E402
    count,
    describe_run,
    first_line,
    write_json,
)
from checkpoint_files import fill_model, read_checkpoint  # noqa: E402
from hosts import HostError, mmaction2, run  # noqa: E402
from recalibrate_norm import (  # noqa: E402
    choose_norms,
    estimate,
    replace_statistics,
)

from resnet_dnr import CrossTemporalNorm, DynamicNorm  # noqa: E402

SEEDS = (0, 1, 2)
BATCH, GROUPS = 8, 4  # of configs/arrow/recipe.py
# Training batches that move shared statistics before these are evaluated:
# with momentum 0.1, they leave 0.9 ** (20 G) of what was before.
SHARED_BATCHES = 20
LARGE_BATCH = 64  # clips
RECALIBRATION_BATCHES = 100
EPOCHS = {8: 1, 4: 0.75, 2: 0.5}  # of the recipe's, by clips a batch
STOPPED = 3  # exit status
SECONDS_TO_STOP = 10  # for a child, before it is killed


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


class Stopped(Exception):
    """The time is over, or a signal came."""


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--only',
        nargs='+',
        metavar='PATTERN',
        default=['*'],
        help="runs whose name fits one of these, such as 'both_*_s0' (default: all)",
    )
    parser.add_argument(
        '--jobs',
        type=count,
        metavar='N',
        help='runs at once, spread over the visible GPUs (default: 4 a GPU, 1 without)',
    )
    parser.add_argument(
        '--time-limit',
        type=count,
        metavar='SECONDS',
        help='stop then, in a way that can be gone on from',
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        metavar='FOLDER',
        default=Path('work_dirs/arrow'),
        help='checkpoints and logs (default: %(default)s)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FOLDER',
        default=Path('results/arrow'),
        help='results (default: %(default)s)',
    )
    parser.add_argument(
        '--commit', help='what the results say of the source (default: what git says)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        default=[],
        help='set values of the config, in all '
        'runs; optimizer.lr and lr_config.warmup_iters are '
        f'those for batches of {BATCH}',
    )
    return parser.parse_args()


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

    def last_checkpoint(self):
        """The newest checkpoint and its epoch; None and 0 without one."""
        found = {
            int(path.stem[len('epoch_') :]): path
            for path in self.folder.glob('epoch_*.pth')
        }
        epoch = max(found, default=0)
        return found.get(epoch), epoch

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
    parser.add_argument('--cfg-options', nargs='+', action=mmaction2.DictAction)

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


def threads(jobs):
    """Threads for each of several processes that share the cores."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)


def run_child(plan, step, command, device, jobs, lock, stop):
    """Run a script in a process and add its seconds to the run's state.

    Args:
        plan (Plan): the run.
        step (str): 'train' or 'test'; its log is STEP.log.
        command (list): the script and its arguments.
        device (str | None): for CUDA_VISIBLE_DEVICES.
        jobs (int): processes that share the cores.
        lock (int): descriptor of a locked file, locked while a child lives.
        stop (threading.Event): ends the process early.

    Raises:
        Stopped: it did.
        HostError: the process failed; the text has its log and last lines.
    """
    env = dict(os.environ)
    env.pop('MMACTION_ROOT', None)  # mmaction2 is the host here
    env.setdefault('OMP_NUM_THREADS', str(threads(jobs)))
    if device is not None:
        env['CUDA_VISIBLE_DEVICES'] = device
    log = plan.folder / f'{step}.log'
    start = time.perf_counter()
    with open(log, 'a') as file:
        # In a session of its own, so that its data loaders end with it.
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock],
        )
    while process.poll() is None and not stop.wait(0.2):
        pass
    stopped = process.poll() is None
    for number in (signal.SIGTERM, signal.SIGKILL) if stopped else ():
        os.killpg(process.pid, number)
        try:
            process.wait(SECONDS_TO_STOP)
            break
        except subprocess.TimeoutExpired:
            continue
    state = plan.read_state()
    state['seconds'][step] = state['seconds'].get(step, 0) + time.perf_counter() - start
    write_json(plan.folder / 'state.json', state)
    if stopped:
        raise Stopped
    if process.returncode:
        with open(log, errors='replace') as file:
            last = ''.join(deque(file, 8)).rstrip()
        raise HostError(
            f'{step} failed with exit status '
            f'{process.returncode}, see {log}, which ends:\n'
            f'{last}'
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


def train_and_test(plan, devices, jobs, lock, stop):
    """Do what is left of a run's training and testing.

    Args:
        plan (Plan): the run.
        devices (queue.Queue): of values for CUDA_VISIBLE_DEVICES, or None;
            one is taken and put back.
        jobs, lock, stop: see :func:`run_child`.
    """
    if stop.is_set():
        raise Stopped
    plan.folder.mkdir(parents=True, exist_ok=True)
    for path in plan.folder.glob('*.tmp'):
        path.unlink()  # of a process that was stopped while it wrote
    write_json(plan.folder / 'state.json', plan.read_state())
    device = devices.get()
    try:
        checkpoint, epoch = plan.last_checkpoint()
        command = commands(plan)
        if epoch < plan.epochs:
            resume = ['--resume_from', checkpoint] if checkpoint else []
            # After the config; --cfg-options takes all that follows it.
            train = command['train'][:2] + resume + command['train'][2:]
            run_child(plan, 'train', train, device, jobs, lock, stop)
        if not (plan.folder / 'results.pkl').exists():
            run_child(plan, 'test', command['test'], device, jobs, lock, stop)
    finally:
        devices.put(device)


def accuracies(predicted, labels, classes):
    """The figures of the module's docstring.

    Args:
        predicted (np.ndarray): classes, (clips,) of int.
        labels (np.ndarray): true classes, (clips,) of int; 2k and 2k + 1
            are a pair.
        classes (int): how many there are.

    Returns:
        dict: top1, pair (float), order (float | None) and confusion (a list
        of lists of int).
    """
    right = predicted == labels
    right_pair = predicted // 2 == labels // 2
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    return dict(
        top1=float(right.mean()),
        pair=float(right_pair.mean()),
        order=float(right[right_pair].mean()) if right_pair.any() else None,
        confusion=confusion.tolist(),
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


def shuffled(length):
    """The numbers below `length` in an order at random, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(length, generator=generator).tolist()


def normalize_by_batches(model):
    """Let a model's normalizations do as in training, and nothing else."""
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, DynamicNorm)):
            module.train()


class Evaluator:
    """Evaluates checkpoints in this process.

    Args:
        stop (threading.Event): ends it early, by Stopped.
    """

    def __init__(self, stop):
        self.stop = stop
        self.device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self.clips = self.train_clips = None

    def prepare(self, plan):
        """Import mmaction2 and read what all runs share.

        These are the test clips, and as many training clips, at random, as
        statistics need.
        """
        # As hosts.mmaction2.build_runner says.
        warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeform')
        from mmaction.registry import DATASETS
        from mmaction.utils import register_all_modules
        from mmengine.utils import import_modules_from_strings

        register_all_modules(init_default_scope=True)
        cfg = mmaction2.translate(plan.v1)
        import_modules_from_strings(**cfg.custom_imports)

        def read(dataset, places):
            clips = []
            for place in places:
                self.check_time()
                clips.append(dataset[place])
            return clips

        train = DATASETS.build(cfg.train_dataloader.dataset)
        self.train_clips = read(
            train, shuffled(len(train))[: RECALIBRATION_BATCHES * BATCH]
        )
        test = DATASETS.build(cfg.test_dataloader.dataset)
        self.clips = read(test, range(len(test)))
        self.labels = np.array(
            [int(clip['data_samples'].gt_labels.item) for clip in self.clips]
        )

    def check_time(self):
        if self.stop.is_set():
            raise Stopped

    def build(self, plan, state, path, **backbone):
        """The recognizer in evaluation mode, on the device.

        Args:
            plan (Plan): the run.
            state (dict[str, Tensor]): its weights.
            path (Path): where these are from.
            backbone: values for model.backbone.
        """
        from mmaction.registry import MODELS

        v1 = copy.deepcopy(plan.v1)
        v1.model.backbone.update(backbone)
        model = MODELS.build(mmaction2.translate(v1).model)
        fill_model(model, state, path)
        return model.to(self.device).eval()

    @torch.no_grad()
    def scores(self, model, clips, size, order=None):
        """Class scores of clips.

        Args:
            model (nn.Module): the recognizer.
            clips (list[dict]): of the data set.
            size (int): clips a batch; the last is filled up with the first.
            order (list[int] | None): in which they are taken.

        Returns:
            np.ndarray: (clips, classes) float32, in the order of `clips`.
        """
        from mmengine.dataset import pseudo_collate

        order = range(len(clips)) if order is None else order
        filled = -(-len(order) // size) * size
        places = list(itertools.islice(itertools.cycle(order), filled))
        scores = []
        for start in range(0, filled, size):
            self.check_time()
            batch = [copy.copy(clips[place]) for place in places[start : start + size]]
            samples = model.test_step(pseudo_collate(batch))
            scores += [sample.pred_scores.item for sample in samples]
        scores = torch.stack(scores).float().cpu().numpy()[: len(order)]
        return scores[np.argsort(places[: len(order)])]

    def batches(self, size):
        """Batches of training clips, as a data loader gives them."""
        from mmengine.dataset import pseudo_collate

        for number in range(min(RECALIBRATION_BATCHES, len(self.train_clips) // size)):
            self.check_time()
            yield pseudo_collate(
                [
                    copy.copy(clip)
                    for clip in self.train_clips[number * size : (number + 1) * size]
                ]
            )

    def evaluate(self, plan):
        """Write a run's JSON, and that of the relay where it has it.

        Args:
            plan (Plan): the run, trained and tested.

        Returns:
            dict: what the JSON holds of the evaluation.

        Raises:
            HostError: the checkpoint or the testing script's results are not
                of this model and these clips.
        """
        if self.clips is None:
            self.prepare(plan)
        start = time.perf_counter()
        path = plan.folder / f'epoch_{plan.epochs}.pth'
        state = read_checkpoint(path)['state_dict']
        classes = len(plan.settings['classes'])

        def figures(scores):
            return accuracies(scores.argmax(1), self.labels, classes)

        model = self.build(plan, state, path)
        grouped = self.scores(model, self.clips, plan.run.batch)
        tested = self.read_results(plan, grouped)
        modes = dict(grouped=figures(grouped), shared=None)

        normalize_by_batches(model)
        # The running statistics move meanwhile, without effect. The list of
        # clips goes class by class, which no training batch does.
        order = shuffled(len(self.clips))
        for mode, size in (('batch', plan.run.batch), ('large_batch', LARGE_BATCH)):
            modes[mode] = figures(self.scores(model, self.clips, size, order))
        model = self.build(plan, state, path)
        state_anew = dict(state)
        replace_statistics(
            state_anew,
            estimate(model, choose_norms(model), self.batches(plan.run.batch)),
        )
        modes['recalibrated'] = figures(
            self.scores(self.build(plan, state_anew, path), self.clips, plan.run.batch)
        )

        if any(isinstance(m, CrossTemporalNorm) for m in model.modules()):
            model = self.build(plan, state, path, running_stats='shared')
            normalize_by_batches(model)
            self.scores(
                model,
                self.train_clips[: SHARED_BATCHES * plan.run.batch],
                plan.run.batch,
            )  # for what it does to the statistics
            modes['shared'] = figures(
                self.scores(model.eval(), self.clips, plan.run.batch)
            )
        if plan.run.has_relay():
            model = self.build(plan, state, path)
            self.record_relay(plan, model)
        return dict(
            test_script=figures(tested),
            largest_difference_of_a_score=float(abs(tested - grouped).max()),
            evaluation=modes,
            gap=modes['batch']['top1'] - modes['grouped']['top1'],
            seconds=dict(
                plan.read_state()['seconds'], evaluate=time.perf_counter() - start
            ),
        )

    def read_results(self, plan, scores):
        """The testing script's scores, which `scores` must be again.

        Returns:
            np.ndarray: (clips, classes).

        Raises:
            HostError: they are others.
        """
        path = plan.folder / 'results.pkl'
        with open(path, 'rb') as file:
            tested = np.concatenate(pickle.load(file))
        if tested.shape != scores.shape:
            raise HostError(
                f'{path} has scores {tested.shape}, the evaluation has {scores.shape}'
            )
        # What rounding (TF32 on a GPU) can do is far below a score's spread.
        difference = abs(tested - scores).max()
        if not difference <= 0.02 * max(tested.std(), 1e-3):
            raise HostError(
                f'the scores of {path} and of the evaluation here differ by '
                f'up to {difference:.2g}: they should be the same. Remove the '
                f'file to test again'
            )
        return tested

    def record_relay(self, plan, model):
        """Write relay.json: what a cross-temporal layer's relay predicts.

        The layer is that whose scales and shifts, of the clips backwards,
        are on average farthest from those of the clips and from the mirror
        image of these, whichever is nearer.
        """
        names = plan.settings['classes']
        relayed = {}  # of the last clip and its reversal
        layers = {
            name: module
            for name, module in model.backbone.named_modules()
            if isinstance(module, CrossTemporalNorm)
        }
        for name, layer in layers.items():
            layer.backend = 'plain'  # the others do not call the cell

            def keep(cell, inputs, outputs, name=name):
                relayed[name] = torch.stack(outputs[:2]).cpu()

            layer.relay.register_forward_hook(keep)
        clips, recorded = [], []
        for label in range(0, len(names), 2):
            clip = self.clips[list(self.labels).index(label)]
            both = [clip, dict(clip, inputs=clip['inputs'].flip(0))]
            predicted = self.scores(model, both, 2).argmax(1)
            clips.append(
                dict(
                    label=names[label],
                    reversed_label=names[label + 1],
                    predicted=names[predicted[0]],
                    reversed_predicted=names[predicted[1]],
                )
            )
            recorded.append(dict(relayed))

        def apart(values):  # (h and c, clip and reversal, groups, channels)
            ahead, back = values[:, 0], values[:, 1]
            return float(
                torch.minimum(
                    (ahead - back).abs().mean(1), (ahead - back.flip(1)).abs().mean(1)
                ).mean()
            )

        chosen = max(
            layers, key=lambda name: sum(apart(values[name]) for values in recorded)
        )
        for clip, values in zip(clips, recorded):
            for name, of_clips in zip('hc', values[chosen].tolist()):
                for prefix, value in zip(('', 'reversed_'), of_clips):
                    clip[prefix + name] = np.round(value, 5).tolist()
        write_json(
            plan.result.with_name('relay.json'),
            dict(study='arrow', run=plan.run.name, layer=chosen, clips=clips),
            indent=None,
        )


def finish(plan, evaluator, args):
    """Evaluate a run that was trained and tested, and write its JSON.

    Returns:
        str: a line on it.
    """
    content = evaluator.evaluate(plan)
    described = describe_run(evaluator.device)
    if args.commit:
        described['commit'] = args.commit
    import mmaction
    import mmcv
    import mmengine

    described['versions'].update(
        numpy=np.__version__,
        mmaction2=mmaction.__version__,
        mmcv=mmcv.__version__,
        mmengine=mmengine.__version__,
    )
    write_json(
        plan.result,
        dict(
            study='arrow',
            name=plan.run.name,
            run=plan.run._asdict(),
            clips=len(evaluator.clips),
            commands={
                step: shlex.join(['python', *command])
                for step, command in commands(plan).items()
            },
            **described,
            **content,
            validation=validation(plan.folder),
            settings=plan.settings,
        ),
    )

    def percent(value):
        return '    -' if value is None else f'{100 * value:5.1f}'

    modes = content['evaluation']
    line = f'{plan.run.name:22}' + ''.join(
        f' {key} {percent(modes["grouped"][key])}' for key in ('top1', 'pair', 'order')
    )
    for mode in ('shared', 'batch', 'large_batch', 'recalibrated'):
        value = modes[mode] and modes[mode]['top1']
        line += f' | {mode} {percent(value)}'
    return line + f' | {sum(content["seconds"].values()):.0f} s'


def visible_devices(jobs):
    """A place for each job: a value for CUDA_VISIBLE_DEVICES, or None."""
    visible = [None]
    if torch.cuda.is_available():
        visible = [str(i) for i in range(torch.cuda.device_count())]
        if os.environ.get('CUDA_VISIBLE_DEVICES'):
            names = os.environ['CUDA_VISIBLE_DEVICES'].split(',')
            visible = names[: len(visible)]
    places = queue.Queue()
    for job in range(jobs):
        places.put(visible[job % len(visible)])
    return places


def study(args):
    """Do the runs of a command line.

    Raises:
        HostError: what is wrong before the first begins, or, at the end,
            how many failed.
    """
    begin = time.monotonic()
    runs = [
        run for run in RUNS if any(fnmatch.fnmatchcase(run.name, p) for p in args.only)
    ]
    if not runs:
        raise HostError(
            f'--only {" ".join(args.only)} fits none of '
            + ', '.join(run.name for run in RUNS)
        )
    jobs = args.jobs or max(1, 4 * torch.cuda.device_count())
    plans = [make_plan(run, args) for run in runs]
    try:
        args.work_dir.mkdir(parents=True, exist_ok=True)
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f'cannot make {error.filename}: {error.strerror}') from error
    torch.set_num_threads(threads(jobs))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if args.time_limit:
        left = args.time_limit - (time.monotonic() - begin)
        timer = threading.Timer(max(0, left), stop.set)
        timer.daemon = True
        timer.start()
    with open(args.work_dir / 'lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(
                f'a study, or what one left running, is at work in {args.work_dir}'
            ) from None
        left = [plan for plan in plans if not plan.is_done()]
        failed, stopped = do_runs(left, plans, args, jobs, lock, stop)
    if failed:
        raise HostError(
            f'{len(failed)} of {len(plans)} runs failed, see above: {", ".join(failed)}'
        )
    if stopped:
        print(
            f'stopped with {stopped} of {len(plans)} runs to go: the same '
            f'command goes on'
        )
        sys.exit(STOPPED)
    print(f'{args.out} has all {len(plans)} runs')


def do_runs(left, plans, args, jobs, lock, stop):
    """Do runs, some at once, with a progress bar.

    Args:
        left (list[Plan]): those to do.
        plans (list[Plan]): all, for the bar.
        args, jobs, lock, stop: see :func:`study`.

    Returns:
        tuple: names of those that failed, and how many were stopped.
    """
    evaluator, devices = Evaluator(stop), visible_devices(jobs)
    failed, stopped = [], 0
    progress = Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('epochs'),
        TimeElapsedColumn(),
    )

    def say(text):
        progress.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def epochs_done(plan):
        return (
            plan.epochs
            if plan.is_done()
            else min(plan.epochs, plan.last_checkpoint()[1])
        )

    if len(left) < len(plans):
        say(f'{len(plans) - len(left)} of {len(plans)} runs are there')
    with progress, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        bar = progress.add_task(
            f'{len(left)} runs, {jobs} at once',
            total=sum(plan.epochs for plan in plans),
        )
        pending = {
            pool.submit(train_and_test, plan, devices, jobs, lock.fileno(), stop): plan
            for plan in left
        }
        while pending:
            done, _ = concurrent.futures.wait(
                pending, 1, concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                plan = pending.pop(future)
                try:
                    future.result()
                    say(finish(plan, evaluator, args))
                except Stopped:
                    stopped += 1
                except Exception as error:  # the other runs go on
                    failed.append(plan.run.name)
                    say(f'error: {plan.run.name}: ' + describe_failure(plan, error))
            progress.update(bar, completed=sum(map(epochs_done, plans)))
    return failed, stopped


def describe_failure(plan, error):
    """A failure's text; what is no fault of a user goes to a log."""
    if isinstance(error, HostError):
        return str(error)
    log = plan.folder / 'study.log'
    with open(log, 'a') as file:
        file.write(
            ''.join(traceback.format_exception(type(error), error, error.__traceback__))
        )
    return f'{first_line(error)}, see {log}'


if __name__ == '__main__':
    run(study, parse_args())
