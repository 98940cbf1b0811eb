"""Secrets are kept out of what is logged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lafsfs.daemon import log
from lafsfs.daemon.redaction import redact

CAP = "URI:DIR2:mnxs4lqzbbcwhnqwp6jyy2hl2i:3pmhlxm5ivd2n3ctfxgvlbhktklwbvmu5rsvh3cygdvdzmmqw4ea"
NURL = "pb://1WUX44xKjKdpGLohmFcBNuIRN-8rlv1Iij_7rQ@127.0.0.1:34399/jhjbc3bjbhk#v=1"
FURL = "pb://sokljyb4pncgjtskrtz6xqzpcr2e2bxy@tcp:127.0.0.1:34399/lp5iwnu6drmlxf7cejr5eycqwmhqw3mk"


@pytest.mark.parametrize("secret", [CAP, NURL, FURL, CAP.replace(":", "%3A"), CAP.lower()])
def test_secrets_are_replaced(secret: str) -> None:
    text = redact(f"before <{secret}> after")
    assert text in ("before <[secret]> after", "before <[secret]")
    assert secret[8:40] not in text


def test_header_secrets_are_replaced() -> None:
    line = "Authorization: Tahoe-LAFS amhqYmMzYmpiaGs= X-Tahoe-Authorization: upload-secret AAECAwQFBgc="
    assert "amhqYmM" not in redact(line)
    assert "AAECAwQ" not in redact(line)


def test_ordinary_text_is_left_alone() -> None:
    text = "server 3 (v0-abc) answered 404 after 0.2 s; see https://tahoe-lafs.org"
    assert redact(text) == text


@pytest.mark.usefixtures("restored_logging")
def test_log_file_is_private_and_redacts_messages_and_tracebacks(tmp_path: Path) -> None:
    path = log.log_to_file(tmp_path)
    try:
        raise ValueError(f"cannot use {CAP}")
    except ValueError:
        logging.getLogger("lafsfs.test").exception("with %s", NURL)
    text = path.read_text()
    assert "ValueError: cannot use [secret]" in text
    assert "mnxs4lqz" not in text
    assert "jhjbc3bjbhk" not in text
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("restored_logging")
def test_log_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_MAX_BYTES", 100_000)
    log.log_to_file(tmp_path)
    logger = logging.getLogger("lafsfs.test")
    for _ in range(130):
        logger.info("x" * 3000)
    files = list(tmp_path.iterdir())
    assert len(files) == 3
    assert sum(file.stat().st_size for file in files) < 310_000
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)


@pytest.fixture
def restored_logging() -> object:
    """Gives the root logger back its handlers."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
