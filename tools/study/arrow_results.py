"""The results of the arrow study: its files, and figures over seeds."""

import json
from collections import defaultdict

import numpy as np
from analysis.plotting import PlotError

CONFIGS = {'both': 'C0', 'cross_temporal': 'C1', 'cross_layer': 'C2', 'none': 'C7'}
FIGURES = {'top1': 'top-1', 'pair': 'pair', 'order': 'order in the pair'}
BATCH, GROUPS = 8, 4  # of configs/arrow/recipe.py


def read_files(folder, study):
    """The contents of a folder's JSONs.

    Args:
        folder (Path): of a study's results.
        study (str): its name.

    Returns:
        dict: by the files' names, without their ending.

    Raises:
        PlotError: there is no run, or a file is none of the study.
    """
    contents = {}
    for path in sorted(folder.glob('*.json')):
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise PlotError(f'cannot read {path}: {error}') from error
        if not isinstance(content, dict) or content.get('study') != study:
            raise PlotError(f'{path} is no result of the study {study}')
        contents[path.stem] = content
    if not any('settings' in content for content in contents.values()):
        raise PlotError(f'{folder} has no results: run tools/study/study.py')
    return contents


def read(folder):
    """The runs of a study, and its relay.

    Args:
        folder (Path): --out of tools/study/study.py.

    Returns:
        tuple: a dict from (config, batch, groups) to the content of its
        files, one a seed in the order of seeds; and relay.json's, or None.

    Raises:
        PlotError: there is no run, or a file is none of the study, or the
            runs are of different data, or those of a batch size of different
            epochs.
    """
    contents = read_files(folder, 'arrow')
    relay = contents.pop('relay', None)
    runs = defaultdict(list)
    for content in contents.values():
        run = content['run']
        runs[run['config'], run['batch'], run['groups']].append(content)
    for same in runs.values():
        same.sort(key=lambda content: content['run']['seed'])
    for name, value in (
        ('data', lambda c: c['settings']['data']),
        ('classes', lambda c: c['settings']['classes']),
        ('numbers of clips', lambda c: c['clips']),
    ):
        if len({json.dumps(value(c)) for c in contents.values()}) > 1:
            raise PlotError(f'the runs in {folder} are of different {name}')
    epochs = {}
    for content in contents.values():
        batch = content['run']['batch']
        number = content['settings']['config']['total_epochs']
        if epochs.setdefault(batch, number) != number:
            raise PlotError(
                f'the runs in {folder} with {batch} clips a batch '
                f'are of different epochs'
            )
    return dict(runs), relay


def spread(values):
    """Mean and standard deviation, of a list without None.

    Returns:
        tuple: of floats; nan where there is nothing to take them of.
    """
    values = np.array([value for value in values if value is not None])
    return (
        values.mean() if len(values) else np.nan,
        values.std(ddof=1) if len(values) > 1 else np.nan,
    )


def figures(runs, key, figure, mode='grouped'):
    """A figure of each run with a key, None where it has none."""
    return [
        run['evaluation'][mode] and run['evaluation'][mode][figure]
        for run in runs.get(key, [])
    ]
