"""Options and config files: each name takes effect or is refused, by name."""

import argparse
import json

import pytest
import torch
from conftest import ROOT
from hosts import HostError
from hosts.checks import (
    check_backend,
    check_clips,
    check_scale,
    check_testing,
    check_unused_stages,
)
from hosts.mmaction2_config import load_config, translate
from hosts.options import NAMES, add_cfg_options, check_arguments, parse_value, seed_of
from hypothesis import given, settings
from hypothesis import strategies as st
from script_calls import call

CONFIGS = ROOT / 'configs'
KINETICS = str(CONFIGS / 'DNR_resnet50_kinetics400_rgb_seg1_f8s8.py')
DEMO = str(CONFIGS / 'DNR_resnet18_arrow_demo.py')


# ---- values on the command line


@pytest.mark.parametrize(
    'text, value',
    [
        ('my runs/a b', 'my runs/a b'),
        ('1e-4', 1e-4),
        ('3', 3),
        ('true', True),
        ('None', None),
        ('', ''),
        ('a,b', ['a', 'b']),
        ('[a b, c d]', ['a b', 'c d']),
        ('(2, 3)', (2, 3)),
        ('(3, )', (3,)),
        ('[(1,2),[x, y z]]', [(1, 2), ['x', 'y z']]),
        ('[]', []),
        ("'a,b'", 'a,b'),
        ("it's", "it's"),
        ('runs (1)', 'runs (1)'),
        ('runs(1', 'runs(1'),
    ],
)
def test_values(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


words = st.text(
    st.characters(blacklist_characters='\'"()[],', blacklist_categories=['Cs']),
    min_size=1,
).filter(lambda text: text == text.strip() and text.lower() not in ('true', 'false'))


def is_number(text):
    try:
        float(text)
    except ValueError:
        return text == 'None'
    return True


values = st.recursive(
    st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.none()
    | words.filter(lambda text: not is_number(text)),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=8,
)


def written(value):
    """A value as a user types it."""
    if isinstance(value, list):
        return f'[{", ".join(map(written, value))}]'
    if isinstance(value, tuple):
        return f'({", ".join(map(written, value))})'
    return value if isinstance(value, str) else repr(value)


@settings(max_examples=60)
@given(values)
def test_any_value_comes_back(value):
    assert parse_value(written(value)) == value


@settings(max_examples=60)
@given(st.text(max_size=12))
def test_any_text_is_a_value_or_refused(text):
    try:
        parse_value(text)
    except ValueError as error:
        assert 'is not closed' in str(error)


@settings(max_examples=60)
@given(words)
def test_a_quoted_text_stays(text):
    assert parse_value(f'"{text}, (x]"') == f'{text}, (x]'


def parse(*options):
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    return parser.parse_args(['--cfg-options', *options]).cfg_options


def test_options(capsys):
    assert parse('a.b=x y', 'c=1', '--cfg-options', 'd=a=b') == {
        'a.b': 'x y',
        'c': 1,
        'd': 'a=b',
    }
    for option, message in (
        ('a.b', "'a.b' should be KEY=VALUE"),
        ('=3', "'=3' should be KEY=VALUE"),
        ('a=[1', 'a bracket or a quote is not closed'),
    ):
        with pytest.raises(SystemExit):
            parse(option)
        assert message in capsys.readouterr().err


# ---- names that nothing reads


def refused(path, options=None):
    with pytest.raises(HostError) as error:
        load_config(str(path), options)
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    'key, message',
    [
        ('total_epoch', f'{DEMO} has no total_epoch; did you mean total_epochs?'),
        ('lr_confg.policy', 'has no lr_confg; did you mean lr_config?'),
        ('num_classes', 'no num_classes; did you mean model.cls_head.num_classes?'),
        ('cls_head.num_classes', 'did you mean model.cls_head.num_classes?'),
        ('ann_file', 'did you mean data.train.ann_file or data.val.ann_file or '),
        ('fp16.loss_scale', 'has no fp16; the names are accumulate, '),
        ('clip.img_scale', 'clip is a variable of'),
        ('dataset_type', 'set data.train.type and data.val.type and data.test.type'),
        ('data_root', 'set data.train.img_prefix'),
        ('img_norm_cfg.mean', 'set data.train.img_norm_cfg and'),
        ('custom_imports.imports', 'has an effect in a config file alone'),
    ],
)
def test_options_that_nothing_reads(key, message):
    path = DEMO if 'data_root' not in key else KINETICS
    error = refused(path, {key: 3})
    assert error.startswith(f'--cfg-options {key}: ')
    assert message in error


@pytest.mark.parametrize(
    'line, message',
    [
        ('lr_confg = dict(policy="step")', 'nothing reads lr_confg; did you mean lr_c'),
        ('fp16 = dict(loss_scale=512.0)', 'nothing reads fp16; the names are'),
        ('custom_hooks = [dict(type="X")]', 'nothing reads custom_hooks; '),
        ('img_norm_cfg = dict(mean=[0, 0, 0])', 'nothing reads img_norm_cfg'),
        (
            'if True:\n    worK_dir = "x"',
            'nothing reads worK_dir; did you mean',
        ),
    ],
)
def test_names_in_a_file_that_nothing_reads(tmp_path, line, message):
    path = tmp_path / 'config.py'
    path.write_text(f'_base_ = {DEMO!r}\ntotal_epochs = 2\n{line}\n')
    error = refused(path)
    assert error.startswith(f'{path}, line {3 + line.count(chr(10))}: {message}')
    # Of a file that it inherits from, too.
    child = tmp_path / 'child.py'
    child.write_text("_base_ = ['./config' + '.py']\n")
    assert refused(child) == error


def test_helpers_of_a_file_are_read(tmp_path):
    base = tmp_path / 'base.py'
    base.write_text(
        f'_base_ = {DEMO!r}\nepochs = 3\n_note = 1\n'
        'folder = "/".join(["runs", str(epochs)])\nwork_dir = folder\n'
        'def unused():\n    inner = 1\n'
    )
    child = tmp_path / 'child.py'
    child.write_text(
        "_base_ = './base.py'\nshort = 2\ntotal_epochs = {{ _base_.epochs }}\n"
        'log_config = dict(interval=short)\n'
    )
    cfg = load_config(str(child))
    assert (cfg.work_dir, cfg.total_epochs) == ('runs/3', 3)
    assert cfg.log_config.interval == 2


def test_json(tmp_path):
    cfg = load_config(DEMO)
    names = {name: cfg[name] for name in NAMES if name in cfg}
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(names))
    assert load_config(str(path)).total_epochs == cfg.total_epochs
    path.write_text(json.dumps(dict(names, fp16={})))
    assert refused(path).startswith(f'{path}: nothing reads fp16; ')


def test_our_configs_have_no_unread_name():
    native = set((CONFIGS / 'mmaction2').rglob('*.py'))  # in mmaction2's schema
    studies = set(CONFIGS.rglob('study.py'))  # no configs
    paths = sorted(set(CONFIGS.rglob('*.py')) - native - studies)
    assert len(paths) > 8
    for path in paths:
        load_config(str(path))


def test_a_config_that_cannot_be_read(tmp_path):
    for text, message in (
        ('model = dict(\n', 'SyntaxError'),
        ('model = unknown\n', "NameError: name 'unknown' is not defined"),
        ("_base_ = './missing.py'\n", 'missing.py'),
    ):
        path = tmp_path / 'config.py'
        path.write_text(text)
        with pytest.raises(HostError, match='cannot be read') as error:
            load_config(str(path))
        assert message in str(error.value)


@settings(max_examples=60)
@given(
    st.sampled_from(NAMES),
    st.integers(0, 20),
    st.characters(min_codepoint=97, max_codepoint=122),
)
def test_a_typo_names_the_right_name(name, place, letter):
    typo = name[: place % len(name)] + letter + name[place % len(name) + 1 :]
    if typo in NAMES:
        return
    error = refused(DEMO, {typo: 1})
    assert 'did you mean' in error
    right = error.split('did you mean ')[1].rstrip('?')
    assert right == name or right[:3] == typo[:3]


@pytest.mark.parametrize(
    'options, message',
    [
        (
            {'optimizer.lrr': 1},
            'optimizer.lrr=1 is unknown: SGD has no such arg',
        ),
        ({'data.train.img_scal': 1}, 'did you mean img_scale?'),
        ({'model.cls_head.num_class': 1}, 'did you mean num_classes?'),
        ({'data.train.image_tmpl': 'img.jpg'}, 'should have one place for a frame'),
        ({'data.val.image_tmpl': '{:05d}_{}.jpg'}, 'data.val.image_tmpl='),
        # testing
        ({'data.test.flip_ratio': 0.5}, 'data.test.flip_ratio=0.5 makes every test'),
        ({'data.val.flip_ratio': 0.5}, 'data.val.flip_ratio=0.5 makes every vali'),
        ({'data.test.temporal_jitter': True}, 'set it to False'),
        (
            {'data.test.multiscale_crop': True, 'data.test.oversample': None},
            'data.test.multiscale_crop=True makes every test different',
        ),
        # sizes
        (
            {'data.train.img_scale': (340, 222)},
            'do not fit multiscale_crop of 224',
        ),
        ({'data.val.img_scale': 200}, 'data.val.img_scale=200: frames of any x 200'),
        ({'data.test.img_scale': 340}, "three_crop wants one side that is the crop's"),
    ],
)
def test_keys_that_would_be_ignored_or_harm(options, message):
    with pytest.raises(HostError) as error:
        translate(load_config(KINETICS, options), validate=True)
    assert message in str(error.value)


def test_mirrored_classes_need_a_map(tmp_path):
    names = tmp_path / 'classes.txt'
    names.write_text('turn left\nup\nturn_right\n')
    options = {'class_names': str(names), 'model.cls_head.num_classes': 3}
    flips = {'data.train.flip_ratio': 0.5}
    with pytest.raises(
        HostError, match=r'set data.train.flip_label_map=\{0: 2, 2: 0\}'
    ):
        translate(load_config(KINETICS, {**options, **flips}))
    translate(load_config(KINETICS, {**options, **flips}), splits=('test',))
    translate(load_config(KINETICS, {**options, 'data.train.flip_ratio': 0}))
    flips['data.train.flip_label_map'] = {0: 2, 2: 0}
    translate(load_config(KINETICS, {**options, **flips}))


def test_testing_is_testing():
    """test_mode=False in data.test changes nothing, as in v1's own script."""
    for value in (False, True):
        cfg = translate(load_config(KINETICS, {'data.test.test_mode': value}))
        sampling = cfg.test_dataloader.dataset.pipeline[0]
        assert sampling['type'] == 'V1SampleFrames' and sampling['test_mode'] is True
    check_testing(dict(flip_ratio=0, oversample='ten_crop', multiscale_crop=True))
    with pytest.raises(HostError, match='flip_ratio=0.5, the default, makes'):
        check_testing(dict())


@pytest.mark.parametrize(
    'modality, new_length, in_channels, num_segments, right',
    [
        ('RGB', 8, 3, 1, 8),
        ('RGB', 1, 3, 8, 8),
        ('Flow', 5, 10, 8, 8),  # one image of ten channels a segment
        ('Flow', 40, 10, 1, 8),  # eight of them
        ('Flow', 8, 2, 1, 8),
        ('RGBDiff', 5, 15, 8, 8),
        ('RGB', 40, 15, 3, 8),
    ],
)
def test_images_of_a_clip(modality, new_length, in_channels, num_segments, right):
    data = dict(modality=modality, new_length=new_length, num_segments=num_segments)
    check_clips('train', data, dict(n_segment=right), in_channels)
    for wrong in {new_length, num_segments, right + 1} - {right}:
        with pytest.raises(HostError, match=f'n_segment={wrong} is not the clip of'):
            check_clips('train', data, dict(n_segment=wrong), in_channels)
    with pytest.raises(HostError, match='no whole images of model.in_channels=7'):
        check_clips('train', data, dict(n_segment=right), 7)


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU has these kernels')
def test_a_backend_that_cannot_run_here(monkeypatch):
    monkeypatch.delenv('RESNET_DNR_BACKEND', raising=False)
    for fits in {}, dict(backend='aten'), dict(backend='auto'):
        check_backend(fits)
    with pytest.raises(HostError, match="backend='triton' .* cannot be used: "):
        check_backend(dict(backend='triton'))
    monkeypatch.setenv('RESNET_DNR_BACKEND', 'triton')
    with pytest.raises(HostError, match='cannot be used'):
        check_backend(dict(backend='plain'))


def test_unused_stages():
    check_unused_stages(dict(out_indices=(3,)), False)
    check_unused_stages(dict(out_indices=(2,)), True)
    check_unused_stages(dict(out_indices=(2,), num_stages=3), False)
    with pytest.raises(HostError) as error:
        check_unused_stages(dict(out_indices=(2,)), False)
    assert 'num_stages=3 builds none' in str(error.value)
    assert 'find_unused_parameters=True' in str(error.value)


def test_scales_that_some_frames_fit():
    for data in (
        dict(img_scale=256),
        dict(img_scale=(340, 256)),
        dict(img_scale=(256, 340), oversample='three_crop', input_size=256),
        dict(img_scale=(224, 224), resize_keep_ratio=False),
        dict(img_scale=10, resize_crop=True),
        dict(img_scale=10, rescale_crop=True),
        dict(img_scale=112, multiscale_crop=True, input_size=224),
    ):
        check_scale('train', data)
    with pytest.raises(HostError, match='frames of 340 x 200 after resizing do not'):
        check_scale('val', dict(img_scale=(340, 200)))
    with pytest.raises(HostError, match='rescale_crop of 300 x 300'):
        check_scale('train', dict(rescale_crop=True, input_size=300))


@pytest.mark.parametrize(
    'option, right',
    [
        ('total_epochs=two', 'a whole number of at least 1'),
        ('total_epochs==3', 'a whole number of at least 1'),
        ('total_epochs=True', 'a whole number of at least 1'),
        ('data.videos_per_gpu=1.5', 'a whole number of at least 1'),
        ('data.workers_per_gpu=-1', 'a whole number of at least 0'),
        ('data.val.num_segments=0', 'a whole number of at least 1'),
        ('data.train.new_step=0', 'a whole number of at least 1'),
        ('data.train.flip_ratio=2', 'a number from 0 to 1'),
        ('data.test.input_size=big', 'a number of pixels, or a width and a height'),
        ('data.train.img_norm_cfg.std=[1,0,1]', 'a list of numbers above 0'),
        ('data.train.multiscale_crop=maybe', 'True or False'),
        ('optimizer=3', 'a dict'),
        ('optimizer.lr=nan', 'a number of at least 0'),
        ('optimizer_config.grad_clip=5', 'a dict, or None'),
        ('optimizer_config.grad_clip.max_norm=-1', 'a number above 0'),
        ('lr_config.warmup_iters=many', 'a whole number of at least 0'),
        ('log_config.interval=0', 'a whole number of at least 1'),
        ('checkpoint_config.interval=-1', 'a whole number of at least 1'),
        ('checkpoint_config.max_keep_ckpts=all', 'a whole number; -1 keeps all'),
        ('model.cls_head.num_classes=0', 'a whole number of at least 1'),
        ('model.backbone.pretrained=3', 'a path, or None'),
        ('log_level=LOUD', 'one of DEBUG, INFO, WARNING, ERROR, CRITICAL'),
        ('dist_params.backend=foo', 'one of nccl, gloo, mpi'),
        ('cudnn_benchmark=maybe', 'True or False'),
        ('workflow=5', "a list such as [('train', 1)]"),
        ('work_dir=', 'a path'),
    ],
)
def test_values_that_cannot_be(option, right):
    options = parse(option)
    (key, value), *_ = options.items()
    with pytest.raises(HostError) as error:
        load_config(DEMO, options)
    assert str(error.value) == f'{key}={value!r} should be {right}'


def test_seeds():
    assert seed_of('4294967295') == 2**32 - 1
    for text in '-1', '4294967296', '1.5', 'x', '':
        with pytest.raises(argparse.ArgumentTypeError, match='from 0 to 2'):
            seed_of(text)


def test_arguments():
    def takes(self, a, b=1, *, c=2):
        pass

    check_arguments('x', takes, dict(type='T', a=1, c=2), given=('self',))
    check_arguments('x', lambda **any: None, dict(z=1))
    for values, message in (
        (dict(a=1, bb=2), 'x.bb=2 is unknown: takes has no such argument; did you m'),
        (dict(b=1), 'x.a is missing'),
        (dict(a=1, self=1), 'x.self=1 is unknown'),
    ):
        with pytest.raises(HostError, match=message):
            check_arguments('x', takes, values, given=('self',))


# ---- the commands


@pytest.mark.parametrize(
    'script, options, message',
    [
        ('train_recognizer.py', ['lr_confg.policy=step'], 'did you mean lr_config?'),
        ('test_recognizer.py', ['clip.img_scale=3'], 'clip is a variable of'),
        ('convert_config.py', ['fp16=True'], 'has no fp16'),
    ],
)
def test_every_command_refuses(tmp_path, script, options, message):
    second = [] if script.startswith('train') else [tmp_path / 'out.py']
    code, output = call(
        ROOT / 'tools' / script, DEMO, *second, '--cfg-options', *options, cwd=tmp_path
    )
    assert str(code).startswith('error: --cfg-options'), output
    assert message in str(code)
    assert not list(tmp_path.iterdir())


def test_stages_left_unused_are_refused_before_training(tmp_path):
    """With a launcher, before it joins the others."""
    code, _ = call(
        ROOT / 'tools/train_recognizer.py',
        DEMO,
        '--launcher',
        'pytorch',
        '--cfg-options',
        'model.backbone.out_indices=(2,)',
        'model.cls_head.in_channels=256',
        'data.train.input_size=16',
        'data.val.input_size=16',
        'data.test.input_size=16',
        cwd=tmp_path,
    )
    assert 'leaves stages of 4 unused' in code
    assert not list(tmp_path.iterdir())
