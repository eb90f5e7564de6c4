"""The tables and the pictures of the study of gestures.

Accuracies are means over the clips of all folds, each tested by the runs that did not
train on its fold, and over seeds. An interval (95 %) is a bootstrap over clips of a
clip's mean over seeds: it says how far other clips of these scenes could lie, and
counts clips of one scene as if each were one by itself. A difference of two networks
is taken clip by clip.
"""

import itertools
import textwrap
from collections import defaultdict

import numpy as np
from analysis.plotting import PlotError, plt
from analysis.report_statistics import mean_interval

from study.arrow_results import read_files

NAMES = dict(
    bn='BatchNorm, average',
    dnr='DNR',
    dnr_g8='DNR, 8 groups',
    tsm='TSM',
    tsm_dnr='TSM with DNR',
    slowonly='SlowOnly',
    slowonly_dnr='SlowOnly with DNR',
)
FOLDS = (1, 2, 3, 4)
STARTS = dict(arrow='generated clips', scratch='nothing')
MIRRORED = (('left', 'right'), ('up', 'down'))
# Of what statistics_evaluation.statistics finds.
STATISTICS = dict(
    batch='statistics of each batch of 8 clips',
    large_batch='statistics of batches of 64 clips',
    recalibrated='running statistics, estimated anew',
)
# Parts of the study whose networks are compared, by their recipes.
REPORTED = dict(one='shared', own='their own')
# Parts of the study that differ from the reported runs in how they were trained.
TRAINED = dict(
    longer='trained by r04_e320_augmented in all folds',
    float32='trained in float32',
    mixed='trained on clips of all scenes',
)
COMPARED = (
    ('dnr', 'bn'),
    ('dnr', 'tsm'),
    ('dnr_g8', 'dnr'),
    ('dnr_g8', 'tsm'),
    ('tsm_dnr', 'tsm'),
    ('slowonly_dnr', 'slowonly'),
)


class Clips:
    """The scores of a network's runs, of the clips of all folds.

    Args:
        runs (list[dict]): contents of their JSONs.

    Attributes:
        seeds (list[int]): those that have all folds.
        names, shapes (list[str]): the classes, and those without a mirrored one.
        labels (np.ndarray): (clips,) int.
        scores (dict): plain, shuffled and reversed: (seeds, clips, classes).
    """

    def __init__(self, runs):
        by = {(run['run']['seed'], run['run']['fold']): run for run in runs}
        # A seed that lacks a fold would count for some clips only.
        self.seeds = sorted(
            seed
            for seed in {seed for seed, _ in by}
            if all((seed, fold) in by for fold in FOLDS)
        )
        self.names = runs[0]['settings']['classes']
        self.shapes = [n for n in self.names if not any(n in pair for pair in MIRRORED)]
        self.labels = self.scores = None
        if not self.seeds:
            return
        self.labels = np.concatenate(
            [by[self.seeds[0], fold]['labels'] for fold in FOLDS]
        )
        self.scores = {
            mode: np.array(
                [
                    np.concatenate([by[seed, fold]['scores'][mode] for fold in FOLDS])
                    for seed in self.seeds
                ]
            )
            for mode in ('plain', 'shuffled', 'reversed')
        }

    def hits(self, mode='plain', seeds=None):
        """(clips,) float: the share of seeds, or of some, that have a clip right."""
        right = self.scores[mode].argmax(-1) == self.labels
        return right[np.isin(self.seeds, seeds or self.seeds)].mean(0)

    def hits_within(self, names):
        """The same of the clips of some classes, by the scores of these alone."""
        labels = [self.names.index(name) for name in names]
        inside = np.isin(self.labels, labels)
        best = self.scores['plain'][:, inside][..., labels].argmax(-1)
        return (np.array(labels)[best] == self.labels[inside]).mean(0)

    def mirrored(self):
        """The share of seeds that take a reversed clip for its mirrored class, of the
        clips of MIRRORED: (clips,) float."""
        other = {}
        for pair in MIRRORED:
            one, two = (self.names.index(name) for name in pair)
            other.update({one: two, two: one})
        inside = np.isin(self.labels, list(other))
        wanted = np.array([other[label] for label in self.labels[inside]])
        return (self.scores['reversed'][:, inside].argmax(-1) == wanted).mean(0)


def read(folder):
    """The runs of the study, in groups.

    Returns:
        tuple: a dict from (part, start, network) to the contents of files, and the
        ridge baseline's content or None.

    Raises:
        PlotError: as arrow_results.read_files does; or runs of a group are of
            different recipes where they should share one.
    """
    contents = read_files(folder, 'gestures')
    ridge = contents.pop('ridge', None)
    runs = defaultdict(list)
    for content in contents.values():
        run = content['run']
        runs[run['part'], run.get('start'), run['network']].append(content)
    return dict(runs), ridge


def clips_of(runs, part):
    """By start and network, :class:`Clips`, of groups that have a whole seed."""
    found = {}
    for start in STARTS:
        for network in NAMES:
            if (part, start, network) in runs:
                clips = Clips(runs[part, start, network])
                if clips.seeds:
                    found[start, network] = clips
    return found


def per_cent(values, interval=True):
    """A mean of (clips,) values in per cent, and its interval."""
    text = f'{100 * values.mean():.1f}'
    if interval:
        low, high = mean_interval(values)
        text += f' ({100 * low:.1f} to {100 * high:.1f})'
    return text


def recipes_of(runs):
    """The names of the recipes that a group's runs have, by fold."""
    found = {run['run']['fold']: run['run']['recipe'] for run in runs}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return '; '.join(found[fold] for fold in sorted(found))


def make_table(runs, part, ridge=None):
    """The table of accuracies of the runs of a part, in Markdown."""
    own = part == 'own'  # all others share a recipe
    lines = [
        '| network | pretrained on '
        + '| recipe ' * own
        + '| top-1 | of each seed | left/right | up/down | shapes '
        + '| shuffled | reversed | mirrored |',
        '|---' * (10 + own) + '|',
    ]
    for (start, network), clips in clips_of(runs, part).items():
        cells = [
            NAMES[network],
            STARTS[start],
            *([recipes_of(runs[part, start, network])] if own else []),
            per_cent(clips.hits()),
            ', '.join(per_cent(clips.hits(seeds=[s]), False) for s in clips.seeds),
            *(
                per_cent(clips.hits_within(names), False)
                for names in (*MIRRORED, clips.shapes)
            ),
            per_cent(clips.hits('shuffled'), False),
            per_cent(clips.hits('reversed'), False),
            per_cent(clips.mirrored(), False),
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    if ridge:
        tasks = ridge['tasks']
        accuracies = [
            f'{100 * tasks[task]["accuracy"]:.1f}'
            for task in ('all', 'left/right', 'up/down')
        ]
        cells = ['ridge regression', '-', accuracies[0], '-', *accuracies[1:]]
        lines.append('| ' + ' | '.join([*cells, '-', '-', '-', '-']) + ' |')
    return '\n'.join(lines)


def make_differences(runs):
    """The table of differences between networks, in Markdown."""
    lines = [
        '| difference in top-1, points | pretrained on | recipe '
        '| mean (95 % interval) |',
        '|---' * 4 + '|',
    ]
    for part, start in itertools.product(REPORTED, STARTS):
        found = clips_of(runs, part)
        for one, two in COMPARED:
            pair = [found.get((start, network)) for network in (one, two)]
            if None in pair or pair[0].seeds != pair[1].seeds:
                continue
            if not np.array_equal(pair[0].labels, pair[1].labels):
                raise PlotError(f'the runs of {one} and of {two} are of other clips')
            cells = [
                f'{NAMES[one]} minus {NAMES[two]}',
                STARTS[start],
                REPORTED[part],
                per_cent(pair[0].hits() - pair[1].hits()),
            ]
            lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def make_reasons(runs):
    """The table of what could be a reason for DNR's accuracy, in Markdown.

    The runs of one recipe with other statistics, and trainings that differ from them
    in one thing; beside each, top-1 of the runs of one recipe and of the same seeds.
    """
    lines = [
        '| what was changed | network | pretrained on | seeds | top-1 | as reported |',
        '|---|---|---|---|---|---|',
    ]

    def add(text, start, network, seeds, *accuracies):
        cells = [text, NAMES[network], STARTS[start], str(len(seeds))]
        cells += [f'{100 * accuracy:.1f}' for accuracy in accuracies]
        lines.append('| ' + ' | '.join(cells) + ' |')

    reported = clips_of(runs, 'one')
    for (start, network), clips in reported.items():
        found = [
            content
            for content in runs['one', start, network]
            if content['run']['seed'] in clips.seeds and 'evaluation' in content
        ]
        for mode, text in STATISTICS.items() if found else ():
            hits = [c['clips'] * c['evaluation'][mode]['top1'] for c in found]
            accuracy = sum(hits) / sum(c['clips'] for c in found)
            add(text, start, network, clips.seeds, accuracy, clips.hits().mean())
    for part, text in TRAINED.items():
        for (start, network), clips in clips_of(runs, part).items():
            same = reported.get((start, network))
            if same and set(clips.seeds) <= set(same.seeds):
                hits = same.hits(seeds=clips.seeds)
                add(
                    text,
                    start,
                    network,
                    clips.seeds,
                    clips.hits().mean(),
                    hits.mean(),
                )
    return '\n'.join(lines)


def make_mistakes(runs):
    """The table of what is taken for what, in Markdown: per cent of all clips."""
    lines = [
        '| network | pretrained on | recipe | wrong | a shape taken for a direction '
        '| a direction for a shape | a shape for another | a direction for another |',
        '|---' * 8 + '|',
    ]
    for part, recipe in REPORTED.items():
        for (start, network), clips in clips_of(runs, part).items():
            taken = clips.scores['plain'].argmax(-1)
            shapes = [clips.names.index(name) for name in clips.shapes]
            shape, as_shape = np.isin(clips.labels, shapes), np.isin(taken, shapes)
            wrong = taken != clips.labels
            kinds = (
                wrong,
                shape & ~as_shape,
                ~shape & as_shape,
                wrong & shape & as_shape,
                wrong & ~shape & ~as_shape,
            )
            cells = [NAMES[network], STARTS[start], recipe]
            cells += [per_cent(kind, interval=False) for kind in kinds]
            lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def searched(runs):
    """What the search found.

    Returns:
        dict: (start, network, recipe) to a dict from a test fold to the accuracy on
        the fold that was tried.
    """
    found = defaultdict(dict)
    for (part, start, network), group in runs.items():
        for content in group if part == 'search' else ():
            run = content['run']
            key = start, network, run['recipe']
            found[key][run['fold']] = content['evaluation']['test']['top1']
    return dict(found)


def tried(found, start, networks):
    """The recipes that each of some networks was tried with for all test folds."""
    return [
        recipe
        for recipe in sorted({key[2] for key in found if key[0] == start})
        if all(set(FOLDS) <= set(found.get((start, n, recipe), ())) for n in networks)
    ]


def choose(found, start, networks, fold):
    """The best recipe of some networks for a test fold.

    Args:
        found (dict): of :func:`searched`.
        start (str): of STARTS.
        networks (list[str]): whose mean accuracy counts.
        fold (int): the test fold.

    Returns:
        str | None: its name, of those that :func:`tried` gives; of equals, the first
        by name. None without any.
    """
    means = {
        recipe: round(  # equals are equal
            np.mean([found[start, name, recipe][fold] for name in networks]), 9
        )
        for recipe in tried(found, start, networks)
    }
    return max(means, key=means.get, default=None)


def make_search(runs):
    """The table of what was tried, in Markdown."""
    found = searched(runs)
    networks = [name for name in NAMES if any(key[1] == name for key in found)]
    lines = [
        '| pretrained on | recipe | '
        + ' | '.join(NAMES[name] for name in networks)
        + ' | mean |',
        '|---|---|' + '---|' * (len(networks) + 1),
    ]
    for start, recipe in sorted({(k[0], k[2]) for k in found}):
        means = [
            np.mean(list(found[start, name, recipe].values()))
            if recipe in tried(found, start, [name])
            else np.nan
            for name in networks
        ]
        cells = [
            '-' if np.isnan(m) else f'{100 * m:.1f}' for m in [*means, np.mean(means)]
        ]
        lines.append(f'| {STARTS[start]} | {recipe} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def print_choices(runs):
    """Print what configs/gestures/study.py should have as RECIPE and OWN.

    Nothing of networks that are not through with what they have begun to try.
    """
    found = searched(runs)
    networks = sorted({key[1] for key in found})
    for name, of in (('RECIPE', networks), *((f'OWN[{n!r}]', [n]) for n in networks)):
        for start in STARTS:
            shared = tried(found, start, of)
            begun = {k[2] for k in found if k[0] == start and k[1] in of}
            whole = {r for n in of for r in tried(found, start, [n])}
            if shared and whole == begun:
                chosen = {fold: choose(found, start, of, fold) for fold in FOLDS}
                print(f'chosen: {name}: {start}={chosen}, of {", ".join(shared)}')


def name_networks(axis, networks):
    """Names below their bars, in lines that are short enough."""
    names = [textwrap.fill(NAMES[network], 10) for network in networks]
    axis.set_xticks(range(len(names)), names)


def draw_accuracy(runs):
    """Bars of top-1 with intervals, by network and start; None without runs."""
    found = clips_of(runs, 'one')
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(7, 3.2), layout='constrained')
    networks = [name for name in NAMES if any(key[1] == name for key in found)]
    starts = [start for start in STARTS if any(key[0] == start for key in found)]
    width = 0.8 / len(starts)
    for number, start in enumerate(starts):
        for place, network in enumerate(networks):
            if (start, network) not in found:
                continue
            hits = found[start, network].hits()
            low, high = mean_interval(hits)
            at, mean = place + width * (number + 0.5) - 0.4, hits.mean()
            axis.bar(at, mean, 0.95 * width, color=f'C{number}', alpha=0.75)
            axis.errorbar(
                at, mean, [[mean - low], [high - mean]], color='black', capsize=3
            )
            axis.text(at, 0.02, f'{100 * mean:.0f}', ha='center', fontsize='small')
    axis.axhline(0.1, color='0.35', linewidth=1, linestyle=':')
    name_networks(axis, networks)
    axis.set_ylim(0, 1)
    axis.set_ylabel('top-1')
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=f'C{number}', alpha=0.75)
        for number in range(len(starts))
    ]
    figure.legend(
        handles,
        [f'pretrained on {STARTS[start]}' for start in starts],
        loc='outside upper center',
        ncols=2,
    )
    return figure


def draw_order(runs):
    """What order is worth: plain, shuffled, reversed and mirrored; or None."""
    found = {k[1]: c for k, c in clips_of(runs, 'one').items() if k[0] == 'arrow'}
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(7, 3.2), layout='constrained')
    bars = {
        'top-1': lambda clips: clips.hits(),
        'top-1, frames shuffled': lambda clips: clips.hits('shuffled'),
        'top-1, reversed': lambda clips: clips.hits('reversed'),
        'reversed: the opposite gesture': lambda clips: clips.mirrored(),
    }
    for number, (label, values) in enumerate(bars.items()):
        places = np.arange(len(found)) + 0.2 * number - 0.3
        heights = [values(clips).mean() for clips in found.values()]
        axis.bar(places, heights, 0.19, color=f'C{number}', alpha=0.75, label=label)
    name_networks(axis, found)
    axis.set_ylim(0, 1)
    figure.legend(loc='outside upper center', ncols=2)
    return figure


def report(folder):
    """The study's tables and pictures, as report_arrow.report has them."""
    runs, ridge = read(folder)
    print_choices(runs)
    final = [
        content for key, group in runs.items() if key[0] == 'one' for content in group
    ]
    devices = sorted({content['device'] for content in final})
    note = '\n\n' + '; '.join(['Per cent', *devices]) + '.'
    tables = {
        'gestures': make_table(runs, 'one', ridge) + note,
        'gestures_differences': make_differences(runs),
        'gestures_own': make_table(runs, 'own'),
        'gestures_search': make_search(runs),
        'gestures_reasons': make_reasons(runs),
        'gestures_mistakes': make_mistakes(runs),
    }
    pictures = {
        'gestures_accuracy': lambda: draw_accuracy(runs),
        'gestures_order': lambda: draw_order(runs),
    }
    return tables, pictures
