"""The side that faces the kernel: the only user of pyfuse3."""
