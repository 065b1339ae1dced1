"""Which client this is."""

from __future__ import annotations

VERSION = "5.0"
"""The version of the series whose interface it speaks."""
