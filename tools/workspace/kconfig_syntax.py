"""Today's Kconfig language over kconfiglib 14.1.0, whose last release is older than parts of it.

What is new is taught where kconfiglib has a line as tokens: comments, quotes, macros and continued lines
are behind it by then, help texts never get there, and what is still unknown stops with its file and line.

The language: Documentation/kbuild/kconfig-language.rst and scripts/kconfig/{parser.y,menu.c,symbol.c}.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kconfiglib

from workspace.errors import WorkspaceError

_BARE_PROPERTY = re.compile(r"\s*(transitional|modules)\s*(#.*)?$")

Expression = Any  # kconfiglib's: a symbol, or a tuple of an operator and its operands


class Kconfig(kconfiglib.Kconfig):  # type: ignore[misc]
    """A Kconfig tree, read.

    ``adapted`` counts the newer constructs that were met; ``transitional`` names the symbols that exist only
    to carry a value of an old .config over to another symbol, and that no new .config holds.
    """

    def __init__(self, filename: str = "Kconfig") -> None:
        self.adapted: Counter[str] = Counter()
        self.transitional: set[str] = set()
        self._described: Any = None  # the symbol, choice, menu or comment whose properties are being read
        super().__init__(filename, warn_to_stderr=False)

    def _parse_props(self, node: Any) -> None:
        self._described = node.item
        super()._parse_props(node)
        self._described = None

    def _tokenize(self, s: str) -> Any:
        found = _BARE_PROPERTY.match(s)
        if found is None:
            return super()._tokenize(s)
        construct = found[1]
        if construct == "modules":
            self.adapted[construct] += 1
            return super()._tokenize("option modules")
        self._line = s
        if not isinstance(self._described, kconfiglib.Symbol):
            self._parse_error("'transitional' belongs to a config entry")
        # Such a symbol has neither prompt nor default, and so is n here, as it is in every .config that
        # make writes. Only an old .config can say otherwise, and none is ever read.
        self.adapted[construct] += 1
        self.transitional.add(self._described.name)
        return (None,)

    def _expect_expr_and_eol(self) -> Expression:
        if self._tokens[0] is not kconfiglib._T_DEPENDS:
            return super()._expect_expr_and_eol()
        needed = self._parse_expr(True)
        if self._check_token(kconfiglib._T_IF):
            self.adapted["depends on ... if"] += 1
            needed = self._make_or(needed, self._is_n(self._parse_expr(True)))
        if self._tokens[self._tokens_i] is not None:
            self._trailing_tokens_error()
        return needed

    def _is_n(self, expression: Expression) -> Expression:
        """What is y where ``expression`` is n, and n where it is m or y: menu_add_dep()'s (Y == n)."""
        if not isinstance(expression, tuple):
            return (kconfiglib.EQUAL, expression, self.n)
        operator, *operands = expression
        if operator is kconfiglib.AND:
            return self._make_or(*map(self._is_n, operands))
        if operator is kconfiglib.OR:
            return self._make_and(*map(self._is_n, operands))
        if operator is kconfiglib.NOT:
            # C has (Y != n) here, one step from n to y as well, so that !m counts as n.
            return (kconfiglib.NOT, self._is_n(operands[0]))
        return (kconfiglib.NOT, expression)


def _value_as_in_c(symbol: Any) -> str:
    """A number without a value is 0 in sym_calc_value(), and so in comparisons; kconfiglib says ""."""
    value: str = _kconfiglib_value(symbol)
    return value or {kconfiglib.INT: "0", kconfiglib.HEX: "0x0"}.get(symbol.orig_type, "")


_kconfiglib_value = kconfiglib.Symbol.str_value.fget
kconfiglib.Symbol.str_value = property(_value_as_in_c)


@contextlib.contextmanager
def _standing_in(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    # Kconfig's $(shell,...) and $(VARIABLE) take both from the process.
    saved = dict(os.environ)
    with contextlib.chdir(folder):
        os.environ.clear()
        os.environ.update(environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(saved)


def read(source: Path, *, environment: Mapping[str, str], folder: Path) -> Kconfig:
    """Read the Kconfig tree of ``source`` as the kernel's own tool would.

    ``environment`` is what the top Makefile exports to that tool, ``folder`` where the tool runs.
    Raises WorkspaceError with the file and line of what cannot be read.
    """
    with _standing_in(folder, {**environment, "srctree": str(source)}):
        try:
            return Kconfig()
        except (kconfiglib.KconfigError, OSError, UnicodeDecodeError) as error:
            first = " ".join(str(error).split())
            raise WorkspaceError(
                f"the Kconfig files of {source} cannot be read: {first} "
                "(a construct that is new: teach it to tools/workspace/kconfig_syntax.py)"
            ) from error
