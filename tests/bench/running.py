"""Running a group of workloads in one place: in a child process with a deadline, measured step by step."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import random
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.places import Place
from tests.bench.processes import cpu_of, peak_memory

_PIECE = 64 << 20


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    mib: int = 128  # of a large file
    files: int = 500  # small ones
    entries: int = 10_000  # of a large directory
    operations: int = 1000  # at random places, transactions, appended lines
    tree: Path | None = None  # a tar archive to unpack
    budget: float = 30.0  # seconds after which a step stops where it is

    def scaled(self, factor: float) -> Sizes:
        """The same proportions, smaller or larger."""
        return replace(
            self,
            mib=max(8, int(self.mib * factor)),
            files=max(50, int(self.files * factor)),
            entries=max(500, int(self.entries * factor)),
            operations=max(100, int(self.operations * factor)),
            budget=max(10.0, self.budget * factor),
        )


@dataclass(frozen=True)
class Measure:
    """One step in one place: units a second; CPU seconds per unit of the mount and of servers behind it."""

    step: str
    unit: str
    rate: float
    client: float
    server: float
    partial: bool = False


class WrongDataError(Exception):
    """A filesystem gave back something else than was written."""


def check(condition: bool, what: str) -> None:
    """WrongDataError unless the condition holds."""
    if not condition:
        raise WrongDataError(what)


class Run:
    """What a group of workloads gets: a fresh directory, sizes, random data that is the same in every place."""

    def __init__(self, place: Place, directory: Path, sizes: Sizes, seed: int) -> None:
        self.place = place
        self.directory = directory
        self.sizes = sizes
        self.random = random.Random(seed)
        self.measures: list[Measure] = []
        self._look_up()

    def _look_up(self) -> None:
        self._clients, self._servers = self.place.clients(), self.place.servers()

    def data(self, size: int) -> bytes:
        """Random bytes."""
        # In pieces, as random has no more than 2 GiBit for us at once.
        return b"".join(self.random.randbytes(min(_PIECE, size - at)) for at in range(0, size, _PIECE))

    def cold(self) -> bool:
        """Make the place forget what it has in memory, after everything has reached its end."""
        self.place.flush()
        done = self.place.cold()
        self._look_up()
        return done

    @contextmanager
    def timed(self, step: str, unit: str, count: float) -> Iterator[None]:
        """The block does `count` units."""
        with self._counted(step, unit) as counter:
            yield
            counter[0] = count

    def each(self, step: str, unit: str, items: Iterable[object], work: Callable[..., object]) -> int:
        """`work` of every item, as far as the budget of time allows; how many that were."""
        with self._counted(step, unit) as counter:
            end = time.perf_counter() + self.sizes.budget
            for item in items:
                if time.perf_counter() > end:
                    counter[1] = 1
                    break
                work(item)
                counter[0] += 1
        return int(counter[0])

    def value(self, step: str, unit: str, rate: float) -> None:
        """A rate that was found otherwise; it has no CPU time of its own."""
        self.measures.append(Measure(step, unit, rate, 0.0, 0.0))

    @contextmanager
    def _counted(self, step: str, unit: str) -> Iterator[list[float]]:
        counter = [0.0, 0.0]
        before, began = (cpu_of(self._clients), cpu_of(self._servers)), time.perf_counter()
        yield counter
        seconds = max(time.perf_counter() - began, 1e-6)
        client, server = cpu_of(self._clients) - before[0], cpu_of(self._servers) - before[1]
        count = max(counter[0], 1e-9)
        rate = counter[0] / seconds
        self.measures.append(Measure(step, unit, rate, client / count, server / count, bool(counter[1])))


Group = Callable[[Run], None]


@dataclass
class Outcome:
    """What became of a group in a place. `failure` is empty when all went well; `peak` is bytes of the mount."""

    measures: list[Measure]
    failure: str = ""
    peak: int = 0


def run_group(group: Group, name: str, place: Place, sizes: Sizes, seed: int, deadline: float) -> Outcome:
    """Run a group in a fresh directory of a place, clean up, and wait until the place rests."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(group, name, place, sizes, seed, sender))
    child.start()
    sender.close()
    outcome = Outcome([], f"no result after {deadline:.0f} s")
    try:
        if receiver.poll(deadline):
            outcome = receiver.recv()
        else:
            child.kill()
    except EOFError:
        outcome = Outcome([], "the workload died")
    child.join(10)
    if child.is_alive():
        child.kill()
        child.join(10)
    return outcome


def _child(
    group: Group,
    name: str,
    place: Place,
    sizes: Sizes,
    seed: int,
    sender: multiprocessing.connection.Connection,
) -> None:
    directory = place.path / f"{name}-{seed}"
    directory.mkdir()
    run = Run(place, directory, sizes, seed)
    outcome = Outcome(run.measures)
    try:
        group(run)
    except WrongDataError as error:
        outcome.failure = f"WRONG DATA: {error}"
    except Exception as error:
        outcome.failure = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    outcome.peak = max((peak_memory(pid) for pid in place.clients()), default=0)
    shutil.rmtree(directory, ignore_errors=True)
    try:
        place.rest()
    finally:
        sender.send(outcome)
