"""Mounts of one root and a Tahoe node at random work for a while; then all must agree, and nothing may be lost."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import random
import shutil
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import trio

from lafsfs.config import Encoding, GridProfile
from tests.support.contention import OfMount, TahoeWorker, Tokens, Worker, unlike
from tests.support.faulty_server import FAULTY, forget_changes, set_faults
from tests.support.grids import entry_of
from tests.support.many import many_servers
from tests.support.mounts import LafsfsHome, MountedTree, lafsfs_home
from tests.support.storage import StorageServer
from tests.support.tahoe import TahoeClient, tahoe_client
from tests.support.tahoe_trees import deep_check

MOUNTS = 5
ENCODING = Encoding(2, 3, 3)
OPTIONS = ("-o", "publish_delay=0.2,refresh=0.5")
AGREE_SECONDS = 240.0
LOG_LINES = 60

Tree = dict[bytes, tuple[object, ...]]


class ContentionError(AssertionError):
    """The mounts do not agree, or something is lost."""


class Faults(NamedTuple):
    """What servers do while there is work: the share of requests that fail, and whether one forgets all changes."""

    share: float = 0.0
    forgetful: bool = False


NO_FAULTS = Faults()


class Campaign:
    """`seconds` of work, all chosen by `seed`."""

    def __init__(
        self,
        seed: str,
        homes: Sequence[LafsfsHome],
        servers: Sequence[StorageServer],
        client: TahoeClient,
        faults: Faults,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._homes, self._servers, self._client = homes, servers, client
        self._faults = faults
        self._tokens = Tokens()
        self._mounts: list[MountedTree] = []

    def prepare(self) -> str:
        """Mount one new directory everywhere; its write cap."""
        profile = GridProfile(tuple(map(entry_of, self._servers)), ENCODING)
        for home in self._homes:
            (home.path / "config").mkdir(parents=True, mode=0o700)
            profile.save(home.path / "config" / "grid.yaml")
        cap = self._homes[0].create()
        for home in self._homes:
            if home is not self._homes[0]:
                shutil.copytree(self._homes[0].path / "config", home.path / "config", dirs_exist_ok=True)
            self._mounts.append(home.mount("home:", *OPTIONS))
        return cap

    async def work(self, cap: str, seconds: float) -> None:
        """All at once, until the time is over. Servers fail meanwhile, as they are to."""
        for server in self._servers:
            set_faults(server, self._faults.share)
        if self._faults.forgetful:
            forget_changes(self._servers[-1])
        workers: list[Worker | TahoeWorker] = [
            Worker(OfMount(tree.path), f"m{number}", f"{self._seed}/{number}", self._tokens)
            for number, tree in enumerate(self._mounts)
        ]
        workers.append(TahoeWorker(self._client, cap, f"{self._seed}/tahoe", self._tokens))
        end = trio.current_time() + seconds

        async def run(worker: Worker | TahoeWorker, pauses: random.Random) -> None:
            while trio.current_time() < end:
                await worker.step()
                await trio.sleep(pauses.choice((0.0, 0.01, 0.1, 0.5)))

        async with trio.open_nursery() as nursery:
            for number, worker in enumerate(workers):
                nursery.start_soon(run, worker, random.Random(f"{self._seed}/{number}/pauses"))
        for worker in workers:
            who = "tahoe: " if isinstance(worker, TahoeWorker) else ""
            self.counts.update({who + kind: count for kind, count in worker.done.items()})

    def check(self, cap: str) -> None:
        """Publish everything, and look. ContentionError."""
        for server in self._servers:
            set_faults(server, 0.0)
        trees = self._agreed()
        (tree, *_) = trees.values()
        contents = [what[-1] for what in tree.values()]
        missing = self._tokens.missing(one for one in contents if isinstance(one, bytes))
        self.counts["tokens"] = len(self._tokens.acknowledged)
        self.counts["tokens taken out"] = len(self._tokens.given_up)
        self.counts["objects in the end"] = len(tree)
        self.counts["conflict copies"] = sum(b".conflict-" in path for path in tree)
        if missing:
            history = "\n".join(" ".join(what) for what in self._tokens.history)
            raise ContentionError(f"{history}\nseed {self._seed}: lost: {sorted(missing)}")
        for mounted in self._mounts:
            if errors := mounted.status()["errors"]:
                raise ContentionError(f"seed {self._seed}: {errors}")
        if self._faults.forgetful:
            return  # of its shares Tahoe says what is to be said
        results = deep_check(self._client, cap)
        broken = results["count-objects-unhealthy"] + results["count-corrupt-shares"]
        if broken:
            raise ContentionError(f"seed {self._seed}: Tahoe finds {broken} objects that are not healthy")
        self.counts["objects that Tahoe checked"] = results["count-objects-checked"]

    def _agreed(self) -> dict[str, Tree]:
        end = time.monotonic() + AGREE_SECONDS
        while True:
            for mounted in self._mounts:
                mounted.home.lafsfs("flush", "--timeout", "80", str(mounted.path))
            trees = {mounted.home.directory.name: look(mounted.path) for mounted in self._mounts}
            different = unlike(trees)
            pending = [mounted.status()["pending"] for mounted in self._mounts]
            if not different and not any(any(one.values()) for one in pending):
                return trees
            if time.monotonic() > end:
                raise ContentionError("\n".join([f"seed {self._seed}:", *different[:20], str(pending)]))
            time.sleep(0.6)  # past the mounts' refresh

    def tell(self) -> None:
        """Print what the mounts said last of what went wrong: their logs go with their homes."""
        for home in self._homes:
            for log in sorted(home.path.rglob("mount.log")):
                lines = log.read_text(errors="replace").splitlines()
                print(f"--- {home.directory.name}", *lines[-LOG_LINES:], sep="\n", file=sys.stderr)

    def finish(self) -> None:
        """Unmount all."""
        for mounted in self._mounts:
            mounted.unmount()


def look(top: Path) -> Tree:
    """What a mount shows; looked at again if something went away meanwhile, or is inside itself and about to go."""
    for _ in range(20):
        try:
            return dict(_walk(top, b""))
        except OSError as problem:
            if problem.errno not in (errno.ENOENT, errno.ELOOP):
                raise
    raise ContentionError("the tree does not come to rest")


def _walk(top: Path, relative: bytes) -> Iterator[tuple[bytes, tuple[object, ...]]]:
    directory = top / relative.decode()
    for path in sorted(directory.iterdir()):
        status = path.lstat()
        name = relative + b"/" + path.name.encode() if relative else path.name.encode()
        content = b""
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(top, name)
        elif stat.S_ISLNK(status.st_mode):
            content = str(path.readlink()).encode()
        else:
            content = path.read_bytes()
        yield name, (status.st_mode, status.st_mtime_ns, len(content), content)


def run(seed: str, seconds: float, faults: Faults = NO_FAULTS) -> Counter[str]:
    """A whole campaign. ContentionError at the first thing that is wrong."""
    directory = Path(tempfile.mkdtemp(prefix="lafsfs-contention-"))
    try:
        with contextlib.ExitStack() as stack:
            servers = stack.enter_context(many_servers(directory, ENCODING.n, FAULTY))
            announcements = {server.server_id: server.announcement() for server in servers}
            shares = dict(zip(("k", "happy", "n"), (ENCODING.k, ENCODING.happy, ENCODING.n), strict=True))
            client = stack.enter_context(tahoe_client(directory / "client", announcements, **shares))
            homes = [stack.enter_context(lafsfs_home()) for _ in itertools.repeat(None, MOUNTS)]
            campaign = Campaign(seed, homes, servers, client, faults)
            cap = campaign.prepare()
            try:
                trio.run(functools.partial(campaign.work, cap, seconds))
                campaign.check(cap)
            except BaseException:
                campaign.tell()
                raise
            campaign.finish()
            return campaign.counts
    finally:
        shutil.rmtree(directory, ignore_errors=True)
