"""What a process calls itself, as a terminal may show it, and the names of terminals."""

from __future__ import annotations

import locale
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskdiag.ps.terminal import Terminals, device_of
from taskdiag.ps.text import cut, printable, width


@pytest.fixture
def utf8() -> Iterator[None]:
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    yield
    locale.setlocale(locale.LC_CTYPE, before)


@pytest.fixture
def ascii_only() -> Iterator[None]:
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    yield
    locale.setlocale(locale.LC_CTYPE, before)


@pytest.mark.usefixtures("utf8")
@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"", ""),
        (b"plain ~", "plain ~"),
        (b"a\n\x7fb", "a??b"),
        ("über".encode(), "über"),
        ("日本".encode(), "日本"),
        (b"\xff", "?"),
        (b"a\xffb\nc", "a?b.c"),
        (b"\nb\xff\n\x7f", "?b?.."),
        (b"\xff" + "ü".encode(), "???"),
        (b"\xc3", "?"),
        (b"\xc3\n", "??"),
        ("\x85".encode(), "?"),
        (b"\xed\xa0\x80", "???"),
        (b"\xf4\x90\x80\x80", "?"),
    ],
)
def test_what_is_not_printable_is_replaced(raw: bytes, shown: str) -> None:
    assert printable(raw) == shown


@pytest.mark.usefixtures("ascii_only")
@pytest.mark.parametrize(("raw", "shown"), [(b"a\n\x7fb", "a..b"), ("ü".encode(), "??"), (b"\xff\x00", "?.")])
def test_without_utf8_only_ascii_is_printable(raw: bytes, shown: str) -> None:
    assert printable(raw) == shown


@pytest.mark.usefixtures("utf8")
@pytest.mark.parametrize(("text", "cells"), [("", 0), ("abc", 3), ("über", 4), ("日本", 4), ("e\u0301x", 2)])
def test_cells_are_counted_as_a_terminal_does(text: str, cells: int) -> None:
    assert width(text) == cells


@pytest.mark.usefixtures("utf8")
@pytest.mark.parametrize(
    ("text", "room", "left"),
    [
        ("abc", 2, "ab"),
        ("abc", 3, "abc"),
        ("abc", 0, ""),
        ("abc", -1, ""),
        ("日本", 3, "日"),
        ("日本", 4, "日本"),
        ("日本", 1, ""),
        ("e\u0301x", 1, "e"),
        ("e\u0301x", 2, "e\u0301x"),
        ("ü", 0, ""),
    ],
)
def test_text_is_cut_between_characters(text: str, room: int, left: str) -> None:
    assert cut(text, room) == left


DRIVERS = b"""\
/dev/tty             /dev/tty        5       0 system:/dev/tty
serial               /dev/ttyS       4 64-111 serial
pty_slave            /dev/pts      136 0-1048575 pty:slave
pty_master           /dev/ptm      128 0-1048575 pty:master
old style            /dev/vc/%d      7 1-63 console
unknown              /dev/tty        4 1-63 console
"""

NODES = {
    b"/dev/pts/3": os.makedev(136, 3),
    b"/dev/pts/4": os.makedev(136, 5),
    b"/dev/tty": os.makedev(5, 0),
    b"/dev/tty2": os.makedev(4, 2),
    b"/dev/ttyS0": os.makedev(4, 64),
    b"/dev/vc/7": os.makedev(7, 7),
}


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ((0, 0), "?"),
        ((136, 3), "pts/3"),
        ((136, 4), "?"),
        ((136, 99), "?"),
        ((5, 0), "tty"),
        ((4, 2), "tty2"),
        ((4, 64), "ttyS0"),
        ((4, 65), "?"),
        ((7, 7), "vc/7"),
        ((99, 1), "?"),
    ],
)
def test_a_terminal_is_named_as_below_dev(device: tuple[int, int], name: str, tmp_path: Path) -> None:
    for numbers, registered in {"4:64": "ttyS0", "4:65": "ttyS1", "136:4": "pts/4"}.items():
        (tmp_path / numbers).mkdir()
        (tmp_path / numbers / "uevent").write_text(f"MAJOR=4\nDEVNAME={registered}\nX=1\n")
    terminals = Terminals(DRIVERS, tmp_path, NODES.get)
    assert terminals.name(os.makedev(*device)) == name


def test_a_number_with_its_top_bit_set_is_a_device(tmp_path: Path) -> None:
    number = os.makedev(136, 0x80000 + 3)
    assert number >> 31 == 1
    terminals = Terminals(DRIVERS, tmp_path, {b"/dev/pts/524291": number}.get)
    assert terminals.name(number - (1 << 32)) == "pts/524291"


def test_only_special_files_have_device_numbers(tmp_path: Path) -> None:
    assert device_of(b"/dev/null") == os.makedev(1, 3)
    assert device_of(bytes(tmp_path)) == 0
    assert device_of(bytes(tmp_path / "none")) is None
