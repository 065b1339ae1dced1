"""A git repository that make and Kconfig take for a kernel: one file to compile, and a vmlinux of it."""

from __future__ import annotations

from pathlib import Path

from workspace.git import Repository

KCONFIG = """\
mainmenu "A kernel"

config SRCARCH
	string
	default "$(SRCARCH)"

config PROC
	bool "Processes"

config TASK_DIAG
	bool "Binary processes"
	depends on PROC

config NUMBER
	int "Number"
	range 1 10
	default 4
""".replace("    ", "\t")

HEADERS = """\
headers:
	@mkdir -p usr/include/linux
	@touch usr/include/linux/task_diag.h
"""
# As the kernel's, this Makefile starts itself anew in the objects' folder. In place of Kconfig's tool it
# writes down what it is asked for, and what the file `follows` has.
MAKEFILE = """\
ifneq ($(sub_make_done),1)
export sub_make_done := 1
this := $(abspath $(lastword $(MAKEFILE_LIST)))
$(MAKECMDGOALS): ; @$(MAKE) --no-print-directory -C $(O) -f $(this) $@
else
export srctree := $(abspath $(dir $(lastword $(MAKEFILE_LIST))))
export SRCARCH := x86
export KERNELVERSION := 7.3.4
KCONFIG_CONFIG ?= .config
allnoconfig:
	@{ echo '# made by make'; cat $(KCONFIG_ALLCONFIG); cat $(srctree)/follows; } > $(KCONFIG_CONFIG)
	@echo 'CONFIG_SRCARCH="$(SRCARCH)"' >> $(KCONFIG_CONFIG)
olddefconfig:
	@sed -i -e "$$(cat $(srctree)/moves)" $(KCONFIG_CONFIG)
bzImage: vmlinux
	@mkdir -p include/config arch/x86/boot
	@echo $(KERNELVERSION) > include/config/kernel.release
	@cp vmlinux arch/x86/boot/bzImage
	@echo bzImage >> goals
fs/main.o: $(srctree)/fs/main.c .config
	@mkdir -p fs
	@echo '  CC      $@'
	@$(CC) -c -DCONFIG="$$(grep -c TASK_DIAG=y .config)" -o $@ $<
vmlinux: fs/main.o
	@echo '  LD      $@'
	@ld --build-id=sha1 -e 0 -o $@ $<
"""
MAKEFILE += f"{HEADERS}endif\n"

MAIN = "int config = CONFIG;\n"


def make(path: Path) -> Repository:
    """Make that repository at ``path``, with one commit."""
    (path / "fs").mkdir(parents=True)
    (path / "Kconfig").write_text(KCONFIG)
    (path / "Makefile").write_text(MAKEFILE)
    (path / "fs/main.c").write_text(MAIN)
    # What `make allnoconfig` says beyond what it is asked for, and what `make olddefconfig` would change.
    (path / "follows").write_text("CONFIG_NUMBER=4\n")
    (path / "moves").write_text("")
    tree = Repository(path)
    tree.check("init", "--quiet")
    commit(tree)
    return tree


def commit(tree: Repository) -> str:
    """Commit all there is; the commit's id."""
    tree.check("add", "--all")
    tree.check("commit", "--quiet", "--message", "A state of the kernel")
    return tree.check("rev-parse", "HEAD")
