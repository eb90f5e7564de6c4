#!/usr/bin/env python
"""Evaluate a run of a study: what takes its trained network.

    python tools/study/evaluate_run.py CONFIG CHECKPOINT RESULTS --evaluations order \\
        --out evaluation.json

RESULTS is the testing script's pickle. The network's scores of the test clips must be
the same again. What the evaluations find is written to --out.
"""

import argparse
import copy
import functools
import itertools
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

from checkpoint_files import fill_model, read_checkpoint  # noqa: E402
from hosts import HostError, mmaction2, run  # noqa: E402
from hosts.backbones import leave_out_pretrained  # noqa: E402
from hosts.lists import read_labels  # noqa: E402
from hosts.options import add_cfg_options  # noqa: E402
from whole_files import write_json  # noqa: E402

from study.evaluations import OF_NETWORK, of_network, read_scores  # noqa: E402


class TrainedRun:
    """A run's trained network, and its clips.

    Args:
        v1 (mmengine.Config): its config, in mmaction v1's schema.
        checkpoint (str): its last one.
        results (Path): the testing script's pickle.
        seed (int): of its training.
    """

    def __init__(self, v1, checkpoint, results, seed):
        self.v1, self.path, self.seed = v1, checkpoint, seed
        self.results = results
        self.device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self.cfg = mmaction2.translate(v1)
        mmaction2.import_components(self.cfg)
        from mmaction.utils import register_all_modules

        register_all_modules(init_default_scope=True)
        self.state = read_checkpoint(checkpoint)['state_dict']
        self.batch = v1.data.videos_per_gpu
        self.classes = v1.model.cls_head.num_classes

    def _dataset(self, split):
        from mmaction.registry import DATASETS

        return DATASETS.build(self.cfg[f'{split}_dataloader'].dataset)

    @functools.cached_property
    def clips(self):
        """The test clips, as the data set has them, in the list's order."""
        dataset = self._dataset('test')
        return [dataset[place] for place in range(len(dataset))]

    @functools.cached_property
    def labels(self):
        """(clips,) int: of the test clips."""
        return labels_of(self.clips)

    @property
    def class_names(self):
        """By label: classes.txt beside the test list."""
        return read_labels(
            Path(self.v1.data.test.ann_file).with_name('classes.txt'), self.classes
        )

    def train_clips(self, count):
        """So many training clips, at random, always the same ones."""
        dataset = self._dataset('train')
        return [dataset[place] for place in shuffled(len(dataset))[:count]]

    def build(self, state=None, **backbone):
        """The recognizer in evaluation mode, on the device.

        Args:
            state (dict[str, Tensor] | None): its weights; None: the checkpoint's.
            backbone: values for model.backbone.
        """
        from hosts.mmaction2_runner import build_model

        model = copy.deepcopy(self.cfg.model)
        model.backbone.update(backbone)
        leave_out_pretrained(model.backbone)
        model = build_model(model)
        fill_model(model, self.state if state is None else state, self.path)
        return model.to(self.device).eval()

    @torch.no_grad()
    def scores(self, model, clips, size, order=None):
        """Class scores of clips.

        Args:
            model (nn.Module): the recognizer.
            clips (list[dict]): of the data set.
            size (int): clips a batch; the last is filled up with the first.
            order (list[int] | None): in which they are taken.

        Returns:
            np.ndarray: (clips, classes) float32, in the order of `clips`.
        """
        from mmengine.dataset import pseudo_collate

        order = range(len(clips)) if order is None else order
        filled = -(-len(order) // size) * size
        places = list(itertools.islice(itertools.cycle(order), filled))
        scores = []
        for start in range(0, filled, size):
            batch = [copy.copy(clips[place]) for place in places[start : start + size]]
            samples = model.test_step(pseudo_collate(batch))
            scores += [sample.pred_scores.item for sample in samples]
        scores = torch.stack(scores).float().cpu().numpy()[: len(order)]
        return scores[np.argsort(places[: len(order)])]

    def check_results(self, scores):
        """The testing script's scores, which `scores` must be again.

        Args:
            scores (np.ndarray): (clips, classes), of the test clips.

        Returns:
            np.ndarray: (clips, classes).

        Raises:
            HostError: they are others.
        """
        tested = read_scores(self.results)
        if tested.shape != scores.shape:
            raise HostError(
                f'{self.results} has scores {tested.shape}, the evaluation has '
                f'{scores.shape}'
            )
        # What rounding (TF32 or bfloat16 on a GPU) can do is far below a score's
        # spread.
        difference = abs(tested - scores).max()
        limit = 0.1 if self.v1.get('amp') else 0.02
        if not difference <= limit * max(tested.std(), 1e-3):
            raise HostError(
                f'the scores of {self.results} and of the evaluation here differ by '
                f'up to {difference:.2g}: they should be the same. Remove the '
                f'file to test again'
            )
        return tested


def labels_of(clips):
    """The labels of a data set's clips: (clips,) int."""
    return np.array([int(clip['data_samples'].gt_labels.item) for clip in clips])


def shuffled(length):
    """The numbers below `length` in an order at random, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(length, generator=generator).tolist()


def evaluate(args):
    v1 = mmaction2.load_config(args.config, args.cfg_options)
    trained = TrainedRun(v1, args.checkpoint, args.results, args.seed)
    found = {}
    for name in args.evaluations:
        found.update(of_network(name)(trained))
    write_json(args.out, found, indent=None)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', metavar='CONFIG', help='config of the run')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='its last one')
    parser.add_argument('results', metavar='RESULTS', help="the test's pickle")
    parser.add_argument('--evaluations', nargs='+', required=True, choices=OF_NETWORK)
    parser.add_argument('--out', required=True, help='file for what they find')
    parser.add_argument('--seed', type=int, default=0, help='of the training')
    add_cfg_options(parser)
    return parser.parse_args()


if __name__ == '__main__':
    run(evaluate, parse_args())
