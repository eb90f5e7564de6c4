#!/usr/bin/env python
"""A study: train, test and evaluate all of its runs.

    python tools/data/make_arrow_dataset.py data/arrow112 \\
        --train 300 --val 20 --test 100
    python tools/study/study.py configs/arrow/study.py --jobs 4 --time-limit 540

STUDY is a Python file that says which runs there are; definition.py has what it may
set. A run is trained by tools/train_recognizer.py and tested by
tools/test_recognizer.py, in processes of their own. What else the study evaluates,
see evaluations.py, is done by tools/study/evaluate_run.py in a third, or here. A run
that begins from another waits for it, and that one is done, too, where it is needed
and --only leaves it out.

Each run leaves OUT/NAME.json, written when all of it is known; one that is
there is not run again. An interrupted run goes on from its last checkpoint in
WORK_DIR/NAME, which also has the logs of its processes. Checkpoints are removed when
the run's result is there, unless the study keeps them. The backbone of a run that
others begin from stays, in WORK_DIR/NAME/backbone.pth.

Exit status: 0, all runs are there; 1, something failed, and the text says
what; 3, stopped by --time-limit or a signal: the same command goes on.
"""

import argparse
import concurrent.futures
import fcntl
import fnmatch
import json
import os
import queue
import shlex
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

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

from analysis.benchmark import count  # noqa: E402
from analysis.benchmark_backbones import first_line  # noqa: E402
from hosts import HostError, run  # noqa: E402
from hosts.lists import read_list  # noqa: E402
from run_description import describe_run  # noqa: E402
from whole_files import write_json  # noqa: E402

from study.definition import read_study  # noqa: E402
from study.evaluations import OF_SCORES, read_scores  # noqa: E402
from study.plans import Planner, commands, validation  # noqa: E402
from study.run_processes import (  # noqa: E402
    Stopped,
    do_steps,
    leave_backbone,
    remove_checkpoints,
)

STOPPED = 3  # exit status


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'study', type=Path, metavar='STUDY', help='such as configs/arrow/study.py'
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
        help='checkpoints and logs (default: work_dirs/ and the name of the study)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FOLDER',
        help='results (default: results/ and the name of the study)',
    )
    parser.add_argument(
        '--commit', help='what the results say of the source (default: what git says)'
    )
    parser.add_argument(
        '--list', action='store_true', help='print the runs and their steps, and end'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        default=[],
        help="set values of the config, in all runs, over the study's own",
    )
    return parser.parse_args()


class Finisher:
    """Writes the results of runs.

    Args:
        study (Study): it.
        commit (str | None): of the source, where git cannot say it.
    """

    def __init__(self, study, commit):
        self.study = study
        import mmaction
        import mmcv
        import mmengine

        self.described = describe_run(
            torch.device('cuda' if torch.cuda.is_available() else 'cpu'),
            commit,
            numpy=np.__version__,
            mmaction2=mmaction.__version__,
            mmcv=mmcv.__version__,
            mmengine=mmengine.__version__,
        )

    def finish(self, plan):
        """Write the JSON of a run all of whose steps are done.

        Args:
            plan (Plan): the run.

        Returns:
            str: a line on it.
        """
        scores = read_scores(plan.folder / 'results.pkl')
        labels = np.array([line[-1] for line in read_list(plan.v1.data.test.ann_file)])
        content = {}
        path = plan.folder / 'evaluation.json'
        if path.exists():
            content.update(json.loads(path.read_text()))
        for name in plan.run.evaluations:
            if name in OF_SCORES:
                content.update(OF_SCORES[name](scores, labels))
        own = dict(study=self.study.name, run=plan.run.name)
        for name, values in content.pop('files', {}).items():
            write_json(plan.result.with_name(name), dict(own, **values), indent=None)
        if self.study.is_begun_from(plan.run):
            leave_backbone(plan)
        seconds = plan.read_state()['seconds']
        write_json(
            plan.result,
            dict(
                study=self.study.name,
                name=plan.run.name,
                run=plan.run.values,
                begin=plan.run.begin,
                clips=len(labels),
                steps=plan.steps,
                commands={
                    step: shlex.join(['python', *command])
                    for step, command in commands(plan).items()
                },
                **self.described,
                **content,
                seconds=seconds,
                validation=validation(plan.folder),
                settings=plan.settings,
            ),
        )
        if not self.study.keep_checkpoints:
            remove_checkpoints(plan)
        right = (scores.argmax(1) == labels).mean()
        return f'{plan.run.name:28} top1 {100 * right:5.1f} | ' + ', '.join(
            f'{step} {value:.0f} s' for step, value in seconds.items()
        )


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


def choose_plans(study, planner, patterns):
    """The plans of the runs to do, and of those that these begin from.

    Args:
        study (Study): it.
        planner (Planner): of it.
        patterns (list[str]): of names.

    Returns:
        tuple: plans (list[Plan]) of the runs that fit, and the list of those among
        them and before them that are to be done, in order.
    """
    runs = [
        run
        for run in study.runs
        if any(fnmatch.fnmatchcase(run.name, p) for p in patterns)
    ]
    if not runs:
        raise HostError(
            f'--only {" ".join(patterns)} fits none of '
            + ', '.join(run.name for run in study.runs)
        )
    plans = [planner.plan(run) for run in runs]
    left = [plan for plan in plans if not plan.is_done()]
    needed = {plan.run.begin for plan in left if plan.begin and not plan.begin.exists()}
    wanted = needed | {plan.run.name for plan in left}
    return plans, [planner.plan(run) for run in study.runs if run.name in wanted]


def do_study(args):
    """Do the runs of a command line.

    Raises:
        HostError: what is wrong before the first begins, or, at the end,
            how many failed.
    """
    begin = time.monotonic()
    study = read_study(args.study)
    args.work_dir = args.work_dir or Path('work_dirs', study.name)
    args.out = args.out or Path('results', study.name)
    jobs = args.jobs or max(1, 4 * torch.cuda.device_count())
    planner = Planner(study, args.cfg_options, args.work_dir, args.out)
    plans, left = choose_plans(study, planner, args.only)
    if args.list:
        for plan in left:
            print(f'{plan.run.name:28} {plan.steps:6} steps')
        print(f'{len(left)} runs to do, {sum(plan.steps for plan in left)} steps')
        return
    try:
        args.work_dir.mkdir(parents=True, exist_ok=True)
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f'cannot make {error.filename}: {error.strerror}') from error
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if args.time_limit:
        timer = threading.Timer(
            max(0, args.time_limit - (time.monotonic() - begin)), stop.set
        )
        timer.daemon = True
        timer.start()
    with open(args.work_dir / 'lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(
                f'a study, or what one left running, is at work in {args.work_dir}'
            ) from None
        # What the runs that begin from others need may have been made meanwhile.
        plans, left = choose_plans(study, planner, args.only)
        runner = Runner(Finisher(study, args.commit), jobs, lock.fileno(), stop)
        failed, stopped = runner.do(left, plans)
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


class Runner:
    """Does runs, some at once, with a progress bar.

    Args:
        finisher (Finisher): writes their results.
        jobs (int): runs at once.
        lock (int): descriptor of the study's locked file.
        stop (threading.Event): ends the runs early.
    """

    def __init__(self, finisher, jobs, lock, stop):
        self.finisher, self.jobs, self.lock, self.stop = finisher, jobs, lock, stop
        self.devices = visible_devices(jobs)
        self.progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('epochs'),
            TimeElapsedColumn(),
        )

    def say(self, text):
        self.progress.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def do_run(self, plan):
        """A run's steps, and its result; returns a line on it."""
        do_steps(plan, self.devices, self.jobs, self.lock, self.stop)
        return self.finisher.finish(plan)

    def do(self, left, plans):
        """Do runs; one that begins from another when that is done.

        Args:
            left (list[Plan]): those to do.
            plans (list[Plan]): those asked for, for the bar.

        Returns:
            tuple: names of those that failed, and how many were stopped.
        """
        failed, stopped = [], 0
        shown = {plan.run.name: plan for plan in [*plans, *left]}.values()
        to_do = {plan.run.name for plan in left}

        def epochs_done(plan):
            done = plan.is_done() and plan.run.name not in to_do
            return plan.epochs if done else plan.epochs_done()

        if len(left) < len(shown):
            self.say(f'{len(shown) - len(left)} of {len(shown)} runs are there')
        waiting, pending = list(left), {}
        with self.progress, concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            bar = self.progress.add_task(
                f'{len(left)} runs, {self.jobs} at once',
                total=sum(plan.epochs for plan in shown),
            )
            while waiting or pending:
                for plan in list(waiting):
                    if plan.run.begin in to_do:
                        continue
                    waiting.remove(plan)
                    pending[pool.submit(self.do_run, plan)] = plan
                done, _ = concurrent.futures.wait(
                    pending, 1, concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    plan = pending.pop(future)
                    after = [p for p in waiting if p.run.begin == plan.run.name]
                    try:
                        self.say(future.result())
                        after = []
                    except Stopped:
                        stopped += 1 + len(after)
                    except Exception as error:  # the other runs go on
                        failed += [p.run.name for p in (plan, *after)]
                        self.say(
                            f'error: {plan.run.name}: ' + describe_failure(plan, error)
                        )
                        if after:
                            self.say(
                                f'error: {len(after)} runs would begin from '
                                f'{plan.run.name}, and cannot'
                            )
                    waiting = [p for p in waiting if p not in after]
                    to_do -= {plan.run.name, *(p.run.name for p in after)}
                self.progress.update(bar, completed=sum(map(epochs_done, shown)))
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
    run(do_study, parse_args())
