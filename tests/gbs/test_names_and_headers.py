"""NURLs, FURLs, routes and headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafsfs.errors import FormatError
from lafsfs.formats import base32
from lafsfs.gbs import headers, routes
from lafsfs.gbs.headers import SecretKind
from lafsfs.gbs.nurl import Furl, Nurl
from lafsfs.gbs.routes import Endpoint

PIN = "bIf150wMV76YBuXQ4M1YaOqYHfwsIIVBw2fLIexUufs"
SWISS = "aliioy4xf2dv7gbxwuxaowgat4hajivy"
NURL = f"pb://{PIN}@127.0.0.1:50021/{SWISS}#v=1"
FURL = f"pb://h5ga7fq2f6okv6f2fb4nwul74ok5pf3q@tcp:127.0.0.1:50021/{SWISS}"
SI = bytes(range(16))


def test_nurl_round_trip_and_secrecy() -> None:
    nurl = Nurl.parse(f" {NURL}\n")
    assert (nurl.spki, nurl.host, nurl.port, nurl.swissnum) == (PIN, "127.0.0.1", 50021, SWISS)
    assert nurl.to_string() == NURL
    assert SWISS not in repr(nurl) + str(nurl) + f"{nurl}"


@pytest.mark.parametrize("text", [f"pb://{PIN}@[::1]:1/s#v=1", f"pb+tor://{PIN}@abc.onion:443/s#v=1"])
def test_other_nurls(text: str) -> None:
    assert Nurl.parse(text).to_string() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        FURL,
        NURL.removesuffix("#v=1"),
        NURL.replace("#v=1", "#v=2"),
        NURL.replace("50021", "0"),
        NURL.replace("50021", "65536"),
        NURL.replace(PIN, PIN[:-1]),
        NURL.replace("pb:", "http:"),
        NURL + "x",
    ],
)
def test_not_a_nurl(text: str) -> None:
    with pytest.raises(FormatError) as failure:
        Nurl.parse(text)
    assert SWISS not in str(failure.value)


def test_furl() -> None:
    furl = Furl.parse(FURL)
    assert furl.to_string() == FURL
    assert len(furl.tubid) == 20
    assert SWISS not in repr(furl) + str(furl)
    for text in (NURL, FURL.replace("@", ""), FURL.upper(), "pb://"):
        with pytest.raises(FormatError):
            Furl.parse(text)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1))
def test_every_path_leads_back(si: bytes, shnum: int) -> None:
    for path, method, endpoint, has_number in [
        (routes.VERSION, "GET", Endpoint.VERSION, None),
        (routes.lease(si), "PUT", Endpoint.LEASE, False),
        (routes.allocate(si), "POST", Endpoint.ALLOCATE, False),
        (routes.allocate(si), "PUT", Endpoint.PUT_SHARES, False),
        (routes.immutable_share(si, shnum), "PATCH", Endpoint.WRITE, True),
        (routes.immutable_share(si, shnum), "GET", Endpoint.READ_IMMUTABLE, True),
        (routes.abort(si, shnum), "PUT", Endpoint.ABORT, True),
        (routes.immutable_shares(si), "GET", Endpoint.LIST_IMMUTABLE, False),
        (routes.immutable_corrupt(si, shnum), "POST", Endpoint.CORRUPT_IMMUTABLE, True),
        (routes.read_test_write(si), "POST", Endpoint.READ_TEST_WRITE, False),
        (routes.mutable_share(si, shnum), "GET", Endpoint.READ_MUTABLE, True),
        (routes.mutable_shares(si), "GET", Endpoint.LIST_MUTABLE, False),
        (routes.mutable_corrupt(si, shnum), "POST", Endpoint.CORRUPT_MUTABLE, True),
    ]:
        target = routes.match(path)
        assert target is not None
        assert target.methods[method] is endpoint
        if has_number is not None:
            assert target.storage_index == si
            assert target.shnum == (shnum if has_number else -1)


def test_paths_that_lead_nowhere() -> None:
    name = base32.encode(SI)
    for path in [
        "/",
        "/storage/v1",
        "/storage/v1/version/",
        "/storage/v2/version",
        f"/storage/v1/immutable/{name.upper()}/shares",
        f"/storage/v1/immutable/{name[:-1]}/shares",
        f"/storage/v1/immutable/{name[:-1]}b/shares",
        f"/storage/v1/immutable/{name}/-1",
        f"/storage/v1/immutable/{name}/1x",
        f"/storage/v1/immutable/{name}/{'1' * 21}",
        f"/storage/v1/mutable/{name}/1/abort",
        f"/storage/v1/immutable/../{name}/1",
    ]:
        assert routes.match(path) is None
    leading = routes.match(f"/storage/v1/immutable/{name}/0007")
    assert leading is not None
    assert leading.shnum == 7


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=1, max_size=64))
def test_secrets(write_enabler: bytes, upload: bytes) -> None:
    secrets = {SecretKind.WRITE_ENABLER: write_enabler, SecretKind.UPLOAD: upload}
    lines = headers.secret_lines(secrets)
    assert {name for name, _ in lines} == {"X-Tahoe-Authorization"}
    values = [value for _, value in lines]
    assert headers.parse_secrets(values, frozenset(secrets)) == secrets
    for wrong in (
        values[:1],
        [*values, values[0]],
        [", ".join(values)],
        [*values, "lease-renew-secret eA=="],
    ):
        with pytest.raises(FormatError):
            headers.parse_secrets(wrong, frozenset(secrets))


@pytest.mark.parametrize(
    "value", ["", "upload-secret", "upload-secret ", "upload-secret !!", "other eA==", "write-enabler eA=="]
)
def test_malformed_secrets(value: str) -> None:
    with pytest.raises(FormatError):
        headers.parse_secrets([value], frozenset({SecretKind.UPLOAD}))
    with pytest.raises(FormatError):
        headers.parse_secrets([value], frozenset({SecretKind.WRITE_ENABLER}))


@given(st.integers(0, 2**62), st.integers(1, 2**32))
def test_ranges(offset: int, size: int) -> None:
    assert headers.parse_range(headers.range_of(offset, size)) == (offset, size)
    span = headers.parse_content_range(headers.content_range(offset, offset + size, None))
    assert (span.begin, span.end, span.total) == (offset, offset + size, None)
    span = headers.parse_content_range(headers.content_range(offset, offset + size, offset + size))
    assert span.total == offset + size


@pytest.mark.parametrize(
    "value",
    [
        "",
        "bytes=",
        "bytes=5-",
        "bytes=-5",
        "bytes=0-1,4-5",
        "bytes=9-3",
        "lines=1-2",
        "bytes=a-b",
        "bytes 0-1",
    ],
)
def test_bad_ranges(value: str) -> None:
    with pytest.raises(FormatError):
        headers.parse_range(value)


@pytest.mark.parametrize("value", ["bytes = 0-5", "Bytes=0-5", "bytes= 0 - 5 "])
def test_ranges_as_loosely_written_as_tahoe_takes_them(value: str) -> None:
    assert headers.parse_range(value) == (0, 6)


@pytest.mark.parametrize(
    "value", ["", "bytes */67", "bytes 9-9/9", "bytes 5-/67", "bytes 9-3/67", "bytes=0-1/67", "lines 0-1/67"]
)
def test_bad_content_ranges(value: str) -> None:
    with pytest.raises(FormatError):
        headers.parse_content_range(value)
