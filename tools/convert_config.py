#!/usr/bin/env python
"""Write a config in mmaction v1's schema as a native mmaction2 config.

The result runs with mmaction2's own tools, with this repository and its
tools folder on PYTHONPATH; its first lines say how. There it finds what it
names in custom_imports: resnet_dnr, which takes resnet_dnr_fused and add_dnr
from beside it, and the modules of hosts.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hosts import HostError  # noqa: E402
from hosts.mmaction2_config import load_config, translate  # noqa: E402
from hosts.options import add_cfg_options  # noqa: E402
from whole_files import write_whole  # noqa: E402

MARK = "in mmaction v1's schema, as a native mmaction2 config"
HEADER = f"""\
# {{source}}, {MARK}.
# Run with mmaction2's own tools; data paths are relative to where you are:
#   export PYTHONPATH={{root}}:{{root}}/tools
#   python MMACTION2/tools/train.py {{out}}
#   python MMACTION2/tools/test.py {{out}} CHECKPOINT
# mmaction2's inference_recognizer and MMAction2Inferencer take it, too.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help="config in mmaction v1's schema")
    parser.add_argument('out', help='file to write, .py')
    add_cfg_options(parser)
    args = parser.parse_args()
    try:
        if not args.out.endswith('.py'):
            raise HostError(f'{args.out} should end in .py')
        if os.path.exists(args.out) and MARK not in open(args.out).readline():
            raise HostError(f'{args.out} exists and was not written by this script')
        cfg = translate(load_config(args.config, args.cfg_options), validate=True)
        # mmengine's inferencers take no dict here, and its Runner no name.
        del cfg.test_dataloader.collate_fn
        header = HEADER.format(
            source=Path(args.config).name, root=ROOT, out=os.path.abspath(args.out)
        )
        write_whole(args.out, header + cfg.pretty_text)
    except (HostError, OSError) as error:
        sys.exit(f'error: {error}')
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
