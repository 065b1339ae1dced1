"""The base tree: from each source, remembered, refused with a reason, and never half."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fake_debian
import pytest
import small_kernel
from web import Site, serving

from workspace import storage, tree
from workspace.errors import WorkspaceError
from workspace.git import Repository
from workspace.settings import Paths, Settings

TARBALL = small_kernel.tarball(small_kernel.files())


def listing(data: bytes, name: str = "linux-7.3.tar.xz") -> bytes:
    """A page as kernel.org publishes it: sums of many files, signed."""
    sums = f"{'0' * 64}  linux-7.3.tar.gz\n{hashlib.sha256(data).hexdigest()}  {name}\n{'1' * 64}  patch-7.3.xz\n"
    return f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{sums}-----BEGIN PGP SIGNATURE-----\n".encode()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving({"linux-7.3.tar.xz": TARBALL, "sha256sums.asc": listing(TARBALL)}) as made:
        yield made


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "a clone")


@pytest.fixture
def settings(site: Site) -> Settings:
    return dataclasses.replace(small_kernel.SETTINGS, kernel_org_url=site.url, sources=("kernel.org",))


def contents(path: Path) -> dict[str, bytes]:
    """All files and links of a folder, with what they hold, .git included."""
    return {
        str(file.relative_to(path)): str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()
        for file in path.rglob("*")
        if file.is_symlink() or file.is_file()
    }


def files_of(made: tree.Tree) -> dict[str, str]:
    return {name: data.decode() for name, data in contents(made.path).items() if not name.startswith(".git/")}


# --- kernel.org


def test_kernel_orgs_tarball_is_mainline(paths: Paths, settings: Settings) -> None:
    made = tree.obtain(paths, settings)
    assert (made.version, made.kind, made.origin) == ("7.3", "mainline", "kernel.org's linux-7.3.tar.xz")
    assert made.path == paths.trees / made.key == paths.trees / "kernel.org-7.3"
    assert files_of(made) == small_kernel.files()
    assert made.repository.commit() == made.base
    assert made.repository.check("status", "--porcelain") == ""
    assert tree.describe(made, ["fs/proc/base.c"]) == "Linux 7.3, mainline: kernel.org's linux-7.3.tar.xz."


def test_what_was_obtained_needs_no_network(paths: Paths, settings: Settings, site: Site) -> None:
    made = tree.obtain(paths, settings)
    del site.asked[:]
    assert tree.obtain(paths, settings) == made
    # The tree is gone, the tarball is not.
    shutil.rmtree(paths.trees)
    assert tree.obtain(paths, settings) == made
    assert files_of(made) == small_kernel.files()
    assert site.asked == []


@pytest.mark.parametrize("served", [TARBALL[:-1] + b"?", TARBALL[:-100]], ids=["altered", "truncated"])
def test_a_tarball_without_the_published_sum_is_never_used(
    paths: Paths, settings: Settings, site: Site, served: bytes
) -> None:
    site.files["linux-7.3.tar.xz"] = served
    # Another source must not hide it.
    with pytest.raises(WorkspaceError, match=r"linux-7\.3\.tar\.xz.* was altered or truncated"):
        tree.obtain(paths, dataclasses.replace(settings, sources=("kernel.org", "debian")))
    assert list(paths.downloads.iterdir()) == []
    assert [path.name for path in paths.trees.iterdir()] == [".lock"]
    site.files["linux-7.3.tar.xz"] = TARBALL
    assert files_of(tree.obtain(paths, settings)) == small_kernel.files()


@pytest.mark.parametrize("harm", [b"", TARBALL[:-1]], ids=["emptied", "truncated"])
def test_a_tarball_that_was_harmed_since_is_never_used(paths: Paths, settings: Settings, harm: bytes) -> None:
    tree.obtain(paths, settings)
    shutil.rmtree(paths.trees)
    (paths.downloads / "linux-7.3.tar.xz").write_bytes(harm)
    with pytest.raises(WorkspaceError, match="was altered or truncated"):
        tree.obtain(paths, settings)
    assert files_of(tree.obtain(paths, settings)) == small_kernel.files()


def test_another_version_in_the_tarball_is_refused(paths: Paths, settings: Settings, site: Site) -> None:
    other = small_kernel.tarball({**small_kernel.files(), "Makefile": "VERSION = 7\nPATCHLEVEL = 4\n"})
    site.files |= {"linux-7.3.tar.xz": other, "sha256sums.asc": listing(other)}
    with pytest.raises(WorkspaceError, match=r"is Linux 7\.4, but the series is for 7\.3"):
        tree.obtain(paths, settings)
    assert [path.name for path in paths.trees.iterdir()] == [".lock"]


def test_a_page_without_the_sum_is_a_source_that_is_of_no_help(paths: Paths, settings: Settings, site: Site) -> None:
    site.files["sha256sums.asc"] = listing(TARBALL, "linux-7.2.tar.xz")
    with pytest.raises(WorkspaceError, match=r"publishes no sum of linux-7\.3\.tar\.xz"):
        tree.obtain(paths, settings)
    assert site.asked == [("/sha256sums.asc", None)]


def test_without_a_network_one_sentence_names_the_way_out(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_debian.install(monkeypatch, tmp_path)
    with serving({}) as gone:
        pass
    start = time.monotonic()
    with pytest.raises(WorkspaceError) as caught:
        tree.obtain(paths, dataclasses.replace(small_kernel.SETTINGS, kernel_org_url=gone.url))
    assert time.monotonic() - start < 5
    assert str(caught.value) == (
        f"Linux 7.3 cannot be had (kernel.org: {gone.url}sha256sums.asc: Connection refused; "
        "debian: The repository 'trixie' has no Release file.): give a clone of your own with `--tree PATH`."
    )


def test_an_unknown_source_is_named(paths: Paths, settings: Settings) -> None:
    with pytest.raises(WorkspaceError, match=r"unknown source 'gentoo': use kernel\.org, debian"):
        tree.obtain(paths, dataclasses.replace(settings, sources=("gentoo",)))


# --- Debian


def test_the_next_source_is_taken_and_said(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = fake_debian.install(monkeypatch, tmp_path)
    archive.add("trixie")
    with serving({}) as gone:
        pass
    settings = dataclasses.replace(small_kernel.SETTINGS, kernel_org_url=gone.url)
    made = tree.obtain(paths, settings)
    assert (made.version, made.kind, made.key) == ("7.3.4", "vendor", "debian-7.3.4-1-bpo13-1")
    assert made.origin == "Debian's linux-source-7.3 7.3.4-1~bpo13+1"
    said = [line for line in capsys.readouterr().err.splitlines() if "no help" in line]
    assert said == [f"kernel.org is of no help ({gone.url}sha256sums.asc: Connection refused)."]
    calls = archive.calls
    assert tree.obtain(paths, settings) == made
    assert archive.calls == calls


def test_debians_gitignore_does_not_hide_new_files(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_debian.install(monkeypatch, tmp_path).add("trixie")
    made = tree.obtain(paths, dataclasses.replace(small_kernel.SETTINGS, sources=("debian",)))
    (made.path / "fs/proc/new.c").touch()
    (made.path / "fs/proc/new.o").touch()
    assert made.repository.check("status", "--porcelain") == "?? fs/proc/new.c"


def test_a_vendors_changes_are_listed_by_patch(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_debian.install(monkeypatch, tmp_path).add("trixie", patches=True)
    made = tree.obtain(paths, dataclasses.replace(small_kernel.SETTINGS, sources=("debian",)))
    assert tree.describe(made, ["kernel/fork.c", "fs/proc/base.c"]).splitlines() == [
        "Linux 7.3.4, vendor: Debian's linux-source-7.3 7.3.4-1~bpo13+1.",
        "Vendor changes to the files that the series touches:",
        "  fs/proc/base.c: proc: a vendor's change (bugfix/a.patch)",
    ]
    assert tree.describe(made, ["kernel/fork.c"]).endswith(
        "The vendor changes none of the files that the series touches."
    )


def test_without_the_patches_the_changed_files_are_still_known(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_debian.install(monkeypatch, tmp_path).add("trixie")
    made = tree.obtain(paths, dataclasses.replace(small_kernel.SETTINGS, sources=("debian",)))
    assert tree.describe(made, ["Makefile", "kernel/fork.c", "fs/proc/base.c"]).splitlines()[1:] == [
        "Vendor changes to the files that the series touches:",
        "  Makefile: changed (the source package with the patches could not be had)",
        "  fs/proc/base.c: changed (the source package with the patches could not be had)",
    ]


# --- a clone


@pytest.mark.parametrize(
    ("sublevel", "extra", "more", "version", "kind"),
    [
        (0, "", {}, "7.3", "mainline"),
        (0, "-rc2", {}, "7.3-rc2", "mainline"),
        (4, "", {}, "7.3.4", "stable"),
        (4, "", {"debian/changelog": "linux"}, "7.3.4", "vendor"),
        (0, "", {"localversion-rt": "-rt1"}, "7.3", "vendor"),
        (0, "", {"localversion-next": "-next"}, "7.3", "mainline"),
        (4, "-vendor", {}, "7.3.4-vendor", "vendor"),
    ],
)
def test_a_clone_is_named_for_what_it_is(
    paths: Paths,
    tmp_path: Path,
    sublevel: int,
    extra: str,
    more: dict[str, str],
    version: str,
    kind: str,
) -> None:
    user = small_kernel.clone(tmp_path / "user", sublevel=sublevel, extra=extra, more=more)
    made = tree.obtain(paths, small_kernel.SETTINGS, clone=user.path)
    assert (made.version, made.kind, made.base) == (version, kind, user.commit())
    assert str(user.path) in made.origin
    assert files_of(made) == {**small_kernel.files(sublevel=sublevel, extra=extra), **more}


def test_a_vendors_clone_shows_its_commits_if_it_has_the_tag(paths: Paths, tmp_path: Path) -> None:
    user = small_kernel.clone(tmp_path / "user", sublevel=4)
    for path in ("debian/changelog", "fs/proc/base.c", "kernel/fork.c"):
        (user.path / path).parent.mkdir(exist_ok=True)
        (user.path / path).write_text("int vendor;\n")
        small_kernel.commit(user, f"vendor: {path}")
    made = tree.obtain(paths, small_kernel.SETTINGS, clone=user.path)
    header, title, *changes = tree.describe(made, ["fs/proc/base.c"]).splitlines()
    assert header.startswith("Linux 7.3.4, vendor: the clone ")
    assert title == "Vendor changes to the files that the series touches:"
    assert [line.split(maxsplit=1)[1] for line in changes] == ["vendor: fs/proc/base.c"]
    user.check("tag", "--delete", "v7.3.4")
    made = tree.obtain(paths, small_kernel.SETTINGS, clone=user.path)
    assert "cannot be known: the clone has no tag v7.3.4" in tree.describe(made, ["fs/proc/base.c"])


def test_a_clone_is_never_modified(paths: Paths, tmp_path: Path) -> None:
    user = small_kernel.clone(tmp_path / "user")
    small_kernel.age_all(user.path)
    # An index that is out of date tempts git to write it.
    os.utime(user.path / "kernel/fork.c")
    before = contents(user.path)
    made = tree.obtain(paths, small_kernel.SETTINGS, clone=user.path)
    tree.checkout(made, made.base)
    assert contents(user.path) == before
    assert made.path.is_relative_to(paths.trees)
    assert not list((made.path / ".git/objects/pack").glob("*.pack"))  # its objects are borrowed


def test_a_clones_new_commit_rewrites_only_what_changed(paths: Paths, tmp_path: Path) -> None:
    user = small_kernel.clone(tmp_path / "user")
    made = tree.obtain(paths, small_kernel.SETTINGS, clone=user.path)
    small_kernel.age_all(made.path)
    (user.path / "kernel/fork.c").write_text("int fork_2;\n")
    head = small_kernel.commit(user, "fork")
    moved = tree.obtain(paths, small_kernel.SETTINGS, clone=user.path)
    tree.checkout(moved, moved.base)
    assert (moved.base, moved.path) == (head, made.path)
    times = {name: (made.path / name).stat().st_mtime for name in small_kernel.files()}
    assert [name for name, when in times.items() if when != small_kernel.AGE] == ["kernel/fork.c"]
    assert (made.path / "kernel/fork.c").read_text() == "int fork_2;\n"


def test_a_clone_that_dropped_its_old_commits_is_followed(paths: Paths, tmp_path: Path) -> None:
    user = small_kernel.clone(tmp_path / "user")
    (user.path / "kernel/fork.c").write_text("int wrong;\n")
    small_kernel.commit(user, "to be dropped")
    tree.obtain(paths, small_kernel.SETTINGS, clone=user.path)
    user.check("reset", "--quiet", "--hard", "HEAD~1")
    user.check("reflog", "expire", "--expire=now", "--all")
    user.check("gc", "--quiet", "--prune=now")
    made = tree.obtain(paths, small_kernel.SETTINGS, clone=user.path)
    tree.checkout(made, made.base)
    assert files_of(made) == small_kernel.files()


def test_a_linked_worktree_and_a_shallow_clone_will_do(paths: Paths, tmp_path: Path) -> None:
    user = small_kernel.clone(tmp_path / "user")
    user.check("commit", "--quiet", "--allow-empty", "--message", "second")
    user.check("worktree", "add", "--quiet", "--detach", tmp_path / "linked")
    user.check("clone", "--quiet", "--depth=1", f"file://{user.path}", tmp_path / "shallow")
    for name in ("linked", "shallow"):
        made = tree.obtain(paths, small_kernel.SETTINGS, clone=tmp_path / name)
        assert (made.base, files_of(made)) == (user.commit(), small_kernel.files())


def test_two_clones_have_a_tree_each(paths: Paths, tmp_path: Path) -> None:
    keys = {
        tree.obtain(paths, small_kernel.SETTINGS, clone=small_kernel.clone(tmp_path / name).path).key
        for name in ("one", "two")
    }
    assert len(keys) == 2


def refused(paths: Paths, clone: Path) -> str:
    before = contents(clone) if clone.is_dir() else {}
    with pytest.raises(WorkspaceError) as caught:
        tree.obtain(paths, small_kernel.SETTINGS, clone=clone)
    assert [path.name for path in paths.trees.iterdir()] == [".lock"]
    assert before == (contents(clone) if clone.is_dir() else {})
    return str(caught.value)


def test_no_folder_is_refused(paths: Paths, tmp_path: Path) -> None:
    assert refused(paths, tmp_path / "none") == f"--tree {tmp_path}/none: there is no such folder."


@pytest.mark.parametrize("missing", ["Makefile", "Kbuild", "fs/proc"])
def test_what_is_no_kernel_is_refused(paths: Paths, tmp_path: Path, missing: str) -> None:
    user = small_kernel.clone(tmp_path / "user")
    user.check("rm", "-r", "--quiet", missing)
    small_kernel.commit(user, "no kernel any more")
    assert refused(paths, user.path).startswith(f"--tree {user.path}: this is no kernel tree")


def test_a_makefile_without_a_version_is_refused(paths: Paths, tmp_path: Path) -> None:
    user = small_kernel.clone(tmp_path / "user", more={"Makefile": "all:\n"})
    assert "is no kernel tree: it needs a Makefile with VERSION" in refused(paths, user.path)


def test_a_plain_folder_is_refused_with_the_way_to_a_repository(paths: Paths, tmp_path: Path) -> None:
    user = small_kernel.clone(tmp_path / "user")
    shutil.rmtree(user.path / ".git")
    told = refused(paths, user.path)
    assert "git init && git add -f . && git commit" in told
    # A folder inside somebody's repository is not one of its own either.
    outer = Repository(tmp_path)
    outer.check("init", "--quiet")
    outer.check("commit", "--quiet", "--allow-empty", "--message", "outer")
    assert refused(paths, user.path) == told


def test_a_repository_without_a_commit_is_refused(paths: Paths, tmp_path: Path) -> None:
    user = small_kernel.clone(tmp_path / "user")
    user.check("update-ref", "-d", "HEAD")
    assert "no git repository with a commit" in refused(paths, user.path)


@pytest.mark.parametrize("staged", [False, True])
def test_a_dirty_clone_is_refused(paths: Paths, tmp_path: Path, staged: bool) -> None:
    user = small_kernel.clone(tmp_path / "user")
    (user.path / "kernel/fork.c").write_text("int dirty;\n")
    if staged:
        user.check("add", "kernel/fork.c")
    told = refused(paths, user.path)
    assert told.startswith(f"--tree {user.path}: it has uncommitted changes (M")
    assert told.endswith("kernel/fork.c): commit or stash them.")


def test_files_that_git_does_not_track_are_no_change_of_a_clone(paths: Paths, tmp_path: Path) -> None:
    user = small_kernel.clone(tmp_path / "user")
    (user.path / "notes").write_text("mine")
    assert "notes" not in files_of(tree.obtain(paths, small_kernel.SETTINGS, clone=user.path))


def test_another_version_is_refused(paths: Paths, tmp_path: Path) -> None:
    user = small_kernel.clone(tmp_path / "user", more={"Makefile": "VERSION = 7\nPATCHLEVEL = 2\nSUBLEVEL = 9\n"})
    assert refused(paths, user.path) == (
        f"--tree {user.path} is Linux 7.2.9, but the series is for 7.3: "
        "check out v7.3, or name another base in pyproject.toml."
    )


# --- interruptions


def test_a_killed_checkout_is_made_good(paths: Paths, settings: Settings) -> None:
    made = tree.obtain(paths, settings)
    # As a SIGKILL leaves it: the lock, a file of the commit that was to be, another half written.
    (made.path / ".git/index.lock").touch()
    (made.path / "fs/proc/task_diag.c").write_text("half")
    (made.path / "kernel/fork.c").write_text("ha")
    (made.path / "kernel/fork.o").touch()
    tree.checkout(made, made.base)
    assert files_of(made) == small_kernel.files()


PROGRAM = """
import signal, sys
from pathlib import Path
from workspace import archive, tree
from workspace.errors import Terminated
from workspace.settings import Paths, Settings

def terminated(*_):
    raise Terminated

signal.signal(signal.SIGTERM, terminated)
signal.signal(signal.SIGINT, signal.default_int_handler)
path = archive._path
def slow(member):
    print("unpacking", flush=True)
    signal.pause()
archive._path = slow
tree.obtain(Paths(Path(sys.argv[1])), Settings("7.3", ("kernel.org",), sys.argv[2], (), ""))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_while_it_unpacks_leaves_no_tree(
    paths: Paths, settings: Settings, site: Site, number: signal.Signals
) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(storage.__file__).parents[1])}
    words = [sys.executable, "-c", PROGRAM, str(paths.root), settings.kernel_org_url]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "unpacking\n"
        # A run beside it does not sweep what this one makes, and says who is at work.
        with pytest.raises(WorkspaceError, match=f"holds the kernel trees \\(process {process.pid}\\)"):
            tree.obtain(paths, settings)
        process.send_signal(number)
        assert process.wait(10) != 0
    left = {path.name for path in paths.trees.iterdir()} - {".lock"}
    assert len(left) == (1 if number == signal.SIGKILL else 0)
    assert all(name.startswith(".") for name in left)
    del site.asked[:]
    assert files_of(tree.obtain(paths, settings)) == small_kernel.files()
    assert {path.name for path in paths.trees.iterdir()} == {".lock", "kernel.org-7.3"}
    assert site.asked == []
