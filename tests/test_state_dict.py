"""State-dict names, checkpoints in the published ones, and `pretrained`."""

import functools
import http.server
import importlib.util
import logging
import re
import sys
import threading
import types

import pytest
import torch
from checkpoint_files import to_published_names
from torch import nn

from resnet_dnr import (
    ResNet_DNR,
    from_published_name,
    load_pretrained,
)

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def build(depth=18, **kwargs):
    return ResNet_DNR(
        depth,
        **{
            **dict(out_indices=(3,), bn_eval=False, n_segment=4, num_groups=2),
            **kwargs,
        },
    )


def trained(depth=18, seed=0, **kwargs):
    """A network with random statistics, in evaluation mode."""
    torch.manual_seed(seed)
    model = build(depth, **kwargs).eval()
    for name, value in model.named_buffers():
        if name.endswith('num_batches_tracked'):
            value.fill_(3)
        else:
            value.uniform_(0.5, 1.5)
    return model


def images():
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def same(state_dict, other):
    assert list(state_dict) == list(other)
    for name, value in state_dict.items():
        assert torch.equal(value, other[name]), name


def shapes(state_dict):
    return {name: tuple(value.shape) for name, value in state_dict.items()}


# Names


def torchvision_shapes(depth):
    """Names and shapes of torchvision's ResNet without fc, in its order."""
    names = {}

    def conv(name, out_channels, in_channels, kernel):
        names[f'{name}.weight'] = (out_channels, in_channels, kernel, kernel)

    def bn(name, channels):
        for kind in ('weight', 'bias', 'running_mean', 'running_var'):
            names[f'{name}.{kind}'] = (channels,)
        names[f'{name}.num_batches_tracked'] = ()

    conv('conv1', 64, 3, 7)
    bn('bn1', 64)
    inplanes = 64
    for s, count in enumerate(BLOCKS[depth]):
        planes = 64 * 2**s
        if depth < 50:
            convs = [(planes, 3), (planes, 3)]
        else:
            convs = [(planes, 1), (planes, 3), (4 * planes, 1)]
        for b in range(count):
            block = f'layer{s + 1}.{b}'
            channels = inplanes
            for i, (out_channels, kernel) in enumerate(convs, 1):
                conv(f'{block}.conv{i}', out_channels, channels, kernel)
                bn(f'{block}.bn{i}', out_channels)
                channels = out_channels
            if b == 0 and (s > 0 or inplanes != channels):
                conv(f'{block}.downsample.0', channels, inplanes, 1)
                bn(f'{block}.downsample.1', channels)
            inplanes = channels
    return names


@pytest.mark.parametrize(
    'depth',
    [
        18,
        34,
        50,
        pytest.param(101, marks=pytest.mark.full),
        pytest.param(152, marks=pytest.mark.full),
    ],
)
def test_the_batchnorm_network_has_torchvisions_names(depth):
    names = shapes(build(depth, dnr='none').state_dict())
    assert list(names.items()) == list(torchvision_shapes(depth).items())


@pytest.mark.parametrize('depth', [18, 50])
def test_torchvision_itself(depth):
    models = pytest.importorskip(
        'torchvision.models',
        reason='no torchvision here: .venv/bin/pip install torchvision, then '
        './tools/run_tests.sh tests/test_state_dict.py -k torchvision',
        exc_type=Exception,
    )
    theirs = getattr(models, f'resnet{depth}')()
    model = build(depth, dnr='none').eval()
    missing, unexpected = model.load_state_dict(theirs.state_dict(), strict=False)
    assert (missing, unexpected) == ([], ['fc.weight', 'fc.bias'])
    y = theirs.eval().fc(model(images()).mean((2, 3)))
    torch.testing.assert_close(y, theirs(images()))


@pytest.mark.parametrize('depth', [18, 50])
def test_dynamic_networks_add_cells_and_drop_what_they_replace(depth):
    """Whatever torchvision has and ours has carries the same name."""
    plain = torchvision_shapes(depth)
    ours = shapes(build(depth).state_dict())
    dynamic = re.compile(r'layer\d+\.\d+\.bn[12]\.')
    for name in plain:
        replaced = dynamic.match(name) and name.endswith(('weight', 'bias'))
        assert (name in ours) == (not replaced), name
        if name in ours and not dynamic.match(name):
            assert ours[name] == plain[name], name
    cell = r'relay\.(input|hidden)_map\.[02]\.(weight|bias)'
    for name in set(ours) - set(plain):
        assert re.fullmatch(rf'layer\d+\.(\d+\.bn2\.)?{cell}', name), name


def published_shapes(depth):
    """Of the published code, for a bottleneck network."""
    names = {}
    for name, shape in torchvision_shapes(depth).items():
        match = re.fullmatch(r'(layer\d)\.(\d+)\.(bn[12]\.)?(.*)', name)
        if match:
            stage, block, bn, rest = match.groups()
            if bn and rest in ('weight', 'bias'):
                continue
            name = f'{stage}.ModuleList.{block}.{bn or ""}{rest}'
        names[name] = shape
    cells = [
        f'layer{s + 1}.ModuleList.{b}.bn2'
        for s in range(4)
        for b in range(BLOCKS[depth][s])
    ]
    cells += [f'layer{s}' for s in range(1, 5)]
    for cell in cells:
        c = 64 * 2 ** (int(cell[5]) - 1)
        for which in 'w_ih', 'w_hh':
            name = f'{cell}.lstm.{which}.0.seq'
            names.update(
                {
                    f'{name}.0.weight': (c // 4, c),
                    f'{name}.0.bias': (c // 4,),
                    f'{name}.2.weight': (4 * c, c // 4),
                    f'{name}.2.bias': (4 * c,),
                }
            )
    return names


@pytest.mark.parametrize('running_stats', ['grouped', 'shared'])
def test_published_names(running_stats):
    ours = build(50, running_stats=running_stats).state_dict()
    published = to_published_names(ours)
    assert shapes(published) == published_shapes(50)
    assert [from_published_name(name) for name in published] == list(ours)
    # The names that are ours come back as they are.
    assert [from_published_name(name) for name in ours] == list(ours)


# Published names through the loaders


class Recognizer(nn.Module):
    """What a host's recognizer is to a loader."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.cls_head = nn.Linear(2, 2)


def published_checkpoint(backbone, prefix='backbone.'):
    """A recognizer's checkpoint in the published names."""
    state = {f'backbone.{name}': value for name, value in backbone.state_dict().items()}
    state = to_published_names(state)
    assert all(
        '.ModuleList.' in name or '.layer' not in name or '.lstm.' in name
        for name in state
    )
    head = nn.Linear(2, 2).state_dict()
    state.update((f'cls_head.{name}', value) for name, value in head.items())
    return {'meta': {'epoch': 1}, 'state_dict': state}


@pytest.mark.parametrize('depth', [18, 50])
def test_round_trip(depth):
    model = trained(depth, running_stats='shared')
    other = build(depth, running_stats='shared')
    before = to_published_names(model.state_dict())
    names = list(before)
    result = other.load_state_dict(before, strict=True)
    assert result.missing_keys == result.unexpected_keys == []
    same(other.state_dict(), model.state_dict())
    assert list(before) == names  # the caller's dict is left alone


def test_load_state_dict_below_a_parent():
    model = trained()
    recognizer = Recognizer(build())
    recognizer.load_state_dict(published_checkpoint(model)['state_dict'])
    for name, value in recognizer.backbone.state_dict().items():
        if value.dim() < 2 or not name.endswith(('mean', 'var')):
            assert torch.equal(value, model.state_dict()[name]), name


def test_strict_still_finds_what_is_missing_or_too_much():
    state = to_published_names(build().state_dict())
    lacking = 'layer1.ModuleList.0.bn2.lstm.w_ih.0.seq.0.bias'
    del state[lacking]
    state['layer1.ModuleList.0.conv9.weight'] = torch.zeros(1)
    with pytest.raises(RuntimeError) as error:
        build().load_state_dict(state)
    assert 'layer1.0.bn2.relay.input_map.0.bias' in str(error.value)
    assert 'layer1.0.conv9.weight' in str(error.value)


def check_host_loader(load_checkpoint, tmp_path):
    model = trained(50, running_stats='shared')
    path = str(tmp_path / 'published.pth')
    torch.save(published_checkpoint(model), path)
    recognizer = Recognizer(build(50, running_stats='shared'))
    load_checkpoint(recognizer, path, map_location='cpu', strict=True)
    same(recognizer.backbone.state_dict(), model.state_dict())
    grouped = Recognizer(build(50)).eval()
    load_checkpoint(grouped, path, map_location='cpu', strict=True)
    assert torch.equal(grouped.backbone(images()), model(images()))
    with pytest.raises(RuntimeError):
        load_checkpoint(Recognizer(build(18)), path, map_location='cpu', strict=True)


def test_mmengines_loader(tmp_path):
    runner = pytest.importorskip('mmengine.runner', exc_type=ImportError)
    check_host_loader(runner.load_checkpoint, tmp_path)


def test_mmcv_1s_loader(tmp_path, monkeypatch):
    mmcv = pytest.importorskip('mmcv', exc_type=ImportError)
    if not mmcv.__version__.startswith(('0.', '1.')):
        pytest.skip(
            'needs the environment of mmaction v1: .venv-v1/bin/python -m pytest '
            'tests/test_state_dict.py -k mmcv'
        )
    if importlib.util.find_spec('torchvision') is None:
        # Imported for the addresses of its models alone.
        monkeypatch.setitem(sys.modules, 'torchvision', types.ModuleType('torchvision'))
    from mmcv.runner import load_checkpoint

    check_host_loader(load_checkpoint, tmp_path)


# The two layouts of running statistics


def test_shared_into_grouped_is_exactly_the_shared_evaluation():
    shared = trained(running_stats='shared')
    grouped = build().eval()
    grouped.load_state_dict(shared.state_dict())
    name = 'layer2.1.bn2.running_var'
    value = grouped.state_dict()[name]
    assert value.shape == (2, 128)
    assert torch.equal(value, shared.state_dict()[name].repeat(2, 1))
    assert torch.equal(grouped(images()), shared(images()))
    # Each group has its own from now on.
    grouped.train()(images())
    assert not torch.equal(*grouped.state_dict()[name])


def test_grouped_into_shared_is_the_mean():
    grouped = trained()
    shared = build(running_stats='shared')
    shared.load_state_dict(grouped.state_dict())
    published = to_published_names(grouped.state_dict())
    for name in ('running_mean', 'running_var'):
        value = grouped.state_dict()[f'layer3.0.bn2.{name}']
        wanted = (value[0] + value[1]) / 2
        for got in (
            shared.state_dict()[f'layer3.0.bn2.{name}'],
            published[f'layer3.ModuleList.0.bn2.{name}'],
        ):
            torch.testing.assert_close(got, wanted)


def test_other_numbers_of_groups_do_not_fit():
    four = build(num_groups=4)
    with pytest.raises(
        RuntimeError,
        match='size mismatch for '
        r'layer1\.0\.bn2\.running_mean',
    ):
        four.load_state_dict(build(num_groups=2).state_dict())
    state = build(running_stats='shared').state_dict()
    state['layer1.0.bn2.running_mean'] = torch.zeros(63)
    with pytest.raises(RuntimeError, match='size mismatch'):
        four.load_state_dict(state)
    # One group is both layouts.
    one = trained(num_groups=1)
    other = build(num_groups=1, running_stats='shared').eval()
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(images()), one(images()))


# pretrained


@pytest.fixture
def saved(tmp_path):
    """Saves an object, gives the path."""

    def save(obj, name='checkpoint.pth'):
        path = tmp_path / name
        torch.save(obj, path)
        return str(path)

    return save


def imagenet(depth=18):
    """The state dict of an ImageNet ResNet."""
    state = dict(trained(depth, 7, dnr='none').state_dict())
    state['fc.weight'] = torch.zeros(1000, 512)
    state['fc.bias'] = torch.zeros(1000)
    return state


def load(source, caplog, depth=18, **kwargs):
    """A network with it, and the line that was logged."""
    model = build(depth, pretrained=source, **kwargs)
    caplog.clear()
    with caplog.at_level(logging.INFO, 'resnet_dnr'):
        model.init_weights()
    (record,) = caplog.records
    assert record.name == 'resnet_dnr' and record.levelno == logging.INFO
    return model, record.getMessage()


def test_pretrained_imagenet_resnet(saved, caplog):
    state = imagenet()
    path = saved(state)
    model, message = load(path, caplog, dnr='none')
    same(
        model.state_dict(),
        {name: value for name, value in state.items() if not name.startswith('fc.')},
    )
    assert message == (f'{path}: took 120 of 120 tensors')

    model, message = load(path, caplog)
    ours = model.state_dict()
    for name, value in state.items():
        if name in ours:
            # A replaced BatchNorm's statistics are repeated for each group.
            assert torch.equal(ours[name], value.expand_as(ours[name])), name
    assert ours['layer1.0.bn2.running_mean'].shape == (2, 64)
    # A block: 2 convolutions, 2 x 3 buffers and the cross-temporal cell's 8
    # tensors, which an ImageNet ResNet has not; a stage: its cell's 8 more.
    assert message == (f'{path}: took 88 of 184 tensors')


def test_init_weights_without_pretrained(caplog):
    torch.manual_seed(0)
    model = build()
    for p in model.parameters():
        p.data.fill_(7)
    with caplog.at_level(logging.INFO, 'resnet_dnr'):
        model.init_weights()
    assert not caplog.records
    # Kaiming, fan out: variance 2 / (3 * 3 * 512).
    std = model.layer4.get_submodule('1').conv2.weight.std().item()
    assert abs(std / (2 / (9 * 512)) ** 0.5 - 1) < 0.01
    assert (model.bn1.weight == 1).all() and (model.bn1.bias == 0).all()
    assert (model.layer1.relay.input_map[0].weight == 7).all()


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.', 'module.backbone.'])
@pytest.mark.parametrize('published', [False, True])
def test_pretrained_dnr_checkpoint(prefix, published, saved, caplog):
    expected = trained(running_stats='shared')
    state = expected.state_dict()
    if published:
        state = to_published_names(state)
    state = {prefix + name: value for name, value in state.items()}
    state['cls_head.fc_cls.weight'] = torch.zeros(400, 512)
    path = saved(
        {'meta': {'epoch': 3}, 'state_dict': state, 'optimizer': {'param_groups': []}}
    )
    model, message = load(path, caplog, running_stats='shared')
    same(model.state_dict(), expected.state_dict())
    assert message.endswith('took 184 of 184 tensors')


def test_pretrained_fewer_stages(saved, caplog):
    short = dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,))
    _, message = load(saved(imagenet()), caplog, **short)
    assert message.endswith('took 44 of 92 tensors')


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server of tmp_path / 'www': (its address, paths asked for)."""
    (tmp_path / 'www').mkdir()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('no_proxy', '*')
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(Handler, directory=str(tmp_path / 'www'))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}', asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_pretrained_url(server, saved, caplog, tmp_path):
    address, asked = server
    expected = trained()
    saved(expected.state_dict(), 'www/dnr.pth')
    for _ in range(2):  # the second time from torch.hub's folder
        model, message = load(f'{address}/dnr.pth?download=1', caplog)
        same(model.state_dict(), expected.state_dict())
        assert message.startswith(f'{address}/dnr.pth')
    assert asked == ['/dnr.pth?download=1']
    assert (tmp_path / 'home/hub/checkpoints/dnr.pth').is_file()
    with pytest.raises(OSError, match='404'):
        load_pretrained(build(), f'{address}/other.pth')


@pytest.mark.parametrize('depth', [34, 50])
def test_pretrained_of_another_depth(depth, saved):
    path = saved(imagenet(18))
    with pytest.raises(
        ValueError,
        match=re.escape(
            f'{path} is no checkpoint for this ResNet_DNR of depth {depth}: '
            'it lacks layer1.'
        ),
    ):
        load_pretrained(build(depth), path)


def test_pretrained_of_a_deeper_network(saved):
    """ResNet-101 has all names of ResNet-50, and seventeen blocks more."""
    path = saved(
        {name: torch.zeros(shape) for name, shape in torchvision_shapes(101).items()}
    )
    with pytest.raises(
        ValueError,
        match=r'depth 50: it has blocks too many: layer3\.6\.conv1.* \(of 17\)',
    ):
        load_pretrained(build(50, dnr='none'), path)


def test_pretrained_of_other_shapes(saved):
    path = saved(
        {name: torch.zeros(shape) for name, shape in torchvision_shapes(50).items()}
    )
    with pytest.raises(
        ValueError,
        match=r'no checkpoint for .*depth 34: '
        r'(.|\n)*size mismatch for layer1\.0\.conv1\.weight',
    ):
        load_pretrained(build(34), path)
    path = saved(build(num_groups=4).state_dict())
    with pytest.raises(ValueError, match='running_mean'):
        load_pretrained(build(), path)


@pytest.mark.parametrize(
    'lacking, message',
    [
        (('layer3.',), 'layer3.0.conv1.weight (of 17)'),
        (('conv1.', 'bn1.'), 'conv1.weight (of 5)'),
        (('conv1', 'bn1', 'layer'), 'conv1.weight (of 68)'),
        (('layer2.1.conv2',), 'layer2.1.conv2.weight (of 1)'),
    ],
)
def test_pretrained_that_lacks_a_part(lacking, message, saved):
    state = {
        name: value
        for name, value in imagenet().items()
        if not name.startswith(lacking)
    }
    path = saved(state)
    with pytest.raises(
        ValueError,
        match=re.escape(
            f'{path} is no checkpoint for this ResNet_DNR of depth 18: '
            f'it lacks {message}'
        ),
    ):
        load_pretrained(build(), path)


def test_pretrained_is_missing(tmp_path):
    model = build(pretrained=str(tmp_path / 'none.pth'))  # not yet an error
    with pytest.raises(FileNotFoundError, match=re.escape(f'{tmp_path}/none.pth')):
        model.init_weights()
    with pytest.raises(IsADirectoryError):
        load_pretrained(build(), str(tmp_path))


@pytest.mark.parametrize('content', [b'', b'weights', b'\x80\x02.', b'PK'])
def test_pretrained_is_no_checkpoint(content, tmp_path):
    path = tmp_path / 'notes.txt'
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=re.escape(f'{path} cannot be read as a checkpoint')
    ):
        load_pretrained(build(), str(path))


def test_pretrained_is_no_state_dict(saved):
    with pytest.raises(ValueError, match='holds no state dict'):
        load_pretrained(build(), saved(torch.zeros(3)))


class Code:
    """Unpickled with code allowed, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


def test_pretrained_runs_no_code(saved, server, tmp_path):
    address, _ = server
    mark = tmp_path / 'was here'
    state = dict(imagenet(), extra=Code(str(mark)))
    saved(state, 'www/code.pth')
    for source in (str(tmp_path / 'www/code.pth'), f'{address}/code.pth'):
        with pytest.raises(
            ValueError,
            match='cannot be read as a checkpoint of tensors and plain data alone$',
        ):
            load_pretrained(build(), source)
        assert not mark.exists()
    torch.load(tmp_path / 'www/code.pth', weights_only=False)
    assert mark.exists()  # it would have
