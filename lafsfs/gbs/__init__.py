"""The GBS storage protocol as data: no I/O. Used by the client (`grid/`) and by `storage_server`."""
