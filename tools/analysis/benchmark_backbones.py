"""The backbones that tools/analysis/benchmark.py times, and one step of each."""

import functools
import importlib
import importlib.util
import inspect
import itertools
import os
import sys
import types
from pathlib import Path

import torch
from hosts import HostError

MODELS = ('none', 'dnr', 'plain', 'torchvision')
MORE_MODELS = ('against', 'root')  # of the options of these names
PRECISIONS = ('tf32', 'bf16', 'fp32')
LAYOUTS = ('contiguous', 'channels_last')
COMPILE = ('off', 'default', 'reduce-overhead')
ROOTS = itertools.count()  # for names: a checkout has a package of its own
# What a row of results is of, in the order of the table's columns.
SETTINGS = (
    'mode',
    'precision',
    'layout',
    'compile',
    'depth',
    'clips',
    'frames',
    'groups',
    'size',
)


def import_torchvision():
    """The package.

    Raises:
        HostError: it is not installed, or is for another torch.
    """
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        raise HostError(
            f'torchvision cannot be imported ({first_line(error)}); install '
            f'the one for torch {torch.__version__}, or leave torchvision '
            f'out of --compare'
        ) from error
    return torchvision


@functools.lru_cache(None)
def load_class(against):
    """The class that --against FILE:CLASS names.

    Raises:
        HostError: there is no such file or class, or the file cannot be
            imported on its own.
    """
    path, _, name = against.rpartition(':')
    if not path or not name:
        raise HostError(f'--against {against} should be FILE:CLASS')
    if not os.path.isfile(path) or not path.endswith('.py'):
        raise HostError(f'--against: {path} is no Python file')
    spec = importlib.util.spec_from_file_location('benchmarked', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it can be anything: it is the user's code
        raise HostError(
            f'--against: {path} cannot be imported on its own '
            f'({first_line(error)}). Relative imports, such as of a '
            f"framework's registry, must be taken out of a copy"
        ) from error
    return find_module_class(module, name, f'--against: {path}')


@functools.lru_cache(None)
def load_root(root):
    """ResNet_DNR of the checkout that --root FOLDER names.

    The folder is imported as a package, so that its resnet_dnr.py finds its
    own resnet_dnr_fused.py, where it has one, and never the one here.

    Raises:
        HostError: there is no such file or class, or the file cannot be
            imported.
    """
    path = Path(root) / 'resnet_dnr.py'
    if not path.is_file():
        raise HostError(f'--root: there is no {path}')
    package = types.ModuleType(f'benchmarked_root_{next(ROOTS)}')
    package.__path__ = [str(Path(root).resolve())]
    sys.modules[package.__name__] = package
    try:
        module = importlib.import_module(f'{package.__name__}.resnet_dnr')
    except Exception as error:  # it can be anything: it is the user's code
        raise HostError(
            f'--root: {path} cannot be imported ({first_line(error)})'
        ) from error
    return find_module_class(module, 'ResNet_DNR', f'--root: {path}')


def find_module_class(module, name, where):
    """The torch.nn.Module of that name in a Python module.

    Raises:
        HostError: it has none; the text begins with `where`.
    """
    cls = getattr(module, name, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        raise HostError(f'{where} has no torch.nn.Module named {name}')
    return cls


def first_line(error):
    """The type and the first line of an exception's text.

    A line that ends in a colon, as torch.compile's first does, takes the next
    one along.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = ' '.join(lines[: 2 if lines and lines[0].endswith(':') else 1])
    return f'{type(error).__name__}: {text}'


def backbone_arguments(setting):
    """Keyword arguments of ResNet_DNR, or of a class like it."""
    return dict(
        depth=setting['depth'],
        out_indices=(3,),
        bn_eval=False,
        n_segment=setting['frames'],
        num_groups=setting['groups'],
    )


def not_taken(cls, setting):
    """Those of the keyword arguments that a class's signature lacks."""
    parameters = inspect.signature(cls).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {}
    names = {p.name for p in parameters}
    return {
        key: value
        for key, value in backbone_arguments(setting).items()
        if key not in names
    }


def create(name, setting, args):
    """A backbone on the CPU, as its class makes it."""
    if name == 'torchvision':
        resnet = getattr(import_torchvision().models, f'resnet{setting["depth"]}')()
        return torch.nn.Sequential(*list(resnet.children())[:-2])
    arguments = backbone_arguments(setting)
    if name == 'against':
        cls = load_class(args.against)
        left_out = not_taken(cls, setting)
        return cls(**{k: v for k, v in arguments.items() if k not in left_out})
    if name == 'root':
        return load_root(args.root)(**arguments, dnr='both')
    from resnet_dnr import ResNet_DNR  # not before: --cold times the import

    return ResNet_DNR(
        **arguments,
        dnr='none' if name == 'none' else 'both',
        backend='plain' if name == 'plain' else 'auto',
    )


def build(name, setting, args):
    """A backbone with its initial weights, on the device and compiled.

    Args:
        name (str): of MODELS or MORE_MODELS.
        setting (dict): a value for each of SETTINGS.
        args (argparse.Namespace): has device, against and root.

    Returns:
        nn.Module: takes (clips * frames, 3, size, size).
    """
    torch.manual_seed(0)
    model = create(name, setting, args)
    if hasattr(model, 'init_weights'):
        model.init_weights()
    model.train(setting['mode'] == 'train')
    model.to(args.device, memory_format=memory_format(setting))
    if setting['compile'] != 'off':
        model = torch.compile(model, mode=setting['compile'], dynamic=False)
    return model


def memory_format(setting):
    return (
        torch.channels_last
        if setting['layout'] == 'channels_last'
        else torch.contiguous_format
    )


def set_precision(setting):
    """Set what torch may use for float32."""
    allow_tf32 = setting['precision'] != 'fp32'
    torch.set_float32_matmul_precision('high' if allow_tf32 else 'highest')
    torch.backends.cudnn.allow_tf32 = allow_tf32


def autocast(setting, device):
    """The context of a forward pass."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=setting['precision'] == 'bf16'
    )


def make_input(setting, device):
    """Images at random, (clips * frames, 3, size, size)."""
    torch.manual_seed(0)
    x = torch.randn(
        setting['clips'] * setting['frames'],
        3,
        setting['size'],
        setting['size'],
        device=device,
    )
    return x.to(memory_format=memory_format(setting))


def make_step(model, x, setting):
    """A function of no arguments that runs one step.

    In training this is forward and backward with a fixed random gradient of
    the output, gradients set to None before it, no optimizer; in evaluation,
    a forward without gradients.

    Args:
        model (nn.Module): takes x and returns one tensor.
        x (Tensor): (clips * frames, 3, size, size).
        setting (dict): a value for each of SETTINGS.
    """
    grad = None

    def forward():
        if setting['compile'] == 'reduce-overhead':
            torch.compiler.cudagraph_mark_step_begin()
        with autocast(setting, x.device):
            out = model(x)
        if not isinstance(out, torch.Tensor):
            raise TypeError(
                f'the backbone returns a {type(out).__name__}, not one tensor'
            )
        return out

    def train():
        nonlocal grad
        model.zero_grad(set_to_none=True)
        out = forward()
        if grad is None:
            grad = torch.randn_like(out)
        out.backward(grad)

    @torch.no_grad()
    def evaluate():
        forward()

    return train if setting['mode'] == 'train' else evaluate


def synchronize(device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
