"""The commands: arguments, messages, progress and exit codes, nothing else."""
