"""Downloads: resumed, checked, and never taken for whole when they are not."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from web import Site, serving

from workspace import download
from workspace.errors import WorkspaceError

CONTENT = os.urandom(300_000)
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving({"file": CONTENT}) as made:
        yield made


def test_a_file_arrives_whole(site: Site, tmp_path: Path) -> None:
    download.file(f"{site.url}file", tmp_path / "new" / "file", sha256=SUM)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "new").iterdir()] == [("file", CONTENT)]


def test_an_interrupted_download_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:123_456])
    download.file(f"{site.url}file", tmp_path / "file", sha256=SUM)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert site.asked == [("/file", "bytes=123456-")]


def test_a_server_without_ranges_sends_all_of_it_again(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    download.file(f"{site.url}file", tmp_path / "file", sha256=SUM)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_connection_that_breaks_is_taken_up_again(site: Site, tmp_path: Path) -> None:
    site.break_after = 100_000
    download.file(f"{site.url}file", tmp_path / "file", sha256=SUM)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_connection_that_never_gives_more_is_given_up_and_the_part_kept(site: Site, tmp_path: Path) -> None:
    site.break_after = 0
    (tmp_path / "file.part").write_bytes(CONTENT[:5])
    with pytest.raises(download.UnavailableError, match="breaks off"):
        download.file(f"{site.url}file", tmp_path / "file", sha256=SUM)
    assert [path.name for path in tmp_path.iterdir()] == ["file.part"]
    site.break_after = None
    download.file(f"{site.url}file", tmp_path / "file", sha256=SUM)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"], ids=["whole", "longer"])
def test_a_part_that_leaves_nothing_to_send_is_started_anew(site: Site, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "file.part").write_bytes(left)
    download.file(f"{site.url}file", tmp_path / "file", sha256=SUM)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "served", [CONTENT[:-1] + b"?", CONTENT[:-1], CONTENT + b"\0", b""], ids=["altered", "truncated", "longer", "empty"]
)
def test_what_has_not_the_sum_is_removed_and_downloaded_anew(site: Site, tmp_path: Path, served: bytes) -> None:
    site.files["file"] = served
    with pytest.raises(WorkspaceError, match=r"file.* was altered or truncated .* run again") as caught:
        download.file(f"{site.url}file", tmp_path / "file", sha256=SUM)
    assert not isinstance(caught.value, download.UnavailableError)
    assert list(tmp_path.iterdir()) == []
    site.files["file"] = CONTENT
    download.file(f"{site.url}file", tmp_path / "file", sha256=SUM)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_an_error_of_the_server_is_one_of_the_source(site: Site, tmp_path: Path) -> None:
    with pytest.raises(download.UnavailableError, match="404"):
        download.text(f"{site.url}none")
    with pytest.raises(download.UnavailableError, match="404"):
        download.file(f"{site.url}none", tmp_path / "file", sha256=SUM)
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_said_at_once() -> None:
    with serving({}) as gone:
        pass
    start = time.monotonic()
    with pytest.raises(download.UnavailableError, match="Connection refused"):
        download.text(gone.url)
    assert time.monotonic() - start < 2


def test_a_server_that_never_answers_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "CONNECT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(download.UnavailableError, match="timed out"):
            download.text(f"http://127.0.0.1:{silent.getsockname()[1]}/sums")
    assert time.monotonic() - start < 2
