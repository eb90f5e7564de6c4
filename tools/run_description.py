"""What a result is of: who made it, from which source, on which machine.

Every JSON of results that the tools write has these keys.
"""

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def describe_run(device, commit=None, **versions):
    """Describe this run, for a file of results.

    Args:
        device (torch.device): which the run is on.
        commit (str | None): of the source, where git cannot say it.
        **versions (str): of more packages.

    Returns:
        dict: command, date (in UTC), commit (None outside of a repository),
        device, cores (which this process may use), load_average (processes that were
        at work or waited for a core in the last minute) and versions.
    """
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    return dict(
        command=shlex.join(sys.argv),
        date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
        commit=commit or source_commit(),
        device=device_name(device),
        cores=count_cores(),
        load_average=round(os.getloadavg()[0], 1),
        versions=dict(
            python=platform.python_version(),
            torch=torch.__version__,
            triton=triton_version,
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
            **versions,
        ),
    )


def count_cores():
    """The cores that this process may use, where the system says it; else all."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def device_name(device):
    """A GPU's name, or that it is a CPU and of which kind.

    Args:
        device (torch.device): the device.
    """
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'CPU ({platform.machine()})'


def source_commit():
    """The commit of this checkout, '-dirty' where files differ from it.

    Returns:
        str | None: None where this is no git repository.
    """
    if not (ROOT / '.git').exists():
        return None
    command = 'describe --always --dirty --abbrev=40 --exclude=*'.split()
    git = subprocess.run(
        ['git', '-C', str(ROOT), *command], stdout=subprocess.PIPE, text=True
    )
    return git.stdout.strip() or None
