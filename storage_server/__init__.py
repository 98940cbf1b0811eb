"""A GBS storage server on Tahoe-LAFS's on-disk formats (formats.md sections 5 and 9).

Layers, each importing only from those before it: errors, settings, identity, leases, immutable, mutable,
layout, ranges, changes, journal, placing, uploads, advisories, store, expiry, app, serving, cli.
"""
