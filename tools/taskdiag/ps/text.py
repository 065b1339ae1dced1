"""Bytes that a process chose, as text that a terminal may show, and how many cells of it that takes.

What is printable, and how wide, is asked of the C library, as every program of the terminal does: so it follows the
locale (of LC_CTYPE) that the program has set.
"""

from __future__ import annotations

import ctypes
import functools
import locale
import re

_CONTROL = bytes((*range(0x20), 0x7F))
_QUESTIONED = bytes.maketrans(_CONTROL, b"?" * len(_CONTROL))
_REPLACED = bytes(ord(".") if byte in _CONTROL else ord("?") if byte > 0x7F else byte for byte in range(256))
_PLAIN = re.compile(rb"[ -~]*")
# By their first bytes only: a sequence that is broken further on is found when it is decoded.
_SEQUENCES = re.compile(
    rb"(?:[\x00-\x7f]|[\xc2-\xdf].|[\xe0-\xef].{2}|[\xf0-\xf4].{3})*",
    re.DOTALL,
)
# The C library takes a number over the last one, U+10FFFF, for one character that is not printable.
_TOO_HIGH = re.compile(rb"\xf4[\x90-\xbf][\x80-\xbf]{2}")


def printable(raw: bytes) -> str:
    """Return ``raw`` with all that is not printable replaced, byte by byte, as ps of procps-ng 4.0.2 does it.

    In a locale of UTF-8, what is not printable or no character is a ``?``, and control characters behind the first
    byte that is no character are a ``.``; in any other one, bytes over 127 are a ``?`` and control characters a ``.``.
    """
    if _PLAIN.fullmatch(raw):
        return raw.decode("ascii")
    if locale.nl_langinfo(locale.CODESET).upper() != "UTF-8":
        return raw.translate(_REPLACED).decode("ascii")
    found = _SEQUENCES.match(raw)
    end = found.end() if found else 0
    clean = _TOO_HIGH.sub(b"?", raw[:end].translate(_QUESTIONED)) + raw[end:].translate(_REPLACED)
    decoded = clean.decode("utf-8", "surrogateescape")
    return "".join(character if _cells(character) is not None else "?" for character in decoded)


def width(text: str) -> int:
    """Return how many cells of a terminal ``text`` takes; all of it has to be printable."""
    return len(text) if text.isascii() else sum(_cells(character) or 0 for character in text)


def cut(text: str, room: int) -> str:
    """Return as much of ``text`` from its start as ``room`` cells hold."""
    if text.isascii():
        return text[: max(room, 0)]
    for index, character in enumerate(text):
        cells = _cells(character) or 0
        if room <= 0 or cells > room:
            return text[:index]
        room -= cells
    return text


@functools.lru_cache(maxsize=4096)
def _cells(character: str) -> int | None:
    """Return the cells of one character, None if it is not printable."""
    if character.isascii():
        return 1 if " " <= character <= "~" else None
    number = ord(character)
    # A surrogate stands for a byte that could not be decoded.
    if 0xD800 <= number <= 0xDFFF or not _libc().iswprint(number):
        return None
    return max(int(_libc().wcwidth(number)), 0)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
