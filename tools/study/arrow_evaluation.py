"""The evaluation of a trained run of the arrow study, in this process."""

import copy
import itertools
import pickle
import time
import warnings

import numpy as np
import torch
from analysis.relays import relay_of, watch_relays
from checkpoint_files import fill_model, read_checkpoint
from hosts import HostError, mmaction2
from recalibrate_norm import choose_norms, estimate, replace_statistics
from study.arrow_runs import BATCH
from study.arrow_training import Stopped
from whole_files import write_json

from resnet_dnr import CrossTemporalNorm, DynamicNorm

# Training batches that move shared statistics before these are evaluated:
# with momentum 0.1, they leave 0.9 ** (20 G) of what was before.
SHARED_BATCHES = 20
LARGE_BATCH = 64  # clips
RECALIBRATION_BATCHES = 100


def accuracies(predicted, labels, classes):
    """The figures of the module's docstring.

    Args:
        predicted (np.ndarray): classes, (clips,) of int.
        labels (np.ndarray): true classes, (clips,) of int; 2k and 2k + 1
            are a pair.
        classes (int): how many there are.

    Returns:
        dict: top1, pair (float), order (float | None) and confusion (a list
        of lists of int).
    """
    right = predicted == labels
    right_pair = predicted // 2 == labels // 2
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    return dict(
        top1=float(right.mean()),
        pair=float(right_pair.mean()),
        order=float(right[right_pair].mean()) if right_pair.any() else None,
        confusion=confusion.tolist(),
    )


def shuffled(length):
    """The numbers below `length` in an order at random, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(length, generator=generator).tolist()


def normalize_by_batches(model):
    """Let a model's normalizations do as in training, and nothing else."""
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, DynamicNorm)):
            module.train()


class Evaluator:
    """Evaluates checkpoints in this process.

    Args:
        stop (threading.Event): ends it early, by Stopped.
    """

    def __init__(self, stop):
        self.stop = stop
        self.device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self.clips = self.train_clips = None

    def prepare(self, plan):
        """Import mmaction2 and read what all runs share.

        These are the test clips, and as many training clips, at random, as
        statistics need.
        """
        # As hosts.mmaction2.build_runner says.
        warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeform')
        from mmaction.registry import DATASETS
        from mmaction.utils import register_all_modules
        from mmengine.utils import import_modules_from_strings

        register_all_modules(init_default_scope=True)
        cfg = mmaction2.translate(plan.v1)
        import_modules_from_strings(**cfg.custom_imports)

        def read(dataset, places):
            clips = []
            for place in places:
                self.check_time()
                clips.append(dataset[place])
            return clips

        train = DATASETS.build(cfg.train_dataloader.dataset)
        self.train_clips = read(
            train, shuffled(len(train))[: RECALIBRATION_BATCHES * BATCH]
        )
        test = DATASETS.build(cfg.test_dataloader.dataset)
        self.clips = read(test, range(len(test)))
        self.labels = np.array(
            [int(clip['data_samples'].gt_labels.item) for clip in self.clips]
        )

    def check_time(self):
        if self.stop.is_set():
            raise Stopped

    def build(self, plan, state, path, **backbone):
        """The recognizer in evaluation mode, on the device.

        Args:
            plan (Plan): the run.
            state (dict[str, Tensor]): its weights.
            path (Path): where these are from.
            backbone: values for model.backbone.
        """
        from mmaction.registry import MODELS

        v1 = copy.deepcopy(plan.v1)
        v1.model.backbone.update(backbone)
        model = MODELS.build(mmaction2.translate(v1).model)
        fill_model(model, state, path)
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
            self.check_time()
            batch = [copy.copy(clips[place]) for place in places[start : start + size]]
            samples = model.test_step(pseudo_collate(batch))
            scores += [sample.pred_scores.item for sample in samples]
        scores = torch.stack(scores).float().cpu().numpy()[: len(order)]
        return scores[np.argsort(places[: len(order)])]

    def batches(self, size):
        """Batches of training clips, as a data loader gives them."""
        from mmengine.dataset import pseudo_collate

        for number in range(min(RECALIBRATION_BATCHES, len(self.train_clips) // size)):
            self.check_time()
            yield pseudo_collate(
                [
                    copy.copy(clip)
                    for clip in self.train_clips[number * size : (number + 1) * size]
                ]
            )

    def evaluate(self, plan):
        """Write a run's JSON, and that of the relay where it has it.

        Args:
            plan (Plan): the run, trained and tested.

        Returns:
            dict: what the JSON holds of the evaluation.

        Raises:
            HostError: the checkpoint or the testing script's results are not
                of this model and these clips.
        """
        if self.clips is None:
            self.prepare(plan)
        start = time.perf_counter()
        path = plan.folder / f'epoch_{plan.epochs}.pth'
        state = read_checkpoint(path)['state_dict']
        classes = len(plan.settings['classes'])

        def figures(scores):
            return accuracies(scores.argmax(1), self.labels, classes)

        model = self.build(plan, state, path)
        grouped = self.scores(model, self.clips, plan.run.batch)
        tested = self.read_results(plan, grouped)
        modes = dict(grouped=figures(grouped), shared=None)

        normalize_by_batches(model)
        # The running statistics move meanwhile, without effect. The list of
        # clips goes class by class, which no training batch does.
        order = shuffled(len(self.clips))
        for mode, size in (('batch', plan.run.batch), ('large_batch', LARGE_BATCH)):
            modes[mode] = figures(self.scores(model, self.clips, size, order))
        model = self.build(plan, state, path)
        state_anew = dict(state)
        replace_statistics(
            state_anew,
            estimate(model, choose_norms(model), self.batches(plan.run.batch)),
        )
        modes['recalibrated'] = figures(
            self.scores(self.build(plan, state_anew, path), self.clips, plan.run.batch)
        )

        if any(isinstance(m, CrossTemporalNorm) for m in model.modules()):
            model = self.build(plan, state, path, running_stats='shared')
            normalize_by_batches(model)
            self.scores(
                model,
                self.train_clips[: SHARED_BATCHES * plan.run.batch],
                plan.run.batch,
            )  # for what it does to the statistics
            modes['shared'] = figures(
                self.scores(model.eval(), self.clips, plan.run.batch)
            )
        if plan.run.has_relay():
            model = self.build(plan, state, path)
            self.record_relay(plan, model)
        return dict(
            test_script=figures(tested),
            largest_difference_of_a_score=float(abs(tested - grouped).max()),
            evaluation=modes,
            gap=modes['batch']['top1'] - modes['grouped']['top1'],
            seconds=dict(
                plan.read_state()['seconds'], evaluate=time.perf_counter() - start
            ),
        )

    def read_results(self, plan, scores):
        """The testing script's scores, which `scores` must be again.

        Returns:
            np.ndarray: (clips, classes).

        Raises:
            HostError: they are others.
        """
        path = plan.folder / 'results.pkl'
        with open(path, 'rb') as file:
            tested = np.concatenate(pickle.load(file))
        if tested.shape != scores.shape:
            raise HostError(
                f'{path} has scores {tested.shape}, the evaluation has {scores.shape}'
            )
        # What rounding (TF32 on a GPU) can do is far below a score's spread.
        difference = abs(tested - scores).max()
        if not difference <= 0.02 * max(tested.std(), 1e-3):
            raise HostError(
                f'the scores of {path} and of the evaluation here differ by '
                f'up to {difference:.2g}: they should be the same. Remove the '
                f'file to test again'
            )
        return tested

    def record_relay(self, plan, model):
        """Write relay.json: what a cross-temporal layer's relay predicts.

        The layer is that whose scales and shifts, of the clips backwards,
        are on average farthest from those of the clips and from the mirror
        image of these, whichever is nearer.
        """
        names = plan.settings['classes']
        relayed = watch_relays(model.backbone)
        clips, recorded = [], []
        for label in range(0, len(names), 2):
            clip = self.clips[list(self.labels).index(label)]
            both = [clip, dict(clip, inputs=clip['inputs'].flip(0))]
            predicted = self.scores(model, both, 2).argmax(1)
            clips.append(
                dict(
                    label=names[label],
                    reversed_label=names[label + 1],
                    predicted=names[predicted[0]],
                    reversed_predicted=names[predicted[1]],
                )
            )
            recorded.append(dict(relayed))
        chosen, values = relay_of(recorded)
        for clip, of_clip in zip(clips, values):
            clip.update(of_clip)
        write_json(
            plan.result.with_name('relay.json'),
            dict(study='arrow', run=plan.run.name, layer=chosen, clips=clips),
            indent=None,
        )
