#!/bin/sh
# venv.sh DIRECTORY LOCKFILE: makes the virtual environment from the lock file, every file checked by its hash,
# and puts this checkout into it.
set -eu
venv=$1
lock=$2
python=$(sh "$(dirname "$0")/python.sh") || {
    echo "lafsfs needs Python 3.11 or newer; none was found. PYTHON=/path/to/python make install chooses one." >&2
    exit 1
}
if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    echo "Making $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
echo "Installing the locked dependencies into $venv (pyfuse3 is compiled: a minute or two the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r "$lock"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -q --no-deps --no-build-isolation \
    --editable .
