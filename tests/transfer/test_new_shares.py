"""Encoding whole versions: sizes in memory and in a file, contents read piece by piece."""

from __future__ import annotations

import random

import pytest

from lafsfs.formats import keys, mutable_share, rsa
from lafsfs.transfer import encoding
from lafsfs.transfer.encoding import BytesContents, NewShares


@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "file"])
@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
async def test_shares_are_complete_and_check(
    mdmf: bool, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_memory:
        monkeypatch.setattr(encoding, "_IN_MEMORY", 0)
    key = rsa.SigningKey.generate()
    for size in (0, 1, 300_000):
        data = random.Random(size).randbytes(size)
        planned = mutable_share.plan(mdmf, 7, 2, 4, size, key, bytes(16))
        with NewShares(planned, key, keys.readkey_of(key.writekey)) as shares:
            await shares.encode(BytesContents(data))
            for shnum in range(4):
                share = bytearray(shares.share_size)
                written = 0
                for offset, part in shares.writes(shnum):
                    share[offset : offset + len(part)] = part
                    written += len(part)
                assert len(share) == shares.share_size >= written
                header = mutable_share.check_share(share, shnum, key.public.fingerprint)
                assert header == shares.header
                assert (header.seqnum, header.data_length) == (7, size)
                sealed = bytes(share[slice(*header.sections.encprivkey)])
                assert rsa.unseal(sealed, key.writekey).der == key.der
