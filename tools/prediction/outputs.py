"""Results as files: JSON, CSV and features, and what a later run goes on from."""

import base64
import csv
import fcntl
import hashlib
import io
import json
import os
import os.path as osp

import numpy as np
from checkpoint_files import local_file
from hosts import HostError
from whole_files import replacing, write_json, write_whole

COLUMNS = (
    'video',
    'start',
    'end',
    'rank',
    'label',
    'name',
    'probability',
    'score',
    'error',
)


def settings_of(config, checkpoint, **options):
    """All that results depend on besides the videos.

    Args:
        config (mmengine.Config): native.
        checkpoint (str): file or URL.
        **options: that json can hold.

    Returns:
        dict
    """
    digest = hashlib.sha256()
    with open(local_file(checkpoint), 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    parts = config.model.to_dict(), config.test_dataloader.dataset.pipeline
    return dict(
        config=hashlib.sha256(repr(parts).encode()).hexdigest(),
        checkpoint=digest.hexdigest(),
        **options,
    )


class Journal:
    """What is done, a line a video: a killed run's successor goes on from it.

    Lines are JSON: first the settings, then for each video its path, its stamp
    and its entry. It stays, so that a second run does nothing again.

    Args:
        path (str | None): the file; None: nothing is kept.
        settings (dict): where the file's differ, it begins anew.

    Raises:
        HostError: another process is writing it.
    """

    def __init__(self, path, settings):
        self._done, self._file, self.restarted = {}, None, []
        if path is None:
            return
        self._file = open(path, 'a+', encoding='utf-8', errors='replace')
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(f'{path}: another process is writing it') from None
        self._file.seek(0)
        lines, whole = [], 0
        for line in self._file:
            if not line.endswith('\n'):
                break  # a killed run has not written it whole
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
            whole += len(line.encode())
        # Not what a stranger's file has, nor half a line.
        kept = lines[0] if lines and isinstance(lines[0], dict) else {}
        self.restarted = [key for key in settings if kept.get(key) != settings[key]]
        if self.restarted:
            self.restarted = self.restarted if lines else []
            self._file.truncate(0)
            self._write(settings)
        else:
            self._file.truncate(whole)
            self._done = {path: (stamp, entry) for path, stamp, entry in lines[1:]}

    def _write(self, line):
        try:
            self._file.write(json.dumps(line) + '\n')
            self._file.flush()
        except OSError as error:
            error.filename = self._file.name
            raise

    def entry(self, source):
        """What is known of a source, if it is as it was then.

        Args:
            source (Source): a file or a folder.

        Returns:
            dict | None: the entry; None where there is none, or one with an
            error, or a file that it names is gone.
        """
        stamp, entry = self._done.get(source.path, (None, None))
        if entry is None or 'error' in entry or stamp != source.stamp:
            return None
        files = [
            entry[key] for key in ('features', 'rendered', 'curve') if key in entry
        ]
        return entry if all(map(osp.isfile, files)) else None

    def add(self, source, entry):
        """Keep what is known of a source.

        Args:
            source (Source): a file or a folder.
            entry (dict): that json can hold.
        """
        if self._file:
            self._write([source.path, source.stamp, entry])

    def close(self):
        """Let another process have the file."""
        if self._file:
            self._file.close()


def short(value):
    """A float32 with as many digits as it has, for JSON."""
    return float(f'{value:.9g}')


def rounded(top):
    """Classes with scores, as Prediction.top gives them, for JSON."""
    return [
        dict(item, probability=short(item['probability']), score=short(item['score']))
        for item in top
    ]


def pack(features):
    """An array of float32 as a text, for the journal."""
    return base64.b64encode(features.astype('<f4').tobytes()).decode()


def unpack(text):
    """The array, of one dimension, that :func:`pack` made a text of."""
    return np.frombuffer(base64.b64decode(text), '<f4')


def write_features(path, features):
    """Write an array as an npy file, whole or not at all."""
    content = io.BytesIO()
    np.save(content, features)
    write_whole(path, content.getvalue())


def make_folder(path):
    """Make the folder that a file is to be in."""
    os.makedirs(osp.dirname(path) or '.', exist_ok=True)


def write_results(path, results):
    """Write the results of a run, as JSON or CSV by the ending of the file.

    Args:
        path (str): .json or .csv.
        results (dict): the run, and under 'videos' the entries.
    """
    if path.endswith('.json'):
        write_json(path, results)
        return
    with replacing(path) as name, open(name, 'w', encoding='utf-8', newline='') as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for entry in results['videos']:
            video = entry['video']
            for part in entry.get('windows') or [entry]:
                times = {key: part[key] for key in ('start', 'end') if key in part}
                for rank, item in enumerate(part.get('top', ()), 1):
                    table.writerow(dict(item, video=video, rank=rank, **times))
            if 'error' in entry:
                table.writerow(dict(video=video, error=entry['error']))
