"""Everything until it is on the grid, and back from there."""

from __future__ import annotations

from tests.bench.lafsfs_places import TahoeWeb
from tests.bench.running import Run, check
from tests.bench.workloads import MIB, SMALL, same, write_file


def until_on_the_grid(run: Run) -> None:
    """A large file, small files, directories: written and flushed. Then all of it is read with nothing cached."""
    if isinstance(run.place, TahoeWeb):
        _with_tahoe(run, run.place)
        return
    data, large = run.data(run.sizes.mib * MIB), run.directory / "large"
    small = {run.directory / "files" / str(number): run.data(SMALL) for number in range(run.sizes.files)}
    with run.timed("large file, on the grid", "MB", len(data) / 1e6):
        write_file(large, data)
        run.place.flush()
    with run.timed("4 KiB files, on the grid", "files", len(small)):
        (run.directory / "files").mkdir()
        for path, content in small.items():
            write_file(path, content)
        run.place.flush()
    folders = _folders(run)
    with run.timed("directories, on the grid", "directories", len(folders)):
        (run.directory / "folders").mkdir()
        for number in folders:
            (run.directory / "folders" / str(number)).mkdir()
        run.place.flush()
    if run.cold():
        with run.timed("large file, from the grid", "MB", len(data) / 1e6):
            same(large, data)
        with run.timed("4 KiB files, from the grid", "files", len(small)):
            for path in sorted((run.directory / "files").iterdir()):
                same(path, small[path])


def _folders(run: Run) -> range:
    return range(max(10, run.sizes.files // 10))


def _with_tahoe(run: Run, tahoe: TahoeWeb) -> None:
    """The same by the web API, which is done with a thing when it answers."""
    data = run.data(run.sizes.mib * MIB)
    small = {str(number): run.data(SMALL) for number in range(run.sizes.files)}
    top = tahoe.mkdir(tahoe.root, run.directory.name)
    caps: dict[str, str] = {}
    with run.timed("large file, on the grid", "MB", len(data) / 1e6):
        caps[""] = tahoe.put(top, "large", data)

    def put(name: str) -> None:
        caps[name] = tahoe.put(top, name, small[name])

    run.each("4 KiB files, on the grid", "files", small, put)
    run.each("directories, on the grid", "directories", _folders(run), lambda i: tahoe.mkdir(top, f"d{i}"))
    with run.timed("large file, from the grid", "MB", len(data) / 1e6):
        check(tahoe.get(caps[""]) == data, "the large file")

    def get(name: str) -> None:
        check(tahoe.get(caps[name]) == small[name], name)

    run.each("4 KiB files, from the grid", "files", [name for name in caps if name], get)
