#!/bin/sh
# tahoe.sh DIRECTORY: a Tahoe-LAFS 1.20 in a virtual environment of its own, for the interoperation tests.
set -eu
python=$(sh "$(dirname "$0")/python.sh")
echo "Installing Tahoe-LAFS 1.20.0 into $1 (for make interop)"
"$python" -m venv "$1"
"$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "tahoe-lafs==1.20.0"
"$1/bin/tahoe" --version >/dev/null
