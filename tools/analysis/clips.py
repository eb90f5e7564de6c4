"""What the tools that look at one video share: its clips, and what is predicted."""

import copy

import torch
from torch.nn.functional import softmax


def collate(clips):
    """Clips of video_inputs.clip_inputs as test_step takes them."""
    from mmengine.dataset import pseudo_collate

    return pseudo_collate([copy.deepcopy(clip) for clip in clips])


@torch.no_grad()
def predict(model, clips):
    """What a recognizer predicts.

    Args:
        model (nn.Module): the recognizer.
        clips (list[dict]): of video_inputs.clip_inputs.

    Returns:
        list[tuple]: of each clip the class (int) and its probability (float).
    """
    samples = model.test_step(collate(clips))
    scores = torch.stack([sample.pred_scores.item for sample in samples])
    best = softmax(scores.double().cpu(), 1).max(1)
    return list(zip(best.indices.tolist(), best.values.tolist()))
