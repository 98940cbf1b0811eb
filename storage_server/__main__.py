"""`python -m storage_server`: the same as `lafs-storage`."""

from storage_server.cli import main

main()
