"""Commands in the pages fit the repository."""

import re

from conftest import ROOT
from mmengine import Config

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
# A config, and, in the same command or call, the last checkpoint of its training.
CHECKPOINT = re.compile(
    r"(configs/\w+\.py)[',\s]+(work_dirs/\w+/epoch_(\d+)\.pth)", re.M
)


def test_commands_name_the_last_checkpoint():
    found = [
        (page.name, *match)
        for page in PAGES
        for match in CHECKPOINT.findall(page.read_text())
    ]
    assert len(found) > 15 and 'use.md' in {page for page, *_ in found}
    for page, config, path, epoch in found:
        epochs = Config.fromfile(ROOT / config).total_epochs
        assert int(epoch) == epochs, (page, path)
