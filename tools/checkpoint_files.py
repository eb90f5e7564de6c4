"""Checkpoints: read with care, written whole, and loaded strictly.

Every way in, on either host, reads a checkpoint and fills a model through this
module: testing, resuming, load_from, pretrained and recalibration. What comes
in is tensors and plain data alone. Nothing in a file is run, now or later: the
texts of configs, which hosts run when they resume, are left out.
"""

import hashlib
import io
import logging
import os
import os.path as osp
import re
import struct
import urllib.parse
import zipfile
from collections import Counter
from contextlib import nullcontext

import torch
from hosts import HostError
from plain_data import stand_ins, to_plain
from whole_files import write_whole

# Functions below import resnet_dnr: mmaction v1's own scripts, which only read
# checkpoints through this module, have it inside mmaction.

# The backbone's, which says what it took of `pretrained`. A host shows it on
# stdout and in its log.
logger = logging.getLogger('resnet_dnr')

# How the names begin of the first convolution of each block of a backbone.
BLOCK = re.compile(r'backbone\.layer\d+\.\d+\.conv1\.')

# How the names end of what PyTorch would convert from numbers of any kind.
REAL = ('weight', 'bias', 'running_mean', 'running_var')


# ---- reading


def read_checkpoint(source):
    """A checkpoint's content, of tensors and plain data alone.

    A file is refused whose checksums do not fit what it holds, or which has
    compressed records: these can be of any size. torch.save writes a checksum
    of every tensor; PyTorch before 1.6 wrote none.

    Args:
        source (str | Path): the file, or its http(s) URL.

    Returns:
        dict: with a state dict of tensors under 'state_dict'; a bare state
        dict is put there. Tensors are on the CPU, and a HistoryBuffer is a
        list of two. The texts of configs are left out.

    Raises:
        HostError: there is no such file, or it is none that can be loaded.
    """
    path = local_file(source)

    def refuse(reason):
        raise HostError(f'{source} cannot be loaded as a checkpoint: {reason}')

    fault = archive_fault(path)
    if fault:
        refuse(fault)
    try:
        with allowed_types():
            checkpoint = to_plain(
                torch.load(path, map_location='cpu', weights_only=True)
            )
    except Exception as error:  # a damaged file can raise anything
        # Not torch's own text, which says how to load the file unsafely.
        raise HostError(
            f'{source} cannot be loaded as a checkpoint: {reason_of(error)}'
        ) from None
    if not isinstance(checkpoint, dict):
        refuse(f'it holds a {type(checkpoint).__name__}')
    if 'state_dict' not in checkpoint:
        odd = [key for key, value in checkpoint.items() if not is_dense(value)]
        if odd:
            refuse(f'it has no state_dict, and {odd[0]!r} in it is no tensor')
        checkpoint = dict(state_dict=checkpoint)
    for key in ('state_dict', 'meta', 'message_hub', 'optimizer'):
        part = checkpoint.get(key, {})
        if not isinstance(part, dict):
            refuse(f'its {key} is a {type(part).__name__}')
    for name, value in checkpoint['state_dict'].items():
        if not isinstance(name, str) or not is_dense(value):
            refuse(f'{name!r} in its state_dict is no dense tensor')
        if name.endswith(REAL) and not value.is_floating_point():
            refuse(
                f'{name!r} in its state_dict is of {value.dtype}, and should be of '
                f'floating-point numbers'
            )
    leave_out_configs(checkpoint)
    return checkpoint


def local_file(source):
    """The file of a checkpoint, downloaded where a URL is given.

    Args:
        source (str | Path): a file or an http(s) URL.

    Returns:
        str: for a URL, a file in torch.hub's folder, which one process of a
        machine downloads, once. Where its name has a part of its SHA-256, as
        the names of PyTorch's own files, the content must have it.

    Raises:
        HostError: there is no such file, or it cannot be downloaded.
    """
    source = os.fspath(source)
    if not source.startswith(('http://', 'https://')):
        if '://' in source:
            raise HostError(
                f'checkpoint {source} is neither a file nor an http(s) URL: '
                f'download it and name the file'
            )
        if not osp.isfile(source):
            raise HostError(
                f'checkpoint {source} '
                + ('is a folder' if osp.isdir(source) else 'does not exist')
            )
        return source
    name = osp.basename(urllib.parse.urlparse(source).path)
    if not name:
        raise HostError(f'checkpoint {source} names no file')
    digest = re.search(r'-([a-f0-9]{8,})\.', name)
    if not digest:  # files of one name lie at many places
        name = hashlib.sha256(source.encode()).hexdigest()[:16] + f'_{name}'
    path = osp.join(torch.hub.get_dir(), 'checkpoints', name)
    try:
        from filelock import FileLock  # comes with PyTorch 2

        os.makedirs(osp.dirname(path), exist_ok=True)
        with FileLock(f'{path}.lock'):
            if not osp.isfile(path):
                torch.hub.download_url_to_file(
                    source, path, hash_prefix=digest and digest[1], progress=False
                )
    except (OSError, RuntimeError, ValueError) as error:
        raise HostError(f'checkpoint {source} cannot be downloaded: {error}') from error
    return path


def archive_fault(path):
    """What is wrong with the zip archive that torch.save makes.

    torch itself checks none of it.

    Args:
        path (str): a file; torch takes it for an archive by its first bytes.

    Returns:
        str | None: None too for a file of PyTorch before 1.6.
    """
    try:
        with open(path, 'rb') as file:
            start = file.read(4)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        return error.strerror
    if not size:
        return 'it is empty'
    if start != b'PK\x03\x04':
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            for record in records:
                if record.compress_type != zipfile.ZIP_STORED:
                    return (
                        f'its record {record.filename} is compressed, which '
                        f'torch.save never does, and can be of any size'
                    )
            (_, count), *_ = Counter(archive.namelist()).most_common(1) or [(0, 0)]
            if (
                count > 1  # torch may take the other one
                or archive.comment  # or find another list of records
                or sum(record.file_size for record in records) > size
            ):
                return 'it is no archive as torch.save makes one'
            damaged = archive.testzip()
    except (
        *(zipfile.BadZipFile, EOFError, OSError, RuntimeError),
        *(struct.error, UnicodeDecodeError, ValueError),
    ):
        return 'it is damaged or cut short'
    if damaged:
        return f'it is damaged: the checksum of its record {damaged} is wrong'
    return None


def allowed_types():
    """Context in which torch.load takes plain data of all kinds."""
    if torch.__version__ < (2, 6):  # which takes numbers, texts and tensors
        return nullcontext()
    return torch.serialization.safe_globals(stand_ins())


def reason_of(error):
    """Why torch could not load a file, and what to do, in our words.

    Args:
        error (Exception): of torch.load.

    Returns:
        str: names what in the file is no plain data, if that is why.
    """
    found = re.search(r'GLOBAL (\S+)', str(error))
    if not found:
        return 'it is damaged, or no checkpoint of PyTorch'
    return (
        f'it holds {found[1]}, which is no plain data and could run a program. '
        f'Have its maker save the state dict alone'
    )


def is_dense(value):
    """Whether a value is a tensor of numbers that are all there."""
    return (
        type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout is torch.strided
        and not (value.is_quantized or value.is_meta)
    )


def leave_out_configs(checkpoint):
    """Leave out the texts of configs, which could be run later.

    mmengine and mmcv parse meta.config as a config file when they resume,
    which runs it, and mmengine's inferencers do so with that of message_hub.

    Args:
        checkpoint (dict): changed in place.
    """
    runtime = checkpoint.get('message_hub', {}).get('runtime_info')
    for part in checkpoint.get('meta', {}), runtime:
        for key in ('cfg', 'config'):
            if isinstance(part, dict):
                part.pop(key, None)


# ---- loading


def check_resumable(checkpoint, path, parts):
    """A training can go on from a checkpoint.

    Args:
        checkpoint (dict): of :func:`read_checkpoint`.
        path (str | Path): where it is from.
        parts (tuple[str]): what it must have besides weights.

    Raises:
        HostError: it has only weights, weights that are not finite, or does not
            say how far it is.
    """
    meta = checkpoint.get('meta')
    lacking = [part for part in parts if part not in checkpoint]
    for key in ('epoch', 'iter'):
        if not isinstance(meta, dict) or key not in meta:
            lacking.append(f'meta.{key}')
        elif type(meta[key]) is not int or not 1 <= meta[key] < 2**63:
            raise HostError(
                f"{path} cannot be resumed: its 'meta.{key}' is "
                f'{meta[key]!r:.60}, and should be a count of at least 1'
            )
    if lacking:
        raise HostError(
            f'{path} has no {lacking[0]!r}: only a checkpoint of this training '
            f'can be resumed. To start from its weights: '
            f'--cfg-options load_from={path}'
        )
    for name, value in checkpoint['state_dict'].items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise HostError(f'{path} cannot be resumed: {name} in it is not finite')


def fill_model(model, state, path):
    """Load a state dict that fills the model, and has nothing else.

    A recognizer whose parts stay random, or that is cut out of a deeper one,
    would be tested without an error.

    Args:
        model (nn.Module): loaded in place.
        state (dict[str, Tensor]): names may begin with 'module.'.
        path (str | Path): where it is from.

    Raises:
        HostError: it leaves a tensor of the model unset, has one that the
            model has not, or one of another shape.
    """
    refused = f'{path} is no checkpoint of this model'
    state = own_names(state)
    try:
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = describe_shapes(model, state) or shorten(str(error).splitlines())
        raise HostError(f'{refused}: {reason}') from error
    missing = [k for k in missing if not k.endswith('num_batches_tracked')]
    if missing:
        raise HostError(
            f'{refused}, parts of which would stay random. It has no {shorten(missing)}'
        )
    if unknown:
        raise HostError(f'{refused}, which has no {shorten(unknown)}')


def describe_shapes(model, state):
    """Which tensors have another shape in a state dict than in a model.

    Args:
        model (nn.Module): it.
        state (dict[str, Tensor]): in the model's names.

    Returns:
        str: their shapes, and what to set if only the number of classes differs;
        empty if there is none.
    """
    own = model.state_dict()
    other = [
        name
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    told = [
        f'{name} is {tuple(state[name].shape)} there, {tuple(own[name].shape)} here'
        for name in other
    ]
    if other and all(name.startswith('cls_head.fc_cls.') for name in other):
        told[-1] += f'; set model.cls_head.num_classes={len(state[other[0]])}'
    return shorten(told)


def own_names(state):
    """A state dict in the names of a model that no wrapper has.

    Args:
        state (dict[str, Tensor]): names may begin with 'module.', and be those
            of the published code.

    Returns:
        dict[str, Tensor]: the same tensors.
    """
    from resnet_dnr import from_published_name

    return {
        from_published_name(re.sub(r'^module\.', '', name)): value
        for name, value in state.items()
    }


def choose_fitting(model, state, path):
    """What of a state dict a training can start from; the log says it.

    The backbone must get something for each of its parts. A head for other
    classes stays as it is.

    Args:
        model (nn.Module): a recognizer, with a backbone.
        state (dict[str, Tensor]): names as :func:`own_names` takes them.
        path (str | Path): where it is from.

    Returns:
        dict[str, Tensor]: what fits, under the model's names.

    Raises:
        HostError: a part of the backbone would stay random, or is of another
            depth or shape.
    """
    state, own = own_names(state), model.state_dict()
    refused = f'{path} is nothing to start this model from'
    taken = {name: value for name, value in state.items() if name in own}
    other = [name for name in taken if not fits(name, taken[name], own[name])]
    wrong = [name for name in other if name.startswith('backbone.')]
    blocks = [
        {name.split('.conv')[0] for name in names if re.match(BLOCK, name)}
        for names in (state, own)
    ]
    if wrong:
        name = wrong[0]
        raise HostError(
            f'{refused}: {name} is {tuple(taken[name].shape)} there, '
            f'{tuple(own[name].shape)} here; {len(wrong)} tensors of the '
            f'backbone have another shape'
        )
    taken = {name: value for name, value in taken.items() if name not in other}
    counts = [Counter(map(part_of, names)) for names in (own, taken)]
    report = ', '.join(
        f'{part} {counts[1][part]} of {total}' for part, total in counts[0].items()
    )
    empty = [part for part in counts[0] if not counts[1][part]]
    if any(part.startswith('backbone.') for part in empty):
        hint = ''
        if any(f'backbone.{name}' in own for name in state):
            hint = (
                f'. Its names are those of a backbone alone, which '
                f'model.backbone.pretrained={path} takes'
            )
        raise HostError(f'{refused}: tensors found by name: {report}{hint}')
    if blocks[0] != blocks[1]:
        raise HostError(
            f'{refused}, which has another depth: only one of them has '
            f'{shorten(sorted(blocks[0] ^ blocks[1]))}'
        )
    if other:
        report += f'. Of another shape, and left as they are: {shorten(other)}'
    logger.info('%s: took tensors for %s', path, report)
    return taken


def part_of(name):
    """The part of a recognizer that a tensor is of, such as backbone.layer1."""
    return '.'.join(name.split('.')[: 2 if name.startswith('backbone.') else 1])


def fits(name, value, own):
    """Whether a tensor has the shape of a model's own.

    Running statistics may be one for all groups of frames, or one for each;
    the backbone makes the one of the other.
    """
    if name.endswith(('running_mean', 'running_var')) and value.dim() != own.dim():
        return value.shape[-1:] == own.shape[-1:]
    return value.shape == own.shape


def init_backbone(backbone, init_weights):
    """Initialize a ResNet_DNR, whose `pretrained` is read as all files are.

    Args:
        backbone (ResNet_DNR): initialized in place.
        init_weights (callable): its own method, of no argument.

    Raises:
        HostError: `pretrained` cannot be read, or does not fit.
    """
    source, backbone.pretrained = backbone.pretrained, None
    try:
        init_weights()
    finally:
        backbone.pretrained = source
    if source is None:
        return
    from resnet_dnr import load_pretrained

    try:
        load_pretrained(backbone, source, read_checkpoint(source)['state_dict'])
    except (HostError, ValueError) as error:  # a line for each shape that differs
        reason = shorten(str(error).splitlines())
        raise HostError(f'model.backbone.pretrained: {reason}') from error


def shorten(items, count=5):
    """The first few items of a list, and how many more there are."""
    more = len(items) - count
    return ', '.join(item.strip('\t.: ') for item in items[:count]) + (
        f' and {more} more' if more > 0 else ''
    )


def write_checkpoint(path, checkpoint):
    """Write a checkpoint whole, or nothing.

    Args:
        path (str | Path): the file.
        checkpoint (dict): what torch.save takes.

    Raises:
        OSError: as whole_files.write_whole does.
    """
    content = io.BytesIO()  # torch.save hides why a disk cannot be written
    torch.save(checkpoint, content)
    write_whole(path, content.getbuffer())


def to_published_names(state):
    """A state dict in the published code's names and shapes.

    Grouped running statistics (G, C) become their mean over the groups, (C,),
    as the published code has it. Its evaluation differs from the grouped one's.

    Args:
        state (dict[str, Tensor]): of a ResNet_DNR with dnr='both', or of a
            recognizer with one under 'backbone.'.

    Returns:
        dict[str, Tensor]: a new dict; tensors that do not change are shared.
    """
    from resnet_dnr import MAP_NAMES

    published_state = {}
    for name, value in state.items():
        name = re.sub(r'\b(layer\d+)\.(\d+)\.', r'\1.ModuleList.\2.', name)
        for published, own in MAP_NAMES:
            name = name.replace(own, published)
        if name.endswith(('running_mean', 'running_var')) and value.dim() == 2:
            value = value.mean(0)
        published_state[name] = value
    return published_state
