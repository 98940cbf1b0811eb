"""The storage protocol (GBS) as data: paths, CBOR messages, headers, NURLs. No I/O."""
