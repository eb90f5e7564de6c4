"""The two hosts that train and test a recognizer, behind one interface.

Each host module, mmaction2 and mmaction_v1, has:

    train(args)  run training by the arguments of tools/train_recognizer.py
    test(args)   run testing by the arguments of tools/test_recognizer.py

Both raise HostError for what a user can mend. What they share is here and in

    checks.py                what is checked before hours of work
    lists.py                 the reader of lists of videos
    config_values.py         what the values of a config can be
    options.py               --cfg-options, and names that nothing reads
    checkpoint_folder.py     which checkpoint is the newest, and which ones go
    locks.py                 one training a work_dir
    processes.py             the processes of one launch
    resuming.py              going on with a training
    speed.py                 mixed precision, memory format, compiler
    training_state.py        what is finite, and what a checkpoint notes
    videos.py                data sets of video files

The rest of mmaction2's side:

    mmaction2_config.py      a v1 config as a native mmaction2 config
    learning_rate.py         v1's learning-rate rule
    frame_indices.py         v1's frame-index rule
    mmaction2_components.py  what else of v1's rules mmaction2 lacks
    mmaction2_videos.py      the same for video files
    mmaction2_hooks.py       checkpoints, kept whole and finite
    mmaction2_training.py    the training step
    mmaction2_native.py      what of mmengine's own a config merges
    mmaction2_runner.py      mmengine's Runner, checked

and of mmaction v1's:

    mmaction_v1_hooks.py     checkpoints and resuming, as on mmaction2
    v1_fixes.py              what v1 needs on today's stack
    v1_startup.py            the same for v1's own scripts, in .venv-v1
    v1_config.py             a config, checked before v1 takes it
    v1_data.py               guards of v1's data sets
"""

import os
import sys
import warnings


class HostError(Exception):
    """A fault in config, data, checkpoint or arguments; the text says all."""

    told = False  # another process prints it


def choose_host():
    """The module of mmaction v1 where MMACTION_ROOT names a checkout of it.

    Returns:
        module: ``mmaction_v1`` then, ``mmaction2`` otherwise.
    """
    if os.environ.get('MMACTION_ROOT'):
        from . import mmaction_v1 as host
    else:
        from . import mmaction2 as host
    return host


def need_mmaction2(script):
    """End a script that runs on mmaction2 alone where MMACTION_ROOT is set.

    To be called before anything is imported for mmaction v1.

    Args:
        script (str): its path in this repository.
    """
    if os.environ.get('MMACTION_ROOT'):
        sys.exit(
            f'error: {script} runs on mmaction2 alone. Run it without '
            f'MMACTION_ROOT; both hosts have the same checkpoints and results'
        )


def ignore_torch_warnings():
    """Silence what PyTorch 2.x says in every process about two calls of hosts.

    Both do what the hosts want: broadcast_buffers=False (2.13) has no
    equivalent yet, and barrier() uses the device that the host has set.
    """
    warnings.filterwarnings('ignore', '`broadcast_buffers` is deprecated')
    warnings.filterwarnings('ignore', r'barrier\(\): using the device')


def run(task, args):
    """Run a host's train or test as a command: exit 1 with what is wrong.

    A process whose group another one has left, by an error of its own, ends
    without a word where tools/launch.py says what happened.

    Args:
        task (callable): of one argument.
        args (argparse.Namespace): the argument.
    """
    from .processes import (
        LAUNCHER,
        describe_os_error,
        ending_early,
        is_lost_peer,
        is_lost_worker,
        is_said,
        one_interrupt,
    )

    try:  # the launcher gets a failure's text
        from torch.distributed.elastic.multiprocessing.errors import record

        task = record(task)
    except ImportError:  # PyTorch before 1.9, of mmaction v1's days
        pass
    with ending_early():
        try:
            with one_interrupt():
                task(args)
        except HostError as error:
            # A data loader's worker puts its traceback before the text.
            text = str(error).split(f'{type(error).__name__}: ')[-1].strip()
            if is_said(text, error.told):
                sys.exit(1)
            sys.exit(f'error: {text}')
        except OSError as error:
            if error.errno is None:
                raise
            sys.exit(f'error: {describe_os_error(error)}')
        except KeyboardInterrupt:
            sys.exit(130)  # as a shell has it
        except RuntimeError as error:
            if is_lost_worker(error):
                sys.exit(
                    f'error: {str(error).strip()} Was there too little memory? Fewer '
                    'data.workers_per_gpu need less'
                )
            if not is_lost_peer(error):
                raise
            if os.environ.get(LAUNCHER):
                sys.exit(1)
            sys.exit('error: another process of this launch has ended')
