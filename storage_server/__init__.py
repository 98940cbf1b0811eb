"""A GBS storage server on Tahoe-LAFS's on-disk formats (formats.md sections 5 and 9).

Modules, each importing only from those before it: errors, settings, sockets, identity, leases, changes,
immutable, mutable, layout, apply, segment, journal, placing, ranges, locks, upload, uploads, slots,
advisories, store, expiry, exchange, app, protocol, serving, cli.
"""
