"""tools/analysis/complexity.py: its counts are those of a formula."""

import pytest
from networks import TOOLS, small  # noqa: F401
from script_calls import call


def test_counts_are_those_of_the_equations(small):  # noqa: F811
    """A ResNet-18's stem and first stage: two blocks of 64 channels."""
    code, output = call(TOOLS / 'complexity.py', 'config.py', cwd=small)
    assert code == 0 and 'WARNING' not in output, output
    rows = {}
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split('│')[1:-1]]
        if len(cells) == 4:
            rows[cells[0]] = cells[1:]
    channels, frames, groups, classes = 64, 8, 4, 4
    convolutions = 3 * 64 * 49 + 4 * 64 * 64 * 9
    # Two bottlenecks to a quarter, and from there to four gates; with biases.
    half = channels * channels // 4 + channels // 4
    half += 4 * (channels * channels // 4 + channels)
    cell = 2 * half
    head = 64 * classes + classes
    # A cell of each cross-temporal layer, and one that the stage's blocks share.
    cells = 3 * cell
    own, plain, _ = rows['parameters, million']
    norms = 2 * channels
    assert float(plain) == pytest.approx((convolutions + 5 * norms + head) / 1e6, 1e-2)
    assert float(own) == pytest.approx(
        (convolutions + norms + cells + head) / 1e6, 1e-2
    )
    assert float(rows['of these in relay cells'][0]) == pytest.approx(cells / 1e6, 2e-2)
    per_frame = 3 * 64 * 49 * 16 * 16 + 4 * 64 * 64 * 9 * 8 * 8
    plain, own = (
        float(rows['operations, thousand million'][place]) for place in (1, 0)
    )
    assert plain == pytest.approx(frames * per_frame / 1e9, abs=0.0006)
    steps = 2 * groups + 2  # of cells: over groups, and over blocks
    assert own - plain == pytest.approx(steps * cell / 1e9, abs=0.001)


def test_operations_are_counted_alike(small):  # noqa: F811
    """The normalizations themselves count in neither network: the cells do."""
    from analysis.complexity import count
    from video_inputs import testing_config

    config = testing_config(str(small / 'config.py'))
    own = count(config)['operations']
    config.model.backbone.dnr = 'none'
    cell = 2 * (64 * 16 + 16 * 4 * 64)
    assert own - count(config)['operations'] == (2 * 4 + 2) * cell


def test_a_config_that_is_wrong(small):  # noqa: F811
    script = TOOLS / 'complexity.py'
    code, _ = call(
        *(script, 'config.py', '--cfg-options', 'model.backbone.depth=19'), cwd=small
    )
    assert code.startswith('error: model.backbone: depth')
    assert (
        call(script, 'none.py', cwd=small)[0] == 'error: config none.py does not exist'
    )
