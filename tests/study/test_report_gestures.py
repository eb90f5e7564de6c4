"""tools/study/report_gestures.py: figures of scores that are known."""

import json

import numpy as np
import pytest
from study import report_gestures

CLASSES = ['down', 'left', 'right', 'up', 'star', 'tick']
STATISTICS = ('35.0', '45.0', '55.0')
OTHER = [3, 2, 1, 0, 5, 4]  # the mirrored class, of those that have one


def run(network, fold, seed, right, part='one', recipe='short'):
    """A run's content: in each fold a clip a class.

    Args:
        right (int): how many of the clips are right; the others are taken for the
            other class. Reversed clips are taken for the other class, shuffled ones
            for class 0.
    """
    labels = list(range(6))
    plain = [
        label if place < right else OTHER[label] for place, label in enumerate(labels)
    ]
    return dict(
        study='gestures',
        device='a GPU',
        run=dict(
            part=part,
            start='arrow',
            network=network,
            fold=fold,
            seed=seed,
            recipe=recipe,
        ),
        settings=dict(classes=CLASSES),
        labels=labels,
        scores=dict(
            plain=np.eye(6)[plain].tolist(),
            reversed=np.eye(6)[[OTHER[label] for label in labels]].tolist(),
            shuffled=np.eye(6)[[0] * 6].tolist(),
        ),
    )


@pytest.fixture
def results(tmp_path):
    """Two networks, two seeds, four folds, and a third seed without its last fold."""
    folder = tmp_path / 'gestures'
    folder.mkdir()
    for network, right in (('tsm', 2), ('tsm_dnr', 4)):
        for seed in (0, 1, 2):
            for fold in (1, 2, 3, 4)[: 3 if seed == 2 else 4]:
                content = run(network, fold, seed, right - (seed == 1))
                name = f'arrow_{network}_f{fold}_s{seed}.json'
                (folder / name).write_text(json.dumps(content))
    return folder


def test_table(results):
    tables, _ = report_gestures.report(results)
    lines = tables['gestures'].splitlines()
    tsm = next(line for line in lines if line.startswith('| TSM |'))
    # Of 6 clips a fold, 2 and 1 are right: down and left, then down.
    cells = [cell.strip() for cell in tsm.strip('|').split('|')]
    assert cells[1] == 'generated clips'
    assert cells[2].startswith('25.0 (') and cells[3] == '33.3, 16.7'
    # left by one seed, right by none; down by both, up by none; no star and no tick.
    assert cells[4:] == ['25.0', '50.0', '0.0', '16.7', '0.0', '100.0']


def test_recipes_by_fold():
    one = [run('tsm', fold, seed, 2) for seed in (0, 1) for fold in (1, 2)]
    assert report_gestures.recipes_of(one) == 'short'
    other = run('tsm', 3, 0, 2, recipe='long')
    assert report_gestures.recipes_of([other, *one]) == 'short; short; long'


def test_differences_are_clip_by_clip(results):
    tables, _ = report_gestures.report(results)
    (line,) = tables['gestures_differences'].splitlines()[2:]
    assert line.startswith(
        '| TSM with DNR minus TSM | generated clips | shared | 33.3 ('
    )


def test_mistakes(results):
    content = run('tsm', 4, 0, 2)
    # down for a star, left as it is, right for left, up as it is, both shapes for down
    content['scores']['plain'] = np.eye(6)[[4, 1, 1, 3, 0, 0]].tolist()
    (results / 'arrow_tsm_f4_s0.json').write_text(json.dumps(content))
    (results / 'own.json').write_text(json.dumps(run('bn', 1, 0, 6, part='own')))
    tables, _ = report_gestures.report(results)
    tsm, tsm_dnr = (
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in tables['gestures_mistakes'].splitlines()[2:]
    )
    # Of the 48 clips of two seeds, 3 times 4 and 4 of the changed run are wrong with 0,
    # and 4 times 5 with 1.
    assert tsm[:3] == ['TSM', 'generated clips', 'shared']
    assert tsm[3:] == ['75.0', '4.2', '2.1', '29.2', '39.6']
    assert tsm_dnr[3:] == ['41.7', '0.0', '0.0', '33.3', '8.3']


def test_reasons(results):
    def write(content):
        run = content['run']
        name = f'{run["part"]}_{run["network"]}_f{run["fold"]}_s{run["seed"]}.json'
        (results / name).write_text(json.dumps(content))

    for number, fold in enumerate((1, 2, 3, 4)):
        for seed in (0, 1):
            content = run('dnr', fold, seed, 3 - seed)
            modes = dict(grouped=0.5, batch=0.2, large_batch=0.3, recalibrated=0.4)
            content['clips'] = 6
            content['evaluation'] = {
                mode: dict(top1=top1 + 0.1 * number) for mode, top1 in modes.items()
            }
            write(content)
        write(run('dnr', fold, 0, 6, part='float32'))
        write(run('tsm', fold, 1, 4, part='mixed'))
    tables, _ = report_gestures.report(results)
    figures = [
        tuple(cell.strip() for cell in line.strip('| ').split('|')[1:])
        for line in tables['gestures_reasons'].splitlines()[2:]
    ]
    assert figures == [
        *(('DNR', 'generated clips', '2', top1, '41.7') for top1 in STATISTICS),
        ('DNR', 'generated clips', '1', '100.0', '50.0'),
        ('TSM', 'generated clips', '1', '66.7', '16.7'),
    ]


def test_choice_of_a_recipe(capsys, tmp_path):
    folder = tmp_path / 'gestures'
    folder.mkdir()
    # In fold 2, tsm is better with the long one, and the mean of both with the short.
    right = dict(
        tsm=dict(short=0.5, long=0.6),
        bn=dict(short=0.4, long=0),
    )
    for network, recipes in right.items():
        for recipe, top1 in recipes.items():
            for fold in (1, 2, 3, 4):
                content = run(network, fold, 0, 4, part='search', recipe=recipe)
                found = top1 if fold == 2 else 0.7 if recipe == 'short' else 0.5
                content['evaluation'] = dict(test=dict(top1=found))
                name = f'search_{network}_{recipe}_{fold}.json'
                (folder / name).write_text(json.dumps(content))

    def write(recipe, folds):  # of one network alone
        for fold in folds:
            content = run('tsm', fold, 0, 4, part='search', recipe=recipe)
            content['evaluation'] = dict(test=dict(top1=0.9 if fold == 4 else 0.1))
            name = f'search_tsm_{recipe}_{fold}.json'
            (folder / name).write_text(json.dumps(content))

    write('longer', (1, 2, 3))  # is not through
    tables, _ = report_gestures.report(folder)
    printed = capsys.readouterr().out
    assert "OWN['bn']" in printed
    assert "OWN['tsm']" not in printed and 'RECIPE' not in printed
    assert '| generated clips | longer | - | - | - |' in tables['gestures_search']
    write('longer', (4,))
    tables, _ = report_gestures.report(folder)
    printed = capsys.readouterr().out
    short = "1: 'short', 2: 'short', 3: 'short', 4: 'short'"
    assert f'RECIPE: arrow={{{short}}}, of long, short\n' in printed
    assert f"OWN['bn']: arrow={{{short}}}, of long, short\n" in printed
    own = "1: 'short', 2: 'long', 3: 'short', 4: 'longer'"
    assert f"OWN['tsm']: arrow={{{own}}}, of long, longer, short\n" in printed
    assert '| generated clips | longer | - | 30.0 | - |' in tables['gestures_search']
    assert (
        '| generated clips | long | 37.5 | 52.5 | 45.0 |' in (tables['gestures_search'])
    )


def test_pictures(results):
    _, pictures = report_gestures.report(results)
    for name, draw in pictures.items():
        assert draw() is not None, name
