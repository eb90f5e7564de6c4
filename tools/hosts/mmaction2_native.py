"""The key native of a config: what is merged into the native mmaction2 config.

Its content has the names of mmengine's Runner and is merged by the rules of
mmengine's Config: dicts name by name, _delete_=True in place of a dict, and
lists whole.
"""

import contextlib
import inspect

from . import HostError
from .options import nearest
from .processes import is_lost_peer

# Which names of Runner have a way in of their own.
ELSEWHERE = dict(
    work_dir='work_dir, or --work_dir',
    load_from='load_from',
    resume='--resume or --resume_from',
    launcher='--launcher',
    randomness='--seed',
    compile='compile, or --compile',
    cfg='native',
    auto_scale_lr='auto_scale_lr, or --auto-scale-lr',
    find_unused_parameters='find_unused_parameters',  # model_wrapper_cfg has it
)
# What Runner reads besides its arguments.
BESIDES = (
    'custom_imports',
    'model_wrapper_cfg',
    'sync_bn',
    'activation_checkpointing',
    'efficient_conv_bn_eval',
)
TASKS = dict(
    train='train_dataloader train_cfg optim_wrapper param_scheduler'.split(),
    val='val_dataloader val_cfg val_evaluator'.split(),
    test='test_dataloader test_cfg test_evaluator'.split(),
)
# Which registry the types below a name are in; None: they are in none.
REGISTRIES = dict(
    model='MODELS',
    data_preprocessor='MODELS',
    default_hooks='HOOKS',
    custom_hooks='HOOKS',
    dataset='DATASETS',
    pipeline='TRANSFORMS',
    sampler='DATA_SAMPLERS',
    batch_sampler='DATA_SAMPLERS',
    collate_fn='FUNCTIONS',
    optim_wrapper='OPTIM_WRAPPERS',
    optimizer='OPTIMIZERS',
    clip_grad=None,
    param_scheduler='PARAM_SCHEDULERS',
    train_cfg='LOOPS',
    val_cfg='LOOPS',
    test_cfg='LOOPS',
    val_evaluator='METRICS',
    test_evaluator='METRICS',
    visualizer='VISUALIZERS',
    vis_backends='VISBACKENDS',
    log_processor='LOG_PROCESSORS',
    model_wrapper_cfg='MODEL_WRAPPERS',
)


def merge_native(cfg, native):
    """Merge the key native into the config that v1's is translated to.

    Args:
        cfg (mmengine.Config): merged into. What it has not of training,
            validation or testing is not in use, and left out.
        native (dict | None): of the v1 config.

    Raises:
        HostError: it is no dict, nothing reads a name of it, the name is set
            in another way, or a value does not fit what it is merged into.
    """
    if not native:
        return
    if not isinstance(native, dict):
        raise HostError(f'native={native!r} should be a dict')
    from mmengine.runner import Runner  # takes two seconds

    known = {*inspect.signature(Runner.__init__).parameters, *BESIDES} - {'self'}
    used = {}
    for name, value in native.items():
        if name in ELSEWHERE:
            raise HostError(f'native.{name}: set {ELSEWHERE[name]} instead')
        if name not in known:
            usable = known - {*ELSEWHERE}
            raise HostError(f'native.{name}: nothing reads it; {nearest(name, usable)}')
        if isinstance(cfg.get(name), dict) and not isinstance(value, (dict, list)):
            raise HostError(f'native.{name}={value!r} should be a dict')
        task = next((task for task in TASKS if name in TASKS[task]), None)
        if task is None or f'{task}_cfg' in cfg:
            used[name] = value
    hooks = used.get('default_hooks', {})
    if isinstance(hooks, dict) and hooks.get('_delete_'):
        raise HostError(
            'native.default_hooks._delete_=True leaves out the hooks that keep '
            'checkpoints whole: set the hooks that you do not want to None'
        )
    ours = list(cfg.custom_imports.imports)
    cfg.default_hooks.faithful_training.notes += [
        f'native.{name} = {value!r}' for name, value in flat(used)
    ]
    try:
        cfg.merge_from_dict(used)
    except (AttributeError, KeyError, TypeError) as error:
        raise HostError(f'native does not fit the config: {error}') from error
    # Lists are merged whole: ours stay.
    imports = cfg.custom_imports.imports
    cfg.custom_imports.imports = ours + [name for name in imports if name not in ours]


def flat(values, prefix=''):
    """The values in nested dicts, by dotted names.

    Yields:
        tuple: a name and a value that is no dict, or an empty one.
    """
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


def check_types(cfg):
    """Each type in a native config is in its registry, which is filled.

    Args:
        cfg (mmengine.Config): for a Runner.

    Raises:
        HostError: one is not; the text names it, and the nearest.
    """
    import mmaction.registry
    import mmengine.registry

    def walk(value, where, registry):
        if isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                walk(item, f'{where}.{number}', registry)
        if not isinstance(value, dict):
            return
        kind = value.get('type')
        if registry and isinstance(kind, str):
            found = getattr(mmengine.registry, registry)
            found = getattr(mmaction.registry, registry, found)
            if found.get(kind) is None:
                parent = found.parent or found
                names = {*found.module_dict, *parent.module_dict}
                raise HostError(
                    f'native.{where}.type={kind!r} is not in the registry '
                    f'{registry}; {nearest(kind, names)}'
                )
        for name, item in value.items():
            # Hooks have names of their own.
            below = registry if registry == 'HOOKS' else REGISTRIES.get(name, registry)
            walk(item, f'{where}.{name}', below)

    for name in cfg:
        if name in REGISTRIES or name.endswith('_dataloader'):
            walk(cfg[name], name, REGISTRIES.get(name))


@contextlib.contextmanager
def naming_native(native, runner=None):
    """What fails before the first step, with a native key, is its fault.

    Args:
        native (dict | None): of the v1 config.
        runner (CheckedRunner | None): which trains in the block.

    Raises:
        HostError: in place of another error.
    """
    try:
        yield
    except (HostError, OSError):
        raise
    except Exception as error:  # of a constructor: any
        started = runner is not None and runner.started
        if not native or started or is_lost_peer(error):
            raise
        text = str(error).strip() or 'no text'
        raise HostError(
            f'what native ({", ".join(native)}) is merged into cannot be built: '
            f'{type(error).__name__}: {" ".join(text.split())}'
        ) from error
