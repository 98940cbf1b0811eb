"""--node-directory: servers, encoding, secrets and aliases are those of a Tahoe client node."""

from __future__ import annotations

import hashlib

import pytest

from lafsfs.formats.caps import ChkCap, parse
from tests.interop.conftest import SharedGrid
from tests.support.mounts import LafsfsHome
from tests.support.tahoe_trees import listing, make_directory, put

pytestmark = [pytest.mark.tahoe, pytest.mark.timeout(300)]


def test_aliases_encoding_and_secrets_of_the_node(shared_grid: SharedGrid, fresh_home: LafsfsHome) -> None:
    client, private = shared_grid.client, shared_grid.client.directory / "private"
    data = hashlib.shake_128(b"convergent").digest(200_000)
    cap, root = make_directory(client), make_directory(client)
    put(client, cap, "theirs", data)
    below = make_directory(client, {"inner": ("filenode", {"ro_uri": "URI:LIT:nbuq", "metadata": {}})})
    client.request("PUT", f"/uri/{cap}/below?t=uri", below.encode())
    (private / "aliases").write_text(f"# aliases of the node\nshared: {cap}\n")
    (private / "root_dir.cap").write_text(root + "\n")
    before = (private / "aliases").read_bytes()

    with fresh_home.mounted("shared:", *shared_grid.options) as tree:
        (tree.path / "ours").write_bytes(data)
        # The node's convergence secret and encoding: the same content has the same cap from both.
        ours = fresh_home.lafsfs("cap", str(tree.path / "ours")).stdout.strip()
        assert ours == listing(client, cap)["theirs"].cap
        parsed = parse(ours)
        assert isinstance(parsed, ChkCap)
        assert (parsed.k, parsed.n) == (2, 3)
    with fresh_home.mounted("tahoe:", *shared_grid.options) as tree:
        (tree.path / "file").write_text("in the root")
    with fresh_home.mounted("shared:below", *shared_grid.options) as tree:
        assert (tree.path / "inner").read_text() == "hi"
    assert client.get(listing(client, root)["file"].cap) == b"in the root"
    # A directory that lafsfs wrote last is Tahoe's to change: the write enablers come from the same secrets.
    put(client, cap, "after", b"x")
    assert set(listing(client, cap)) == {"theirs", "ours", "after", "below"}
    assert (private / "aliases").read_bytes() == before
    assert not (fresh_home.path / "config" / "secrets").exists()
    assert list((fresh_home.path / "data").iterdir()) == []  # nobody needed the bundled server
