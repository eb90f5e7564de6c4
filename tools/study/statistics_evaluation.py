"""What evaluation makes of a run's running statistics, and what its relay predicts.

Of the networks that ResNet_DNR is, on classes that are pairs.
"""

import torch
from analysis.relays import relay_of, watch_relays
from recalibrate_norm import choose_norms, estimate, replace_statistics

from resnet_dnr import CrossTemporalNorm, DynamicNorm
from study.evaluate_run import shuffled
from study.evaluations import accuracies

# Training batches that move shared statistics before these are evaluated:
# with momentum 0.1, they leave 0.9 ** (20 G) of what was before.
SHARED_BATCHES = 20
LARGE_BATCH = 64  # clips
RECALIBRATION_BATCHES = 100
RECALIBRATION_CLIPS = 800


def normalize_by_batches(model):
    """Let a model's normalizations do as in training, and nothing else."""
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, DynamicNorm)):
            module.train()


def statistics(trained):
    """Accuracies by the statistics that normalize, of all test clips.

    grouped   the running statistics as trained: the testing script's scores
              again
    shared    for each layer one running mean and variance for all groups,
              which move towards those of each group in turn, as the published
              code has it (running_stats='shared'), over 20 batches of
              training clips, from the trained ones on; only for configs that
              have a cross-temporal relay
    batch     the statistics of each batch, as in training: batches of the
              training's size, of clips at random, the last one filled up
    large_batch
              the same with batches of 64, whose statistics are less noisy
    recalibrated
              running statistics that are estimated anew, as
              tools/recalibrate_norm.py does, from 100 batches of training
              clips, or what whole batches there are

    Args:
        trained (TrainedRun): the run.

    Returns:
        dict: evaluation, a dict from these to that of evaluations.accuracies;
        test_script, the same of the testing script's scores, and
        largest_difference_of_a_score from these; gap, top1 of batch less that of
        grouped.
    """

    def figures(scores):
        return accuracies(scores.argmax(1), trained.labels, trained.classes)

    size, clips = trained.batch, trained.clips
    train_clips = trained.train_clips(RECALIBRATION_CLIPS)
    model = trained.build()
    grouped = trained.scores(model, clips, size)
    tested = trained.check_results(grouped)
    modes = dict(grouped=figures(grouped), shared=None)

    normalize_by_batches(model)
    # The running statistics move meanwhile, without effect. The list of
    # clips goes class by class, which no training batch does.
    order = shuffled(len(clips))
    for mode, of in (('batch', size), ('large_batch', LARGE_BATCH)):
        modes[mode] = figures(trained.scores(model, clips, of, order))
    model = trained.build()
    state_anew = dict(trained.state)
    replace_statistics(
        state_anew,
        estimate(model, choose_norms(model), whole_batches(train_clips, size)),
    )
    modes['recalibrated'] = figures(
        trained.scores(trained.build(state_anew), clips, size)
    )

    if any(isinstance(m, CrossTemporalNorm) for m in model.modules()):
        model = trained.build(running_stats='shared')
        normalize_by_batches(model)
        few = train_clips[: SHARED_BATCHES * size]
        trained.scores(model, few, size)  # for what it does to the statistics
        modes['shared'] = figures(trained.scores(model.eval(), clips, size))
    return dict(
        test_script=figures(tested),
        largest_difference_of_a_score=float(abs(tested - grouped).max()),
        evaluation=modes,
        gap=modes['batch']['top1'] - modes['grouped']['top1'],
    )


def whole_batches(clips, size):
    """Batches of clips, as a data loader gives them, at most 100.

    Yields:
        dict
    """
    from mmengine.dataset import pseudo_collate

    for number in range(min(RECALIBRATION_BATCHES, len(clips) // size)):
        yield pseudo_collate(
            [dict(clip) for clip in clips[number * size : (number + 1) * size]]
        )


def relay(trained):
    """What a cross-temporal layer's relay predicts of clips and of these backwards.

    The layer is that whose scales and shifts, of the clips backwards, are on
    average farthest from those of the clips and from the mirror image of these,
    whichever is nearer.

    Args:
        trained (TrainedRun): the run.

    Returns:
        dict: files, which has the content of relay.json: scales h and shifts c,
        (groups, channels), for a test clip of each pair and for the same clip
        played backwards.
    """
    names = trained.class_names
    model = trained.build()
    relayed = watch_relays(model.backbone)
    clips, recorded = [], []
    for label in range(0, len(names), 2):
        clip = trained.clips[list(trained.labels).index(label)]
        both = [clip, dict(clip, inputs=clip['inputs'].flip(0))]
        predicted = trained.scores(model, both, 2).argmax(1)
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
    return dict(files={'relay.json': dict(layer=chosen, clips=clips)})
