"""A mount as a process."""
