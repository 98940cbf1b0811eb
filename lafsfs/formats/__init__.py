"""Bytes <-> values: every layout of Tahoe-LAFS 1.20. Pure: no I/O, no clock, no randomness but what is passed in."""
