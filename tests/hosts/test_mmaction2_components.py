"""Frame numbers, decoding, sampling and results follow mmaction v1."""

import pickle

import numpy as np
import pytest
import torch
from hosts import HostError
from hosts.frame_indices import frame_indices
from hosts.mmaction2_components import (
    FullBatchSampler,
    V1AccMetric,
    V1Head,
    V1Head3D,
    V1Preprocessor,
    V1RawFrames,
    V1ReadFrames,
    V1Results,
    V1SampleFrames,
    collate_labelled,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mmaction.models import ActionDataPreprocessor, I3DHead, TSNHead
from mmaction.structures import ActionDataSample


@pytest.mark.parametrize('to_rgb', [False, True])
def test_a_stacked_batch_is_normalized_like_a_list_of_clips(to_rgb):
    clips = [torch.randint(256, (8, 3, 4, 5), dtype=torch.uint8) for _ in range(3)]
    norm = dict(
        mean=[120.0, 110.0, 100.0],
        std=[60.0, 50.0, 40.0],
        to_rgb=to_rgb,
        format_shape='NCHW',
    )
    samples = [ActionDataSample() for _ in clips]
    expected = ActionDataPreprocessor(**norm)(dict(inputs=clips, data_samples=samples))[
        'inputs'
    ]
    for inputs in (clips, torch.stack(clips)):
        got = V1Preprocessor(**norm)(dict(inputs=inputs, data_samples=samples))
        assert torch.equal(got['inputs'], expected)
        assert len(got['data_samples']) == 3
        # They get scores: a sample of two clips would get the last one's.
        assert not any(
            mine is given for mine in got['data_samples'] for given in samples
        )


def test_labels_come_in_one_array():
    clips = [
        dict(
            inputs=torch.full((8, 3, 4, 5), n, dtype=torch.uint8),
            data_samples=ActionDataSample().set_gt_labels(n),
        )
        for n in (3, 0, 7)
    ]
    batch = collate_labelled(clips)
    assert batch['inputs'].shape == (3, 8, 3, 4, 5)
    assert batch['data_samples'].tolist() == [[3], [0], [7]]
    got = V1Preprocessor(mean=[0.0] * 3, std=[1.0] * 3)(batch, training=True)
    assert [sample.gt_labels.item.tolist() for sample in got['data_samples']] == [
        [3],
        [0],
        [7],
    ]
    assert torch.equal(got['inputs'], batch['inputs'].float())


def test_labels_of_several_classes_stay_as_they_are():
    label = torch.tensor([0.5, 0, 1])
    clip = dict(
        inputs=torch.zeros(8, 3, 4, 5, dtype=torch.uint8),
        data_samples=ActionDataSample().set_gt_labels(label),
    )
    batch = collate_labelled([clip, clip])
    got = V1Preprocessor(mean=[0.0] * 3, std=[1.0] * 3)(batch, training=True)
    for sample in got['data_samples']:
        assert torch.equal(sample.gt_labels.item, label)


def test_a_stacked_batch_is_not_stacked_again():
    preprocess = V1Preprocessor(mean=[0.0] * 3, std=[1.0] * 3, to_rgb=True)
    batch = torch.zeros(3, 8, 3, 4, 5, dtype=torch.uint8)
    samples = [ActionDataSample() for _ in batch]
    with torch.profiler.profile() as profiler:
        preprocess(dict(inputs=batch, data_samples=samples), training=True)
    names = {event.key for event in profiler.key_averages()}
    assert 'aten::sub' in names
    assert not names & {'aten::stack', 'aten::cat', 'aten::unbind'}


def v1_frames(total, segments, length, step, shift, jitter, test_mode):
    """mmaction v1's rule, restated step by step from its behaviour.

    Draws from np.random in v1's order.
    """
    span = length * step
    if test_mode:
        if total > span - 1:
            tick = (total - span + 1) / float(segments)
            starts = [int(tick / 2.0 + tick * i) for i in range(segments)]
        else:
            starts = [0] * segments
    elif shift:
        part = (total - span + 1) // segments
        if part > 0:
            starts = [i * part for i in range(segments)]
            starts = starts + np.random.randint(part, size=segments)
        elif total > max(segments, span):
            starts = np.sort(np.random.randint(total - span + 1, size=segments))
        else:
            starts = [0] * segments
    elif total > segments + span - 1:
        tick = (total - span + 1) / float(segments)
        starts = [int(tick / 2.0 + tick * i) for i in range(segments)]
    else:
        starts = [0] * segments
    skips = np.random.randint(step, size=length) if jitter else [0] * length
    frames = []
    for start in starts:
        p = int(start) + 1
        for i in range(length):
            frames.append(p + skips[i] if p + skips[i] <= total else p)
            if p + step < total:
                p += step
    return [int(frame) for frame in frames]


@settings(max_examples=500)
@given(
    total=st.integers(1, 90),
    segments=st.integers(1, 10),
    length=st.integers(1, 8),
    step=st.integers(1, 8),
    shift=st.booleans(),
    jitter=st.booleans(),
    test_mode=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sample_frames(total, segments, length, step, shift, jitter, test_mode, seed):
    np.random.seed(seed)
    wanted = v1_frames(total, segments, length, step, shift, jitter, test_mode)
    np.random.seed(seed)
    frames = frame_indices(total, segments, length, step, shift, jitter, test_mode)
    assert frames.tolist() == wanted
    assert frames.min() >= 1 and frames.max() <= total


def test_sample_frames_of_kinetics():
    """10 segments of 8 frames, every 8th, of a 10-second video."""
    rule = dict(
        num_segments=10,
        new_length=8,
        new_step=8,
        random_shift=False,
        temporal_jitter=False,
    )
    with pytest.raises(TypeError, match='test_mode'):
        V1SampleFrames(**rule)
    sample = V1SampleFrames(**rule, test_mode=True)
    frames = sample(dict(total_frames=300))['frame_inds'].reshape(10, 8)
    assert frames[:, 0].tolist() == [12, 36, 60, 83, 107, 131, 155, 178, 202, 226]
    assert (np.diff(frames) == 8).all()


def list_of(tmp_path, text, num_classes=3):
    (tmp_path / 'list.txt').write_text(text)
    return V1RawFrames(
        str(tmp_path / 'list.txt'),
        pipeline=[],
        data_prefix=dict(img=str(tmp_path)),
        filename_tmpl='image_{:05d}.jpg',
        num_classes=num_classes,
    )


@pytest.mark.parametrize(
    'text, message',
    [
        ('a 8 0\nb 8\n', 'line 2: \'b 8\' should be "path num_frames label"'),
        ('a 8 0\nb eight 0\n', 'line 2'),
        ('a 8 0\n\nb 8 0\n', "line 2: ''"),
        ('a 0 0\n', 'line 1: a video of 0 frames'),
        ('a 8 3\n', 'label 3 is not one of the 3 classes'),
        ('a 8 -1\n', 'label -1'),
        ('', 'lists no video'),
        ('a 8 0\n', 'a/image_00001.jpg does not exist'),
    ],
)
def test_faulty_list(tmp_path, text, message):
    with pytest.raises(HostError) as error:
        list_of(tmp_path, text)
    assert message in str(error.value)
    assert 'list.txt' in str(error.value)


def test_missing_list(tmp_path):
    with pytest.raises(HostError, match='no-list.txt does not exist'):
        V1RawFrames(str(tmp_path / 'no-list.txt'), pipeline=[], num_classes=3)


def write_frames(folder, count, size=(20, 24)):
    import cv2

    folder.mkdir()
    for i in range(count):
        image = np.full((*size, 3), 10 * i, np.uint8)
        image[..., 2] = 255  # red, third in BGR
        cv2.imwrite(str(folder / f'image_{i + 1:05d}.jpg'), image)


def test_decode(tmp_path):
    write_frames(tmp_path / 'a', 3)
    data = list_of(tmp_path, 'a 3 2\n')
    info = data.get_data_info(0)
    results = V1ReadFrames()(dict(info, frame_inds=np.array([3, 1, 3])))
    assert [img.shape for img in results['imgs']] == [(20, 24, 3)] * 3
    assert results['img_shape'] == (20, 24)
    levels = [float(img[..., 0].mean()) for img in results['imgs']]
    assert np.allclose(levels, [20, 0, 20], atol=3)
    assert results['imgs'][0][..., 2].min() > 240  # BGR


@pytest.mark.parametrize(
    'content, message',
    [
        (None, 'cannot read frame {}: No such file'),
        (b'', 'frame {} is no readable image'),
        (b'not a jpeg', 'frame {} is no readable image'),
        ('smaller', 'frame {} is 12 x 10, others of its video are 24 x 20'),
    ],
)
def test_bad_frame(tmp_path, content, message):
    write_frames(tmp_path / 'a', 3)
    frame = tmp_path / 'a' / 'image_00002.jpg'
    if content is None:
        frame.unlink()
    elif content == 'smaller':
        write_frames(tmp_path / 'b', 1, (10, 12))
        frame.write_bytes((tmp_path / 'b' / 'image_00001.jpg').read_bytes())
    else:
        frame.write_bytes(content)
    info = list_of(tmp_path, 'a 3 2\n').get_data_info(0)
    with pytest.raises(HostError) as error:
        V1ReadFrames()(dict(info, frame_inds=np.array([1, 2])))
    assert message.format(frame) in str(error.value)


@pytest.mark.parametrize(
    'videos, batch, processes',
    [(10, 4, 1), (10, 4, 3), (16, 4, 2), (1, 8, 4), (7, 3, 2)],
)
def test_full_batches(monkeypatch, videos, batch, processes):
    seen, drawn = [], []
    for rank in range(processes):
        monkeypatch.setattr(
            'mmengine.dataset.sampler.get_dist_info',
            lambda rank=rank: (rank, processes),
        )
        sampler = FullBatchSampler(range(videos), batch, seed=0)
        indices, seeds = map(list, zip(*sampler))
        assert len(indices) == len(sampler)
        # v1's number of iterations, each of a full batch.
        assert len(indices) == -(-videos // (batch * processes)) * batch
        seen += indices
        drawn += seeds
    assert len(set(drawn)) == len(drawn)
    assert set(seen) == set(range(videos))
    assert max(map(seen.count, seen)) - min(map(seen.count, seen)) <= 1


@pytest.mark.parametrize('label_smooth_eps', [0, 0.1])
@pytest.mark.parametrize(
    'ours, theirs, shape, arguments',
    [
        (V1Head, TSNHead, (6, 4, 3, 3), dict(num_segs=3)),
        (V1Head3D, I3DHead, (2, 4, 3, 3, 3), {}),
    ],
)
def test_heads_give_the_losses_of_mmaction2(
    ours, theirs, shape, arguments, label_smooth_eps
):
    torch.manual_seed(0)
    settings = dict(
        num_classes=7,
        in_channels=4,
        dropout_ratio=0,
        topk=(1, 5),
        label_smooth_eps=label_smooth_eps,
    )
    head, reference = ours(**settings), theirs(**settings)
    reference.load_state_dict(head.state_dict())
    features = torch.randn(shape)
    samples = [ActionDataSample().set_gt_labels(label) for label in (2, 5)]
    expected = reference.loss(features, samples, **arguments)
    losses = head.loss(features, samples, **arguments)
    assert losses.keys() == expected.keys() == {'loss_cls', 'top1_acc', 'top5_acc'}
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-6), name
    with torch.autocast('cpu'):
        assert head(features.bfloat16(), **arguments).dtype == torch.float32


def test_results(tmp_path, capsys):
    scores = np.float32([[3, 1, 0], [0, 2, 1], [1, 0, 5], [4, 0, 1]])
    labels = [0, 1, 1, 0]  # class 2 is predicted once and never right
    out = tmp_path / 'results.pkl'
    metrics = V1Results(str(out)).compute_metrics(
        [(row[None], label) for row, label in zip(scores, labels)]
    )
    results = pickle.loads(out.read_bytes())
    assert [row.shape for row in results] == [(1, 3)] * 4
    assert all(row.dtype == np.float32 for row in results)
    assert np.array_equal(np.concatenate(results), scores)
    assert metrics == dict(mean1=0.75, top1=0.75, top5=1)
    assert capsys.readouterr().out.splitlines() == [
        f'writing results to {out}',
        'Averaging score over 1 clips without softmax (ie, raw)',
        'Mean Class Accuracy = 75.00',
        'Top-1 Accuracy = 75.00',
        'Top-5 Accuracy = 100.00',
    ]


def test_validation_has_the_mean_class_accuracy_of_testing():
    scores = np.float32([[3, 1, 0], [0, 2, 1], [1, 0, 5], [4, 0, 1]])
    accuracies = V1AccMetric().calculate(list(scores), [0, 1, 1, 0])
    assert accuracies == dict(top1=0.75, top5=1, mean1=0.75)
    assert 'mean1' not in V1AccMetric('top_k_accuracy').calculate(list(scores), [0] * 4)


def test_results_softmax(tmp_path, capsys):
    out = tmp_path / 'results.pkl'
    V1Results(str(out), use_softmax=True).compute_metrics(
        [(np.float32([[3, 1, 0]]), 0)]
    )
    assert 'over 1 clips with softmax' in capsys.readouterr().out
    assert pickle.loads(out.read_bytes())[0].tolist() == [[3, 1, 0]]
