"""The kernel tree that the series goes on: fetched or a user's clone, always a git repository of our own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from workspace import archive, debian, download, storage
from workspace.command import CommandError
from workspace.download import UnavailableError
from workspace.errors import WorkspaceError
from workspace.git import Repository
from workspace.progress import Progress, say
from workspace.settings import Paths, Settings

Kind = Literal["mainline", "stable", "vendor"]
RECORD = ".git/workspace.json"
# What a vendor's tree has at its top and kernel.org's has not.
VENDOR_SIGNS = frozenset({"Makefile.rhelver", "android", "debian", "debian.master", "packaging", "redhat", "rpm"})
# Debian's .gitignore hides each new file of a developer from git; the lines are of use to its packagers only.
HIDING = frozenset({"/*", "!/debian/"})


@dataclass(frozen=True)
class Tree:
    """A kernel tree of our own: ``path`` is a git work tree, detached at whatever was last built."""

    path: Path
    version: str
    """As its Makefile says, ``7.3.4``."""
    kind: Kind
    origin: str
    """Where it is from, in a few words."""
    base: str
    """The commit that the series goes on."""
    key: str
    """A name that is fit for a folder."""

    @property
    def repository(self) -> Repository:
        """The tree as a git repository."""
        return Repository(self.path)


@dataclass(frozen=True)
class _Record:
    """What is remembered of a tree, in its own ``.git``: it is there only once the tree is whole."""

    source: str
    wanted: str
    version: str
    kind: Kind
    origin: str
    base: str
    upstream: str | None = None
    """The kernel.org commit that a vendor's clone has as a tag."""
    changed: dict[str, list[str]] = field(default_factory=dict)
    """Files that a vendor's package changes, with the titles of its patches where they are known."""

    def tree(self, path: Path) -> Tree:
        return Tree(path, self.version, self.kind, self.origin, self.base, path.name)

    def write(self, path: Path) -> None:
        storage.write_whole(path / RECORD, json.dumps(vars(self), indent=1) + "\n")


def obtain(paths: Paths, settings: Settings, *, clone: Path | None = None) -> Tree:
    """The tree of the base version: of a user's clone, or remembered, or fetched by the settings' sources.

    What was obtained once needs no network again. The tree of a clone follows the clone's HEAD.

    Raises:
        WorkspaceError: no source has it, what arrived was altered, or the clone is not fit.
    """
    with storage.locked(paths.trees / ".lock", what="the kernel trees"):
        if clone is not None:
            return _from_clone(paths, settings, clone)
        for source in settings.sources:
            for path in sorted(paths.trees.glob("*"), reverse=True):
                record = _remembered(path)
                if record and (record.source, record.wanted) == (source, settings.base):
                    return record.tree(path)
        # A package that is already here goes before any network.
        obtained = [source for source in settings.sources if _downloaded(paths, settings, source)]
        failures = []
        for source in dict.fromkeys([*obtained, *settings.sources]):
            try:
                return FETCHERS[source](paths, settings)
            except UnavailableError as error:
                failures.append(f"{source}: {error}")
                say(f"{source} is of no help ({error}).")
            except KeyError:
                raise WorkspaceError(
                    f"pyproject.toml names the unknown source {source!r}: use {', '.join(FETCHERS)}."
                ) from None
        reasons = "; ".join(failures)
        raise WorkspaceError(
            f"Linux {settings.base} cannot be had ({reasons}): give a clone of your own with `--tree PATH`."
        )


def checkout(tree: Tree, commit: str) -> None:
    """Make the work tree the given commit; files that stay the same keep their times."""
    # Nobody else works in this tree: a lock can only be a killed run's.
    (tree.path / ".git/index.lock").unlink(missing_ok=True)
    tree.repository.check("checkout", "--quiet", "--force", "--detach", commit)
    # What a killed checkout had written already belongs to no commit.
    tree.repository.check("clean", "--quiet", "-ffdx")


def describe(tree: Tree, touched: Iterable[str]) -> str:
    """What the tree is, in lines for a reader; a vendor's with what it changes in the ``touched`` files."""
    lines = [f"Linux {tree.version}, {tree.kind}: {tree.origin}."]
    record = _remembered(tree.path)
    if tree.kind != "vendor" or record is None:
        return lines[0]
    wanted = sorted(touched)
    if record.source != "clone":
        changes = [
            f"  {path}: {title}"
            for path in wanted
            if path in record.changed
            for title in record.changed[path] or ["changed (the source package with the patches could not be had)"]
        ]
    elif record.upstream:
        words = ["log", "--no-merges", "--format=  %h %s", f"{record.upstream}..{tree.base}", "--", *wanted]
        changes = tree.repository.check(*words).splitlines() if wanted else []
    else:
        lines.append(f"What the vendor changed cannot be known: the clone has no tag v{tree.version}.")
        return "\n".join(lines)
    if changes:
        lines += ["Vendor changes to the files that the series touches:", *changes]
    else:
        lines.append("The vendor changes none of the files that the series touches.")
    return "\n".join(lines)


def _remembered(path: Path) -> _Record | None:
    try:
        return _Record(**json.loads((path / RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _makefile_version(makefile: str) -> tuple[str, str] | None:
    """(``"7.3"``, ``"7.3.4"``) or (``"7.3"``, ``"7.3-rc2"``) of a kernel's top Makefile, else None."""
    found = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(\S*)", makefile, re.MULTILINE))
    if not {"VERSION", "PATCHLEVEL"} <= found.keys():
        return None
    base = f"{found['VERSION']}.{found['PATCHLEVEL']}"
    sublevel = found.get("SUBLEVEL") or "0"
    return base, base + (f".{sublevel}" if sublevel != "0" else "") + found.get("EXTRAVERSION", "")


# --- downloads: kernel.org's tarball and Debian's package, each with a record beside it


def _download_record(paths: Paths, settings: Settings, source: str) -> Path:
    return paths.downloads / f"{source}-{settings.base}.json"


def _downloaded(paths: Paths, settings: Settings, source: str) -> dict[str, Any] | None:
    """The record of what an earlier run downloaded from a source, if the file is still there."""
    try:
        record: dict[str, Any] = json.loads(_download_record(paths, settings, source).read_text())
        return record if (paths.downloads / record["file"]).is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _from_kernel_org(paths: Paths, settings: Settings) -> Tree:
    name = f"linux-{settings.base}.tar.xz"
    record = _downloaded(paths, settings, "kernel.org")
    if record is None:
        sums = download.text(f"{settings.kernel_org_url}sha256sums.asc")
        published = re.search(rf"^([0-9a-f]{{64}})  {re.escape(name)}$", sums, re.MULTILINE)
        if published is None:
            raise UnavailableError(f"{settings.kernel_org_url} publishes no sum of {name}")
        record = {"file": name, "sha256": published[1]}
        say(f"downloading {name} from {settings.kernel_org_url}")
        download.file(f"{settings.kernel_org_url}{name}", paths.downloads / name, sha256=published[1])
        storage.write_whole(_download_record(paths, settings, "kernel.org"), json.dumps(record) + "\n")
    tarball = paths.downloads / record["file"]
    download.verify(tarball, record["sha256"])
    origin = f"kernel.org's {name}"
    return _import(paths, settings, "kernel.org", tarball, f"kernel.org-{settings.base}", "mainline", origin)


def _from_debian(paths: Paths, settings: Settings) -> Tree:
    record = _downloaded(paths, settings, "debian")
    if record is None:
        package = debian.fetch(settings.base, settings.debian_suites, paths.downloads)
        record = {
            "file": package.file.name,
            "sha256": package.sha256,
            "version": package.version,
            "suite": package.suite,
            "patches": package.patches,
        }
        storage.write_whole(_download_record(paths, settings, "debian"), json.dumps(record) + "\n")
    file = paths.downloads / record["file"]
    download.verify(file, record["sha256"])
    version = record["version"]
    key = "debian-" + re.sub(r"[^A-Za-z0-9._-]", "-", version)
    origin = f"Debian's linux-source-{settings.base} {version}"
    return _import(paths, settings, "debian", file, key, "vendor", origin, patches=record["patches"])


FETCHERS = {"kernel.org": _from_kernel_org, "debian": _from_debian}


def _import(
    paths: Paths,
    settings: Settings,
    source: str,
    file: Path,
    key: str,
    kind: Kind,
    origin: str,
    *,
    patches: dict[str, list[str]] | None = None,
) -> Tree:
    """A tarball, or a package that holds one, as a repository of one commit."""
    path = paths.trees / key
    message = f"Linux {settings.base}\n\nThe base of the task_diag series: {origin}.\n"
    vendor = kind == "vendor"
    if vendor:
        message += "The lines of its .gitignore that hide each new file are left out.\n"
    with ExitStack() as stack:
        making = stack.enter_context(storage.whole_folder(path))
        repository = _new_repository(making)
        bar = stack.enter_context(Progress("unpack", total=file.stat().st_size, unit="B"))
        stream = stack.enter_context(debian.tarball(file, settings.base) if vendor else file.open("rb"))
        imported = archive.import_tarball(
            archive.Counting(stream, bar.advance),
            repository,
            message=message,
            rewrite=_unhide if vendor else archive.as_it_is,
        )
        version = _fit(repository, imported.commit, settings, origin)
        say("writing the tree's files")
        repository.check("-c", "checkout.workers=0", "checkout", "--quiet", "--detach", imported.commit)
        # The package's own list of patches is the better one; the age of the files tells at least which.
        changed = {name: [] for name in imported.newer} if patches is None else patches
        record = _Record(
            source, settings.base, version, kind, origin, imported.commit, changed=changed if vendor else {}
        )
        record.write(making)
    return record.tree(path)


def _unhide(path: str, content: bytes) -> bytes:
    if path != ".gitignore":
        return content
    lines = content.decode(errors="surrogateescape").splitlines(keepends=True)
    kept = "".join(line for line in lines if line.strip() not in HIDING)
    return kept.encode(errors="surrogateescape")


def _new_repository(path: Path) -> Repository:
    repository = Repository(path)
    repository.check("init", "--quiet", "--initial-branch=base")
    # Packing anew would take minutes at a time of git's choice.
    repository.check("config", "gc.auto", "0")
    return repository


def _fit(repository: Repository, commit: str, settings: Settings, what: str) -> str:
    """The version of a commit, which has to be a kernel of the wanted base."""
    files = set(repository.check("ls-tree", "--name-only", commit, "Makefile", "Kbuild", "fs/proc").splitlines())
    makefile = repository.run("show", f"{commit}:Makefile").out
    found = _makefile_version(makefile)
    if found is None or files != {"Makefile", "Kbuild", "fs/proc"}:
        raise WorkspaceError(f"{what} is no kernel tree: it needs a Makefile with VERSION, Kbuild and fs/proc.")
    base, version = found
    if base != settings.base:
        raise WorkspaceError(
            f"{what} is Linux {version}, but the series is for {settings.base}: "
            f"check out v{settings.base}, or name another base in pyproject.toml."
        )
    return version


# --- a user's own clone: read, never written


def _from_clone(paths: Paths, settings: Settings, clone: Path) -> Tree:
    clone = clone.expanduser().resolve()
    head, version = _inspect(clone, settings)
    path = paths.trees / f"clone-{storage.digest(str(clone))[:12]}"
    record = _clone_record(clone, settings, head, version)
    if (old := _remembered(path)) is not None:
        if old == record:
            return record.tree(path)
        try:
            if old.base != head:
                Repository(path).check("fetch", "--quiet", "--no-tags", clone, head)
                Repository(path).check("update-ref", "refs/heads/base", head)
            record.write(path)
            return record.tree(path)
        except CommandError:
            # The clone has dropped the objects of its old HEAD, which the tree had borrowed.
            say(f"{clone} was rewritten: making the tree anew.")
    with storage.whole_folder(path) as making:
        repository = _new_repository(making)
        say(f"borrowing the objects of {clone}, and writing the tree's files")
        repository.check("remote", "add", "origin", clone)
        _borrow(repository, clone)
        repository.check("fetch", "--quiet", "--no-tags", clone, head)
        repository.check("update-ref", "refs/heads/base", head)
        repository.check("-c", "checkout.workers=0", "checkout", "--quiet", "--detach", head)
        record.write(making)
    return record.tree(path)


def _inspect(clone: Path, settings: Settings) -> tuple[str, str]:
    """(HEAD's commit, version) of a clone that is fit; nothing in it is written, not even its index."""
    user = Repository(clone)
    if not clone.is_dir():
        raise WorkspaceError(f"--tree {clone}: there is no such folder.")
    if not ((clone / "Makefile").is_file() and (clone / "Kbuild").is_file() and (clone / "fs/proc").is_dir()):
        raise WorkspaceError(
            f"--tree {clone}: this is no kernel tree (Makefile, Kbuild, fs/proc): name the top of one."
        )
    top = user.run("rev-parse", "--show-toplevel")
    if "dubious ownership" in top.err:
        raise WorkspaceError(
            f"--tree {clone}: it belongs to another user, so git refuses it: run as its owner, or clone it."
        )
    head = user.commit()
    if top.code != 0 or Path(top.out.rstrip("\n")).resolve() != clone or head is None:
        raise WorkspaceError(
            f"--tree {clone}: this is no git repository with a commit: make it one with "
            f"`cd {clone} && git init && git add -f . && git commit -m base`."
        )
    version = _fit(user, head, settings, f"--tree {clone}")
    dirty = user.check("--no-optional-locks", "status", "--porcelain", "--untracked-files=no").splitlines()
    if dirty:
        raise WorkspaceError(
            f"--tree {clone}: it has uncommitted changes ({dirty[0].strip()}"
            f"{f' and {len(dirty) - 1} more' if len(dirty) > 1 else ''}): commit or stash them."
        )
    return head, version


def _clone_record(clone: Path, settings: Settings, head: str, version: str) -> _Record:
    user = Repository(clone)
    top = set(user.check("ls-tree", "--name-only", head).splitlines())
    local = {name for name in top if name.startswith("localversion") and name != "localversion-next"}
    own_suffix = re.fullmatch(r"[\d.]+(-rc\d+)?", version) is None
    kind: Kind
    if own_suffix or local or top & VENDOR_SIGNS:
        kind = "vendor"
    else:
        kind = "stable" if re.match(r"\d+\.\d+\.\d", version) else "mainline"
    tag = user.run("describe", "--tags", "--match", "v[0-9]*", head).out.strip()
    origin = f"the clone {clone} at {tag or head[:12]}"
    upstream = user.commit(f"refs/tags/v{version}") if kind == "vendor" else None
    return _Record("clone", settings.base, version, kind, origin, head, upstream=upstream)


def _borrow(repository: Repository, clone: Path) -> None:
    """Let a repository use a clone's objects; a shallow clone's are copied by the fetch that follows."""
    user = Repository(clone)
    if user.check("rev-parse", "--is-shallow-repository") == "true":
        return
    objects = user.check("rev-parse", "--path-format=absolute", "--git-path", "objects")
    (repository.path / ".git/objects/info").mkdir(parents=True, exist_ok=True)
    (repository.path / ".git/objects/info/alternates").write_text(f"{objects}\n")
