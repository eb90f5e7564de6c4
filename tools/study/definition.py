"""A study: a Python file that says which runs it has.

The file sets

    name    (str) of the study: results/NAME and work_dirs/NAME are its folders
    data    (str) how its data are made, for the error where they are missing
    runs    (list) of groups of runs, in the order in which they begin
    keep_checkpoints
            (bool, default False) keep a run's checkpoints when its result is there

A group is a dict of

    name    (str) of each run
    config  (str) the config, from the study file's folder
    of      (dict) what the runs differ by: a name to its values, or to a dict whose
            keys are the values and which has the options of each. There is a run
            for each combination; the last name changes fastest. One is `seed`.
    options (list, default empty) KEY=VALUE for --cfg-options
    begin   (str, optional) the run whose last backbone a run begins from; the class
            head starts anew
    evaluations
            (list, default empty) names, see evaluations.py
    validate (bool, default False) validate after each epoch

Texts of a group may name values: 'bn_f{fold}_s{seed}'.
"""

import itertools
import os
import runpy
from pathlib import Path
from typing import NamedTuple, Optional

from hosts import HostError

from study.evaluations import check_names

STUDY_KEYS = {'name', 'data', 'runs', 'keep_checkpoints'}
NEEDED = {'name', 'config', 'of'}
GROUP_KEYS = NEEDED | {'options', 'begin', 'evaluations', 'validate'}


class Run(NamedTuple):
    """What a run is of."""

    name: str
    values: dict  # of what the runs differ by
    config: str  # path, from the working folder
    options: tuple  # KEY=VALUE
    begin: Optional[str]  # name of another run
    evaluations: tuple
    validate: bool

    @property
    def seed(self):
        return self.values['seed']


class Study(NamedTuple):
    """What a study file says."""

    name: str
    data: str
    runs: list  # of Run
    keep_checkpoints: bool

    def find(self, name):
        """The run of a name."""
        return next(run for run in self.runs if run.name == name)

    def is_begun_from(self, run):
        """Whether another run begins from a run."""
        return any(other.begin == run.name for other in self.runs)


def read_study(path):
    """Read a study file.

    Args:
        path (str | Path): it.

    Returns:
        Study

    Raises:
        HostError: it cannot be read, or what it says cannot be.
    """
    path = Path(path)
    try:
        found = runpy.run_path(str(path))
    except Exception as error:  # the file is a program: any
        raise HostError(f'cannot read the study {path}: {error}') from error
    found = {key: value for key, value in found.items() if key in STUDY_KEYS}
    missing = STUDY_KEYS - {'keep_checkpoints'} - set(found)
    if missing:
        raise HostError(f'the study {path} sets no {", ".join(sorted(missing))}')
    runs = [
        run
        for number, group in enumerate(found['runs'])
        for run in _runs_of(group, f'{path}: runs[{number}]', path.parent)
    ]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            raise HostError(f'{path}: {names.count(run.name)} runs are {run.name}')
        if run.begin is not None and run.begin not in names:
            raise HostError(
                f'{path}: {run.name} begins from {run.begin}, which is no run of it'
            )
        if run.begin is not None and runs[names.index(run.begin)].begin is not None:
            raise HostError(
                f'{path}: {run.name} begins from {run.begin}, which should begin '
                f'from nothing itself'
            )
    return Study(
        found['name'], found['data'], runs, found.get('keep_checkpoints', False)
    )


def _runs_of(group, where, folder):
    """The runs of a group.

    Yields:
        Run
    """
    wrong, missing = set(group) - GROUP_KEYS, NEEDED - set(group)
    if wrong or missing:
        raise HostError(
            f'{where}: '
            + (f'{wrong.pop()} is no key' if wrong else f'{missing.pop()} is missing')
            + f'; the keys are {", ".join(sorted(GROUP_KEYS))}'
        )
    if 'seed' not in group['of']:
        raise HostError(f'{where}: of should have seed')
    check_names(group.get('evaluations', ()), where)
    for chosen in itertools.product(*group['of'].values()):
        values = dict(zip(group['of'], chosen))

        def fill(text, values=values):
            try:
                return text.format_map(values)
            except (KeyError, ValueError, IndexError) as error:
                raise HostError(
                    f'{where}: {text!r} cannot be filled in with '
                    f'{", ".join(values)}: {error}'
                ) from error

        options = list(group.get('options', ()))
        for axis, value in values.items():
            if isinstance(group['of'][axis], dict):
                options += group['of'][axis][value]
        begin = group.get('begin')
        yield Run(
            name=fill(group['name']),
            values=values,
            config=os.path.relpath(folder / fill(group['config'])),
            options=tuple(map(fill, options)),
            begin=begin and fill(begin),
            evaluations=tuple(group.get('evaluations', ())),
            validate=group.get('validate', False),
        )
