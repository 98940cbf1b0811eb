"""Ciphertext segments on local disk: bounded, verified again when read."""
