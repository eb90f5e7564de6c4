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


def test_links_lead_somewhere():
    """Files that the pages link to are there, and so are the headings in them."""
    wrong, found = [], 0
    for page in [*PAGES, ROOT / 'CHANGELOG.md', ROOT / 'CONTRIBUTING.md']:
        for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
            if link.startswith('http'):
                continue
            path, _, anchor = link.partition('#')
            target = page.parent / path if path else page
            found += 1
            if not target.exists() or (anchor and anchor not in anchors(target)):
                wrong.append((page.name, link))
    assert not wrong and found > 100


def anchors(page):
    """Those of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.*)$', page.read_text(), re.M)
    return [re.sub(r'[^\w\- ]', '', h.lower()).replace(' ', '-') for h in headings]
