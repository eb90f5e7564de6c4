"""add_dnr on networks written out here; tests/hosts/test_with_dnr.py has the hosts'."""

import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from literal_resnets import BasicBlock, Bottleneck, ResNet, small
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from add_dnr import HostedCrossTemporalNorm, RelayStage, add_dnr
from resnet_dnr import CrossTemporalNorm, DynamicNorm, ResNet_DNR

DNR = ['both', 'cross_temporal', 'cross_layer']


def images(clips=2, frames=4, size=32, dims=2):
    torch.manual_seed(1)
    x = torch.randn(clips * frames, 3, size, size)
    if dims == 3:
        x = x.unflatten(0, (clips, frames)).transpose(1, 2).contiguous()
    return x


def step(run, x, network=None):
    """The output and all gradients of a training step of a network, or what runs it."""
    network = network or run
    network.zero_grad()
    out = run(x)
    out.square().mean().backward()
    return [out.detach()] + [p.grad for p in network.parameters()]


def close(a, b, rtol=1e-9, atol=1e-9):
    assert len(a) == len(b)
    for x, y in zip(a, b):
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol)


# The same as ResNet_DNR


@pytest.mark.parametrize('dnr', DNR)
@pytest.mark.parametrize(
    'depth', [18, pytest.param(50, marks=pytest.mark.full)], ids=str
)
def test_a_resnet_becomes_resnet_dnr(depth, dnr):
    """Names, outputs, gradients and running statistics."""
    kwargs = dict(n_segment=4, num_groups=2, dnr=dnr)
    stages = dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,))
    wanted = ResNet_DNR(depth, bn_eval=False, **stages, **kwargs).double()
    block = BasicBlock if depth == 18 else Bottleneck
    network = ResNet(block, ResNet_DNR.arch_settings[depth][1][:2]).double()
    assert add_dnr(network, **kwargs) is network
    state = wanted.state_dict()
    assert network.state_dict().keys() == state.keys()
    network.load_state_dict(state)
    x = images().double()
    names = [name for name, _ in network.named_parameters()]
    outs, gradients = [], []
    for net in (wanted, network):
        out, *_ = step(net, x)
        outs.append(out)
        of_name = dict(net.named_parameters())
        gradients.append([of_name[name].grad for name in names])
    close(outs[:1], outs[1:])
    close(*gradients)
    after = wanted.state_dict()
    close([network.state_dict()[name] for name in after], list(after.values()))
    wanted.eval(), network.eval()
    close([network(x)], [wanted(x)])


@pytest.mark.parametrize('stats', ['grouped', 'shared'])
def test_running_statistics_and_settings_are_kept(stats):
    plain = small()
    plain.layer1[0].bn2.eps, plain.layer1[0].bn2.momentum = 1e-3, 0.2
    plain(images())
    bn = copy.deepcopy(plain.layer1[0].bn2)
    norm = add_dnr(plain, 4, 2, running_stats=stats).layer1[0].bn2
    assert (norm.eps, norm.momentum, norm.num_batches_tracked) == (1e-3, 0.2, 1)
    for name in ('running_mean', 'running_var'):
        value = getattr(norm, name)
        assert value.shape == ((2, 8) if stats == 'grouped' else (8,))
        assert torch.equal(value, getattr(bn, name).expand_as(value))


def test_names_of_a_checkpoint_before_the_conversion():
    plain = small()
    plain(images())
    before = copy.deepcopy(plain.state_dict())
    network = add_dnr(small(seed=5), 4)
    result = network.load_state_dict(before, strict=False)
    assert not result.unexpected_keys
    assert result.missing_keys and all('relay.' in n for n in result.missing_keys)
    after = network.state_dict()
    dropped = {name for name in before if name not in after}
    assert dropped == {
        f'layer{s}.{b}.bn{k}.{name}'
        for s in (1, 2)
        for b in (0, 1)
        for k in (1, 2)
        for name in ('weight', 'bias')
    }
    for name in before.keys() - dropped:
        assert torch.equal(after[name], before[name].expand_as(after[name])), name
    with pytest.raises(RuntimeError, match='relay'):  # strict is strict
        network.load_state_dict(before)
    add_dnr(small(seed=6), 4).load_state_dict(after)


def test_none_is_no_conversion():
    network = small()
    before = list(network.modules())
    assert add_dnr(network, 4, dnr='none') is network
    assert list(network.modules()) == before


# 3D


def clips_of(x, layout):
    return x.contiguous(
        memory_format=torch.channels_last_3d
        if layout == 'last'
        else torch.contiguous_format
    )


def norm_3d(frames, groups, channels=8):
    torch.manual_seed(0)
    norm = HostedCrossTemporalNorm(channels, groups, groups, 'grouped')
    norm.frames = frames
    return norm


@pytest.mark.parametrize('layout', ['last', 'contiguous'])
@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize('backend', ['plain', 'aten'])
def test_clips_are_normalized_as_their_frames(layout, groups, backend):
    clips = clips_of(torch.randn(3, 8, 4, 5, 6), layout).requires_grad_()
    norm = norm_3d(4, groups)
    norm.backend = backend
    wanted = CrossTemporalNorm(8, 4, groups, 'grouped', 'plain')
    wanted.load_state_dict(norm.state_dict())
    frames = clips.detach().transpose(1, 2).flatten(0, 1).requires_grad_()
    out, right = norm(clips), wanted(frames)
    assert out.stride() == clips.stride()
    weight = torch.randn(right.shape)
    (right * weight).sum().backward()
    weight = weight.unflatten(0, (3, 4)).transpose(1, 2)
    (out * weight).sum().backward()
    back = [t.transpose(1, 2).flatten(0, 1) for t in (out, clips.grad)]
    close(back, [right, frames.grad], 1e-4, 1e-5)
    close(list(norm.buffers()), list(wanted.buffers()), 1e-4, 1e-6)


@pytest.mark.parametrize(
    'layout, frames, groups, copied',
    [
        ('last', 4, 4, False),
        ('last', 4, 1, False),
        ('last', 1, 1, False),
        ('contiguous', 4, 1, False),
        ('contiguous', 1, 1, False),
        ('contiguous', 4, 4, True),
    ],
)
def test_what_the_kernels_see_is_a_view(layout, frames, groups, copied):
    """In a layout that they take as it is, and so is what they give: strides, too, by
    which convolutions tell the layout."""
    x = clips_of(torch.randn(3, 8, frames, 5, 6), layout)
    norm = norm_3d(frames, groups)
    seen = norm.as_images(x)
    assert (seen.data_ptr() != x.data_ptr()) == copied
    last = layout == 'last'
    memory_format = torch.channels_last if last else torch.contiguous_format
    assert seen.is_contiguous(memory_format=memory_format)
    out = torch.empty_like(seen)
    back = norm.as_before(out, x)
    assert (back.data_ptr() != out.data_ptr()) == copied
    assert back.stride() == x.stride()
    traced = make_fx(
        lambda x: norm.as_before(norm.as_images(x) + 1, x), tracing_mode='fake'
    )(x)
    *_, last = (n for n in traced.graph.nodes if n.op == 'call_function')
    assert last.meta['val'].stride() == x.stride()


def test_a_temporal_stride_leaves_fewer_groups():
    network = add_dnr(small(dims=3, layers=(1, 1, 1)), n_segment=12, num_groups=4)
    found = [
        (stage[0].bn2.frames, stage[0].bn2.num_groups)
        for stage in (network.layer1, network.layer2, network.layer3)
    ]
    assert found == [(12, 4), (6, 3), (3, 3)]
    assert network(images(2, 12, dims=3)).shape == (2, 32, 3, 2, 2)
    with pytest.raises(ValueError, match='takes clips of 12 frames'):
        network(images(2, 8, dims=3))


@pytest.mark.parametrize('block', [BasicBlock, Bottleneck])
def test_layouts_of_a_3d_network_agree(block):
    network = add_dnr(small(block, 3), 4).double()
    x = images(dims=3).double()
    last = copy.deepcopy(network).to(memory_format=torch.channels_last_3d)
    a = step(network, x)
    b = step(last, x.to(memory_format=torch.channels_last_3d))
    close(a, b)


def test_a_relu_in_a_container_is_the_norms():
    class Contained(nn.Module):
        """As in torchvision's video networks."""

        def __init__(self):
            super().__init__()
            self.conv1 = nn.Sequential(
                nn.Conv3d(3, 8, 1), nn.BatchNorm3d(8), nn.ReLU(inplace=True)
            )
            self.conv2 = nn.Sequential(nn.Conv3d(8, 4, 1), nn.BatchNorm3d(4))
            self.downsample = None

        def forward(self, x):
            self.between = self.conv1(x)
            return self.conv2(self.between)

    network = nn.Sequential(nn.Sequential(Contained()), nn.Flatten())
    add_dnr(network, 4)
    block = network[0][0]
    assert block.conv1[1].apply_relu and isinstance(block.conv1[2], nn.Identity)
    assert not block.conv2[1].apply_relu
    network(images(dims=3))
    assert block.between.min() == 0


# Recomputation, copies


@pytest.mark.parametrize('dims', [2, 3])
def test_recomputed_blocks(dims):
    """Nothing changes, and running statistics move once."""
    x = images(dims=dims)
    results = []
    for with_cp in (False, True):
        network = add_dnr(small(dims=dims), 4, with_cp=with_cp)
        results.append(step(network, x) + list(network.buffers()))
    assert network.layer1.recomputed == {'0', '1'}
    close(*results, rtol=1e-6, atol=1e-7)


def test_the_blocks_own_switch_is_taken_over():
    network = small()
    network.layer1[1].with_cp = True
    add_dnr(network, 4)
    assert network.layer1.recomputed == {'1'} and not network.layer2.recomputed
    assert not network.layer1[1].with_cp


@pytest.mark.parametrize('reentrant', [False, True])
def test_a_checkpointed_stage(reentrant):
    network = add_dnr(small(), 4)
    x = torch.randn(8, 8, 8, 8, requires_grad=True)
    gradients = []
    for run in (
        network.layer1,
        lambda x: checkpoint(network.layer1, x, use_reentrant=reentrant),
    ):
        network.zero_grad()
        x.grad = None
        run(x).square().sum().backward()
        gradients.append([x.grad, *(p.grad for p in network.layer1.parameters())])
    close(*gradients, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('with_cp', [False, True])
def test_what_is_recomputed_runs_twice(with_cp):
    network = add_dnr(small(layers=(2, 2)), 4, with_cp=with_cp)
    calls = []
    network.layer1[0].conv1.register_forward_pre_hook(lambda *_: calls.append(1))
    if with_cp:
        step(network, images())
    else:
        step(lambda x: checkpoint(network, x, use_reentrant=False), images(), network)
    assert len(calls) == 2


def test_a_block_without_its_stage_is_refused():
    network = add_dnr(small(), 4)
    with pytest.raises(RuntimeError, match='called without its stage.*with_cp=True'):
        network.layer1[1](torch.randn(8, 8, 8, 8))
    add_dnr(small(), 4, dnr='cross_temporal').layer1[1](torch.randn(8, 8, 8, 8))


def test_two_passes_before_one_backward():
    network = add_dnr(small(), 4, with_cp=True)
    x, y = images(), images(size=48)
    both = step(network, x)[1:]
    both = [a + b for a, b in zip(both, step(network, y)[1:])]
    network.zero_grad()
    (network(x).square().mean() + network(y).square().mean()).backward()
    close([p.grad for p in network.parameters()], both, 1e-5, 1e-6)


def test_copies_and_pickles():
    """Also after a pass, of which nothing stays in the modules."""
    network = add_dnr(small(), 4)
    network(images())
    wanted = step(copy.deepcopy(network), images())
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert type(other.layer1) is RelayStage
        close(step(other, images()), wanted)

    def fail(*_):
        raise ZeroDivisionError

    hook = network.layer1[0].conv2.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        network(images())
    hook.remove()
    close(step(pickle.loads(pickle.dumps(network)), images()), wanted)


def test_a_stage_is_a_sequence():
    network = small()
    blocks = list(network.layer1)
    stage = add_dnr(network, 4).layer1
    assert list(stage) == blocks and len(stage) == 2
    assert (stage[0], stage[-1]) == (blocks[0], blocks[1])
    with pytest.raises(TypeError, match='no slices'):
        stage[:1]
    before = network(images())
    stage.add_module('2', nn.ReLU().requires_grad_(False))
    stage.add_module('3', nn.MaxPool2d(2))  # what is added is called
    assert (
        len(stage) == 4 and network.layer1(before.new_zeros(4, 8, 8, 8)).size(-1) == 4
    )


@pytest.mark.parametrize('with_cp', [False, True])
def test_threads_do_not_meet(with_cp):
    """Each has its own state on the way through a network that they share."""
    network = add_dnr(small(), 4, with_cp=with_cp).eval()
    inputs = [images(clips=clips) for clips in (1, 2, 3, 4)]
    wanted = [step(network, x)[0] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            close(list(pool.map(network, inputs)), wanted)


def test_blocks_that_are_compiled_alone():
    network = add_dnr(small(), 4)
    wanted = step(copy.deepcopy(network), images())
    network.layer1[1].compile(backend='eager')
    close(step(network, images()), wanted, 1e-4, 1e-5)


def test_a_stage_stays_the_same_object():
    """So whatever else has it, such as a list, has the converted one."""

    class Listed(nn.Sequential):
        pass

    network = small()
    network.layer1 = Listed(*network.layer1)
    network.layer1.width = 8
    stage, calls = network.layer1, []
    network.listed = [stage]
    stage.register_forward_hook(lambda *_: calls.append(True))
    add_dnr(network, 4)
    assert network.listed[0] is network.layer1 is stage and stage.width == 8
    calls.clear()
    network(images())
    assert calls == [True] and type(stage) is RelayStage


def test_some_stages_alone():
    network = small()
    add_dnr(nn.Sequential(network.layer2), 4)
    assert type(network.layer1) is nn.Sequential and type(network.layer2) is RelayStage
    step(network, images())


@pytest.mark.parametrize('name', ['relay', 'norms', 'recomputed', 'names'])
def test_names_that_a_stage_has(name):
    network = small()
    blocks = dict(network.layer1.named_children())
    network.layer1 = nn.Sequential()
    for old, block in blocks.items():
        network.layer1.add_module(name if old == '1' else old, block)
    modules = list(network.modules())
    with pytest.raises(ValueError, match=rf'layer1\.{name} should have another name'):
        add_dnr(network, 4)
    assert list(network.modules()) == modules


def test_averaged_weights_get_their_statistics():
    """By the momentum that docs/any_network.md says."""
    network = add_dnr(small(), 4)
    norms = [m for m in network.modules() if hasattr(m, 'running_mean')]
    batches = [images(), images(), images()]
    wanted = []
    for batch in batches:
        copied = copy.deepcopy(network)
        for norm in copied.modules():
            norm.momentum = 1
        copied(batch)
        wanted.append(copied.layer1[0].bn2.running_mean)
    for k, batch in enumerate(batches, 1):
        for norm in norms:
            norm.momentum = 1 / k
        network(batch)
    close([network.layer1[0].bn2.running_mean], [sum(wanted) / 3], 1e-5, 1e-6)


def test_on_the_meta_device_first():
    network = add_dnr(small(), 4).to('meta').to_empty(device='cpu')
    for module in network.modules():
        if hasattr(module, 'reset_parameters'):
            module.reset_parameters()
    norm = network.layer1[0].bn2
    assert norm.running_mean.eq(0).all() and norm.running_var.eq(1).all()
    assert norm.num_batches_tracked == 0


def test_a_bias_that_is_trained_is_enough():
    network = small()
    network.requires_grad_(False)
    network.layer1[0].bn2.bias.requires_grad = True
    add_dnr(network, 4)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith('layer1.0.bn2.relay') for name in trained)


# Modes


def test_modes_and_requires_grad_are_the_batchnorms():
    network = small()
    network.layer1.eval().requires_grad_(False)
    add_dnr(network, 4)
    assert network.training and not network.layer1[0].bn2.training
    assert not any(p.requires_grad for p in network.layer1.parameters())
    assert all(p.requires_grad for p in network.layer2.parameters())
    network.train()  # nothing here holds it
    assert network.layer1[0].bn2.training


class Held(ResNet):
    """As mmaction2's norm_eval, and mmaction v1's bn_eval."""

    def train(self, mode=True):
        super().train(mode)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eval()
        return self


def test_what_the_network_holds_in_evaluation_mode_stays_there():
    network = add_dnr(Held(BasicBlock, (2,), 8), 4)
    network.train()
    norms = [m for m in network.modules() if isinstance(m, DynamicNorm)]
    assert len(norms) == 4 and not any(m.training for m in norms)
    before = [b.clone() for b in network.buffers()]
    network(images()).sum().backward()
    close(list(network.buffers()), before)
    assert norms[1].relay.input_map[0].weight.grad is not None


def test_autocast():
    network = add_dnr(small(), 4)
    with torch.autocast('cpu', torch.bfloat16):
        out = network(images())
    out.float().sum().backward()
    wanted = add_dnr(small(), 4)(images())
    torch.testing.assert_close(out.float(), wanted, rtol=0.1, atol=0.1)
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize('dnr', DNR)
def test_every_parameter_has_a_gradient(dnr):
    """DistributedDataParallel waits for it."""
    network = add_dnr(small(), 4, dnr=dnr)
    assert all(g is not None and g.isfinite().all() for g in step(network, images()))


@pytest.mark.full
def test_distributed_data_parallel(tmp_path):
    store = f'file://{tmp_path / "store"}'
    torch.distributed.init_process_group('gloo', store, rank=0, world_size=1)
    try:
        network = add_dnr(small(), 4, with_cp=True)
        alone = copy.deepcopy(network)
        wrapped = nn.parallel.DistributedDataParallel(network)
        for _ in range(2):
            close(step(wrapped, images()), step(alone, images()), 1e-6, 1e-7)
        with pytest.raises(ValueError, match='before DistributedDataParallel wraps'):
            add_dnr(nn.parallel.DistributedDataParallel(small()), 4)
    finally:
        torch.distributed.destroy_process_group()


# Compilers


@pytest.mark.full
@pytest.mark.parametrize('dims', [2, 3])
def test_compile_and_export(dims):
    network = add_dnr(small(dims=dims, layers=(1,)), 4)
    x = images(size=16, dims=dims)
    compiled = torch.compile(network, fullgraph=True, backend='aot_eager')
    close(step(compiled, x), step(copy.deepcopy(network), x), 1e-4, 1e-5)
    network.eval()
    exported = torch.export.export(network, (x,)).module()
    close([exported(x)], [network(x)], 1e-5, 1e-5)


@pytest.mark.full
@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason='no CUDA here; on a GPU: ./tools/run_tests.sh --full tests/test_add_dnr.py',
)
def test_cuda_clips_of_one_frame_compile():
    """The last stage has T = 1."""
    network = add_dnr(small(dims=3, layers=(1, 1, 1)), 4).cuda()
    network.to(memory_format=torch.channels_last_3d)
    x = images(dims=3).cuda().to(memory_format=torch.channels_last_3d)
    with torch.autocast('cuda', torch.bfloat16):
        compiled = step(torch.compile(network), x)
        close(compiled, step(copy.deepcopy(network), x), 0.1, 0.1)


@pytest.mark.full
def test_triton_on_clips():
    """The kernels see the clip's own memory, and compute what 'plain' does."""
    code = """
import torch
import resnet_dnr_fused as fused
from test_add_dnr import clips_of, norm_3d

seen = []
laid_out = fused._laid_out


def record(tensor, *args):
    out = laid_out(tensor, *args)
    if tensor.dim() == 4:
        seen.append(out.data_ptr() == tensor.data_ptr())
    return out


fused._laid_out = record
for layout, groups in (('last', 2), ('contiguous', 1)):
    x = clips_of(torch.randn(2, 8, 4, 3, 4), layout).requires_grad_()
    results = []
    for backend in ('triton', 'plain'):
        norm = norm_3d(4, groups)
        norm.backend = backend
        x.grad = None
        out = norm(x)
        out.square().sum().backward()
        results.append([out, x.grad, *(p.grad for p in norm.parameters())])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
assert seen and all(seen), seen
print('as they are')
"""
    pytest.importorskip('triton', reason='the kernels need triton: pip install triton')
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={
            **os.environ,
            'TRITON_INTERPRET': '1',
            'PYTHONPATH': os.pathsep.join([here, os.path.dirname(here)]),
        },
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0 and 'as they are' in done.stdout, done.stdout


class ConvBN(nn.Module):
    """Its ReLU is registered after the BatchNorm, and called before or not at all."""

    def __init__(self, conv, act):
        super().__init__()
        self.conv, self.bn, self.act = conv, nn.BatchNorm2d(conv.out_channels), act
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.conv(x)
        return self.bn(self.relu(x) if self.act else x)


class Holders(nn.Module):
    """A block whose normalizations are within what it calls its convolutions."""

    downsample = None

    def __init__(self, conv1, conv2):
        super().__init__()
        self.conv1, self.conv2 = conv1, conv2

    def forward(self, x):
        return self.conv2(self.conv1(x))


@pytest.mark.parametrize('act', [False, True])
def test_a_relu_that_is_called_elsewhere_stays(act):
    convs = [ConvBN(nn.Conv2d(n, 8, 3), act) for n in (3, 8)]
    network = add_dnr(nn.Sequential(nn.Sequential(Holders(*convs))), 4)
    for conv in convs:
        assert isinstance(conv.bn, DynamicNorm) and not conv.bn.apply_relu
        assert type(conv.relu) is nn.ReLU
    assert (network(images()) < 0).any()


# What cannot be converted


def broken(change):
    def build():
        network = small()
        return change(network) or network

    return build


def with_norm(norm):
    def change(network):
        network.layer2[1].bn1 = norm

    return broken(change)


def set_shared(network):
    network.layer1[1] = network.layer1[0]


def set_list(network):
    network.layer1 = nn.ModuleList(network.layer1)


def set_twice(network):
    network.forward = lambda x: ResNet.forward(network, x) + ResNet.forward(network, x)


def set_width(network):
    network.layer1[1].conv1 = nn.Conv2d(8, 12, 3, padding=1)
    network.layer1[1].bn1 = nn.BatchNorm2d(12)
    network.layer1[1].conv2 = nn.Conv2d(12, 8, 3, padding=1)


def set_without_norm(network):
    del network.layer1[0].bn2


def norm_first():
    convs = [
        nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)) for _ in '12'
    ]
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(Holders(*convs)))


def set_without_downsample(network):
    del network.layer1[1].downsample
    network.layer1[1].forward = lambda x: x


def set_loop(network):
    def forward(x):
        x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        for stage in (network.layer1, network.layer2):
            for block in stage:
                x = block(x)
        return x

    network.forward = forward


def frozen(change):
    """A network that freezes a block in train(), as frozen_stages does."""

    def freeze(network):
        block = network.layer1[0]
        block.train = lambda mode=True: block.requires_grad_(False)
        change(network)

    return broken(freeze)


def set_shift(network):
    network.layer2[0].conv1.n_segment = 8


class PreActivation(BasicBlock):
    def forward(self, x):
        out = self.conv1(self.relu(self.bn1(x)))
        return x + self.conv2(self.relu(self.bn2(out)))


class Wrapper(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, clips):
        return self.backbone(clips.flatten(0, 1))


REFUSED = {
    'traced': (
        lambda: nn.Sequential(torch.fx.symbolic_trace(small())),
        '0 is scripted or traced: convert the network before',
    ),
    'scripted': (
        lambda: torch.jit.trace(small().eval(), images()),
        'the network is scripted or traced',
    ),
    'no blocks': (lambda: nn.Sequential(nn.Conv2d(3, 8, 3)), 'no residual blocks'),
    'another norm': (
        with_norm(nn.GroupNorm(2, 16)),
        'layer2.1.bn1 is GroupNorm, not BatchNorm2d',
    ),
    'SyncBatchNorm': (
        with_norm(nn.SyncBatchNorm(16)),
        'layer2.1.bn1 is a SyncBatchNorm',
    ),
    'no statistics': (
        with_norm(nn.BatchNorm2d(16, track_running_stats=False)),
        'layer2.1.bn1 has no running statistics',
    ),
    'no momentum': (
        with_norm(nn.BatchNorm2d(16, momentum=None)),
        'layer2.1.bn1 has momentum=None',
    ),
    'normalization first, in a sequential': (
        norm_first,
        '1.0 should call conv1, norm1, .*, but calls norm1, conv1',
    ),
    'no residual block beside one': (
        broken(set_without_downsample),
        'layer1.1 has conv1 and conv2, as layer1.0, but neither downsample',
    ),
    'blocks that are called one by one': (
        broken(set_loop),
        'calls the blocks of layer1, but not layer1 itself',
    ),
    'another T, and frozen': (frozen(set_shift), 'layer2.0 has 4 frames'),
    'another width, and frozen': (frozen(set_width), 'layer1.1.bn1 has 12'),
    'a wrapper': (
        lambda: Wrapper(small()),
        r'Convert its backbone: add_dnr\(network.backbone, ...\)',
    ),
    'no norm': (broken(set_without_norm), 'layer1.0 has no BatchNorm after conv2'),
    'a shared block': (broken(set_shared), 'layer1.0 and layer1.1 are one shared'),
    'no sequential': (broken(set_list), 'layer1.0 is in no nn.Sequential'),
    'the network is the stage': (
        lambda: nn.Sequential(BasicBlock(3, 8)),
        '0 is in no nn.Sequential within the network',
    ),
    'two passes': (broken(set_twice), 'layer1.0 should call .*, each once in a pass'),
    'another width': (
        broken(set_width),
        'layer1.0.bn1 has 8 channels, and layer1.1.bn1 has 12',
    ),
    'another T': (broken(set_shift), 'layer2.0 has 4 frames a clip, but Conv2d .* 8'),
    'normalization first': (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(PreActivation(8, 8))),
        '1.0 should call conv1, norm1, conv2, norm2, .* but calls norm1, conv1',
    ),
    'few channels': (
        lambda: nn.Sequential(nn.Sequential(BasicBlock(3, 3))),
        'bn1 has 3 channels, below 4',
    ),
    'a fault of its own': (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(BasicBlock(9, 9))),
        'cannot run on one clip of n_segment=4 frames',
    ),
    'converted': (lambda: add_dnr(small(), 4), 'has dynamic normalizations already'),
    'resnet_dnr': (
        lambda: ResNet_DNR(18, n_segment=4, num_groups=2),
        'has dynamic normalizations already, as layer1.0.bn1',
    ),
    'DataParallel': (lambda: nn.DataParallel(small()), 'before DataParallel wraps it'),
}


@pytest.mark.parametrize('name', sorted(REFUSED))
def test_refused(name):
    """With the module's path, and the network as it was."""
    build, text = REFUSED[name]
    network = build()

    def state():
        modules = [(n, m, m.training) for n, m in network.named_modules()]
        return modules, [p.requires_grad for p in network.parameters()]

    before = state()
    with pytest.raises(ValueError, match=text):
        add_dnr(network, 4)
    assert state() == before


@pytest.mark.parametrize(
    'options, text',
    [
        (dict(num_groups=3), 'with n_segment=4, num_groups must be one of'),
        (dict(num_groups=2.0), 'num_groups must be a positive int, got 2.0'),
        (dict(num_groups=0), 'num_groups must be a positive int, got 0'),
        (dict(dnr='all'), "dnr must be one of .*, got 'all'"),
        (dict(running_stats='none'), 'running_stats must be one of'),
        (dict(backend='cuda'), 'backend .*must be one of'),
        (dict(with_cp='no'), "with_cp must be one of .*, got 'no'"),
    ],
)
def test_refused_arguments(options, text):
    with pytest.raises(ValueError, match=text):
        add_dnr(small(), 4, **options)


def test_images_that_are_no_whole_clips():
    network = add_dnr(small(), 4)
    with pytest.raises(ValueError, match='whole clips of n_segment=4 images'):
        network(torch.randn(6, 3, 32, 32))


# torchvision

TORCHVISION = dict(
    resnet18='models',
    resnext50_32x4d='models',
    wide_resnet50_2='models',
    r3d_18='models.video',
    mc3_18='models.video',
    r2plus1d_18='models.video',
)


@pytest.mark.full
@pytest.mark.parametrize('name', sorted(TORCHVISION))
def test_torchvision(name):
    """Converts, takes the checkpoint from before, trains a step, is tested."""
    models = pytest.importorskip(
        f'torchvision.{TORCHVISION[name]}',
        reason='no torchvision here: .venv/bin/pip install torchvision --index-url '
        'https://download.pytorch.org/whl/cpu, then '
        './tools/run_tests.sh tests/test_add_dnr.py -k torchvision',
    )
    network = getattr(models, name)(num_classes=4)
    before = network.state_dict()
    add_dnr(network, 4)
    result = network.load_state_dict(before, strict=False)
    assert not result.unexpected_keys
    assert all('relay.' in key for key in result.missing_keys)
    dims = 3 if 'video' in TORCHVISION[name] else 2
    x = images(size=32, dims=dims)
    assert all(g.isfinite().all() for g in step(network, x))
    network.eval()
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    with torch.no_grad():
        close([network(x)], [network(x.to(memory_format=last))], 1e-3, 1e-4)
