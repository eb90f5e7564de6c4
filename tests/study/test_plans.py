"""tools/study/plans.py: configs and files of the runs."""

import pytest
from hosts import HostError
from script_calls import make_clips
from studies import ARROW, SMALL
from study import plans
from study.definition import read_study


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with data/small."""
    return make_clips(
        tmp_path_factory.mktemp('runs'), 'data/small', train=1, val=1, test=1
    )


def make_plan(monkeypatch, folder, name, *options, work='work', file=ARROW):
    """What a study plans of a run, with SMALL and more options."""
    monkeypatch.chdir(folder)
    study = read_study(file)
    small = SMALL[SMALL.index('--cfg-options') + 1 :]
    planner = plans.Planner(study, [*small, *options], folder / work, folder / 'out')
    return planner.plan(study.find(name))


@pytest.mark.parametrize(
    'option, text',
    [
        ('model.cls_head.num_classes=6', 'num_classes=6, but data/small has 4'),
        (
            'data.test.ann_file=data/none/test.txt',
            'cannot read data/none/classes.txt: .* Make the data first',
        ),
        ('optimizer.type=Nothing', 'is no optimizer'),
        ('nothing=1', 'none.py has no nothing'),
    ],
)
def test_faults_of_a_config(data, monkeypatch, option, text):
    with pytest.raises(HostError, match=text):
        make_plan(monkeypatch, data, 'none_b8_g4_s1', option)


def test_validation_of_an_interrupted_training(tmp_path):
    def log(piece, *lines):
        folder = tmp_path / piece / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text('\n'.join(lines))

    log(
        '20260101_000000',
        '{"loss": 1.0, "step": 10}',
        '{"acc/top1": 0.1, "step": 1}',
        '{"acc/top1": 0.2, "step": 2}',
        '{"acc/to',
    )
    log(
        '20260101_000100',
        '{"acc/top1": 0.25, "step": 2}',
        '{"acc/top1": 0.3, "step": 3}',
    )
    assert plans.validation(tmp_path) == [[1, 0.1], [2, 0.25], [3, 0.3]]


def test_options_of_a_study(data, monkeypatch):
    """Its own, and over these the command's: SMALL has another rate."""
    plan = make_plan(monkeypatch, data, 'both_b2_g4_s1')
    assert plan.v1.data.videos_per_gpu == 2
    assert plan.v1.optimizer.lr == 0.05
    plan = make_plan(monkeypatch, data, 'both_b8_g8_s1')
    assert plan.v1.model.backbone.num_groups == 8
    assert plan.steps == 3  # epochs, of a step each: 4 clips


STUDY = """
name, data = 'two', 'make them'
runs = [
    dict(name='first_s{seed}', config='CONFIG', of=dict(seed=[0])),
    dict(
        name='then_{rate}_s{seed}',
        config='CONFIG',
        of=dict(seed=[0], rate=[1, 2]),
        begin='first_s{seed}',
        evaluations=['order'],
    ),
]
"""


def test_a_run_that_begins_from_another(data, monkeypatch):
    file = data / 'study.py'
    file.write_text(STUDY.replace('CONFIG', str(ARROW.with_name('none.py'))))

    def settings(*options):
        plan = make_plan(monkeypatch, data, 'then_1_s0', *options, file=file)
        return plan, plan.settings

    plan, found = settings()
    assert plan.begin == data / 'work/first_s0/backbone.pth'
    assert f'load_from={plan.begin}' in plans.commands(plan)['train']
    assert found['begin']['run'] == 'first_s0'
    assert found['config']['load_from'] is None
    # What it begins from is trained with other settings.
    _, other = settings('optimizer.momentum=0.5')
    assert other['begin']['settings'] != found['begin']['settings']
    evaluate = plans.commands(plan)['evaluate']
    assert evaluate[evaluate.index('--evaluations') + 1] == 'order'


def test_lists_are_part_of_the_settings(data, monkeypatch):
    """Of data that were not generated."""
    (data / 'data/small/dataset.json').rename(data / 'kept.json')
    try:
        before = make_plan(monkeypatch, data, 'none_b8_g4_s0').settings['data']
        path = data / 'data/small/test.txt'
        text = path.read_text()
        path.write_text(''.join(text.splitlines(True)[1:]))
        after = make_plan(monkeypatch, data, 'none_b8_g4_s0').settings['data']
        path.write_text(text)
    finally:
        (data / 'kept.json').rename(data / 'data/small/dataset.json')
    assert before['train'] == after['train']
    assert before['test'] != after['test']
