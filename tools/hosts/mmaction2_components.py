"""mmaction v1's rules where mmaction2's own components differ.

Registered components for mmaction2 configs: data set, frame sampling and
decoding, batch sampler and result metric. The native configs of
mmaction2_config.py name this module in ``custom_imports``.
"""

import inspect
import os.path as osp
import pickle
import random

import mmcv
import numpy as np
import torch
from mmaction.datasets import RawframeDataset
from mmaction.evaluation import AccMetric, top_k_accuracy
from mmaction.models import ActionDataPreprocessor, I3DHead, TSNHead
from mmaction.models.backbones.resnet_tsm import TemporalShift
from mmaction.registry import (
    DATA_SAMPLERS,
    DATASETS,
    METRICS,
    MODELS,
    TRANSFORMS,
)
from mmaction.structures import ActionDataSample
from mmcv.transforms import BaseTransform
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.evaluator import BaseMetric
from mmengine.registry import FUNCTIONS
from mmengine.structures import BaseDataElement
from torch.nn.functional import pad
from whole_files import write_or_keep

from add_dnr import WithDNR
from resnet_dnr import ResNet_DNR

from . import HostError
from .checks import check_frame_size
from .frame_indices import frame_indices
from .lists import read_list
from .speed import FastBackbone, make_fast
from .training_state import check_scores, drawn_seed


class SeededClips:
    """A data set, mixed in before mmaction2's, whose clips can have a seed."""

    def __getitem__(self, place):
        """A clip, by its index or by FullBatchSampler's (index, seed)."""
        if isinstance(place, tuple):
            place, seed = place
            random.seed(seed)
            np.random.seed(seed)
        return super().__getitem__(place)


@DATASETS.register_module()
class V1RawFrames(SeededClips, RawframeDataset):
    """Frame folders listed as ``path num_frames label``, one video a line.

    As RawframeDataset, but a fault in the list names its line, labels are
    checked against the number of classes, and the first frame of the first
    video must exist: a wrong prefix or file name template shows at once.
    Arguments are RawframeDataset's.

    Raises:
        HostError: for each of these faults.
    """

    def load_data_list(self):
        data_list = [
            dict(
                frame_dir=osp.join(self.data_prefix['img'], path),
                total_frames=num_frames,
                label=label,
            )
            for path, num_frames, label in read_list(
                self.ann_file, num_classes=self.num_classes
            )
        ]
        first = osp.join(
            data_list[0]['frame_dir'], self.filename_tmpl.format(self.start_index)
        )
        if not osp.isfile(first):
            raise HostError(
                f'{first} does not exist: it should be the first frame of '
                f'the first video in {self.ann_file} (img_prefix and '
                f'image_tmpl in the config)'
            )
        return data_list


@TRANSFORMS.register_module()
class V1SampleFrames(BaseTransform):
    """Adds ``frame_inds``, by the rule of :func:`frame_indices`.

    Args:
        **rule: those of the function, without the video's length.
    """

    def __init__(self, **rule):
        inspect.signature(frame_indices).bind(1, **rule)  # or TypeError
        self.rule = rule

    def transform(self, results):
        """Add frame_inds to results, which has total_frames."""
        results['frame_inds'] = frame_indices(results['total_frames'], **self.rule)
        results['num_clips'] = self.rule['num_segments']  # for FormatShape's NCTHW
        results['clip_len'] = self.rule['new_length']
        return results


@TRANSFORMS.register_module()
class V1ReadFrames(BaseTransform):
    """Read the frames as BGR uint8 images, as mmaction v1 does.

    mmaction2's inferencer puts its own way in place of each transform that has
    Decode in its name, which gives other images.

    Raises:
        HostError: a frame is missing or unreadable, or has another size than
            the others of its video; the text names the file.
    """

    def transform(self, results):
        """Add imgs, original_shape and img_shape to results."""
        images = {}
        for number in np.unique(results['frame_inds']):
            path = osp.join(
                results['frame_dir'], results['filename_tmpl'].format(number)
            )
            try:
                with open(path, 'rb') as file:
                    content = file.read()
            except OSError as error:
                raise HostError(
                    f'cannot read frame {path}: {error.strerror}'
                ) from error
            image = mmcv.imfrombytes(content) if content else None
            if image is None:
                raise HostError(f'frame {path} is no readable image')
            shape = next(iter(images.values()), image).shape
            if image.shape != shape:
                raise HostError(
                    f'frame {path} is {image.shape[1]} x {image.shape[0]}, '
                    f'others of its video are {shape[1]} x {shape[0]}'
                )
            images[number] = image
        results['imgs'] = [images[n] for n in results['frame_inds']]
        results['original_shape'] = shape[:2]
        results['img_shape'] = shape[:2]
        return results


@TRANSFORMS.register_module()
class V1FrameSize(BaseTransform):
    """Resized frames have room for the crop that follows.

    Args:
        **crop: arguments of :func:`check_frame_size` after the frame's.

    Raises:
        HostError: they have not; the text names the video.
    """

    def __init__(self, **crop):
        inspect.signature(check_frame_size).bind(1, 1, **crop)  # or TypeError
        self.crop = crop

    def transform(self, results):
        """Look at img_shape of results, and give them back."""
        height, width = results['img_shape']
        try:
            check_frame_size(width, height, **self.crop)
        except HostError as error:
            video = results.get('frame_dir') or results['filename']
            raise HostError(f'{video}: {error}') from None
        return results


@FUNCTIONS.register_module()
def collate_labelled(clips):
    """A batch for training: its clips, and an array of their labels.

    The process that trains would receive each tensor through a connection of its own
    and unpickle each sample. :class:`V1Preprocessor` makes the samples.

    Args:
        clips (list[dict]): of the data set, with inputs and data_samples.

    Returns:
        dict: inputs, stacked, and data_samples, labels: (clips, 1) int64, or a row a
        clip of the kind that the clips have.
    """
    labels = [clip['data_samples'].gt_labels.item.numpy() for clip in clips]
    inputs = default_collate([clip['inputs'] for clip in clips])
    return dict(inputs=inputs, data_samples=np.stack(labels))


@MODELS.register_module()
class V1Preprocessor(ActionDataPreprocessor):
    """Copies a batch to the model's device at once, and normalizes it there.

    ActionDataPreprocessor takes a list of clips and copies one after the
    other, each when the device has finished what it does, and stacks them.
    This one also takes a batch that a data loader has stacked, as it is. The
    clips of a batch are of one size, as all crops of a config are.

    Args:
        mean, std (sequence of float): a number a channel, in the order after
            to_rgb.
        to_rgb (bool): swap the channels, BGR to RGB, before normalizing.
        format_shape (str): of the clips, 'NCHW' or 'NCTHW'.
        blending (dict | None): of clips and labels in training, such as mixup.
    """

    def __init__(self, mean, std, to_rgb=False, format_shape='NCHW', blending=None):
        super().__init__(
            mean, std, to_rgb, format_shape=format_shape, blending=blending
        )
        if format_shape not in ('NCHW', 'NCTHW'):
            raise ValueError(f'format_shape={format_shape!r} should be NCHW or NCTHW')
        self._non_blocking = True  # ActionDataPreprocessor passes none on

    def cast_data(self, data):
        """Copy tensors to the device; V1Head copies all labels of a batch at once."""
        if isinstance(data, dict) and isinstance(data.get('data_samples'), np.ndarray):
            samples = [
                ActionDataSample().set_gt_labels(torch.from_numpy(label))
                for label in data['data_samples']
            ]
            data = dict(data, data_samples=samples)  # of collate_labelled
        if isinstance(data, BaseDataElement):
            return data.new()  # which gets the scores: the caller's stays as it is
        return super().cast_data(data)

    def preprocess(self, inputs, data_samples, training=False):
        """inputs: clips, stacked or as a list, (clips, images, 3, H, W), or
        (clips, crops, 3, T, H, W)."""
        if not torch.is_tensor(inputs):
            inputs = torch.stack(inputs)
        if self.to_rgb:
            inputs = inputs.flip(2)  # an index of a list would wait for the device
        inputs = (inputs - self.mean).div_(self.std)
        if training and self.blending is not None:
            inputs, data_samples = self.blending(inputs, data_samples)
        return inputs, data_samples


@MODELS.register_module()
class FastResNet_DNR(FastBackbone, ResNet_DNR):
    """The backbone with settings of speed; arguments of both classes."""


@MODELS.register_module()
class FastWithDNR(WithDNR):
    """A host's own network with DNR and with settings of speed; arguments of WithDNR
    and of FastBackbone."""

    def __new__(cls, *args, amp=None, channels_last=False, compile=None, **kwargs):
        settings = dict(amp=amp, channels_last=channels_last, compile=compile)
        network = make_fast(super().__new__(cls, *args, **kwargs), **settings)
        for module in network.modules():
            if isinstance(module, TemporalShift):
                module.shift = shift_in_layout
        return network


def shift_in_layout(x, num_segments, shift_div):
    """What TemporalShift.shift computes, with the same values, in x's layout.

    Of images channels last, TemporalShift.shift makes contiguous ones, which the next
    convolution converts back.

    Args:
        x (Tensor): (N * T, C, H, W).
        num_segments (int): T.
        shift_div (int): C // shift_div channels come from the next frame, and as many
            from the one before; at a clip's ends they are 0.

    Returns:
        Tensor: (N * T, C, H, W).
    """
    if not x.is_contiguous(memory_format=torch.channels_last):
        return TemporalShift.shift(x, num_segments, shift_div)
    fold = x.size(1) // shift_div
    clips = x.permute(0, 2, 3, 1).unflatten(0, (-1, num_segments))  # (N, T, H, W, C)
    left, right, rest = clips.split([fold, fold, x.size(1) - 2 * fold], -1)
    left = pad(left[:, 1:], (0, 0) * 3 + (0, 1))
    right = pad(right[:, :-1], (0, 0) * 3 + (1, 0))
    return torch.cat((left, right, rest), -1).flatten(0, 1).permute(0, 3, 1, 2)


class NotWaitingHead:
    """A head, mixed in before mmaction2's, whose training does not wait for the device.

    mmaction2's copies all scores to the host in each iteration, for the accuracies.
    This one computes in float32.
    """

    def forward(self, x, *args, **kwargs):
        """Scores (N, num_classes) of features (N * num_segs, C, H, W), or (N, C, T, H,
        W) of a 3D network; arguments after them are mmaction2's."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float(), *args, **kwargs)

    def loss_by_feat(self, cls_scores, data_samples):
        """Losses and accuracies of a batch, as tensors on the device."""
        labels = torch.stack([sample.gt_labels.item for sample in data_samples])
        if labels.shape[1:] != (1,) or self.label_smooth_eps:  # not a class each
            return super().loss_by_feat(cls_scores, data_samples)
        labels = labels.to(cls_scores.device, non_blocking=True)
        best = cls_scores.detach().topk(max(self.topk), 1).indices
        hits = (best == labels).double()
        losses = {f'top{k}_acc': hits[:, :k].sum(1).mean() for k in self.topk}
        losses['loss_cls'] = self.loss_cls(cls_scores, labels.squeeze(1))
        return losses


@MODELS.register_module()
class V1Head(NotWaitingHead, TSNHead):
    """TSNHead, see :class:`NotWaitingHead`. Arguments are TSNHead's."""


@MODELS.register_module()
class V1Head3D(NotWaitingHead, I3DHead):
    """I3DHead, see :class:`NotWaitingHead`. Arguments are I3DHead's."""


@DATA_SAMPLERS.register_module()
class FullBatchSampler(DefaultSampler):
    """Shuffles, and fills the last batch of every process, as v1 does.

    A short last batch would be normalized by statistics of fewer clips.

    Its items are places in the data set with a seed each, for SeededClips:
    what is drawn for a clip depends on the training's seed, the epoch and the
    place in the epoch, and neither on the data loading workers nor on whether
    the training was resumed.

    Args:
        dataset (Sized): the data set.
        batch_size (int): videos a process and batch.
        seed (int | None): of the shuffling; the same in all processes.
    """

    def __init__(self, dataset, batch_size, seed=None):
        super().__init__(dataset, shuffle=True, seed=seed)
        batches = -(-len(dataset) // (batch_size * self.world_size))
        self.num_samples = batches * batch_size
        self.total_size = self.num_samples * self.world_size

    def __iter__(self):
        """Yields (index, seed) for each clip of this process."""
        for number, index in enumerate(super().__iter__()):
            place = number * self.world_size + self.rank
            yield index, drawn_seed(self.seed, self.epoch, place)


def mean_class_accuracy(scores, labels):
    """Over the classes that occur: one that is only predicted has no accuracy.

    v1 gives nan for the mean then, mmaction2 counts it as 0.

    Args:
        scores (Sequence[np.ndarray]): (classes,) of each video.
        labels (Sequence[int]): of each.

    Returns:
        float: 0 to 1.
    """
    labels = np.asarray(labels)
    hits = np.argmax(scores, 1) == labels
    return np.mean([hits[labels == c].mean() for c in np.unique(labels)])


@METRICS.register_module()
class V1AccMetric(AccMetric):
    """mmaction2's accuracies, with the mean over classes that testing prints."""

    def calculate(self, preds, labels):
        accuracies = super().calculate(preds, labels)
        if 'mean1' in accuracies:
            accuracies['mean1'] = mean_class_accuracy(preds, labels)
        return accuracies


@METRICS.register_module()
class V1Results(BaseMetric):
    """Write mmaction v1's result pickle and print its accuracies.

    The pickle is a list in annotation order, of one float32 array of raw
    scores (1, num_classes) a video; it is written whole or not at all. If it cannot
    be, the accuracies are printed, and the scores kept among the temporary files.

    Args:
        out (str): path of the pickle.
        use_softmax (bool): average the scores' softmax for the accuracies;
            the pickle keeps raw scores.
    """

    default_prefix = 'acc'

    def __init__(self, out, use_softmax=False):
        # 'gpu' collects by all_gather_object, on any device, and needs no
        # folder that all machines share.
        super().__init__(collect_device='gpu')
        self.out = out
        self.use_softmax = use_softmax

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            score = sample['pred_scores']['item'].float().cpu().numpy()
            self.results.append((score[None], int(sample['gt_labels']['item'])))

    def compute_metrics(self, results):
        """On the first process: results of all, in annotation order."""
        scores = [score for score, _ in results]
        labels = np.array([label for _, label in results])
        check_scores(scores)
        print(f'writing results to {self.out}')
        failure = None
        try:
            write_or_keep(self.out, pickle.dumps(scores))
        except OSError as error:  # after the accuracies, not in their place
            failure = error
        print(
            f'Averaging score over {scores[0].shape[0]} clips '
            + ('with softmax' if self.use_softmax else 'without softmax (ie, raw)')
        )
        if self.use_softmax:
            scores = [torch.from_numpy(score).softmax(1).numpy() for score in scores]
        scores = np.stack([score.mean(0) for score in scores])
        top1, top5 = top_k_accuracy(scores, labels, (1, 5))
        mean_class = mean_class_accuracy(scores, labels)
        accuracies = {
            'Mean Class Accuracy': mean_class,
            'Top-1 Accuracy': top1,
            'Top-5 Accuracy': top5,
        }
        for name, value in accuracies.items():
            print(f'{name} = {value * 100:.02f}', flush=True)
        if failure:
            raise HostError(f'cannot write {self.out}: {failure.strerror}') from failure
        return dict(mean1=mean_class, top1=top1, top5=top5)
