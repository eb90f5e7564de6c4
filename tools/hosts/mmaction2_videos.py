"""mmaction v1's VideoDataset on mmaction2: data set and decoding."""

import inspect
import logging

from mmaction.datasets import BaseActionDataset
from mmaction.registry import DATASETS, TRANSFORMS
from mmcv.transforms import BaseTransform
from mmengine.logging import print_log
from video_files import Video, VideoError

from .frame_indices import frame_indices
from .mmaction2_components import SeededClips
from .videos import BrokenVideo, Replacements, video_files


@DATASETS.register_module()
class V1Videos(SeededClips, BaseActionDataset):
    """Video files listed as ``path label``, one a line.

    Args:
        ann_file (str): the list.
        pipeline (list[dict]): of transforms.
        data_prefix (dict): img, the folder that the paths are in.
        video_ext (str | None): what the files end in, where the list's paths
            do not have it.
        num_classes (int): which labels must be below.
        skip_broken (bool): put the next video for one that cannot be read.
        test_mode (bool): as for BaseActionDataset.

    Raises:
        HostError: the list is faulty or a file is missing. Loading a video
            raises BrokenVideo where it cannot be read.
    """

    def __init__(
        self,
        ann_file,
        pipeline,
        data_prefix,
        video_ext,
        num_classes,
        skip_broken=False,
        test_mode=False,
    ):
        self.video_ext, self.skip_broken = video_ext, skip_broken
        super().__init__(
            ann_file,
            pipeline,
            data_prefix=data_prefix,
            num_classes=num_classes,
            test_mode=test_mode,
        )
        self.replacements = Replacements(len(self), ann_file)

    def load_data_list(self):
        return [
            dict(filename=file, label=label, where=where)
            for file, label, where in video_files(
                self.ann_file,
                self.data_prefix['img'],
                self.video_ext,
                self.num_classes,
                self.skip_broken,
            )
        ]

    def prepare_data(self, idx):
        """The clip of a video, through the pipeline."""
        if not self.skip_broken:
            return super().prepare_data(idx)
        return self.replacements.first_good(
            idx,
            super().prepare_data,
            lambda text: print_log(text, 'current', logging.WARNING),
        )


@TRANSFORMS.register_module()
class V1VideoClip(BaseTransform):
    """Adds the frames of a clip, as BGR uint8 images, as mmaction v1 does.

    Takes filename; where, a place in a list, is for messages.

    Args:
        **rule: of :func:`frame_indices`, without the video's length.

    Raises:
        BrokenVideo: the file cannot be read.
    """

    def __init__(self, **rule):
        inspect.signature(frame_indices).bind(1, **rule)  # or TypeError
        self.rule = rule

    def transform(self, results):
        """Add total_frames, frame_inds, imgs, original_shape and img_shape."""
        try:
            with Video(results['filename']) as video:
                results['total_frames'] = len(video)
                numbers = frame_indices(len(video), **self.rule)
                images = video.read(numbers - 1)
        except VideoError as error:
            where = f'{results["where"]}: ' if 'where' in results else ''  # of a list
            raise BrokenVideo(
                f'{where}{results["filename"]} cannot be read: {error}'
            ) from error
        results['frame_inds'] = numbers
        results['num_clips'] = self.rule['num_segments']  # for FormatShape's NCTHW
        results['clip_len'] = self.rule['new_length']
        results['imgs'] = [images[number - 1] for number in numbers]
        results['original_shape'] = results['img_shape'] = images[numbers[0] - 1].shape[
            :2
        ]
        return results
