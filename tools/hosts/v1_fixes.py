"""What mmaction v1 needs to run on today's Python, NumPy, PyTorch and mmcv.

mmaction v1 stopped in 2020. Each function here mends one thing, and its first
line says what broke since which version. It looks whether that is so here;
only then it changes something and returns True. `apply` runs them all, before
anything else imports mmcv.runner or mmaction.
"""

import collections
import collections.abc
import functools
import importlib.machinery
import importlib.util
import re
import sys
import types
import warnings

import numpy as np
import torch
import torch.distributed as dist

from hosts import ignore_torch_warnings

TORCH = tuple(int(n) for n in re.match(r'(\d+)\.(\d+)', torch.__version__).groups())


class StandIn(types.ModuleType):
    """A missing module: what is called in it raises the reason.

    Args:
        name (str): Full name of the module.
        reason (str): Why it is missing and what needs it.
    """

    def __init__(self, name, reason):
        super().__init__(name)
        self._reason = reason

    def __getattr__(self, name):
        where = f'{self.__name__}.{name}'
        if name.startswith('__'):
            raise AttributeError(f'{where} is missing: {self._reason}')

        def missing(*args, **kwargs):
            raise RuntimeError(f'{where} is missing: {self._reason}')

        return missing


# ---- Python, NumPy, torchvision


def fix_collections_sequence():
    """collections.Sequence is gone since Python 3.10."""
    if hasattr(collections, 'Sequence'):
        return False
    collections.Sequence = collections.abc.Sequence
    return True


def fix_numpy_names():
    """np.int is gone since NumPy 1.24, np.Inf since NumPy 2.0."""
    missing = {
        name: value
        for name, value in (('int', int), ('Inf', np.inf))
        if not hasattr(np, name)
    }
    for name, value in missing.items():
        setattr(np, name, value)
    return bool(missing)


def fix_torchvision():
    """mmcv.runner imports torchvision, which need not be there or fit torch.

    One that was built for another PyTorch raises RuntimeError when it is
    imported, not ImportError. mmcv uses it for the addresses of torchvision's
    own checkpoints alone.
    """
    if 'mmcv.runner.checkpoint' in sys.modules:
        return False
    try:
        import torchvision  # noqa: F401

        return False
    except (ImportError, OSError, RuntimeError) as error:
        reason = f'{type(error).__name__}: {error}'
    for name in [m for m in sys.modules if m.startswith('torchvision.')]:
        del sys.modules[name]  # what a broken one has left
    sys.modules['torchvision'] = StandIn(
        'torchvision', f"{reason}. 'torchvision://' addresses need it"
    )
    try:
        import_quietly('mmcv.runner')
    finally:
        del sys.modules['torchvision']
    return True


# ---- what a checkout does not have


def _lacks(name):
    """Whether there is no such module, found without importing parents."""
    folders = None
    for parent in name.split('.')[:-1]:
        found = importlib.machinery.PathFinder.find_spec(parent, folders)
        if found is None:
            return True
        folders = found.submodule_search_locations
    last = name.rpartition('.')[2]
    return importlib.machinery.PathFinder.find_spec(last, folders) is None


def fix_compiled_operators():
    """v1's operators include THC headers, which PyTorch 1.11 removed."""
    users = {
        'mmaction.ops.nms.nms_cuda': 'detectors',
        'mmaction.ops.nms.nms_cpu': 'detectors',
        'mmaction.ops.nms.soft_nms_cpu': 'detectors',
        'mmaction.ops.roi_align.roi_align_cuda': 'detectors',
        'mmaction.ops.roi_pool.roi_pool_cuda': 'detectors',
        'resample2d_cuda': 'flow models',
        'traj_conv_cuda': 'ResNet_S3D with TrajConv',
    }
    missing = [name for name in users if _lacks(name)]
    for name in missing:
        sys.modules[name] = StandIn(
            name,
            'this compiled operator of mmaction v1 is not built for '
            f'Python {sys.version_info[0]}.{sys.version_info[1]} and PyTorch '
            f'{torch.__version__} (its sources include THC headers, gone '
            f'since PyTorch 1.11). Only {users[name]} use it',
        )
    return bool(missing)


def fix_version_file():
    """mmaction/version.py is written by setup.py, which need not have run."""
    if not _lacks('mmaction.version'):
        return False
    version = types.ModuleType('mmaction.version')
    version.__version__ = version.short_version = '0.1.rc0'
    sys.modules[version.__name__] = version
    return True


def fix_activitynet():
    """The ActivityNet submodule is missing in a clone without --recursive.

    v1 prints a line about it in every process that imports it, data loading
    workers too.
    """
    ava = 'mmaction.third_party.ActivityNet.Evaluation.ava'
    if not _lacks(ava):
        return False
    reason = (
        'the ActivityNet submodule of mmaction v1 is not cloned. Only '
        'the evaluation on AVA needs it'
    )
    package = types.ModuleType(ava)
    package.object_detection_evaluation = StandIn(
        ava + '.object_detection_evaluation', reason
    )
    sys.modules[ava] = package
    sys.modules['standard_fields'] = StandIn('standard_fields', reason)
    return True


# ---- mmcv and PyTorch


def import_quietly(name):
    """Import a module of mmcv without its notice about mmcv 2.0.

    Args:
        name (str): Full name of the module.

    Returns:
        module: What was imported.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'On January 1, 2023, MMCV')
        return importlib.import_module(name)


def fix_ddp_replicated_tensor():
    """PyTorch 2.1 took _use_replicated_tensor_module out of its DDP."""
    if TORCH < (2, 1):
        return False
    ddp = import_quietly('mmcv.parallel').MMDistributedDataParallel
    ddp._use_replicated_tensor_module = False
    return True


def fix_torch_warnings():
    """PyTorch 2.x warns in every process about two calls that v1 makes."""
    if TORCH < (2, 0):
        return False
    ignore_torch_warnings()
    return True


def fix_copy_stream():
    """PyTorch 2.1's _get_stream wants a torch.device, mmcv passes an int."""
    if TORCH < (2, 1):
        return False
    functions = import_quietly('mmcv.parallel._functions')
    # One stream a device for all copies, as PyTorch's own function has it.
    functions._get_stream = functools.lru_cache(None)(torch.cuda.Stream)
    return True


def fix_weights_only():
    """Since PyTorch 1.13 torch.load can leave alone what is code in a file.

    mmcv does not ask for it, and since mmcv 1.3 resuming runs the text of a
    config that is in a checkpoint, too. Files and URLs go through the reader
    that all share; names of mmcv's own, such as torchvision://, do not.
    """
    if TORCH < (1, 13):
        return False
    checkpoint = import_quietly('mmcv.runner.checkpoint')
    read = checkpoint._load_checkpoint
    # torch.hub's loader, which mmcv uses for its own names.
    checkpoint.load_url = functools.partial(checkpoint.load_url, weights_only=True)

    @functools.wraps(read)
    def read_checked(filename, *args, **kwargs):
        if '://' in filename and not filename.startswith(('http://', 'https://')):
            return read(filename, *args, **kwargs)
        from checkpoint_files import read_checkpoint  # with the first one alone

        return read_checkpoint(filename)

    checkpoint._load_checkpoint = read_checked
    return True


def fix_cosine_policy():
    """policy='cosine' is called CosineAnnealing since mmcv 0.4.4."""
    hooks = import_quietly('mmcv.runner').HOOKS
    if hooks.get('CosineLrUpdaterHook'):
        return False
    # Up to mmcv 1.0.3 its name lacked an n.
    base = hooks.get('CosineAnnealingLrUpdaterHook') or hooks.get(
        'CosineAnealingLrUpdaterHook'
    )

    class CosineLrUpdaterHook(base):
        def __init__(self, target_lr=0, **kwargs):
            if 'min_lr_ratio' not in kwargs:
                kwargs.setdefault('min_lr', target_lr)
            super().__init__(**kwargs)

    hooks.register_module()(CosineLrUpdaterHook)
    return True


# ---- a machine without CUDA, which v1 never ran on


def fix_cpu_process_group():
    """v1 sets a CUDA device before it joins the group, with NCCL."""
    if torch.cuda.is_available():
        return False
    from mmaction.apis import env

    def init_dist_pytorch(backend, **kwargs):
        dist.init_process_group('gloo', **kwargs)

    env._init_dist_pytorch = init_dist_pytorch
    return True


def fix_cpu_current_device():
    """v1 asks for the current CUDA device; to mmcv's scatter, -1 is a CPU."""
    if torch.cuda.is_available():
        return False
    torch.cuda.current_device = lambda: -1
    return True


def fix_cpu_module_cuda():
    """v1 moves the model with Module.cuda()."""
    if torch.cuda.is_available():
        return False
    torch.nn.Module.cuda = lambda self, device=None: self
    return True


def fix_cpu_ddp():
    """DistributedDataParallel takes no device_ids for a model on the CPU.

    Without them mmcv would hand over the batch as it is, in containers.
    """
    if torch.cuda.is_available():
        return False
    ddp = import_quietly('mmcv.parallel').MMDistributedDataParallel
    init, run = ddp.__init__, ddp.forward

    @functools.wraps(init)
    def __init__(self, module, device_ids=None, **kwargs):
        init(self, module, **kwargs)

    @functools.wraps(run)
    def forward(self, *inputs, **kwargs):
        inputs, kwargs = self.scatter(inputs, kwargs, [-1])
        return run(self, *inputs[0], **kwargs[0])

    ddp.__init__, ddp.forward = __init__, forward
    return True


FIXES = (
    fix_collections_sequence,
    fix_numpy_names,
    fix_torchvision,
    fix_compiled_operators,
    fix_version_file,
    fix_activitynet,
    fix_ddp_replicated_tensor,
    fix_torch_warnings,
    fix_copy_stream,
    fix_weights_only,
    fix_cosine_policy,
    fix_cpu_process_group,
    fix_cpu_current_device,
    fix_cpu_module_cuda,
    fix_cpu_ddp,
)


@functools.lru_cache(None)
def apply():
    """Apply what is needed here, once. mmaction must be on sys.path.

    Returns:
        list[str]: Names of the fixes that were needed.
    """
    return [fix.__name__ for fix in FIXES if fix()]
