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
import fcntl
import fnmatch
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
from run_description import describe_run  # noqa: E402
from study.arrow_evaluation import Evaluator  # noqa: E402
from study.arrow_runs import (  # noqa: E402
    BATCH,
    RUNS,
    commands,
    make_plan,
    validation,
)
from study.arrow_training import Stopped, threads, train_and_test  # noqa: E402
from whole_files import write_json  # noqa: E402

STOPPED = 3  # exit status


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


def finish(plan, evaluator, args):
    """Evaluate a run that was trained and tested, and write its JSON.

    Returns:
        str: a line on it.
    """
    content = evaluator.evaluate(plan)
    import mmaction
    import mmcv
    import mmengine

    described = describe_run(
        evaluator.device,
        args.commit,
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
        return plan.epochs if plan.is_done() else plan.epochs_done()

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
