"""How fast a network runs: options of the scripts, which are keys of a config too.

    --amp [bf16|fp16]     amp='bf16'            mixed precision
    --channels-last       channels_last=True    the channels of a pixel lie together
    --compile [MODE]      compile='default'     the backbone by torch.compile, with
                                                channels_last=True and, on a GPU,
                                                PyTorch's fused SGD
    --cuda-graph          cuda_graph=True       a step of training as one CUDA graph,
                                                with PyTorch's fused SGD
    --accumulate N        accumulate=N          the gradients of N batches a step
    --auto-scale-lr       auto_scale_lr=dict(enable=True, base_batch_size=N)

Shared by both hosts; nothing here imports one.
"""

import functools
import importlib.util
import inspect
import os
import shutil

import torch

from . import HostError
from .config_keys import Keys

DTYPES = dict(bf16=torch.bfloat16, fp16=torch.float16)
MODES = ('default', 'reduce-overhead')
OF_BACKBONE = ('amp', 'channels_last', 'compile')  # arguments of FastBackbone


# ---- the command line, and the config


def add_options(parser, training):
    """Add the options to a script's parser.

    Args:
        parser (argparse.ArgumentParser): of the script.
        training (bool): with those that only training has.
    """
    group = parser.add_argument_group(
        'speed', 'keys of a config too; see docs/speed_options.md'
    )
    group.add_argument(
        '--amp',
        nargs='?',
        const='bf16',
        choices=list(DTYPES),
        help='mixed precision: bfloat16 (without a value), or float16',
    )
    group.add_argument(
        '--channels-last',
        action='store_true',
        help="the backbone's tensors hold the channels of a pixel together",
    )
    group.add_argument(
        '--compile',
        nargs='?',
        const='default',
        choices=MODES,
        help='the backbone by torch.compile, with --channels-last and a fused SGD; '
        'reduce-overhead makes CUDA graphs of it',
    )
    if training:
        group.add_argument(
            '--cuda-graph',
            action='store_true',
            help='a step of training as one CUDA graph, with a fused SGD',
        )
        group.add_argument(
            '--accumulate',
            type=int,
            metavar='N',
            help='add up the gradients of N batches of videos_per_gpu in each step',
        )
        group.add_argument(
            '--auto-scale-lr',
            action='store_true',
            help='multiply optimizer.lr by the clips a step, divided by '
            'auto_scale_lr.base_batch_size of the config',
        )


def config_options(args):
    """The options of a command as keys of a config.

    Args:
        args (argparse.Namespace): with cfg_options, and any of the options.

    Returns:
        dict: cfg_options, and the options that were given, which win.
    """
    options = dict(args.cfg_options or {})
    for name in ('amp', 'channels_last', 'compile', 'cuda_graph', 'accumulate'):
        value = getattr(args, name, None)
        if value is not None and value is not False:
            options[name] = value
    if getattr(args, 'auto_scale_lr', False):
        options['auto_scale_lr.enable'] = True
    return options


def speed_of(cfg, training=True):
    """What a config says of speed.

    Args:
        cfg (mmengine.Config | mmcv.Config): in mmaction v1's schema.
        training (bool): for a training; cuda_graph is of no other use, and False.

    Returns:
        dict: amp ('bf16', 'fp16' or None), channels_last (bool), compile
        ('default', 'reduce-overhead' or None), cuda_graph (bool) and accumulate (int).

    Raises:
        HostError: a value is another, or this machine cannot honour it.
    """
    amp, compile = cfg.get('amp'), cfg.get('compile')
    channels_last, accumulate = cfg.get('channels_last'), cfg.get('accumulate')
    accumulate = 1 if accumulate is None else accumulate
    cuda_graph = training and (cfg.get('cuda_graph') or False)
    if channels_last is None:
        # The compiler has convolutions channels last. Where a contiguous network's last
        # images are 1 x 1, its check of a gradient's layout fails (torch 2.11).
        channels_last = compile is not None
    if amp is not None and amp not in DTYPES:
        raise HostError(f'amp={amp!r} should be bf16, fp16 or None')
    if not isinstance(channels_last, bool):
        raise HostError(f'channels_last={channels_last!r} should be True or False')
    if compile is not None and compile not in MODES:
        raise HostError(f'compile={compile!r} should be {", ".join(MODES)} or None')
    if type(accumulate) is not int or accumulate < 1:
        raise HostError(f'accumulate={accumulate!r} should be an int of at least 1')
    if not isinstance(cuda_graph, bool):
        raise HostError(f'cuda_graph={cuda_graph!r} should be True or False')
    for key, value, instead in (
        ('compile', 'reduce-overhead', "compile='default': the graph has it all"),
        ('amp', 'fp16', 'amp=bf16: the scale of a loss is changed by the host'),
    ):
        if cuda_graph and cfg.get(key) == value:
            raise HostError(
                f'cuda_graph=True cannot be used with {key}={value}; use {instead}'
            )
    if cuda_graph and accumulate > 1:
        raise HostError(
            f'cuda_graph=True cannot be used with accumulate={accumulate}: a graph has '
            f"the step of one batch. Use compile='reduce-overhead' in its place"
        )
    on_cuda = torch.cuda.is_available()
    if amp == 'fp16' and not on_cuda:
        raise HostError('amp=fp16 needs CUDA: on a CPU, use bf16')
    if compile:
        check_compiler(on_cuda)
    return dict(
        amp=amp,
        channels_last=channels_last,
        compile=compile,
        cuda_graph=cuda_graph,
        accumulate=accumulate,
    )


def check_compiler(on_cuda):
    """There is what torch.compile needs.

    Args:
        on_cuda (bool): it compiles for a GPU.

    Raises:
        HostError: something is missing; the text names it.
    """
    names = ['CC', 'gcc', 'clang'] if on_cuda else ['CXX', 'g++', 'clang++']
    found = [os.environ.get(names[0]) or names[1], *names[1:]]
    if not any(map(shutil.which, found)):
        raise HostError(
            f'compile needs a compiler of C{"" if on_cuda else "++"}, and neither '
            f'{" nor ".join(names[1:])} is there: install one, or name it in {names[0]}'
        )
    if on_cuda and importlib.util.find_spec('triton') is None:
        raise HostError('compile needs Triton for a GPU: pip install triton')


FUSED = (
    "compile: steps are taken by PyTorch's fused SGD, in few launches; "
    'optimizer.fused=False turns it off'
)


def fuse(optimizer, backbone):
    """Have SGD take a step in few launches, where compile asks for speed.

    Not with fp16: where gradients overflow in the first step, it is left out, and fused
    SGD leaves momenta that nobody wrote (torch 2.13).

    Args:
        optimizer (dict): of a config; gets fused=True, unless it says how steps are
            taken.
        backbone (dict): model.backbone, with what is not a default of amp and compile.

    Returns:
        bool: it got that.

    Raises:
        HostError: the config asks for fused SGD with fp16.
    """
    fp16 = backbone.get('amp') == 'fp16'
    if fp16 and optimizer.get('type') == 'SGD' and optimizer.get('fused'):
        raise HostError(
            'optimizer.fused=True cannot be used with amp=fp16: a first step that is '
            'left out, because gradients overflow, would spoil the momenta. Leave '
            'fused out, or use amp=bf16'
        )
    if not backbone.get('compile') or not torch.cuda.is_available():
        return False
    if optimizer.get('type') != 'SGD' or fp16:
        return False
    if {'fused', 'foreach', 'differentiable'} & set(optimizer):
        return False
    if 'fused' not in inspect.signature(torch.optim.SGD).parameters:  # before torch 2.3
        return False
    optimizer['fused'] = True
    return True


def rate_scale(cfg):
    """auto_scale_lr of a config, as mmengine has it.

    Args:
        cfg (mmengine.Config | mmcv.Config): in mmaction v1's schema.

    Returns:
        dict | None: enable (bool) and base_batch_size (int); None without it.

    Raises:
        HostError: it is wrong, or enabled without a base_batch_size.
    """
    if cfg.get('auto_scale_lr') is None:
        return None
    keys = Keys('auto_scale_lr', cfg['auto_scale_lr'])
    enable = keys.expect('enable', [True, False], False)
    base = keys.take('base_batch_size', None)
    keys.finish()
    if base is None and enable:
        raise HostError(
            'auto_scale_lr.base_batch_size is missing: the clips a step that '
            'optimizer.lr was chosen for, over all processes, such as 64 for 8 GPUs '
            'with 8 videos each'
        )
    if base is not None and (type(base) is not int or base < 1):
        raise HostError(
            f'auto_scale_lr.base_batch_size={base!r} should be an int of at least 1'
        )
    return dict(enable=enable, base_batch_size=base)


def describe(speed):
    """What the settings mean, for the log.

    Args:
        speed (dict): of :func:`speed_of`.

    Returns:
        list[str]: a line for each one that is not the default.
    """
    lines = []
    if speed['amp']:
        kind = 'bfloat16' if speed['amp'] == 'bf16' else 'float16, with a scaled loss,'
        lines.append(
            f'amp={speed["amp"]}: the backbone computes in {kind} under autocast, in '
            f'training and evaluation; weights, statistics and the head stay in float32'
        )
    if speed['channels_last']:
        lines.append(
            "channels_last=True: the backbone's weights and images hold the channels "
            'of a pixel together'
        )
    if speed['compile']:
        lines.append(
            f'compile={speed["compile"]}: torch.compile makes the backbone at its '
            f'first batch; batches of another size run without it'
        )
    if speed['cuda_graph']:
        lines.append(
            'cuda_graph=True: after the first steps, a step of training, with the '
            'fused SGD, is one CUDA graph; batches of another size run without it'
        )
    if speed['accumulate'] > 1:
        lines.append(
            f'accumulate={speed["accumulate"]}: each step adds up the gradients of '
            f'{speed["accumulate"]} batches a process. Iterations, in the log and in '
            f'lr_config, are steps'
        )
    return lines


def of_backbone(speed):
    """Arguments of :class:`FastBackbone` that are not its defaults, as a dict."""
    return {name: speed[name] for name in OF_BACKBONE if speed[name]}


def changes(speed, meta, path):
    """What to say where a training goes on with other settings.

    Args:
        speed (dict): of :func:`speed_of`, now.
        meta (dict): of the checkpoint.
        path (str): of the checkpoint.

    Returns:
        str | None
    """
    before = meta.get('speed')
    if not isinstance(before, dict):
        return None
    before = dict(dict(cuda_graph=False), **before)  # older ones do not know it
    # Another number of batches a step is another batch: resuming says that.
    changed = [
        f'{name} is {speed[name]!r} and was {before.get(name)!r}'
        for name in (*OF_BACKBONE, 'cuda_graph')
        if speed[name] != before.get(name)
    ]
    if not changed:
        return None
    return f'{", ".join(changed)} in {path}: the command and the config count'


# ---- the backbone


@functools.lru_cache(None)
def _compiled(mode):
    """FastBackbone.features by torch.compile, for all backbones."""
    return torch.compile(FastBackbone.features, mode=mode, dynamic=False)


class FastBackbone:
    """Settings of speed for a backbone; to be mixed in before its class.

    The names of its parameters stay.

    Args:
        *args, **kwargs: of the backbone.
        amp (str | None): compute under autocast in 'bf16' or 'fp16'.
        channels_last (bool): weights and images in that memory format.
        compile (str | None): mode of torch.compile. Training and evaluation
            are compiled each for the size of their first batch; a batch of
            another size, such as the last one of a test, is not compiled.
    """

    def __init__(self, *args, amp=None, channels_last=False, compile=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.set_speed(amp, channels_last, compile)

    def set_speed(self, amp=None, channels_last=False, compile=None):
        """Set what the arguments of these names say."""
        self.amp = amp
        self.compile_mode = compile
        self.sizes = {}  # that are compiled, by self.training
        self.memory_format = None
        if channels_last:
            of_clips = any(parameter.dim() == 5 for parameter in self.parameters())
            self.memory_format = (
                torch.channels_last_3d if of_clips else torch.channels_last
            )
            self.to(memory_format=self.memory_format)

    def init_weights(self):
        """The backbone's; a seed draws the same weights in either memory format."""
        self.to(memory_format=torch.contiguous_format)
        super().init_weights()
        if self.memory_format:
            self.to(memory_format=self.memory_format)

    def forward(self, x):
        """The output for images (N * T, 3, H, W), or clips (N, 3, T, H, W), in
        float32."""
        if self.compile_mode is None:
            return self.features(x)
        if self.sizes.setdefault(self.training, x.shape) != x.shape:
            return self.features(x)
        if self.compile_mode == 'reduce-overhead':
            torch.compiler.cudagraph_mark_step_begin()
        return _compiled(self.compile_mode)(self, x)

    def features(self, x):
        if self.memory_format:
            x = x.contiguous(memory_format=self.memory_format)
        if self.amp is None:
            return super().forward(x)
        with torch.autocast(x.device.type, DTYPES[self.amp]):
            outputs = super().forward(x)
        if torch.is_tensor(outputs):
            return outputs.float()
        return tuple(output.float() for output in outputs)


def make_fast(backbone, **settings):
    """Give a backbone that is built settings of speed.

    Args:
        backbone (nn.Module): changed; its class gets :class:`FastBackbone` before it.
        **settings: arguments of :class:`FastBackbone`.

    Returns:
        nn.Module: backbone.
    """
    cls = type(backbone)
    backbone.__class__ = type(cls.__name__, (FastBackbone, cls), {})
    backbone.set_speed(**settings)
    return backbone
