"""A trained network that says what videos show.

    recognizer = Recognizer(config, checkpoint, labels='data/own/classes.txt')
    print(recognizer.predict('wave.mp4').top(3))

Scores are those of tools/test_recognizer.py: the frames, their size, the crops
and the averaging over them are those of data.test of the config.
"""

import dataclasses

import numpy as np
import torch
from hosts import HostError
from hosts.videos import BrokenVideo
from video_files import VideoError
from video_inputs import (
    FROM_FRAMES,
    FROM_VIDEO,
    class_names,
    clip_inputs,
    load_recognizer,
    testing_config,
)

from . import camera as cameras
from . import windows as windowing
from .ahead import Times, ahead, in_thread

# Images of a batch: a clip of Kinetics' testing has 240, one of own videos 8.
IMAGES = 64


@dataclasses.dataclass
class Prediction:
    """What the network says of a video, or of a window of one.

    Attributes:
        video (str): path of the file or folder of frames, or a camera.
        classes (list[str]): a name a class.
        scores (np.ndarray | None): (classes,) float32, raw; the mean over the
            clips and crops of a video. None where there is an error.
        features (np.ndarray | None): (channels,) float32, the pooled features
            that the last layer makes the scores of, averaged alike.
        start, end (float | None): of a window, seconds from the first frame.
        error (str | None): why the video could not be read.
    """

    video: str
    classes: list
    scores: np.ndarray = None
    features: np.ndarray = None
    start: float = None
    end: float = None
    error: str = None

    @property
    def probabilities(self):
        """np.ndarray: (classes,) float32, softmax of the scores."""
        exponents = np.exp(self.scores - self.scores.max())
        return exponents / exponents.sum()

    def top(self, count=5):
        """The classes with the highest scores.

        Args:
            count (int): how many; all, where there are fewer.

        Returns:
            list[dict]: label (int, from 0), name (str), probability and score
            (float), the highest first.
        """
        probabilities = self.probabilities
        return [
            dict(
                label=int(label),
                name=self.classes[label],
                probability=float(probabilities[label]),
                score=float(self.scores[label]),
            )
            for label in np.argsort(-self.scores, kind='stable')[:count]
        ]


def mean_of(windows):
    """The prediction of a video from those of its windows.

    Args:
        windows (list[Prediction]): at least one.

    Returns:
        Prediction: with the mean of their scores and features.
    """
    first = windows[0]
    return Prediction(
        first.video,
        first.classes,
        np.mean([window.scores for window in windows], 0),
        np.mean([window.features for window in windows], 0),
    )


def choose_device(name=None):
    """The device to compute on.

    Args:
        name (str | None): 'cpu', 'cuda', 'cuda:1'; None for the GPU, if there
            is one.

    Returns:
        torch.device

    Raises:
        HostError: there is no such device.
    """
    if name is None:
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch not built for it, or none
        reason = str(error).splitlines()[0]
        raise HostError(f'--device {name} cannot be used: {reason}') from None
    return device


class Clips:
    """How a video becomes what the network sees, by data.test of a config.

    Args:
        config (mmengine.Config): of video_inputs.testing_config.

    Raises:
        HostError: its pipeline begins with something else than the hosts' own
            reading of frames.

    Attributes:
        rule (dict): of hosts.frame_indices, without the video's length.
        images (int): of a clip, crops included.
    """

    def __init__(self, config):
        from mmengine.dataset import Compose

        self._config = config
        first, *steps = config.test_dataloader.dataset.pipeline
        if first.type not in (FROM_VIDEO, FROM_FRAMES):
            raise HostError(
                f'the pipeline of testing begins with {first.type}, and should with '
                f'{FROM_VIDEO} or {FROM_FRAMES} (native.test_dataloader in the config)'
            )
        self.rule = {key: value for key, value in first.items() if key != 'type'}
        self.images = self.rule['num_segments'] * self.rule['new_length']
        for step in steps:
            self.images *= dict(ThreeCrop=3, TenCrop=10).get(step.type, 1)
        steps = [step for step in steps if step.type != 'V1ReadFrames']
        self._resize = Compose(steps[:1])
        self._steps = Compose(steps)

    def of(self, video):
        """A video file's clip, or that of a folder of frames.

        Returns:
            Tensor: (images, 3, H, W) uint8, BGR.

        Raises:
            HostError: it cannot be read, or does not fit the crop.
        """
        return clip_inputs(self._config, video)['inputs']

    def small(self, image):
        """An image at the size that crops are cut from: resizing it again
        changes nothing.

        Args:
            image (np.ndarray): (height, width, 3) uint8, BGR.
        """
        return self._resize(dict(imgs=[image], img_shape=image.shape[:2]))['imgs'][0]

    def of_images(self, images, video):
        """The clip of a clip's images.

        Args:
            images (list[np.ndarray]): as many as the rule gives numbers.
            video (str): where they are from, for errors.

        Returns:
            Tensor: (images, 3, H, W) uint8, BGR.

        Raises:
            HostError: they do not fit the crop.
        """
        source = dict(
            imgs=images,
            img_shape=images[0].shape[:2],
            original_shape=images[0].shape[:2],
            modality='RGB',
            filename=video,
        )
        return self._steps(source)['inputs']


class Recognizer:
    """A network of a config with the weights of a checkpoint.

    Args:
        config (str): file, in mmaction v1's schema.
        checkpoint (str): file or http(s) URL, of this network.
        labels (str | None): file of the classes' names, one a line, as
            tools/data/ writes it. None: class_names of the config, or without
            that, a class's name is its label.
        device (str | None): see :func:`choose_device`.
        cfg_options (dict | None): values to set in the config, by dotted keys.
        amp (str | None): 'bf16' or 'fp16' for mixed precision.
        channels_last (bool): the channels of a pixel lie together.
        compile (str | None): 'default' or 'reduce-overhead', of torch.compile.
        batch (int | None): clips at a time. None: as many as have 64 images.
        workers (int): threads that decode beside the network.

    Raises:
        HostError: something does not fit; the text says what.

    Attributes:
        classes (list[str]): a name a class.
        times (Times): what the time went to, since the beginning.
    """

    def __init__(
        self,
        config,
        checkpoint,
        labels=None,
        device=None,
        cfg_options=None,
        amp=None,
        channels_last=False,
        compile=None,
        batch=None,
        workers=2,
    ):
        options = dict(cfg_options or {})
        speed = dict(amp=amp, channels_last=channels_last, compile=compile)
        options.update({key: value for key, value in speed.items() if value})
        self.config = testing_config(config, options)
        self.classes = class_names(self.config, labels)
        for name, value in ('batch', batch), ('workers', workers):
            if value is not None and value < 1:
                raise HostError(f'--{name} {value} should be at least 1')
        self.device = choose_device(device)
        backbone = self.config.model.backbone
        if backbone.get('amp') == 'fp16' and self.device.type == 'cpu':
            raise HostError('amp=fp16 needs CUDA: on a CPU, use bf16')
        self.network = load_recognizer(self.config, checkpoint, self.device)
        torch.backends.cudnn.benchmark = self.config.env_cfg.cudnn_benchmark
        self._pads, self._features = bool(backbone.get('compile')), None
        self.network.cls_head.fc_cls.register_forward_pre_hook(self._keep_features)
        self._clips = Clips(self.config)
        self.batch = batch or max(1, IMAGES // self._clips.images)
        self.workers, self.times = workers, Times()

    def _keep_features(self, _, inputs):
        self._features = inputs[0]

    @torch.inference_mode()
    def infer(self, clips):
        """Scores of clips.

        Args:
            clips (list[Tensor]): each (images, 3, H, W) uint8, BGR.

        Returns:
            tuple: raw scores (clips, classes) and features (clips, channels),
            np.ndarray of float32.

        Raises:
            HostError: the memory is too small, or scores are not finite.
        """
        from mmaction.structures import ActionDataSample

        count, network = len(clips), self.network
        samples = [ActionDataSample() for _ in clips]
        try:
            data = dict(inputs=list(clips), data_samples=samples)
            samples = network(**network.data_preprocessor(data), mode='predict')
            scores = torch.stack([sample.pred_scores.item for sample in samples])
            features = self._features.unflatten(0, (count, -1)).mean(1)
            scores, features = scores.float().cpu(), features.float().cpu()
        except torch.cuda.OutOfMemoryError:
            raise HostError(
                f'a batch of {count} clips is too large for {self.device}: '
                + ('try another device' if count == 1 else f'try --batch {count // 2}')
            ) from None
        if not scores.isfinite().all():
            raise HostError(
                'scores are not finite; the weights of the checkpoint may be the reason'
            )
        return scores.numpy(), features.numpy()

    def predict(self, video):
        """What one video shows.

        Args:
            video (str): a video file, or a folder of frames, named as
                data.test.image_tmpl of the config says.

        Returns:
            Prediction

        Raises:
            HostError: it cannot be read.
        """
        (prediction,) = self.predict_all([video])
        if prediction.error:
            raise HostError(prediction.error)
        return prediction

    def predict_all(self, videos):
        """What videos show; they are decoded ahead, and scored in batches.

        Args:
            videos (iterable of str): as for :meth:`predict`.

        Yields:
            Prediction: one a video, in their order, with error set where it
            could not be read.
        """

        def load(video):
            prediction = Prediction(str(video), self.classes)
            try:
                with self.times.of('decoding', self.workers):
                    return prediction, self._clips.of(str(video))
            except HostError as error:
                prediction.error = str(error)
                return prediction, None

        lookahead = self.workers + 2 * self.batch
        return self._in_batches(
            ahead(load, videos, self.workers, lookahead), self.batch
        )

    def windows(self, video, every, length=None, tell_total=None):
        """What the windows of a long video show; it is streamed.

        Args:
            video (str): a video file.
            every (float): seconds from one window's start to the next one's.
            length (float | None): seconds of a window; None for the same.
            tell_total (callable | None): called with the number of windows.

        Yields:
            Prediction: one a window, with start and end, in order.

        Raises:
            HostError: the video cannot be read, after the windows up to there.
        """
        every, length = windowing.check_times(every, length)
        found = windowing.stream(
            str(video), every, length, self._clips, self.workers, tell_total
        )
        return self._of_windows(str(video), found, 2 * self.batch, self.batch)

    def watch(self, source, every, length=None, on_frame=None):
        """What a camera shows, window after window, until it ends.

        Where the network is slower than a live camera, windows are left out.

        Args:
            source (str): a number, as of /dev/video0, or a URL that OpenCV
                opens.
            every, length: as for :meth:`windows`.
            on_frame (callable | None): called with each frame's seconds
                (float) and image ((height, width, 3) uint8, BGR), in a thread.

        Yields:
            Prediction: one a window, with start and end.

        Raises:
            HostError: the camera cannot be opened.
        """
        every, length = windowing.check_times(every, length)
        camera = cameras.Camera(source)
        found = cameras.stream(camera, every, length, self._clips, on_frame)
        return self._of_windows(camera.name, found, 1, 1, camera.is_live)

    def _of_windows(self, video, found, lookahead, size, drop_oldest=False):
        """Predictions of (window, clip), which are taken in a thread."""

        def clips():
            decoded = self.times.decoding(found)
            try:
                for window, clip in in_thread(decoded, lookahead, drop_oldest):
                    times = dict(start=window.start, end=window.end)
                    yield Prediction(video, self.classes, **times), clip
            except VideoError as error:
                raise BrokenVideo(f'{video} cannot be read: {error}') from error
            except HostError as error:  # its frames do not fit the crop
                raise BrokenVideo(str(error)) from error

        return self._in_batches(clips(), size)

    def _in_batches(self, clips, size):
        """Fill in predictions, in batches.

        Args:
            clips (iterable): of (Prediction, Tensor | None).
            size (int): clips at a time.

        Yields:
            Prediction: in order; those without a clip as they are. Where
            taking one raises, those before come first.
        """
        waiting, fault = [], None
        clips = iter(clips)
        while True:
            try:
                item = next(clips, None)
            except HostError as error:
                item, fault = None, error
            if item is not None:
                waiting.append(item)
            good = [(p, clip) for p, clip in waiting if clip is not None]
            if item is not None and len(good) < size:
                continue
            if good:
                self._fill(*zip(*good), size)
            yield from (prediction for prediction, _ in waiting)
            waiting = []
            if item is None:
                break
        if fault:
            raise fault

    def _fill(self, predictions, clips, size):
        """Put scores and features into predictions."""
        clips = list(clips)
        if self._pads:  # another size would run without the compiler
            clips += [clips[-1]] * (size - len(clips))
        with self.times.of('network'):
            for prediction, scores, features in zip(predictions, *self.infer(clips)):
                prediction.scores, prediction.features = scores, features
