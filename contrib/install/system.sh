#!/bin/sh
# What lafsfs needs from the system: looks for each thing itself (not for the package), installs what is
# missing with apt when it may, else prints the one line to run. Silent when nothing is missing.
set -u
here=$(dirname "$0")

missing_packages() {
    packages=""
    command -v fusermount3 >/dev/null 2>&1 || packages="$packages fuse3"
    command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || packages="$packages gcc libc6-dev"
    if ! command -v pkg-config >/dev/null 2>&1; then
        packages="$packages pkg-config libfuse3-dev"
    elif ! pkg-config --exists fuse3 2>/dev/null; then
        packages="$packages libfuse3-dev"
    fi
    if python=$(sh "$here/python.sh"); then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || packages="$packages $(package_of "$python" venv)"
        "$python" -c 'import os, sysconfig as s; open(os.path.join(s.get_paths()["include"], "Python.h"))' \
            2>/dev/null || packages="$packages $(package_of "$python" dev)"
    elif apt-cache show python3.11 >/dev/null 2>&1 && ! newest_python3_is_enough; then
        packages="$packages python3.11 python3.11-venv python3.11-dev"
    else
        packages="$packages python3 python3-venv python3-dev"
    fi
    isal_is_there || packages="$packages libisal2"
    echo "$packages" | xargs
}

# python3.12 -> python3.12-venv, for the very version that will be used
package_of() {
    "$1" -c "import sys; print('python%d.%d-$2' % sys.version_info[:2])"
}

newest_python3_is_enough() {
    version=$(apt-cache show python3 2>/dev/null | sed -n 's/^Version: 3\.\([0-9]*\).*/\1/p' | sort -n | tail -n 1)
    [ "${version:-0}" -ge 11 ]
}

# Faster erasure coding, used when present. Not every architecture has it.
isal_is_there() {
    case "$(uname -m)" in x86_64 | aarch64) ;; *) return 0 ;; esac
    for directory in /lib /lib64 /usr/lib /usr/lib64 /usr/local/lib; do
        for library in "$directory"/libisal.so.2 "$directory"/*/libisal.so.2; do
            [ -e "$library" ] && return 0
        done
    done
    return 1
}

packages=$(missing_packages)
[ -n "$packages" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "lafsfs needs what Debian calls: $packages" >&2
    echo "Install these with this system's package manager, then run make install again." >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    run=""
elif sudo -n true 2>/dev/null; then
    run="sudo -n"
else
    echo "Some system packages are missing. Run this line, then make install again:" >&2
    echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends $packages" >&2
    exit 1
fi
echo "Installing from apt: $packages"
export DEBIAN_FRONTEND=noninteractive
$run apt-get update -qq </dev/null || echo "apt-get update failed; trying with the package lists that are there" >&2
# shellcheck disable=SC2086  # a list of words on purpose
if ! $run apt-get install -y -qq --no-install-recommends $packages </dev/null; then
    echo "apt could not install: $packages" >&2
    exit 1
fi
still=$(missing_packages)
[ -z "$still" ] || [ "$still" = libisal2 ] || {
    echo "Still missing after the installation: $still" >&2
    exit 1
}
