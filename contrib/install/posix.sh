#!/bin/sh
# What `make posix` uses of Debian's programs: looks for each, installs what is missing with apt when it may, else says
# so and goes on: the tests of a missing program are skipped, and pytest names them.
set -u

missing_packages() {
    packages=""
    for pair in acl:setfacl attr:getfattr git:git rsync:rsync vim:vim make:make gcc:gcc stress-ng:stress-ng fio:fio \
        dbench:dbench dpkg:dpkg-deb libcap2-bin:setcap; do
        command -v "${pair#*:}" >/dev/null 2>&1 || packages="$packages ${pair%%:*}"
    done
    command -v pg_ctl >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/pg_ctl >/dev/null 2>&1 || packages="$packages postgresql"
    echo "$packages" | xargs
}

packages=$(missing_packages)
[ -n "$packages" ] || exit 0
if command -v apt-get >/dev/null 2>&1; then
    run=""
    [ "$(id -u)" = 0 ] || run="sudo -n"
    if [ -z "$run" ] || sudo -n true 2>/dev/null; then
        echo "Installing from apt: $packages"
        export DEBIAN_FRONTEND=noninteractive
        $run apt-get update -qq </dev/null
        # shellcheck disable=SC2086  # a list of words on purpose
        $run apt-get install -y -qq --no-install-recommends $packages </dev/null
    fi
fi
packages=$(missing_packages)
[ -z "$packages" ] || echo "make posix: NOT INSTALLED, and their tests skipped: $packages (Debian's names)" >&2
[ "$(id -u)" = 0 ] || echo "make posix: NOT root: tests of several users, device nodes and ACLs are skipped" >&2
