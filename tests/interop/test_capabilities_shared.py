"""Capabilities go both ways: what lafsfs seals or makes mutable Tahoe reads, what Tahoe made gets a name here."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest

from tests.interop.conftest import SharedGrid
from tests.support.errnos import refused
from tests.support.mounts import LafsfsHome
from tests.support.tahoe_trees import deep_check, listing, walk

pytestmark = [pytest.mark.tahoe, pytest.mark.timeout(300)]

LARGE = hashlib.shake_128(b"large").digest(300_000)


def test_tahoe_reads_what_was_sealed(shared_grid: SharedGrid, fresh_home: LafsfsHome) -> None:
    shared_grid.create(fresh_home)
    client = shared_grid.client
    mutable = client.put(LARGE, "MDMF")
    with fresh_home.mounted("home:", *shared_grid.options) as tree:
        top = tree.path / "top"
        (top / "a" / "b").mkdir(parents=True)
        (top / "empty").mkdir()
        (top / "a" / "large").write_bytes(LARGE)
        (top / "a" / "b" / "small").write_bytes(b"literal")
        os.symlink("a/large", top / "link")
        fresh_home.lafsfs("attach", "-", str(top / "mutable"), stdin=mutable)
        fresh_home.lafsfs("attach", "imm.future:1", str(top / "future"))
        cap = fresh_home.lafsfs("seal", "--show-cap", str(top)).stdout.strip()
        assert (top / "mutable").read_bytes() == LARGE
    assert cap.startswith("URI:DIR2-CHK:")
    found = {"/".join(path): child for path, child in walk(client, cap)}
    assert set(found) == {"a", "a/b", "a/b/small", "a/large", "empty", "future", "link", "mutable"}
    assert found["empty"].cap == "URI:DIR2-LIT:"
    assert found["a"].cap.startswith("URI:DIR2-CHK:")
    assert found["a/b/small"].cap == "URI:LIT:nruxizlsmfwa"
    assert found["future"].kind == "unknown"
    assert client.get(found["a/large"].cap) == client.get(found["mutable"].cap) == LARGE
    assert client.get(found["link"].cap) == b"a/large"
    assert found["mutable"].cap.startswith("URI:CHK:")
    results = deep_check(client, cap)
    assert results["count-objects-unhealthy"] == 0
    # The same directory, packed and uploaded by Tahoe, has the same capability.
    packed = client.get(cap.replace("URI:DIR2-CHK:", "URI:CHK:"))
    assert client.put(packed) == cap.replace("URI:DIR2-CHK:", "URI:CHK:")


def test_what_tahoe_made_is_attached(shared_grid: SharedGrid, fresh_home: LafsfsHome) -> None:
    cap = shared_grid.create(fresh_home)
    client = shared_grid.client
    file = client.put(LARGE)
    children = b'{"file": ["filenode", {"ro_uri": "%b"}]}' % file.encode()
    immutable = client.request("POST", "/uri?t=mkdir-immutable", children).decode()
    directory = client.request("POST", "/uri?t=mkdir-with-children", children).decode()
    mdmf = client.request("POST", "/uri?t=mkdir&format=MDMF", b"").decode()
    assert immutable.startswith("URI:DIR2-CHK:")
    mutable = {form: client.put(LARGE, form) for form in ("SDMF", "MDMF")}
    given = {"file": file, "immutable": immutable, "dir": directory, "dir-mdmf": mdmf, **mutable}
    with fresh_home.mounted("home:", *shared_grid.options) as tree:
        for name, text in given.items():
            fresh_home.lafsfs("attach", "-", str(tree.path / name), stdin=text)
            assert os.getxattr(tree.path / name, "user.lafs.cap").decode() == text
        for name in ("file", "immutable/file", "dir/file", "SDMF", "MDMF"):
            assert (tree.path / name).read_bytes() == LARGE
        with refused(errno.EROFS):
            (tree.path / "immutable" / "new").touch()
        for name in ("dir", "dir-mdmf"):
            (tree.path / name / "new").write_text("from the mount")
        for name in ("SDMF", "MDMF"):
            with (tree.path / name).open("r+b") as opened:
                opened.write(b"changed")
    now = listing(client, cap)
    assert {name: child.cap for name, child in now.items()} == given
    assert client.get(mutable["SDMF"]) == client.get(mutable["MDMF"]) == b"changed" + LARGE[7:]
    for name in ("dir", "dir-mdmf"):
        assert client.get(listing(client, given[name])["new"].cap) == b"from the mount"


def test_tahoe_reads_and_writes_new_mutable_files(shared_grid: SharedGrid, fresh_home: LafsfsHome) -> None:
    cap = fresh_home.lafsfs("create", "--show-cap", "--format", "mdmf", *shared_grid.options).stdout.strip()
    client = shared_grid.client
    with fresh_home.mounted("home:", "-o", "new_files=mdmf,refresh=0", *shared_grid.options) as tree:
        (tree.path / "dir").mkdir()
        (tree.path / "dir" / "file").write_bytes(LARGE)
        (tree.path / "sdmf").mkdir()
        os.setxattr(tree.path / "sdmf", "user.lafs.new_files", b"sdmf")
        (tree.path / "sdmf" / "file").write_bytes(b"small")
        fresh_home.lafsfs("flush", str(tree.path))
        assert listing(client, cap)["dir"].cap.startswith("URI:DIR2-MDMF:")
        inside = listing(client, listing(client, cap)["dir"].cap)["file"].cap
        assert inside.startswith("URI:MDMF:")
        assert client.get(inside) == LARGE
        client.request("PUT", f"/uri/{inside}?offset=100000", b"by Tahoe")
        assert (tree.path / "dir" / "file").read_bytes() == LARGE[:100_000] + b"by Tahoe" + LARGE[100_008:]
        sdmf = listing(client, listing(client, cap)["sdmf"].cap)["file"].cap
        assert sdmf.startswith("URI:SSK:")
        assert client.get(sdmf) == b"small"
    assert deep_check(client, cap)["count-objects-unhealthy"] == 0
