"""Fixtures that tests of several packages use."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator

import pytest

from tests.support.many import many_servers, start_all
from tests.support.mounts import LafsfsHome, clean_leftovers, lafsfs_home
from tests.support.storage import StorageServer


def pytest_sessionstart() -> None:
    """What a killed test run left mounted or running goes first."""
    clean_leftovers()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure whose text holds raw file names (surrogates) could not be sent from a process of the run."""
    report = yield
    if report.failed and not _sendable(report.longreprtext):
        report.longrepr = _without_surrogates(report.longreprtext)
    report.sections = [
        (_without_surrogates(title), _without_surrogates(text)) for title, text in report.sections
    ]
    return report


def _sendable(text: str) -> bool:
    return _without_surrogates(text) == text


def _without_surrogates(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


@pytest.fixture
def fresh_home() -> Iterator[LafsfsHome]:
    """A LAFSFS_HOME of its own; whatever is mounted or runs in it ends with the test."""
    with lafsfs_home() as made:
        yield made


@pytest.fixture(scope="session")
def _session_home() -> Iterator[LafsfsHome]:
    with lafsfs_home() as made:
        yield made


@pytest.fixture
def home(_session_home: LafsfsHome) -> Iterator[LafsfsHome]:
    """A LAFSFS_HOME as good as new; its bundled server may run already, for starting one takes long."""
    _session_home.reset()
    yield _session_home
    _session_home.reset()


@pytest.fixture(scope="session")
def _ten_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[StorageServer]]:
    with many_servers(tmp_path_factory.mktemp("grid"), 10) as servers:
        yield servers


@pytest.fixture
def ten(_ten_servers: list[StorageServer]) -> Iterator[list[StorageServer]]:
    """Ten running storage servers that tests share. Those that a test stops or pauses run again after it."""
    yield _ten_servers
    for server in _ten_servers:
        if server.process is not None:
            server.resume()
    start_all([server for server in _ten_servers if server.process is None])
