"""WithDNR and add_dnr on mmaction2's networks, and the configs that name them."""

import copy
import inspect
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from hosts import HostError
from hosts.backbones import (
    UNSEEN,
    backbone_warning,
    check_pretrained,
    unseen_of,
)
from hosts.mmaction2 import import_components, load_config, translate
from hosts.mmaction2_components import FastWithDNR, shift_in_layout
from hosts.mmaction2_runner import build_backbone
from mmaction.models.backbones.resnet_tsm import TemporalShift
from mmengine.config import Config
from mmengine.registry import DefaultScope

from add_dnr import RelayStage, WithDNR, add_dnr
from resnet_dnr import DynamicNorm, ResNet_DNR

pytest.importorskip('mmaction', reason='needs mmaction2: ./tools/setup/setup_env.sh')
CONFIGS = ROOT / 'configs'
# Of each network: its config, what makes it small, and its input.
R2PLUS1D = dict(
    pretrained2d=False,
    conv_cfg=dict(type='Conv2plus1d'),
    norm_cfg=dict(type='BN3d', eps=1e-3),
    temporal_strides=(1, 2, 2, 2),
)
NETWORKS = {
    'ResNet': (dict(depth=18), 2),
    'ResNetTSM': (dict(depth=18, num_segments=4, pretrained2d=False), 2),
    'ResNet3d': (dict(depth=18, base_channels=8, pretrained2d=False), 3),
    'ResNet3dSlowOnly': (dict(depth=50, base_channels=4, lateral=False), 3),
    'ResNet2Plus1d': (dict(depth=18, base_channels=8, **R2PLUS1D), 3),
}


def build(kind, dnr='both', **more):
    import_components(
        translate(load_config(str(CONFIGS / 'DNR_resnet18_arrow_demo.py')))
    )
    network = dict(type=kind, **{**NETWORKS[kind][0], **more})
    return WithDNR(network, n_segment=4, dnr=dnr)


@pytest.fixture(autouse=True)
def scope():
    """A Runner's: mmcv finds mmaction2's convolutions in it."""
    with DefaultScope.overwrite_default_scope('mmaction'):
        yield


def clips(dims, size=32):
    torch.manual_seed(0)
    return torch.randn((8, 3, size, size) if dims == 2 else (2, 3, 4, size, size))


@pytest.mark.parametrize('kind', sorted(NETWORKS))
def test_networks(kind):
    """Names stay; init_weights is the host's; a step and an evaluation."""
    torch.manual_seed(0)
    plain = build(kind, 'none')
    network = build(kind)
    assert type(network) is type(plain)
    names = set(network.state_dict())
    dropped = set(plain.state_dict()) - names
    assert all(name.endswith(('.weight', '.bias')) for name in dropped)
    assert all('.relay.' in name for name in names - set(plain.state_dict()))
    assert sum(isinstance(m, RelayStage) for m in network.modules()) == 4
    before = copy.deepcopy(network.state_dict())
    network.init_weights()
    after = network.state_dict()
    for name in names:  # relay cells stay, convolutions are drawn anew
        if '.relay.' in name:
            assert torch.equal(after[name], before[name])
    first = next(name for name, value in before.items() if value.dim() > 3)
    assert not torch.equal(after[first], before[first])
    network.train()
    network(clips(NETWORKS[kind][1])).square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    network.eval()
    with torch.no_grad():
        assert network(clips(NETWORKS[kind][1])).isfinite().all()


def test_groups_follow_the_frames_of_a_stage():
    network = build('ResNet2Plus1d')
    groups = [getattr(network, name)[0].conv2.bn for name in network.res_layers]
    assert [(bn.frames, bn.num_groups) for bn in groups] == [
        (4, 4),
        (2, 2),
        (1, 1),
        (1, 1),
    ]
    assert groups[0].eps == 1e-3
    assert type(network.layer1[0].conv1.conv.bn_s) is torch.nn.BatchNorm3d


def test_pretrained_weights(tmp_path):
    """Of torchvision's names, inflated to 3D as the host does it."""
    from resnet_dnr import ResNet_DNR

    torch.manual_seed(0)
    path = str(tmp_path / 'imagenet.pth')
    source = ResNet_DNR(18, dnr='none').state_dict()
    source['layer1.0.bn2.running_mean'].fill_(3)
    torch.save(source, path)
    slow = dict(base_channels=64, depth=18, pretrained=path)
    for kind, more in (
        ('ResNet', dict(pretrained=path)),
        ('ResNetTSM', dict(pretrained=path, pretrained2d=True)),
        ('ResNet3dSlowOnly', slow),
    ):
        network = build(kind, **more)
        network.init_weights()
        mean = network.layer1[0].conv2.bn.running_mean
        assert mean.shape == (4, 64) and (mean == 3).all(), kind
        conv = network.layer1[1].conv2.conv.weight
        wanted = source['layer1.1.conv2.weight']
        assert torch.equal(conv.reshape(wanted.shape), wanted), kind


@pytest.mark.parametrize('kind', ['ResNet', 'ResNet3d'])
def test_freezing(kind):
    network = build(kind, norm_eval=True, frozen_stages=1)
    # What the conversion's pass has frozen stays so for DistributedDataParallel.
    assert not network.layer1[0].conv1.conv.weight.requires_grad
    network.train()
    norms = [m for m in network.modules() if isinstance(m, DynamicNorm)]
    assert len(norms) == 16 and not any(norm.training for norm in norms)
    frozen = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert 'layer1.relay.input_map.0.weight' in frozen
    assert 'layer1.0.conv2.bn.relay.input_map.0.weight' in frozen
    assert not any(name.startswith('layer2') for name in frozen)


def test_recomputing_blocks_with_the_hosts_switch():
    """mmaction2's own recomputation is the kind that would lose the relay."""
    results = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        network = build('ResNet3dSlowOnly', with_cp=with_cp).double()
        network(clips(3).double()).square().mean().backward()
        results.append([*(p.grad for p in network.parameters()), *network.buffers()])
    assert network.layer1.recomputed == {'0', '1', '2'}
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_shifts_of_another_length():
    with pytest.raises(ValueError, match='n_segment=4.* is made for 2'):
        build('ResNetTSM', num_segments=2)


@pytest.mark.parametrize(
    'options',
    [dict(non_local=((0, 0), (1, 0), (0, 0), (0, 0))), dict(temporal_pool=True)],
    ids=lambda options: next(iter(options)),
)
def test_wrapped_blocks_and_stages(options):
    if 'temporal_pool' not in options:
        from mmaction.models.backbones.resnet_tsm import TemporalShift

        network = build('ResNet', 'none')
        for name in network.res_layers:  # TSM's shift_place='block'
            stage = [TemporalShift(b, 4) for b in getattr(network, name)]
            setattr(network, name, torch.nn.Sequential(*stage))
        add_dnr(network, 4)
        assert 'layer1.0.net.conv1.bn' in dict(network.named_modules())
    else:
        network = build('ResNetTSM', **options)
        assert network.layer2.net[0].conv2.bn.n_segment == 2
    out = network(clips(2))
    assert out.isfinite().all()


# Configs


def arrow(config, tmp_path, **network):
    """A config of the repository for small clips, as a file."""
    data = tmp_path / 'arrow'
    train = f"ann_file='{data}/train.txt', img_prefix='{data}/rawframes/train'"
    text = f"""
_base_ = {str(CONFIGS / config)!r}
clip = dict(
    type='RawFramesDataset', image_tmpl='image_{{:05d}}.jpg', img_scale=32,
    input_size=32, flip_ratio=0, flip_label_map=None, multiscale_crop=False,
    oversample=None, new_step=1, random_shift=False)
data = dict(
    videos_per_gpu=2,
    workers_per_gpu=0,
    train=dict({train}, **clip),
    val=dict({train}, **clip),
    test=dict({train}, **clip))
data['test'].update(num_segments={8 if config.startswith('TSM') else 1})
model = dict(
    backbone=dict(backbone=dict({', '.join(f'{k}={v!r}' for k, v in network.items())})),
    spatial_temporal_module=dict(spatial_size=1),
    cls_head=dict(num_classes=4, in_channels=512))
lr_config = dict(warmup_iters=1)
total_epochs = 1
work_dir = '{tmp_path}/work'
"""
    path = tmp_path / 'config.py'
    path.write_text(text)
    return str(path)


SMALL = {
    'TSM_DNR_resnet50_kinetics400_rgb_seg8_f1.py': dict(
        depth=18, pretrained=None, pretrained2d=False
    ),
    'SlowOnly_DNR_resnet50_kinetics400_rgb_seg1_f8s8.py': dict(depth=18),
    'R2plus1d_DNR_resnet34_kinetics400_rgb_seg1_f8s8.py': dict(depth=18),
}


@pytest.fixture
def demo(tmp_path):
    """Four generated clips of 10 frames, of four classes."""
    subprocess.run(
        [
            *(sys.executable, ROOT / 'tools/data/make_arrow_dataset.py'),
            *(tmp_path / 'arrow', '--pairs', '2', '--size', '32'),
            *('--train', '1', '--val', '1', '--test', '1', '--workers', '1'),
        ],
        check=True,
    )
    return tmp_path


@pytest.mark.parametrize(
    'path', sorted(p.name for p in CONFIGS.glob('*_DNR_*.py')), ids=lambda p: p[:20]
)
def test_configs_translate(path):
    config = load_config(str(CONFIGS / path))
    if path.endswith('mmaction_v1.py'):
        with pytest.raises(HostError, match="type='ResNet_I3D' cannot be honoured"):
            translate(config)
        return
    model = translate(config).model
    assert model.backbone.type == 'WithDNR'
    three_d = not path.startswith('TSM')
    assert model.type == ('Recognizer3D' if three_d else 'Recognizer2D')
    assert model.data_preprocessor.format_shape == ('NCTHW' if three_d else 'NCHW')


@pytest.mark.parametrize(
    'change, text',
    [
        ({'model.spatial_temporal_module.temporal_size': 4}, 'gives 8 frames of feat'),
        ({'data.train.input_format': 'NCHW'}, "data.train.input_format='NCHW' cannot"),
        ({'data.train.num_segments': 2}, 'num_segments=2 cannot be honoured'),
        ({'model.backbone.n_segment': 4}, 'n_segment=4 is not the clip of data.train'),
        (
            {'model.backbone.backbone.type': 'ResNet'},
            "type='ResNet' cannot be honoured",
        ),
        ({'model.backbone.backbone': 3}, 'should be the config of the network'),
        ({'model.backbone.type': 'ResNet_DNR'}, "'ResNet_DNR' cannot be honoured"),
    ],
)
def test_configs_refused(change, text):
    path = CONFIGS / 'SlowOnly_DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
    with pytest.raises(HostError, match=text):
        translate(load_config(str(path), change))


def test_tsm_of_no_weights_is_refused():
    """ResNetTSM would look for a file that has no name."""
    path = CONFIGS / 'TSM_DNR_resnet50_kinetics400_rgb_seg8_f1.py'
    change = {'model.backbone.backbone.pretrained': None}
    backbone = translate(load_config(str(path), change)).model.backbone
    with pytest.raises(HostError, match='for random weights, set .*pretrained2d=False'):
        check_pretrained(backbone)
    backbone.backbone.pretrained2d = False
    check_pretrained(backbone)
    check_pretrained(dict(type='ResNet_DNR'))


@pytest.mark.parametrize(
    'change, text',
    [
        ({'model.backbone.groups': 4}, 'model.backbone.groups=4 is unknown'),
        ({'model.backbone.num_groups': 3}, 'model.backbone: with n_segment=8, num_gr'),
        (
            {'model.backbone.backbone.dept': 3},
            r'backbone.backbone.dept=3 is unknown; .*depth',
        ),
        ({'model.cls_head.in_channels': 3}, 'in_channels=3, but the backbone .* 512'),
        ({'model.backbone.backbone.pretrained': 'no.pth'}, 'pretrained: .*no.pth'),
    ],
)
def test_backbones_refused(change, text):
    path = CONFIGS / 'SlowOnly_DNR_resnet50_kinetics400_rgb_seg1_f8s8.py'
    small = {'model.backbone.backbone.depth': 18, 'model.cls_head.in_channels': 512}
    cfg = translate(load_config(str(path), {**small, **change}))
    import_components(cfg)
    with pytest.raises(HostError, match=text):
        build_backbone(cfg.model)


def test_native_configs(tmp_path):
    """They stand beside mmaction2's own, and name networks that can be converted."""
    import mmaction

    own = mmaction.__path__[0] + '/.mim/configs'
    shutil.copytree(own, tmp_path / 'configs')
    shutil.copytree(CONFIGS / 'mmaction2', tmp_path / 'configs', dirs_exist_ok=True)
    names = sorted((CONFIGS / 'mmaction2').glob('*/*/*.py'))
    assert len(names) == 4
    for name in names:
        path = tmp_path / 'configs' / name.relative_to(CONFIGS / 'mmaction2')
        model = Config.fromfile(path).model
        model.backbone.backbone.depth = 18
        network = WithDNR(**{k: v for k, v in model.backbone.items() if k != 'type'})
        assert sum(isinstance(m, RelayStage) for m in network.modules()) == 4


@pytest.mark.full
@pytest.mark.parametrize('config', sorted(SMALL), ids=lambda name: name[:8])
def test_train_and_test(demo, config):
    """One command trains a converted network on the demo's data, one tests it."""
    path = arrow(config, demo, **SMALL[config])
    for command in (
        ['train_recognizer.py', path],
        ['test_recognizer.py', path, demo / 'work/epoch_1.pth', '--out']
        + [demo / 'scores.pkl'],
    ):
        done = subprocess.run(
            [sys.executable, ROOT / 'tools' / command[0], *command[1:]],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout
    state = torch.load(demo / 'work/epoch_1.pth', weights_only=True)['state_dict']
    assert 'backbone.layer1.relay.input_map.0.weight' in state
    assert (demo / 'scores.pkl').stat().st_size


def test_a_shift_keeps_the_layout():
    x = torch.randn(8, 20, 5, 3, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    plain = TemporalShift.shift(x, 4, 8)
    fast = shift_in_layout(x, 4, 8)
    assert torch.equal(fast, plain)
    assert torch.equal(shift_in_layout(x.contiguous(), 4, 8), plain)
    assert fast.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.randn_like(plain)
    got, wanted = (torch.autograd.grad(y, x, gradient)[0] for y in (fast, plain))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    'kind, layout',
    [
        ('ResNetTSM', torch.channels_last),
        ('ResNet3dSlowOnly', torch.channels_last_3d),
        ('ResNet2Plus1d', torch.channels_last_3d),
    ],
)
def test_settings_of_speed(kind, layout):
    plain = build(kind)
    options, dims = NETWORKS[kind]
    network = dict(type=kind, **options)
    fast = FastWithDNR(network, n_segment=4, channels_last=True)
    fast.init_weights()
    assert isinstance(fast, type(plain))
    weights = [p for p in fast.parameters() if p.dim() == dims + 2]
    assert all(w.is_contiguous(memory_format=layout) for w in weights)
    fast.load_state_dict(plain.state_dict())
    fast = copy.deepcopy(fast)
    x = clips(dims)
    copied = []  # inputs of convolutions that are of another layout

    def watch(name):
        def hook(module, inputs, output):
            if not inputs[0].is_contiguous(memory_format=layout):
                copied.append(name)

        return hook

    for name, m in fast.named_modules():
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Conv3d)):
            m.register_forward_hook(watch(name))
    plain.double()
    fast.double()
    for mode in (True, False):
        plain.train(mode)
        fast.train(mode)
        torch.testing.assert_close(fast(x.double()), plain(x.double()))
    # Of doubles, a CPU's 3D convolutions are contiguous.
    assert copied == [] or dims == 3
    # In bfloat16, networks as small as these are far from themselves.
    fast.float().set_speed(amp='bf16')
    dtypes = []
    for m in fast.modules():
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Conv3d)):
            m.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    fast.train()
    got = fast(x)
    assert got.dtype == torch.float32
    assert set(dtypes) == {torch.bfloat16}
    got.square().mean().backward()
    assert all(p.grad is not None for p in fast.parameters())


def test_settings_of_speed_in_a_config():
    path = CONFIGS / 'TSM_DNR_resnet50_sthv2_rgb_seg8_f1.py'
    options = {'amp': 'bf16', 'model.backbone.backbone.pretrained': None}
    native = translate(load_config(str(path), options))
    assert native.model.backbone.type == 'FastWithDNR'
    assert build_backbone(native.model).amp == 'bf16'


@pytest.mark.parametrize(
    'meta, warning',
    [
        (dict(backbone=unseen_of(dict(type='WithDNR', n_segment=8))), None),
        (
            dict(backbone=unseen_of(dict(type='WithDNR', n_segment=4))),
            'a.pth is tested with model.backbone.n_segment=8, and trained with 4',
        ),
        (dict(backbone={}), None),
        (dict(backbone=3), None),
        (3, None),
    ],
)
def test_a_network_that_computes_another(meta, warning):
    backbone = dict(type='WithDNR', backbone=dict(type='ResNetTSM'))
    assert backbone_warning(dict(meta=meta), 'a.pth', backbone) == warning
    assert backbone_warning(dict(), 'a.pth', backbone) is None
    assert unseen_of(dict(type='ResNet')) == {}
    for made in (add_dnr, ResNet_DNR):
        parameters = inspect.signature(made).parameters
        assert {name: parameters[name].default for name in UNSEEN} == UNSEEN
