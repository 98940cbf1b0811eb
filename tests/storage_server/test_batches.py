"""Several requests in one: each is answered as if it had come by itself, and none harms the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lafsfs.gbs import batch, headers, messages, routes
from lafsfs.gbs.batch import Outcome, Part
from lafsfs.gbs.headers import SecretKind
from tests.support.gbs_client import Answer, GbsClient
from tests.support.storage import StorageServer

ACCEPT = ("Accept", headers.CBOR)


def _post(client: GbsClient, parts: Sequence[Part]) -> list[Outcome]:
    answer = client.request("POST", routes.BATCH, body=batch.encode_parts(parts))
    assert answer.status == 200, answer
    return batch.decode_outcomes(answer.body, len(parts))


def _put(si: bytes, shares: dict[int, bytes], label: str = "client") -> Part:
    secrets = headers.secret_lines(GbsClient.lease_secrets(label))
    return Part("PUT", routes.allocate(si), [ACCEPT, *secrets], messages.encode_whole_shares(shares))


def _read(si: bytes, shnum: int, offset: int, size: int) -> Part:
    return Part("GET", routes.immutable_share(si, shnum), [("Range", headers.range_of(offset, size))], b"")


def test_many_shares(client: GbsClient) -> None:
    shares = {os.urandom(16): os.urandom(1000) for _ in range(batch.MAX_PARTS)}
    assert {one.status for one in _post(client, [_put(si, {1: data}) for si, data in shares.items()])} == {
        200
    }
    read = _post(client, [_read(si, 1, 10, 100) for si in shares])
    assert [one.body for one in read] == [data[10:110] for data in shares.values()]
    assert dict(read[0].headers)["content-range"] == "bytes 10-109/*"
    for si, data in list(shares.items())[:3]:
        assert client.read("immutable", si, 1).body == data


def test_the_same_storage_index_twice(client: GbsClient) -> None:
    si = os.urandom(16)
    outcomes = _post(client, [_put(si, {0: b"one"}), _put(si, {0: b"two"}, "another")])
    assert [messages.decode_allocated(one.body).already_have for one in outcomes] == [{0}, {0}]
    assert client.read("immutable", si, 0).body in (b"one", b"two")


def test_good_and_bad_together(client: GbsClient) -> None:
    si = os.urandom(16)
    upload = headers.secret_lines({SecretKind.UPLOAD: b"secret"})
    parts = [
        _read(si, 0, 0, 10),
        Part("GET", "/storage/v1/nothing", [], b""),
        Part("PATCH", routes.VERSION, [], b""),
        _put(si, {}),
        Part("PUT", routes.allocate(si), [ACCEPT, *upload], messages.encode_whole_shares({0: b"x"})),
        Part("POST", routes.BATCH, [], batch.encode_parts([_put(si, {3: b"x"})])),
        Part("GET", routes.immutable_shares(si), [("Accept", "text/plain")], b""),
        Part("HEAD", routes.VERSION, [], b""),
        Part("POST", routes.allocate(si), [ACCEPT], bytes(messages.MAX_ALLOCATE_BODY + 1)),
        _put(si, {2: b"data"}),
    ]
    outcomes = _post(client, parts)
    assert [one.status for one in outcomes] == [404, 404, 405, 400, 400, 400, 406, 200, 400, 200]
    assert outcomes[7].body == b""
    assert client.shares("immutable", si) == {2}


def test_the_swissnum_is_that_of_the_whole(client: GbsClient, server: StorageServer) -> None:
    si = os.urandom(16)
    right = headers.authorization(server.nurl.swissnum)
    body = batch.encode_parts(
        [Part("GET", routes.VERSION, [("Authorization", right)], b""), _put(si, {0: b"x"})]
    )
    for lines in ([ACCEPT], [ACCEPT, ("Authorization", headers.authorization("wrong"))]):
        assert client.exchange("POST", routes.BATCH, lines, body).status == 401
    assert client.shares("immutable", si) == set()
    wrong = Part("GET", routes.VERSION, [("Authorization", "wrong")], b"")
    assert _post(client, [wrong])[0].status == 200


def test_too_much(client: GbsClient) -> None:
    def refused(body: bytes) -> Answer:
        return client.request("POST", routes.BATCH, body=body)

    assert client.request("GET", routes.VERSION).headers["lafs-batches"] == str(batch.MAX_BODY)
    assert refused(bytes(batch.MAX_BODY + 1)).status == 413
    assert refused(b"\xff").status == 400
    assert refused(batch.encode_parts([])).status == 400
    assert refused(batch.encode_parts([_read(bytes(16), 0, 0, 1)] * (batch.MAX_PARTS + 1))).status == 400
    assert client.request("GET", routes.BATCH).status == 405


def test_an_answer_that_is_too_large(client: GbsClient) -> None:
    """Who wants so much must ask by itself; the others get what they want."""
    si, size = os.urandom(16), 5 << 20
    client.allocate(si, [0], size)
    assert client.write(si, 0, 0, os.urandom(size))[0] == 201
    large, small = _post(client, [_read(si, 0, 0, size), _read(si, 0, 0, 5)])
    assert (large.status, small.status) == (413, 206)
    assert len(small.body) == 5


def test_slots(client: GbsClient, tmp_path: Path) -> None:
    """Parts that write one slot are made one after the other."""
    si = os.urandom(16)
    secrets = headers.secret_lines({**GbsClient.lease_secrets(), SecretKind.WRITE_ENABLER: bytes(32)})

    def write(before: bytes, after: bytes) -> Part:
        vector = messages.TestWrite(tests=[(0, len(before), before)], writes=[(0, after)], new_length=None)
        body = messages.encode_read_test_write(messages.ReadTestWrite({0: vector}, []))
        return Part("POST", routes.read_test_write(si), [ACCEPT, *secrets], body)

    outcomes = _post(client, [write(b"", b"one"), write(b"one", b"two"), write(b"one", b"three")])
    answers = [messages.decode_read_test_write_answer(one.body).success for one in outcomes]
    assert answers == [True, True, False]
    assert client.read("mutable", si, 0).body == b"two"
