#!/bin/sh
# make demo: from nothing to a mounted tree, saying what happens. Can be run again: it goes on with the same tree.
. "$(dirname "$0")/common.sh"

say "A tree of its own for this demo: everything is kept in .demo (LAFSFS_HOME), the tree appears at ./mnt"
mkdir -p .demo
if is_mounted; then
    if lafsfs status "$mountpoint" >/dev/null 2>&1; then
        echo "   It is mounted already, from an earlier make demo: unmounting it first."
        lafsfs unmount "$mountpoint"
    fi
fi
mkdir -p "$mountpoint"

if grep -qs '^demo:' .demo/config/aliases; then
    say "The directory of an earlier demo is still there (alias demo:)"
else
    say "Starting a storage server on this machine, and making an empty directory on it"
    run lafsfs create demo
fi

say "Mounting it"
run lafsfs mount demo: "$mountpoint"

again=""
while [ -e "$mountpoint/lafsfs$again" ]; do again=$((${again:-1} + 1)); done
here=$mountpoint/lafsfs$again
say "Putting this project's sources into it, with tar, cp -a and git as on any disk"
mkdir "$here"
tar -c --exclude=__pycache__ lafsfs storage_server Makefile README.md LICENSE pyproject.toml | tar -x -C "$here"
ln -s README.md "$here/read-me-first"
if command -v git >/dev/null 2>&1; then
    (
        cd "$here"
        git init -q
        git add .
        git -c user.name=demo -c user.email=demo@example.org commit -q -m "A commit made inside the mounted tree"
        git log --oneline
    )
fi
run ls -l "$here"
before=$(cd "$here" && tar -c --exclude=.git --sort=name . | sha256sum)

say "All of this was in a local journal when each program's call returned; it goes to the server in the background"
run lafsfs status "$mountpoint"

say "Unmounting: waits until everything is on the server"
run lafsfs unmount "$mountpoint"
ls -A "$mountpoint" | sed 's/^/     /'

say "Forgetting everything local but the configuration, as if on another machine, and mounting again"
rm -rf .demo/cache .demo/state
run lafsfs mount demo: "$mountpoint"
after=$(cd "$here" && tar -c --exclude=.git --sort=name . | sha256sum)
if [ "$before" != "$after" ]; then
    echo "the tree is not what it was" >&2
    exit 1
fi
echo "   Every byte, mode, time stamp and link is back (tar of the tree: $(echo "$after" | cut -c1-16)...)."
if [ -d "$here/.git" ]; then run git -C "$here" status --short --branch; fi

say "It is yours now, at ./mnt. To try:"
cat <<TEXT
     ls -l mnt/; cp -a ~/some/files mnt/; rsync -a, git clone, tar, your editor
     export LAFSFS_HOME=$top/.demo PATH=$top/.venv/bin:\$PATH
     lafsfs status mnt              what is not on the server yet
     lafsfs flush mnt               wait until all of it is
     lafsfs cap --read-only mnt     a capability that lets others read this tree
     lafsfs grid show               the storage server
     kill -9 the mount process (its number is in lafsfs status), make demo: nothing is lost
     make stop                      drains, unmounts, stops the server; the data stays in .demo
TEXT
