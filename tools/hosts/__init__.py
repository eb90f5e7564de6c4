"""The two hosts that train and test a recognizer, behind one interface.

``host`` is mmaction v1 where the environment variable MMACTION_ROOT names a
checkout of it, and mmaction2 otherwise. Each host module has:

    train(args)  run training by the arguments of tools/train_recognizer.py
    test(args)   run testing by the arguments of tools/test_recognizer.py
    DictAction   argparse action for --cfg-options

Both raise HostError for what a user can mend.
"""
import os


class HostError(Exception):
    """A fault in config, data, checkpoint or arguments; the text says all."""


if os.environ.get('MMACTION_ROOT'):
    from . import mmaction_v1 as host
else:
    from . import mmaction2 as host

__all__ = ['HostError', 'host']
