"""A GBS storage server on the on-disk formats of Tahoe-LAFS."""
