#!/usr/bin/env python3
"""Lists of Something-Something V2, from its official JSON files.

    python tools/data/prepare_sthv2.py ANNOTATIONS VIDEOS data/sthv2

ANNOTATIONS has something-something-v2-labels.json, ...-train.json and
...-validation.json, or labels.json, train.json and validation.json. VIDEOS has
ID.webm, or ID.mp4. Labels are those of the labels file.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hosts.lists import read_text  # noqa: E402

from data.prepared_sets import label_of, main, write_prepared  # noqa: E402
from data.video_sets import HostError, Videos  # noqa: E402


def read_json(folder, name, kind):
    """One of the files; its path and content, which is of a type.

    Raises:
        HostError: it is not there, or is something else.
    """
    names = [f'something-something-v2-{name}.json', f'{name}.json']
    path = next((folder / n for n in names if (folder / n).is_file()), None)
    if path is None:
        raise HostError(f'{folder} has no {" or ".join(names)}')
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise HostError(f'{path} is no JSON: {error}') from None
    if not isinstance(content, kind) or not content:
        raise HostError(f'{path} should hold a {kind.__name__} that is not empty')
    return path, content


def prepare(args):
    path, content = read_json(args.annotations, 'labels', dict)
    try:
        labels = {name: int(label) for name, label in content.items()}
    except (TypeError, ValueError):
        raise HostError(f'{path} should give each template a number') from None
    classes = sorted(labels, key=labels.get)
    if [labels[name] for name in classes] != list(range(len(classes))):
        raise HostError(f'{path}: the labels are not 0 to {len(classes) - 1}')
    lists = {}
    for split, name in (('train', 'train'), ('validation', 'val')):
        path, entries = read_json(args.annotations, split, list)
        lists[f'{name}.txt'] = []
        for number, entry in enumerate(entries, 1):
            where = f'entry {number}'
            try:
                # The template without the brackets around what is in it.
                template = entry['template'].replace('[', '').replace(']', '')
                key = str(entry['id'])
            except (KeyError, TypeError):
                raise HostError(f'{path}, {where} has no id or template') from None
            label = label_of(template, labels, path, where)
            lists[f'{name}.txt'].append((key, label))
    write_prepared(args, lists, classes, Videos(args.videos).find_name)


if __name__ == '__main__':
    main(prepare, __doc__, 'folder of the JSON files')
