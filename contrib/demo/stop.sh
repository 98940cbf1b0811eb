#!/bin/sh
# make stop: drains and unmounts the demo's tree and stops its storage server. Does nothing when there is none.
. "$(dirname "$0")/common.sh"

command -v lafsfs >/dev/null 2>&1 || exit 0
if is_mounted; then
    say "Unmounting $mountpoint: waits until everything is on the server"
    status=0
    lafsfs unmount "$mountpoint" || status=$?
    # 8: the mount process had died; its dead mount has been removed, and the journal goes on with the next mount.
    [ "$status" -eq 0 ] || [ "$status" -eq 8 ] || exit "$status"
fi
if [ -d .demo/data ]; then
    say "Stopping the storage server"
    lafsfs grid server stop
fi
rmdir "$mountpoint" 2>/dev/null || true
