"""Bytes <-> values: every layout of Tahoe-LAFS 1.20. Pure: no I/O, clock or randomness."""
