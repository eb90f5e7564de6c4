"""Runs mmaction v1's own recognizer scripts, as they are, on today's stack.

MMACTION_ROOT names the checkout of v1. Importing this module makes it
importable and applies v1_fixes and the guards of v1_data; a data loading
worker, which imports the main script anew, gets the same. The guards below are
for other faults that v1 has on any stack.
"""

import functools
import importlib
import importlib.util
import logging
import os
import subprocess
import sys

import torch.distributed as dist
from checkpoint_files import (
    choose_fitting,
    fill_model,
    init_backbone,
    logger,
    read_checkpoint,
)
from whole_files import write_or_keep, write_whole

from . import HostError, backbones, v1_config, v1_data, v1_fixes
from .checks import check_gpus, check_out
from .lists import doubts_of
from .locks import FolderLock
from .processes import VARIABLES, interruptible, variables_of
from .resuming import begin, choose_seed, is_done
from .speed import (
    FUSED,
    FastBackbone,
    config_options,
    describe,
    fuse,
    of_backbone,
    rate_scale,
    speed_of,
)
from .training_state import check_scores, naming_folder

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROOT = os.path.abspath(os.environ['MMACTION_ROOT'])


def import_mmcv():
    """Import mmcv 1.x and put the checkout on sys.path. Returns mmcv."""
    if not os.path.isfile(os.path.join(ROOT, 'tools/train_recognizer.py')):
        sys.exit(
            f'MMACTION_ROOT={ROOT} is no checkout of mmaction v1: it '
            'has no tools/train_recognizer.py'
        )
    try:
        mmcv = v1_fixes.import_quietly('mmcv')
        version = mmcv.__version__
    except ModuleNotFoundError:
        version = 'none'
    if not version.startswith(('0.', '1.')):
        sys.exit(
            f'mmaction v1 needs mmcv 1.x, found {version}. '
            'tools/setup/setup_mmaction_v1.sh makes an environment for it'
        )
    sys.path.insert(1, ROOT)
    if REPO not in sys.path:  # for what reads checkpoints, too
        sys.path.insert(2, REPO)
    return mmcv


mmcv = import_mmcv()
APPLIED = v1_fixes.apply()


def train(args):
    """Train with v1's tools/train_recognizer.py.

    Args:
        args (argparse.Namespace): config, work_dir, resume_from, validate,
            resume, gpus, seed, launcher, cfg_options.
    """
    check_gpus(args)
    script = load_script('train_recognizer', args)
    cfg = mmcv.Config.fromfile(args.config)
    work_dir = args.work_dir or cfg.work_dir
    asked = args.resume_from or cfg.get('resume_from')
    join_group(cfg)
    lock = FolderLock(work_dir)
    options = ['--work_dir', work_dir] + (['--validate'] if args.validate else [])
    try:
        start = begin(lock, asked, args.resume)
        if start.path:
            if 'message_hub' in start.checkpoint:
                raise HostError(
                    f'{start.path} is a checkpoint of the mmaction2 '
                    'host; v1 resumes its own only'
                )
            if is_done(
                start.checkpoint,
                start.path,
                cfg.total_epochs,
                ('optimizer',),
                asked=start.path == asked,
            ):
                dist.destroy_process_group()
                return
            args.seed = choose_seed(args.seed, start.checkpoint, start.path)
            leave_out_pretrained(cfg)
            options += ['--resume_from', start.path]
        if args.seed is not None:
            options += ['--seed', str(args.seed)]
        guard_loading(start.path, start.checkpoint)
        from . import mmaction_v1_hooks

        mmaction_v1_hooks.install(
            cfg, args.seed, start.path, start.checkpoint, args.validate
        )
        start.checkpoint = None  # mmcv lets it go
        with naming_folder(work_dir, start.path):
            run_script(script, args, options)
    finally:
        lock.release()


def test(args):
    """Test with v1's tools/test_recognizer.py.

    Args:
        args (argparse.Namespace): config, checkpoint, launcher, out,
            use_softmax, fcn_testing, cfg_options.
    """
    check_out(args.out)
    script = load_script('test_recognizer', args)
    cfg = mmcv.Config.fromfile(args.config)
    leave_out_pretrained(cfg)

    def load_checkpoint(model, filename, map_location=None):
        checkpoint = load_filled_checkpoint(model, filename)
        warn(backbones.backbone_warning(checkpoint, filename, cfg.model.backbone))
        return checkpoint

    script.load_checkpoint = load_checkpoint
    data = cfg.data.test
    warn(*doubts_of((data.type, data.get('ann_file'), data.get('img_prefix'))))
    options = [args.checkpoint, '--out', args.out]
    options += [
        '--' + name for name in ('use_softmax', 'fcn_testing') if getattr(args, name)
    ]
    run_script(script, args, options)


def warn(*lines):
    """Log some warnings in the first process; None is none."""
    for line in lines:
        if line and os.environ['RANK'] == '0':
            logger.warning(line)


def load_script(name, args):
    """Import one of v1's scripts, with what it lacks.

    Args:
        name (str): The script, without its end.
        args (argparse.Namespace): config, launcher, cfg_options.

    Returns:
        module: To be run by run_script.
    """
    cfg = v1_config.load_config(args.config, config_options(args))
    set_launcher(args.launcher)
    if os.environ['RANK'] == '0':
        print(
            f'mmaction v1 in {ROOT}; mended for this stack: '
            f'{", ".join(APPLIED) or "nothing"}',
            flush=True,
        )
        # What is taken of a checkpoint: on stdout, and in v1's own log.
        logger.addHandler(logging.StreamHandler(sys.stdout))
        logger.setLevel(logging.INFO)
    script = load_module('v1_' + name, os.path.join(ROOT, 'tools', name + '.py'))
    add_backbone()
    guard_pretrained()
    guard_one_video()
    guard_few_videos()
    guard_files(getattr(args, 'out', None))
    script.collect_results = gather_results
    script.build_recognizer = build_recognizer(script.build_recognizer)
    v1_config.check_config(cfg, args)
    set_speed(cfg, args)
    mmcv.Config.fromfile = staticmethod(lambda filename: cfg)
    return script


def run_script(script, args, options):
    """Run the main() of one of v1's scripts with a command line of its own.

    Args:
        script (module): Of load_script.
        args (argparse.Namespace): config.
        options (list[str]): What follows the config on the command line.
    """
    sys.argv = [script.__file__, args.config, *options, '--launcher', 'pytorch']
    script.main()
    dist.destroy_process_group()


def join_group(cfg):
    """Join the process group before v1's script does, which then finds it.

    Args:
        cfg (mmcv.Config): With dist_params.
    """
    from mmaction.apis import env

    with interruptible():
        env._init_dist_pytorch(**cfg.dist_params)
    env._init_dist_pytorch = lambda backend, **kwargs: None


def load_module(name, path):
    """Import the file at a path under a name. Returns the module."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def add_backbone():
    """Register ResNet_DNR, unless it is installed in the checkout."""
    from mmaction.models import BACKBONES

    if 'ResNet_DNR' not in BACKBONES.module_dict:
        # By its name, so that it finds resnet_dnr_fused.py beside it.
        importlib.import_module('resnet_dnr')


def build_recognizer(build):
    """v1's build_recognizer, whose errors are about the config."""

    @functools.wraps(build)
    def build_checked(model, *args, **kwargs):
        try:
            return build(model, *args, **kwargs)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise HostError(f'model: {error.args[0]}') from error

    return build_checked


def leave_out_pretrained(cfg):
    """What a training started from is not needed where a checkpoint follows."""
    if cfg.model.get('backbone'):
        backbones.leave_out_pretrained(cfg.model.backbone)


def set_launcher(launcher):
    """Set the variables of PyTorch's own launcher, the only one v1 has.

    Args:
        launcher (str): 'none' for one process; 'pytorch', which has set them;
            'slurm' or 'mpi' (Open MPI), which number their processes in
            variables of their own.
    """
    env = os.environ
    if launcher == 'none':
        # Port 0: any free one, as nobody else has to find it.
        env.update(
            RANK='0',
            WORLD_SIZE='1',
            LOCAL_RANK='0',
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT='0',
        )
        return
    theirs = variables_of(launcher)
    env.update((name, env[value]) for name, value in zip(VARIABLES, theirs))
    if launcher == 'slurm' and 'MASTER_ADDR' not in env:
        hosts = subprocess.run(
            ['scontrol', 'show', 'hostnames', env['SLURM_JOB_NODELIST']],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        env['MASTER_ADDR'] = hosts.stdout.split()[0]
    if 'MASTER_ADDR' not in env:
        raise HostError(
            f'--launcher {launcher}: set MASTER_ADDR to the name '
            'of the machine of rank 0'
        )
    env.setdefault('MASTER_PORT', '29500')


# ---- faults of v1 itself


def guard_one_video():
    """v1 squeezes the labels of a batch of one video to a bare number."""
    from mmaction.models.tenons.cls_heads import ClsHead

    loss = ClsHead.loss

    @functools.wraps(loss)
    def loss_of_batch(self, cls_score, labels):
        return loss(self, cls_score, labels.reshape(-1))

    ClsHead.loss = loss_of_batch


def guard_few_videos():
    """v1's samplers repeat the videos once at most, then fail an assertion."""
    from mmaction.datasets.loader import sampler

    def checked(iterate):
        @functools.wraps(iterate)
        def __iter__(self):
            if self.total_size > 2 * len(self.dataset):
                raise HostError(
                    f'{len(self.dataset)} videos are too few for '
                    f'{self.total_size} places, videos a GPU times processes: '
                    'lower data.videos_per_gpu or the number of processes'
                )
            return iterate(self)

        return __iter__

    for cls in (sampler.DistributedGroupSampler, sampler.DistributedSampler):
        cls.__iter__ = checked(cls.__iter__)


def guard_files(out):
    """Results cut short are files like any other.

    Args:
        out (str | None): the test's results, which are kept elsewhere if they cannot
            be written there.
    """
    dump = mmcv.dump

    @functools.wraps(dump)
    def dump_whole(obj, file=None, file_format=None, **kwargs):
        if not isinstance(file, str):
            return dump(obj, file, file_format, **kwargs)
        file_format = file_format or file.rpartition('.')[2]
        write = write_or_keep if file == out else write_whole
        write(file, dump(obj, file_format=file_format, **kwargs))

    mmcv.dump = dump_whole


def set_speed(cfg, args):
    """Set what a config says of speed; v1_config has checked it.

    Args:
        cfg (mmcv.Config): Its backbone and its rate are set.
        args (argparse.Namespace): Of the training or testing.
    """
    from mmaction.models import BACKBONES

    training = not hasattr(args, 'checkpoint')
    speed, lines = speed_of(cfg, training), []
    if of_backbone(speed):
        classes = BACKBONES.module_dict
        plain = classes['ResNet_DNR']
        classes['ResNet_DNR'] = type('ResNet_DNR', (FastBackbone, plain), {})
        cfg.model.backbone.update(of_backbone(speed))
        lines = describe(speed)
    if training and fuse(cfg.optimizer, cfg.model.backbone):
        lines.append(FUSED)
    scale = rate_scale(cfg)
    if scale and scale['enable'] and training:
        clips = int(os.environ['WORLD_SIZE']) * cfg.data.videos_per_gpu
        cfg.optimizer.lr *= clips / scale['base_batch_size']
        lines.append(
            f'auto_scale_lr: {clips} clips a step, and {scale["base_batch_size"]} in '
            f'the config: optimizer.lr is {cfg.optimizer.lr:g}'
        )
    if os.environ['RANK'] == '0':
        print(*lines, sep='\n', end='\n' * bool(lines), flush=True)


def guard_pretrained():
    """The backbone reads its pretrained weights by itself, with torch alone."""
    from mmaction.models import BACKBONES

    cls = BACKBONES.module_dict['ResNet_DNR']
    init = cls.init_weights

    @functools.wraps(init)
    def init_weights(self):
        init_backbone(self, functools.partial(init, self))

    cls.init_weights = init_weights


def guard_loading(resume_from, checkpoint):
    """mmcv fills of a model what fits, and says so in passing.

    Args:
        resume_from (str | None): What the training goes on from.
        checkpoint (dict | None): What read_checkpoint returned of it.
    """
    from mmcv.runner import BaseRunner

    given = [checkpoint]

    def load_checkpoint(self, filename, *args, **kwargs):
        model = getattr(self.model, 'module', self.model)
        if filename == resume_from:
            checkpoint = given.pop()
            checkpoint['meta'].pop('hook_msgs', None)  # which mmcv would mix in
            fill_model(model, checkpoint['state_dict'], filename)
        else:
            checkpoint = read_checkpoint(filename)
            state = choose_fitting(model, checkpoint['state_dict'], filename)
            model.load_state_dict(state, strict=False)
        return checkpoint

    BaseRunner.load_checkpoint = load_checkpoint


def load_filled_checkpoint(model, filename):
    """Load a checkpoint that fills the model, in place of mmcv's loader.

    mmcv's is not strict: after a printed line, the checkpoint of another
    network is tested with random weights.

    Args:
        model (nn.Module): Loaded in place.
        filename (str): Path or URL of the checkpoint.

    Returns:
        dict: The checkpoint; its tensors are on the CPU.

    Raises:
        HostError: It cannot be read, leaves a parameter or a running
            statistic of the model unset, has one of another shape, or one
            that the model has not.
    """
    checkpoint = read_checkpoint(filename)
    fill_model(model, checkpoint['state_dict'], filename)
    return checkpoint


def gather_results(part, size, tmpdir=None):
    """Bring the results together, in place of v1's collect_results.

    v1's goes through files in ./tmp/NAME, where two tests of one NAME
    overwrite each other.

    Args:
        part (list): Results of this rank: every world_size-th video.
        size (int): Number of videos; the sampler repeats some at the end.
        tmpdir (str): Not used.

    Returns:
        list | None: All results in annotation order; None except on rank 0.
    """
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    if dist.get_rank() != 0:
        return None
    results = [result for row in zip(*parts) for result in row][:size]
    check_scores(results)
    return results


v1_data.guard()
