#!/bin/sh
# Prints the Python to use: $PYTHON when set, else the first one on the PATH that runs and is 3.11 or newer.
# Prints nothing and fails when there is none.
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$candidate"
        exit 0
    fi
done
exit 1
