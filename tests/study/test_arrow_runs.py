"""tools/study/arrow_runs.py: configs and files of the runs."""

import functools
import sys

import pytest
from hosts import HostError
from script_calls import make_clips
from studies import SMALL
from study import arrow_runs, arrow_study


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with data/small."""
    return make_clips(
        tmp_path_factory.mktemp('runs'), 'data/small', train=1, val=1, test=1
    )


def make_plans(monkeypatch, folder, *options):
    """What a command line plans, in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['arrow_study.py', *SMALL, *options])
    return functools.partial(arrow_runs.make_plan, args=arrow_study.parse_args())


@pytest.mark.parametrize(
    'option, text',
    [
        ('model.cls_head.num_classes=6', 'num_classes=6, but data/small has 4'),
        (
            'data.test.ann_file=data/none/test.txt',
            'Make the data first: tools/data/make_arrow_dataset.py data/none',
        ),
        ('optimizer.type=Nothing', 'is no optimizer'),
        ('nothing=1', 'none.py has no nothing'),
    ],
)
def test_faults_of_a_config(data, monkeypatch, option, text):
    plan = make_plans(monkeypatch, data, option)
    with pytest.raises(HostError, match=text):
        plan(arrow_runs.Run('none', 8, 4, 1))


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
    assert arrow_runs.validation(tmp_path) == [[1, 0.1], [2, 0.25], [3, 0.3]]


def test_runs():
    names = [run.name for run in arrow_runs.RUNS]
    assert len(names) == len(set(names)) == 3 * (4 + 2 + 4)
    assert sum(run.has_relay() for run in arrow_runs.RUNS) == 1


def test_smaller_batches_have_smaller_rates_and_fewer_epochs(data, monkeypatch):
    plan = make_plans(monkeypatch, data)(arrow_runs.Run('both', 2, 8, 1))
    assert plan.v1.data.videos_per_gpu == 2
    assert plan.v1.model.backbone.num_groups == 8
    assert plan.v1.optimizer.lr == pytest.approx(0.05 / 4)
    assert plan.v1.lr_config.warmup_iters == 40
    assert plan.v1.total_epochs == 2  # half of 3
