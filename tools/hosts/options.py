"""What a config file and --cfg-options say: each name takes effect or is refused.

Shared by both hosts; nothing here imports one.
"""

import argparse
import ast
import difflib
import inspect
import os.path as osp
import re

from . import HostError
from .config_values import check_values

# The names of a config that mmaction v1's scripts read, or the mmaction2 host
# in their place; and one that the hosts' readers of configs act on.
NAMES = (
    'model train_cfg test_cfg data optimizer optimizer_config lr_config '
    'checkpoint_config workflow log_config log_level total_epochs work_dir '
    'dist_params load_from resume_from cudnn_benchmark find_unused_parameters '
    'custom_imports amp channels_last compile cuda_graph accumulate auto_scale_lr '
    'native class_names'
).split()
SEEDS = 'a whole number from 0 to 2 ** 32 - 1'


# ---- the command line


def add_cfg_options(parser):
    """Add --cfg-options KEY=VALUE ... to a script's parser: a dict, or None.

    Args:
        parser (argparse.ArgumentParser): of the script.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='set values of the config, such as data.videos_per_gpu=4',
    )


class DictAction(argparse.Action):
    """argparse action for --cfg-options KEY=VALUE ...: a dict of them.

    The hosts' own actions take the spaces out of values, which breaks paths.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        options = dict(getattr(namespace, self.dest) or {})
        for option in values:
            key, equals, text = option.partition('=')
            if not (key and equals):
                parser.error(f'{option_string}: {option!r} should be KEY=VALUE')
            try:
                options[key] = parse_value(text)
            except ValueError as error:
                parser.error(f'{option_string}: {option!r}: {error}')
        setattr(namespace, self.dest, options)


def seed_of(text):
    """argparse type of --seed, which NumPy, too, must take.

    Args:
        text (str): on the command line.

    Returns:
        int: from 0 to 2 ** 32 - 1.

    Raises:
        argparse.ArgumentTypeError: it is no such number.
    """
    if not (text.isdecimal() and is_seed(int(text))):
        raise argparse.ArgumentTypeError(f'{text!r} should be {SEEDS}')
    return int(text)


def is_seed(value):
    """Whether a value is a seed that PyTorch, NumPy and Python take."""
    return type(value) is int and 0 <= value < 2**32


def parse_value(text):
    """The value that a text on the command line stands for.

    Args:
        text (str): a number, True, False, None, or a text, which may be
            quoted; a list [a, b] or a tuple (a, b) of these; or a list
            without brackets, a,b. Spaces inside a text stay.

    Returns:
        The value.

    Raises:
        ValueError: brackets or quotes are not closed.
    """
    stripped = text.strip()
    if re.fullmatch(r"""'[^']*'|"[^"]*\"""", stripped):
        return stripped[1:-1]
    if stripped[:1] + stripped[-1:] in ('[]', '()'):
        parts = _split(stripped[1:-1])
        if parts is not None:
            kind = tuple if stripped[0] == '(' else list
            return kind(parse_value(part.strip()) for part in parts)
    parts = _split(text)
    if parts is None and (',' in text or stripped[:1] in '(['):
        raise ValueError('a bracket or a quote is not closed')
    if parts and len(parts) > 1:
        return [parse_value(part.strip()) for part in parts]
    for kind in (int, float):
        try:
            return kind(stripped)
        except ValueError:
            continue
    words = {'true': True, 'false': False}
    return None if stripped == 'None' else words.get(stripped.lower(), text)


def _split(text):
    """The parts between the commas outside brackets and quotes.

    Returns:
        list[str] | None: None where a bracket or a quote is not closed.
    """
    parts, opened = [''], []
    closes = {'(': ')', '[': ']'}
    for sign in text:
        quoted = opened and opened[-1] in '\'"'
        if quoted:
            if sign == opened[-1]:
                opened.pop()
        elif sign in closes:
            opened.append(closes[sign])
        elif sign in '\'"' and not parts[-1].strip('[( '):
            # A quote within a word is an apostrophe.
            opened.append(sign)
        elif sign in ')]':
            if not opened or opened.pop() != sign:
                return None
        if sign == ',' and not opened:
            parts.append('')
        else:
            parts[-1] += sign
    if opened:
        return None
    if len(parts) > 1 and not parts[-1].strip():  # (3, ) is a tuple of one
        parts.pop()
    return parts if any(part.strip() for part in parts) else []


# ---- a config file


def read_config(config, path, cfg_options=None):
    """Read a config file in v1's schema.

    Args:
        config (type): mmengine's or mmcv's Config.
        path (str): the file.
        cfg_options (dict | None): values to set, by dotted keys.

    Returns:
        a config of that type.

    Raises:
        HostError: there is no such file, it cannot be read, nothing reads a
            name in it, the options do not fit it, or a value cannot be.
    """
    if not osp.isfile(path):
        raise HostError(f'config {path} does not exist')
    try:
        cfg = config.fromfile(path)
    except Exception as error:  # a config is a program: any
        raise HostError(
            f'config {path} cannot be read: {type(error).__name__}: {error}'
        ) from error
    check_names(path, cfg, cfg_options)
    try:
        cfg.merge_from_dict(cfg_options or {})
    except (AttributeError, KeyError, TypeError) as error:
        raise HostError(f'--cfg-options does not fit {path}: {error}') from error
    check_values(cfg)
    return cfg


# ---- names that nothing reads


def nearest(name, names):
    """Words that name what was probably meant, or what there is.

    Args:
        name (str): which is none of the names.
        names (iterable of str): all.

    Returns:
        str: to go after an error's text.
    """
    names = sorted(set(names))
    close = difflib.get_close_matches(name, names, 1)
    if close:
        return f'did you mean {close[0]}?'
    return f'the names are {", ".join(names)}' if names else 'it has none'


def check_names(path, cfg, options=None):
    """Each top-level name of a config is read by somebody.

    A variable that helps to write the file is read by the file itself.

    Args:
        path (str): the config file.
        cfg (mmengine.Config | mmcv.Config): what is in it and in those that
            it inherits from.
        options (dict | None): --cfg-options.

    Raises:
        HostError: nobody reads one; the text names its file and line, and
            the nearest right name.
    """
    for key in options or {}:
        name = key.split('.')[0]
        if name == 'custom_imports':
            raise HostError(
                f'--cfg-options {key}: has an effect in a config file alone, where '
                f'it is read before the options'
            )
        if name in NAMES:
            continue
        if name not in cfg:
            places = _places(key, cfg)
            meant = f'did you mean {" or ".join(places)}?'
            if not places:
                meant = nearest(name, NAMES)
            raise HostError(f'--cfg-options {key}: {path} has no {name}; {meant}')
        users = list(_users(cfg[name], cfg))
        raise HostError(
            f'--cfg-options {key}: {name} is a variable of {path} that only '
            f'helps to write it; set '
            + (' and '.join(users) if users else 'what the file uses it for')
        )
    for name, where in unread_names(path, cfg):
        raise HostError(f'{where}: nothing reads {name}; {nearest(name, NAMES)}')


def _places(key, cfg):
    """The dotted keys that end in one, three at most."""
    found = []

    def walk(at, values):
        for name in values if isinstance(values, dict) else ():
            if f'.{at}{name}'.endswith(f'.{key}'):
                found.append(f'{at}{name}')
            walk(f'{at}{name}.', values[name])

    walk('', {name: cfg[name] for name in NAMES if name in cfg})
    return found[:3]


def _users(value, cfg):
    """The dotted keys that have a helper variable's value, three at most."""
    found = []

    def walk(key, at):
        if at == value and type(at) is type(value):
            found.append(key)
        elif isinstance(at, dict):
            for name in at:
                walk(f'{key}.{name}', at[name])

    for name in NAMES:
        if name in cfg:
            walk(name, cfg[name])
    return found[:3] if value not in (None, True, False) else []


def unread_names(path, cfg, from_children=frozenset()):
    """Names that a config file sets, and neither a host nor a file reads.

    Args:
        path (str): the file.
        cfg (mapping): what is in it and in those that it inherits from.
        from_children (frozenset[str]): what files that inherit from it use.

    Yields:
        tuple: the name, and the file and the line where it stands.
    """
    if not path.endswith('.py'):  # JSON or YAML, in which nothing is written in steps
        yield from ((name, path) for name in cfg if name not in NAMES)
        return
    with open(path, encoding='utf-8') as file:
        text = file.read()
    tree = ast.parse(text, path)
    assigned, bases = {}, []
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                assigned.setdefault(node.id, node.lineno)
                if node.id == '_base_' and isinstance(statement, ast.Assign):
                    # By itself, as the hosts' readers of configs do.
                    code = compile(ast.Expression(statement.value), path, 'eval')
                    bases = eval(code, {})
    read = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    for name, line in assigned.items():
        known = name in NAMES or name in read | from_children or name[0] == '_'
        if name in cfg and not known:
            yield name, f'{path}, line {line}'
    from_here = from_children | set(re.findall(r'\b_base_\.(\w+)', text))
    for base in [bases] if isinstance(bases, str) else bases:
        base = osp.normpath(osp.join(osp.dirname(path), base))
        if osp.isfile(base):  # not one of an installed package
            yield from unread_names(base, cfg, from_here)


def check_arguments(name, function, values, given=()):
    """A function or class takes the keys of a config's dict.

    Args:
        name (str): where the dict stands in the config.
        function (callable): which is called with it.
        values (dict): the dict; its type is left out.
        given (tuple[str]): arguments that the config does not give.

    Raises:
        HostError: a key is none of its arguments, or one is missing.
    """
    parameters = inspect.signature(function).parameters
    named = [
        key
        for key, parameter in parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    if len(named) < len(parameters):
        return  # it takes any
    for key in values:
        if key != 'type' and (key not in named or key in given):
            raise HostError(
                f'{name}.{key}={values[key]!r} is unknown: '
                f'{function.__name__} has no such argument; {nearest(key, named)}'
            )
    for key in named:
        needed = parameters[key].default is inspect.Parameter.empty
        if needed and key not in values and key not in given:
            raise HostError(f'{name}.{key} is missing')
