#!/usr/bin/env python
"""A page about what tools/test_recognizer.py has left: one result, or two.

    tools/analysis/report.py results.pkl --config CONFIG --labels data/own/classes.txt
    tools/analysis/report.py bn.pkl dnr.pkl --config CONFIG --out report.html

The page is one HTML file without links to others. It has accuracies with
intervals, all classes, the confusion matrix, the pairs of classes that are
confused most, the clips that are most surely wrong, with their frames, and the
calibration. Of two results of one list it says which classes the second gains,
and whether the difference is more than chance. --json writes the figures to a file,
too.

It takes results of both hosts. The list of videos and the frames are those of
data.test of CONFIG.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hosts import HostError, need_mmaction2, run  # noqa: E402

need_mmaction2('tools/analysis/report.py')

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from hosts.checks import check_out  # noqa: E402
from hosts.lists import VIDEO_FORM, read_list  # noqa: E402
from hosts.options import add_cfg_options  # noqa: E402
from hosts.training_state import check_scores  # noqa: E402
from plain_data import read_arrays  # noqa: E402
from rich.progress import track  # noqa: E402
from run_description import describe_run  # noqa: E402
from video_inputs import (  # noqa: E402
    class_names,
    clip_inputs,
    images_of,
    testing_config,
)
from whole_files import write_json  # noqa: E402

from analysis.report_page import SURELY_WRONG, write_page  # noqa: E402
from analysis.report_statistics import Result, accuracies, compare  # noqa: E402

HEIGHT = 96  # pixels, of the frames that are shown
FRAMES = 8  # of a clip that are shown, at most
# Of a pipeline's crops, how many there are and which is the middle one.
CROPS = dict(ThreeCrop=(3, 2), TenCrop=(10, 8))


def read_results(path, name, labels, num_classes, ann_file):
    """A results file of a list.

    Args:
        path (str): the pickle of tools/test_recognizer.py.
        name (str): what the page calls it.
        labels (np.ndarray): (videos,) int, those of the list.
        num_classes (int): of the config.
        ann_file (str): the list, for messages.

    Returns:
        Result

    Raises:
        HostError: it cannot be read, holds something else, or is of another
            list or network.
    """
    try:
        content = read_arrays(path)
    except OSError as error:
        raise HostError(f'cannot read {path}: {error.strerror}') from error
    except ValueError as error:
        raise HostError(f'{path} is no results file: {error}') from None
    shapes = {np.shape(score)[1:] for score in content} if is_results(content) else ()
    if len(shapes) != 1:
        raise HostError(
            f'{path} is no results file: it should be a list of a float array '
            f'(1, classes) a video, as tools/test_recognizer.py leaves it'
        )
    if len(content) != len(labels):
        raise HostError(
            f'{path} has the scores of {len(content)} videos, but {ann_file} '
            f'lists {len(labels)}: it is a result of another list'
        )
    ((classes,),) = shapes
    if classes != num_classes:
        raise HostError(
            f'{path} has scores of {classes} classes, but the config has '
            f'{num_classes} (model.cls_head.num_classes)'
        )
    check_scores(content, path)
    return Result(name, np.stack([score.mean(0) for score in content]), labels)


def is_results(content):
    """Whether content is a list of float arrays of two dimensions."""
    return (
        isinstance(content, list)
        and len(content) > 0
        and all(
            isinstance(score, np.ndarray)
            and score.ndim == 2
            and score.size
            and score.dtype.kind == 'f'
            for score in content
        )
    )


def name_results(paths):
    """A name a file: its own without ending, or its path where two have that.

    Raises:
        HostError: there are more than two, or one is there twice.
    """
    if len(paths) > 2:
        raise HostError(f'{len(paths)} results are given; a page has one or two')
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise HostError(f'{paths[0]} is given twice')
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == len(stems) else list(paths)


def read_videos(dataset):
    """The videos of a list, without a look at the files.

    Args:
        dataset (mmengine.ConfigDict): of the native test_dataloader.

    Returns:
        list[dict]: path (str, as in the list) and label (int), and frames,
        how many there are, of a list of frames.

    Raises:
        HostError: the list is faulty.
    """
    frames = dataset.type == 'V1RawFrames'
    form = 'path frames label' if frames else VIDEO_FORM
    return [
        dict(zip(form.split(), line))
        for line in read_list(dataset.ann_file, form, dataset.num_classes)
    ]


def strip_of(config, video):
    """Frames of a clip side by side, as testing shows them to the network.

    Args:
        config (mmengine.Config): of video_inputs.testing_config.
        video (dict): of :func:`read_videos`.

    Returns:
        bytes: a JPEG of up to FRAMES images; of several crops, the middle one.

    Raises:
        HostError: they cannot be read.
    """
    dataset = config.test_dataloader.dataset
    path = str(Path(dataset.data_prefix.img, video['path']))
    if 'frames' not in video and dataset.video_ext:
        path += f'.{dataset.video_ext}'
    images = images_of(clip_inputs(config, path, video.get('frames')))
    crops = [CROPS[step.type] for step in dataset.pipeline if step.type in CROPS]
    count, middle = crops[0] if crops else (1, 0)
    images = images.permute(0, 2, 3, 1).numpy()
    images = np.split(images, count)[middle]
    shown = np.linspace(0, len(images) - 1, min(FRAMES, len(images))).round()
    width = round(images.shape[2] * HEIGHT / images.shape[1])
    strip = [
        cv2.resize(images[int(number)], (width, HEIGHT), interpolation=cv2.INTER_AREA)
        for number in shown
    ]
    _, jpeg = cv2.imencode('.jpg', np.hstack(strip))
    return jpeg.tobytes()


def figures_of(results, classes):
    """The figures of results, as --json has them.

    Args:
        results (list[Result]): one, or two of one list.
        classes (list[str]): names by label.

    Returns:
        dict: classes; results, a dict of each with name, clips, accuracies (a name to
        share, low, high), confusion (by label, then by predicted class); and, of two,
        difference, as report_statistics.compare has it.
    """
    figures = dict(
        classes=list(classes),
        results=[
            dict(
                name=result.name,
                clips=len(result.labels),
                accuracies={
                    name: dict(zip(('share', 'low', 'high'), values))
                    for name, values in accuracies(result).items()
                },
                confusion=result.confusion.tolist(),
            )
            for result in results
        ],
    )
    if len(results) == 2:
        figures['difference'] = compare(*results)
    return figures


def report(args):
    """Run the command.

    Raises:
        HostError: what a user can mend.
    """
    check_out(args.out, ('.html', '.htm'))
    if args.json:
        check_out(args.json, ('.json',), '--json')
    names = name_results(args.results)
    config = testing_config(args.config, args.cfg_options)
    dataset = config.test_dataloader.dataset
    num_classes = config.model.cls_head.num_classes
    classes = class_names(config, args.labels)
    videos = read_videos(dataset)
    labels = np.array([video['label'] for video in videos])
    results = [
        read_results(path, name, labels, num_classes, dataset.ann_file)
        for path, name in zip(args.results, names)
    ]
    strips, unread = {}, {}
    shown = {place for result in results for place in result.wrong[:SURELY_WRONG]}
    for place in track(sorted(shown), 'Reading frames', disable=None):
        try:
            strips[place] = strip_of(config, videos[place])
        except HostError as error:
            unread[place] = str(error)
    write_page(
        args.out,
        results,
        classes,
        [video['path'] for video in videos],
        dataset.ann_file,
        args.config,
        strips,
        unread,
    )
    for result in results:
        print(f'{result.name}: Top-1 Accuracy = {100 * result.hits.mean():.02f}')
    if unread:
        print(
            f'frames of {len(unread)} of {len(shown)} clips cannot be read, which the '
            f'page says: {next(iter(unread.values()))}'
        )
    print(f'wrote {args.out}')
    if args.json:
        described = describe_run(torch.device('cpu'))
        content = dict(config=args.config, cfg_options=args.cfg_options, **described)
        write_json(args.json, dict(content, **figures_of(results, classes)))
        print(f'wrote {args.json}')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'results', nargs='+', metavar='RESULTS', help='one or two results pickles'
    )
    parser.add_argument(
        '--config', required=True, help='config of the test, for the list of videos'
    )
    parser.add_argument('--labels', metavar='FILE', help="the classes' names, by label")
    parser.add_argument(
        '--out', default='report.html', help='the page (default: %(default)s)'
    )
    parser.add_argument('--json', metavar='FILE', help='the figures, besides the page')
    add_cfg_options(parser)
    return parser.parse_args()


if __name__ == '__main__':
    run(report, parse_args())
