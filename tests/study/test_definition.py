"""tools/study/definition.py: what a study file says."""

import pytest
from conftest import ROOT
from hosts import HostError
from mmengine import Config
from study.definition import read_study

GOOD = dict(
    name='a_{kind}_s{seed}',
    config='{kind}.py',
    of=dict(seed=[0, 1], kind=dict(one=['x=1'], two=[])),
    options=['y={seed}'],
)


def write(folder, *groups):
    path = folder / 'study.py'
    path.write_text(f'name = "n"\ndata = "d"\nruns = {list(groups)!r}\n')
    return path


def test_runs_of_a_group(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = read_study(write(tmp_path, GOOD))
    assert [run.name for run in study.runs] == [
        'a_one_s0',
        'a_two_s0',
        'a_one_s1',
        'a_two_s1',
    ]
    run = study.find('a_one_s1')
    assert run.options == ('y=1', 'x=1')
    assert run.config == 'one.py'
    assert run.values == dict(seed=1, kind='one')
    assert not study.keep_checkpoints


@pytest.mark.parametrize(
    'change, text',
    [
        (dict(nothing=1), 'nothing is no key; the keys are'),
        (dict(of=dict(kind=['one'])), 'of should have seed'),
        (dict(name='a'), '4 runs are a'),
        (dict(options=['{rate}']), "'{rate}' cannot be filled in with seed, kind"),
        (dict(begin='b'), 'a_one_s0 begins from b, which is no run of it'),
        (dict(begin='a_two_s0'), 'which should begin from nothing itself'),
        (dict(evaluations=['all']), 'all is no evaluation; there are pairs'),
    ],
)
def test_faults(tmp_path, change, text):
    with pytest.raises(HostError, match=text):
        read_study(write(tmp_path, dict(GOOD, **change)))


def test_a_study_that_is_no_study(tmp_path):
    (tmp_path / 'study.py').write_text('name = 1 / 0')
    with pytest.raises(HostError, match='cannot read the study .*: division by zero'):
        read_study(tmp_path / 'study.py')
    (tmp_path / 'study.py').write_text('name = "n"')
    with pytest.raises(HostError, match='sets no data, runs'):
        read_study(tmp_path / 'study.py')


def names_of(study):
    return [run.name for run in read_study(ROOT / f'configs/{study}/study.py').runs]


def test_arrow_has_the_runs_of_its_results():
    results = {path.stem for path in (ROOT / 'results/arrow').glob('*_s?.json')}
    assert set(names_of('arrow')) == results


@pytest.mark.parametrize('path', sorted(ROOT.glob('configs/*/study.py')))
def test_studies_have_the_names_of_their_folders(path):
    assert read_study(path).name == path.parent.name


def test_small_batches_take_equal_steps():
    runs = read_study(ROOT / 'configs/small_batches/study.py').runs
    final = [run for run in runs if run.values['part'] == 'final']
    assert len(final) == 5 * 4 * 3
    clips = set()
    for run in final:
        options = dict(option.split('=', 1) for option in run.options)
        batch = int(options['data.videos_per_gpu'])
        assert batch == run.values['batch']
        clips.add(int(options['total_epochs']) / batch)
    assert len(clips) == 1


def test_gestures_never_search_on_the_test_fold():
    runs = read_study(ROOT / 'configs/gestures/study.py').runs
    search = [run for run in runs if run.values['part'] == 'search']
    for run in search:
        assert f'data.test.ann_file=data/gestures/search{run.values["fold"]}/' in (
            ' '.join(run.options)
        )
        assert not any('/test_rawframes' in option for option in run.options)
    # Recipes set transforms by their places.
    for config in ('recipe', 'slowonly'):
        loader = Config.fromfile(ROOT / f'configs/gestures/{config}.py').native
        pipeline = loader.train_dataloader.dataset.pipeline
        assert [pipeline[place].type for place in (3, 5, 6)] == [
            'RandomResizedCrop',
            'Flip',
            'ColorJitter',
        ]
    one = [run for run in runs if run.values['part'] == 'one']
    assert len(one) == (7 + 6) * 4 * 3  # DNR with 8 groups is not from scratch
    for run in one:
        assert (run.begin is None) == (run.values['start'] == 'scratch')
