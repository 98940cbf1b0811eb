# What demo.sh and stop.sh share: where things are.
set -eu
cd "$(dirname "$0")/../.."
top=$(pwd -P)
LAFSFS_HOME=$top/.demo
export LAFSFS_HOME
mountpoint=$top/mnt
PATH=$top/.venv/bin:$PATH

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() {
    printf '   $ %s\n' "$*"
    status=0
    output=$("$@" 2>&1) || status=$?
    [ -z "$output" ] || printf '%s\n' "$output" | sed 's/^/     /'
    return "$status"
}
# Looked up in the mount table: a dead mount cannot be asked.
is_mounted() { awk -v place="$mountpoint" '$5 == place { found = 1 } END { exit !found }' /proc/self/mountinfo; }
