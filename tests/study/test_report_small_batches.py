"""tools/study/report_small_batches.py: figures of runs that are known."""

import json

from study import report_small_batches


def test_tables_and_picture(tmp_path):
    folder = tmp_path / 'small_batches'
    folder.mkdir()

    def write(name, pair, statistics=False, **run):
        test = dict(pair=pair, order=0.5, top1=pair / 2)
        evaluation = dict(test=test)
        if statistics:
            evaluation = dict(
                grouped=test,
                batch=dict(test, pair=0.7),
                large_batch=dict(test, pair=0.8),
                recalibrated=dict(test, pair=0.6),
                shared=None,
            )
        content = dict(
            study='small_batches',
            device='a GPU',
            steps=9000,
            run=run,
            settings=dict(config=dict(optimizer=dict(lr=0.02), total_epochs=24)),
            evaluation=evaluation,
        )
        (folder / f'{name}.json').write_text(json.dumps(content))

    for seed, pair in enumerate((0.9, 0.94, 0.95)):
        write(f'bn_b8_s{seed}', pair, part='final', network='bn', batch=8, seed=seed)
    write('dnr_b1_s0', 1.0, True, part='final', network='dnr', batch=1, seed=0)
    for seed in (0, 1):  # one of two with other statistics
        write(f'dnr_b2_s{seed}', 1.0, not seed, part='final', network='dnr', batch=2)
    write('search_bn_long_s0', 0.8, part='search', network='bn', recipe='long', seed=0)
    tables, pictures = report_small_batches.report(folder)
    lines = tables['small_batches'].splitlines()
    assert (
        '| BatchNorm | 8 | 3 | 9000 | 0.02 | 93.0 ± 2.6 | 50.0 ± 0.0 | 46.5 ± 1.3 '
        '| - | - | - |' in lines
    )
    assert (
        '| DNR | 1 | 1 | 9000 | 0.02 | 100.0 | 50.0 | 50.0 | 70.0 | 80.0 | 60.0 |'
        in lines
    )
    assert any(line.endswith('| 70.0 (1) | 80.0 (1) | 60.0 (1) |') for line in lines)
    assert len(lines) == 7
    assert tables['small_batches_search'].splitlines()[2:] == [
        '| `long` | BatchNorm | 1 | 0.02 | 24 | 9000 | 80.0 | 50.0 | 40.0 |'
    ]
    (draw,) = pictures.values()
    assert draw() is not None
