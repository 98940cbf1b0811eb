"""The POSIX working tree. Knows nothing of FUSE."""
