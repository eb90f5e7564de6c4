"""tools/analysis/benchmark.py's command line: what it refuses."""

import sys

from benchmarks import BENCHMARK, CONFIG, TOY
from script_calls import call

FAULTS = [
    ('--device tpu', '--device tpu should be cpu, cuda or cuda:INDEX'),
    ('--device meta', '--device meta should be cpu, cuda or cuda:INDEX'),
    ('--device cuda:99', 'CUDA devices'),
    ('--depth 20', '--depth 20 should be one of [18, 34, 50, 101, 152]'),
    ('--frames 8 4 --groups 8', '--groups 8 does not divide --frames 4'),
    ('--clips 0', "argument --clips: invalid count value: '0'"),
    ('--compare dnr dnr', '--compare names a backbone twice'),
    ('--compare dnr torchvision', 'torchvision cannot be imported'),
    ('--against {t}/no.py:Toy', '{t}/no.py is no Python file'),
    ('--against {t}/toy.py', '{t}/toy.py should be FILE:CLASS'),
    ('--against {t}/toy.py:Other', 'no torch.nn.Module named Other'),
    ('--against {t}/toy.py:Plain', 'no torch.nn.Module named Plain'),
    (
        '--against {t}/relative.py:Toy',
        'relative.py cannot be imported on its '
        'own (ImportError: attempted relative import',
    ),
    ('--out {t}/a.txt', '--out {t}/a.txt should end in .json'),
    ('--out {t}/toy.py/a.json', 'cannot write --out {t}/toy.py/a.json'),
    ('--root {t}', '--root: there is no {t}/resnet_dnr.py'),
    ('--cold --repeats 3', '--repeats is not for --cold, which times first steps'),
    ('--cold --mode eval', '--mode is not for --cold'),
    ('--cold --e2e {c}', '--e2e is not for --cold'),
    ('--e2e {c} --root {t}', '--root is not for --e2e'),
    ('--iters 3', '--iters is for --e2e CONFIG alone'),
    ('--e2e {c} --depth 18', '--depth is not for --e2e'),
]


def test_faults(tmp_path, monkeypatch):
    """Each ends before any measurement, with a line that names it."""
    (tmp_path / 'toy.py').write_text(TOY)
    (tmp_path / 'relative.py').write_text('from ..registry import BACKBONES')
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    for command, message in FAULTS:
        arguments = command.format(c=CONFIG, t=tmp_path).split()
        code, printed = call(BENCHMARK, *arguments, cwd=tmp_path)
        assert code == 2, command
        last = printed.splitlines()[-1]
        assert last.startswith('benchmark.py: error: '), command
        assert message.format(t=tmp_path) in last, command
