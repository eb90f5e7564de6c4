#!/usr/bin/env bash
# Make the environment .venv with what tools/setup/requirements.txt pins.
# A second run does nothing; a run that was cut short is taken up again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() {
    echo "error: $*" >&2
    exit 1
}

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null ||
    fail "'$python' is no Python 3.9 or newer; name one with PYTHON=..."
wanted=$(cat tools/setup/requirements.txt tools/setup/setup_env.sh | cksum)
if [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
echo "Installing into .venv (a few minutes; torch is the largest part) ..."
if ! [ -x .venv/bin/pip ]; then
    "$python" -m venv .venv ||
        fail "could not make .venv; on Debian and Ubuntu: apt install python3-venv"
fi
pip=(.venv/bin/python -m pip --disable-pip-version-check install)
# torch with its own choice of dependencies: CPU, or CUDA's packages.
# The rest is pinned whole, and without dependencies: mmengine, mmcv-lite and
# mmaction2 each ask for an OpenCV build of their own that needs libGL.
if "${pip[@]}" -r <(grep '^torch==' tools/setup/requirements.txt) &&
    "${pip[@]}" --quiet --no-deps -r <(grep -v '^torch==' tools/setup/requirements.txt); then
    echo "$wanted" > .venv/installed
else
    fail "pip could not install what is pinned in tools/setup/requirements.txt;" \
        "see above (network? disk?), then run this again"
fi
