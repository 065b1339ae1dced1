"""From config fragments to a .config in which every wanted option is, or the reason why one cannot be."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kconfiglib
from kconfiglib import AND, BOOL, HEX, INT, OR, STRING, TRISTATE, expr_str, expr_value, split_expr

from workspace import kconfig_syntax, progress, storage
from workspace.errors import WorkspaceError
from workspace.git import Repository
from workspace.kbuild import Kbuild

_SET = re.compile(r"CONFIG_(\w+)=(.+)")
_UNSET = re.compile(r"# CONFIG_(\w+) is not set")
_TYPES = {BOOL: "bool", TRISTATE: "tristate", INT: "int", HEX: "hex", STRING: "string"}
_SHOWN = 12  # reasons in one error; more would hide the first


@dataclass(frozen=True)
class Option:
    """One wanted option: ``value`` as in a .config without quotes ("n": not set), ``place`` as file:line."""

    name: str
    value: str
    place: str

    def __str__(self) -> str:
        return f"CONFIG_{self.name}={self.value}"

    def line(self, *, text: bool) -> str:
        """The line of a .config; ``text``: the option is of type string."""
        if self.value == "n":
            return f"# CONFIG_{self.name} is not set"
        return f'CONFIG_{self.name}="{kconfiglib.escape(self.value)}"' if text else f"{self}"


@dataclass(frozen=True)
class Flavour:
    """A kernel to build: ``options`` by name.

    ``objects_from`` names the flavour to start from a copy of, ``on_top`` a patch of the clone that goes on top of
    the series.
    """

    name: str
    options: Mapping[str, Option]
    objects_from: str | None = None
    steps: int | None = None
    on_top: str | None = None

    def leaving_out(self, names: frozenset[str]) -> Flavour:
        """The same without the options of these names."""
        return replace(self, options={name: option for name, option in self.options.items() if name not in names})


def read_fragment(path: Path) -> list[Option]:
    """The options of one fragment. Raises WorkspaceError with file and line of what is no option."""
    options = []
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        line, place = raw.strip(), f"{path.parent.name}/{path.name}:{number}"
        if unset := _UNSET.fullmatch(line):
            options.append(Option(unset[1], "n", place))
        elif found := _SET.fullmatch(line):
            name, value = found.groups()
            if value == "m":
                raise WorkspaceError(f"{place}: {line}: these kernels have no modules; write =y.")
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = kconfiglib.unescape(value[1:-1])
            options.append(Option(name, value, place))
        elif line and (not line.startswith("#") or line.startswith("# CONFIG_")):
            raise WorkspaceError(
                f"{place}: `{line}` is no option: write CONFIG_NAME=value or `# CONFIG_NAME is not set`."
            )
    return options


def flavours(folder: Path) -> dict[str, Flavour]:
    """The flavours of ``folder``/flavours.toml. Raises WorkspaceError for what in it cannot be meant."""
    path = folder / "flavours.toml"
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise WorkspaceError(f"the flavours cannot be read: {path}: {error}.") from error
    found = {}
    for name, table in tables.items():
        where = f"{folder.name}/flavours.toml, [{name}]"
        unknown = table.keys() - {"fragments", "objects_from", "steps", "on_top"}
        if unknown or not table.get("fragments"):
            raise WorkspaceError(
                f"{where}: it has `fragments`, and may have `objects_from`, `steps` and `on_top`"
                + (f", but not `{min(unknown)}`." if unknown else ".")
            )
        start = table.get("objects_from")
        if start is not None and (start not in tables or start == name):
            raise WorkspaceError(f"{where}: objects_from = {start!r} is no other flavour.")
        options = _merged(folder, table["fragments"], where)
        found[name] = Flavour(name, options, start, table.get("steps"), table.get("on_top"))
    return found


def switched_on(config: str) -> frozenset[str]:
    """The options (CONFIG_NAME) that are y in the text of a .config."""
    return frozenset(line.removesuffix("=y") for line in config.splitlines() if line.endswith("=y"))


def known_options(folder: Path) -> frozenset[str]:
    """The options (CONFIG_NAME) that some flavour wants to be y."""
    wanted = (option for each in flavours(folder).values() for option in each.options.values())
    return frozenset(f"CONFIG_{option.name}" for option in wanted if option.value == "y")


def flavour(folder: Path, name: str) -> Flavour:
    """The flavour ``name``, or WorkspaceError with the names there are."""
    known = flavours(folder)
    if name not in known:
        names = ", ".join(known)
        raise WorkspaceError(f"there is no flavour `{name}`: {folder.name}/flavours.toml has {names}.")
    return known[name]


def _merged(folder: Path, fragments: Iterable[str], where: str) -> dict[str, Option]:
    options: dict[str, Option] = {}
    for fragment in fragments:
        path = folder / f"{fragment}.config"
        if not path.is_file():
            raise WorkspaceError(f"{where}: there is no {folder.name}/{path.name}.")
        for option in read_fragment(path):
            other = options.setdefault(option.name, option)
            if other.value != option.value:
                raise WorkspaceError(
                    f"{where}: {other.place} wants {other}, {option.place} wants {option}: "
                    "put what differs between flavours into fragments of its own."
                )
    return options


# --- Why an option cannot have its value ----------------------------------------------------------


def _named(item: Any) -> str:
    """A symbol or choice as menuconfig shows it: NET [=n]."""
    if isinstance(item, kconfiglib.Symbol) and not item.is_constant:
        return f"{item.name} [={item.str_value}]" if item.nodes else f"{item.name} [unknown]"
    return str(kconfiglib.standard_sc_expr_str(item))


def _unmet(condition: Any) -> list[Any]:
    """The parts of a condition that keep it at n; all of them have to change."""
    # As a dictionary, because menus and prompts repeat what their options depend on.
    return list({expr_str(part): part for part in split_expr(condition, AND) if not expr_value(part)}.values())


def _why_n(part: Any, wanted: Mapping[str, Option]) -> str:
    """One unmet part, with its values, and what would mend it where that is plain."""
    shown = str(expr_str(part, _named))
    if not isinstance(part, kconfiglib.Symbol):
        return f"({shown})" if isinstance(part, tuple) and part[0] is OR else shown
    if part.is_constant:
        return f"{shown} (never on this machine: the compiler or the architecture decides)"
    if not part.nodes:
        return f"{shown} (the tree for this architecture has no such option)"
    further = _unmet(part.direct_dep)
    if further:
        return f"{shown} (which needs {', '.join(expr_str(each, _named) for each in further)})"
    if part.visibility and part.name not in wanted:
        return f"{shown} (which no fragment asks for: add CONFIG_{part.name}=y)"
    if not any(node.prompt for node in part.nodes):
        return f"{shown} (which has no prompt{_selectors(part)})"
    return shown


def _selectors(symbol: Any) -> str:
    """Who could select a symbol, for a sentence about one that cannot be asked for."""
    terms = [split_expr(term, AND)[0] for term in split_expr(symbol.rev_dep, OR)]
    names = sorted({term.name for term in terms if isinstance(term, kconfiglib.Symbol) and term.nodes})
    if not names:
        return ", and nothing selects it"
    return ": selected by " + ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _forced_by(symbol: Any) -> list[str]:
    """What makes a symbol y against the fragments' will."""
    forcing = [expr_str(term, _named) for term in split_expr(symbol.rev_dep, OR) if expr_value(term)]
    if forcing:
        return [f"selected by {term}" for term in forcing]
    if symbol.choice and symbol.visibility:
        others = " or ".join(f"CONFIG_{other.name}" for other in symbol.choice.syms if other is not symbol)
        return [f"its choice falls to it; want another of the choice instead: {others}"]
    implied = [expr_str(term, _named) for term in split_expr(symbol.weak_rev_dep, OR) if expr_value(term)]
    if implied:
        return [f"implied by {term}" for term in implied]
    return [
        f"it cannot be asked for, and its default is {expr_str(value, _named)}"
        + ("" if condition is symbol.kconfig.y else f" if {expr_str(condition, _named)}")
        for value, condition in symbol.defaults
        if expr_value(condition)
    ][:1]


def _reason(symbol: Any, option: Option, wanted: Mapping[str, Option]) -> str:
    """Why a symbol that the tree knows, with a value that its type allows, did not take that value."""
    if option.name in symbol.kconfig.transitional:
        return "it is transitional: it only carries the value of an old .config over to its successor"
    if option.value == "n" and symbol.orig_type in (BOOL, TRISTATE):
        return "; ".join(_forced_by(symbol)) or "the tree gives no reason"
    if not symbol.visibility:
        prompts = [node.prompt[1] for node in symbol.nodes if node.prompt]
        if not prompts and expr_value(symbol.direct_dep):
            return f"it has no prompt, so it cannot be asked for{_selectors(symbol)}"
        # With several definitions, the one that is nearest to being met says most.
        unmet = min((_unmet(condition) for condition in prompts or [symbol.direct_dep]), key=len)
        return "it needs " + " and ".join(_why_n(part, wanted) for part in unmet)
    if symbol.choice and symbol.choice.selection is not None:
        taken = symbol.choice.selection.name
        by = f", wanted in {wanted[taken].place}" if taken in wanted else ""
        return f"only one of its choice can be y, and that is CONFIG_{taken}{by}"
    for low, high, condition in symbol.ranges:
        if expr_value(condition):
            return f"its range is {low.str_value} to {high.str_value}"
    return "the tree gives no reason"


def _refusal(kconf: kconfig_syntax.Kconfig, option: Option) -> str | None:
    """Ask for one option; say why that cannot even be tried."""
    symbol = kconf.syms.get(option.name)
    if symbol is None or not symbol.nodes:
        known = [each.name for each in kconf.unique_defined_syms]
        near = difflib.get_close_matches(option.name, known, n=3, cutoff=0.75)
        return "the tree has no option of this name" + (f"; close to it: {', '.join(near)}" if near else "")
    if not symbol.set_value(option.value):
        return f"it is of type {_TYPES.get(symbol.orig_type, 'unknown')}, which has no such value"
    return None


def problems(kconf: kconfig_syntax.Kconfig, wanted: Mapping[str, Option]) -> list[str]:
    """Set all wanted options and no others; a sentence for each that does not stick."""
    for symbol in kconf.unique_defined_syms:
        if symbol.orig_type in (BOOL, TRISTATE) and not symbol.choice:
            symbol.set_value(0)
    # All are asked for before any is looked at: each may depend on all the others.
    refused = {option.name: _refusal(kconf, option) for option in wanted.values()}
    found = []
    for option in wanted.values():
        symbol = kconf.syms.get(option.name)
        if refusal := refused[option.name]:
            found.append(f"{option.place}: {option}: {refusal}")
        elif symbol.str_value != option.value:
            reason = _reason(symbol, option, wanted)
            found.append(f"{option.place}: {option} does not stick, it stays {symbol.str_value}: {reason}")
    return found


# --- The .config ----------------------------------------------------------------------------------


def _lines(config: str) -> set[str]:
    """The lines of a .config that say something."""
    return {line for line in config.splitlines() if _SET.fullmatch(line) or _UNSET.fullmatch(line)}


def _differences(ours: set[str], makes: set[str], who: str) -> str:
    only = sorted(ours - makes)[:_SHOWN], sorted(makes - ours)[:_SHOWN]
    return f"{who} only: {', '.join(only[0]) or 'nothing'}; make only: {', '.join(only[1]) or 'nothing'}"


def _inputs(kbuild: Kbuild, wanted: Mapping[str, Option], exported: Mapping[str, str]) -> str:
    """A digest of all that a .config is made from."""
    tree = Repository(kbuild.source)
    files = tree.check("ls-tree", "-r", "HEAD", "--format=%(objectname) %(path)").splitlines()
    of_kconfig = [line for line in files if "Kconfig" in line or " scripts/" in line]
    asked = [f"{option}" for option in wanted.values()]
    return storage.digest("\n".join(of_kconfig), "\n".join(asked), json.dumps(exported, sort_keys=True))


def configure(kbuild: Kbuild, flavour: Flavour) -> bool:
    """Bring ``objects``/.config in line with the flavour; False if it was so already, and is untouched.

    kconfiglib and the kernel's own tool each work the options out from the fragments, everything else
    being no. They have to agree on every symbol, `make olddefconfig` has to change none, and the .config is
    the one that make wrote. Raises WorkspaceError with a reason for each wanted option that is not in it.
    """
    exported = kbuild.exported()
    config, record = kbuild.objects / ".config", kbuild.objects / "workspace-kconfig.json"
    inputs = _inputs(kbuild, flavour.options, exported)
    try:
        last = json.loads(record.read_text())
        if last == {"inputs": inputs, "config": storage.digest(config)}:
            return False
    except (OSError, ValueError):
        pass
    progress.say(f"configuring flavour {flavour.name} ({len(flavour.options)} options wanted)")
    environment = kbuild.environment(**exported)
    kconf = kconfig_syntax.read(kbuild.source, environment=environment, folder=kbuild.objects)
    if found := problems(kconf, flavour.options):
        more = [f"... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        raise WorkspaceError("\n    ".join([f"flavour {flavour.name} cannot be configured:", *found[:_SHOWN], *more]))
    seed = [option.line(text=kconf.syms[name].orig_type is STRING) for name, option in flavour.options.items()]
    text = allnoconfig(kbuild, seed)
    if (again := _lines(_made(kbuild, "olddefconfig", text))) != _lines(text):
        raise WorkspaceError(
            "make olddefconfig moves options of a configuration that make wrote: "
            f"{_differences(_lines(text), again, 'allnoconfig')}."
        )
    ours = {symbol.config_string.rstrip("\n") for symbol in kconf.unique_defined_syms} - {""}
    if ours != (makes := _lines(text)):
        raise WorkspaceError(
            "kconfiglib and make disagree about the configuration, so reasons given by the first cannot be "
            f"trusted (mend tools/workspace/kconfig_syntax.py): {_differences(ours, makes, 'kconfiglib')}."
        )
    changed = storage.write_whole(config, text)
    storage.write_whole(record, json.dumps({"inputs": inputs, "config": storage.digest(config)}))
    return changed


def allnoconfig(kbuild: Kbuild, seed: Iterable[str] = ()) -> str:
    """The .config that make writes for the lines of ``seed``, everything else being no; none is replaced."""
    with storage.scratch_folder(kbuild.objects, "wanted") as folder:
        wanted = folder / "config"
        wanted.write_text("".join(f"{line}\n" for line in seed))
        return _made(kbuild, "allnoconfig", KCONFIG_ALLCONFIG=str(wanted))


def _made(kbuild: Kbuild, goal: str, config: str = "", **more: str) -> str:
    """What make makes of a .config, in a folder of its own, so that no other is replaced."""
    with storage.scratch_folder(kbuild.objects, "trial") as folder:
        trial = folder / ".config"
        trial.write_text(config)
        kbuild.check(goal, KCONFIG_CONFIG=str(trial), **more)
        return trial.read_text()
