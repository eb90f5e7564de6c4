"""What the pages type fits the repository."""

import re

import pytest
from conftest import ROOT
from mmengine import Config

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
# A command's config, and the last checkpoint of a training in work_dirs.
CHECKPOINT = re.compile(r'(configs/\w+\.py) (work_dirs/\w+)/epoch_(\d+)\.pth')


@pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)
def test_commands_name_the_last_checkpoint(page):
    for config, folder, epoch in CHECKPOINT.findall(page.read_text()):
        config = Config.fromfile(ROOT / config)
        assert int(epoch) == config.total_epochs, folder
