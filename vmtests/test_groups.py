"""The contract, "Groups": CRED, STAT, IDENT, MEM, SCHED and JOB, field for field against ``/proc``."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path

import pytest

from taskdiag import Base, Cred, Group, Job, Mem, Sched, Stat, Strategy, TaskDiag
from vmtests import oracle, programs, raw, syscalls
from vmtests.arguments import kept
from vmtests.credentials import ALICE, BOB, Credentials, fork, run_as, run_in_child
from vmtests.groups import OF_PROC, TICK, Said, agree, ask, check, compare, if_there, of_answer, of_proc, of_thread, one
from vmtests.namespaces import PidNamespace, user_namespace
from vmtests.population import Gate, Population, exec_from_thread, pause, rename, start_threads, wait_for
from vmtests.raw import Request

MAP_NORESERVE = 0x4000  # asm-generic/mman.h; Python has no name for it before 3.13
PAGE = mmap.PAGESIZE
MADV_PAGEOUT = 21
DISK = "/dev/ram0"


@pytest.mark.promise("G3", "G4", "G5", "G6", "G8")
@pytest.mark.parametrize(
    "make",
    [Population.sleeping, Population.uninterruptible, Population.stopped, Population.traced, Population.zombie],
    ids=lambda make: make.__name__,
)
def test_every_group_is_that_of_proc(
    machine: Population, proc: int, whole_machine: int, make: Callable[[Population], int]
) -> None:
    pid = make(machine)
    said = check(proc, whole_machine, pid)
    assert of_answer(ask(whole_machine)[pid]) == said


@pytest.mark.promise("G3", "G4", "G5", "G6", "G8")
def test_everyone_in_a_world_by_every_strategy(world: PidNamespace, task_diag: int) -> None:
    for make in (world.sleeping, world.uninterruptible, world.stopped, world.traced, world.zombie):
        make()
    world.stopped(partial(start_threads, 3))
    world.sleeping(comm=b") R 1 (\n\\")
    world.stopped(who=Credentials(uid=1000, gid=1001, dumpable=False))
    proc = world.procfs.fd

    def by_process() -> dict[int, object]:
        return {pid: of_proc(proc, str(pid)) for pid in sorted(world.procfs.listed())}

    def by_thread() -> dict[int, object]:
        return {
            thread: of_thread(proc, pid, thread)
            for pid in sorted(world.procfs.listed())
            for thread in sorted(oracle.threads(proc, pid))
        }

    def answer(strategy: Strategy) -> dict[int, object]:
        return {pid: of_answer(task) for pid, task in ask(task_diag, strategy).items()}

    everyone = agree(by_process, partial(answer, Strategy.ALL))
    threads = agree(by_thread, partial(answer, Strategy.ALL_THREAD))
    # Process 1, eight more, and the child that the uninterruptible one waits for.
    assert len(threads) == len(everyone) + 3 == 10 + 3
    for pid in everyone:
        check(proc, task_diag, pid)


@pytest.mark.promise("G3", "G4", "G5", "G6", "G8")
@pytest.mark.core
@pytest.mark.deadline(30)
@pytest.mark.parametrize("strategy", [Strategy.ALL, Strategy.ALL_THREAD])
def test_the_whole_machine(machine: Population, proc: int, whole_machine: int, strategy: Strategy) -> None:
    """Kernel threads, what runs in the guest, and the test: nearly all of them rest while they are looked at."""
    machine.stopped(partial(start_threads, 2))
    machine.zombie()

    def look() -> dict[int, dict[Group, Said]]:
        found: dict[int, dict[Group, Said]] = {}
        for pid in oracle.listed(proc):
            if strategy is Strategy.ALL:
                said = if_there(partial(of_proc, proc, str(pid)))
                if said is not None:
                    found[pid] = said
                continue
            for thread in if_there(partial(oracle.threads, proc, pid)) or ():
                said = if_there(partial(of_thread, proc, pid, thread))
                if said is not None:
                    found[thread] = said
        return found

    at_rest: set[int] = set()
    for _ in range(3):
        before, tasks, after = look(), ask(whole_machine, strategy), look()
        lasting = {pid for pid in before if pid in after and before[pid][Group.IDENT] == after[pid][Group.IDENT]}
        assert lasting <= tasks.keys()
        at_rest |= {pid for pid in lasting if compare(before[pid], of_answer(tasks[pid]), after[pid])}
    assert len(at_rest) > 0.8 * len(lasting)


@pytest.mark.promise("G3", "G4", "G6", "G8")
def test_kernel_threads(proc: int, whole_machine: int) -> None:
    """A kernel thread may run at any moment: each is looked at until it did not run meanwhile."""
    compared = 0
    for pid in oracle.listed(proc):
        truth = partial(of_proc, proc, str(pid))
        for _ in range(20):
            before = if_there(truth)
            if before is None or not _flags(before) & oracle.PF_KTHREAD:
                break
            try:
                task = one(whole_machine, pid)
            except ProcessLookupError:
                break
            after = if_there(truth)
            if after is None:
                break
            assert task.mem == Mem(*[0] * 8)
            if compare(before, of_answer(task), after):
                compared += 1
                break
    assert compared > 10


def _flags(said: dict[Group, Said]) -> int:
    job = said[Group.JOB]
    assert isinstance(job, Job)
    return job.flags


@pytest.mark.promise("G5", "G6", "G8")
@pytest.mark.core
def test_what_moves_lies_between_what_proc_says_before_and_after(
    machine: Population, proc: int, whole_machine: int
) -> None:
    """The first process has faults, takes time, sleeps, forks and waits all the while, and so does its thread.

    Its command line is left out: who forks all the while has mmap_lock all the while, which is not waited for.
    """
    groups = [group for group in OF_PROC if group is not Group.CMDLINE]

    def live() -> None:
        threading.Thread(target=move, daemon=True).start()
        move()

    def move() -> None:
        while True:
            mmap.mmap(-1, 16 * PAGE).write(bytes(16 * PAGE))
            if os.fork() == 0:
                os._exit(0)
            os.wait()
            time.sleep(0.001)

    pids = [machine.spawn(then=live), machine.running(), os.getpid()]
    wait_for(lambda: len(oracle.threads(proc, pids[0])) == 2, "the thread")
    threads = oracle.threads(proc, pids[0])
    first = {pid: of_proc(proc, str(pid), groups) for pid in pids}
    for _ in range(30):
        before = {pid: of_proc(proc, str(pid), groups) for pid in pids}
        everyone = ask(whole_machine, groups=groups)
        after = {pid: of_proc(proc, str(pid), groups) for pid in pids}
        for pid in pids:
            compare(before[pid], of_answer(everyone[pid]), after[pid])

        earlier = {thread: of_thread(proc, pids[0], thread, groups) for thread in threads}
        by_thread = ask(whole_machine, Strategy.THREAD, pids[0], groups=groups)
        later = {thread: of_thread(proc, pids[0], thread, groups) for thread in threads}
        for thread in threads:
            compare(earlier[thread], of_answer(by_thread[thread]), later[thread])
    for pid in pids:
        assert first[pid] != before[pid], "nothing moved"


# The layout


@pytest.mark.promise("G1")
def test_every_byte_is_written_and_what_is_reserved_is_zero(world: PidNamespace, task_diag: int) -> None:
    """Other answers have left non-zero bytes where each answer is built in the kernel's memory."""
    longest = world.stopped(partial(rename, b"x" * 15), who=BOB)
    short = world.stopped(partial(rename, b""))
    for pid in world.procfs.listed():
        check(world.procfs.fd, task_diag, pid)
    streams = []
    for fd in (task_diag, world.procfs.open(), world.procfs.open()):
        # Both are shifted by a group against the answer that follows.
        for show in (1 << 1, raw.SHOW_FIXED ^ 1):
            raw.ask(fd, Request(show=show))
            raw.drain(fd)
        raw.ask(fd, Request(show=raw.SHOW_FIXED))
        stream = b"".join(raw.drain(fd))
        for answer in raw.answers(stream):
            payloads = dict(raw.attributes(answer))
            assert {kind: len(payload) for kind, payload in payloads.items()} == raw.SIZES
            assert payloads[4][68:] == bytes(4), "STAT.reserved"
            assert payloads[8][20:24] == bytes(4), "SCHED.reserved"
            assert payloads[0][41:] == bytes(3), "BASE.reserved"
        streams.append(stream)
        if fd != task_diag:
            os.close(fd)
    assert len(set(streams)) == 1
    assert {world.number(longest), world.number(short)} < set(raw.pids(streams[0]))


@pytest.mark.promise("G1", "G2", "G8")
def test_fields_are_where_the_contract_has_them(world: PidNamespace, task_diag: int) -> None:
    """Written out here again: the client could repeat a mistake of the kernel's."""

    def differ() -> None:
        os.setresgid(11, 12, 13)
        os.setresuid(21, 22, 23)

    pid = world.stopped(differ)
    number = world.number(pid)
    proc = world.procfs.fd
    raw.ask(task_diag, Request(strategy=raw.ONE, pid=number, show=raw.SHOW_FIXED))
    (answer,) = raw.answers(b"".join(raw.drain(task_diag)))
    payloads = dict(raw.attributes(answer))
    status, stat, statm = (
        oracle.status(proc, str(number)),
        oracle.stat(proc, str(number)),
        oracle.statm(proc, str(number)),
    )

    cred = struct.unpack("=4Q8I", payloads[1])
    assert cred[:4] == tuple(int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd"))
    assert cred[4:] == (21, 22, 23, 22, 11, 12, 13, 12)

    usage = struct.unpack("=8QII", payloads[4])
    names = ("minflt", "cminflt", "majflt", "cmajflt", "utime", "stime", "cutime", "cstime", "num_threads")
    assert usage == (*(stat[name] for name in names), 0)

    started, inode, cgroup = struct.unpack("=3Q", payloads[6])
    assert started // TICK == stat["starttime"]
    pidfd = os.pidfd_open(pid)
    assert inode == os.fstat(pidfd).st_ino
    os.close(pidfd)
    assert cgroup > 0

    mem = struct.unpack("=8Q", payloads[7])
    assert mem[:5] == tuple(statm[name] * PAGE for name in ("size", "resident", "shared", "text", "data"))
    assert mem[5:] == tuple(int(status[name].split()[0]) * 1024 for name in ("VmLck", "VmSwap", "VmHWM"))

    sched = struct.unpack("=iiiIIIQQ", payloads[8])
    assert sched[:5] == tuple(stat[name] for name in ("policy", "nice", "priority", "rt_priority", "processor"))
    assert sched[6:] == tuple(int(status[f"{name}voluntary_ctxt_switches"]) for name in ("", "non"))

    job = struct.unpack("=IiIi", payloads[9])
    assert job == tuple(stat[name] for name in ("tty_nr", "tpgid", "flags", "exit_signal"))


@pytest.mark.promise("G1", "R1")
def test_groups_come_in_the_order_of_their_numbers_and_only_those_asked_for(
    world: PidNamespace, task_diag: int
) -> None:
    world.sleeping()
    kinds = sorted(raw.SIZES)
    for mask in range(1 << len(kinds)):
        wanted = [kind for bit, kind in enumerate(kinds) if mask >> bit & 1]
        raw.ask(task_diag, Request(show=sum(1 << kind for kind in wanted)))
        for answer in raw.answers(b"".join(raw.drain(task_diag))):
            assert [(kind, len(payload)) for kind, payload in raw.attributes(answer)] == [
                (kind, raw.SIZES[kind]) for kind in wanted
            ]


# CRED


@pytest.mark.promise("G4", "G8")
@pytest.mark.core
def test_credentials_of_many_kinds(world: PidNamespace, task_diag: int) -> None:
    for who in (
        ALICE,
        replace(ALICE, capabilities=1 << syscalls.CAP_SYS_PTRACE),
        replace(ALICE, capabilities=1 << 40 | 1),
        Credentials(uid=7, gid=8, groups=(9,)),
        Credentials(capabilities=0),
    ):
        world.sleeping(who=who)
    world.spawn(lambda: os.setresuid(1, 2, 3))
    world.spawn(lambda: os.setresgid(4, 5, 6))
    world.zombie()
    truth = {pid: of_proc(world.procfs.fd, str(pid))[Group.CRED] for pid in world.procfs.listed()}
    assert len(set(truth.values())) >= 7
    assert {pid: task.cred for pid, task in ask(task_diag, groups=(Group.CRED,)).items()} == truth


@pytest.mark.promise("G4", "G8")
def test_ids_and_capabilities_that_are_all_different(machine: Population, proc: int, whole_machine: int) -> None:
    bounding = (1 << 41) - 1 & ~(1 << 3) & ~(1 << 38)

    def differ() -> None:
        for capability in (3, 38):
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        os.setresgid(101, 102, 103)
        os.setresuid(201, 202, 203)
        full = 1 << 7 | 1 << 19 | 1 << 33 | 1 << 39
        # setfsgid() and setfsuid() take CAP_SETGID and CAP_SETUID.
        syscalls.capset(full | 1 << 6)
        syscalls.set_file_ids(204, 104)
        syscalls.capset(full, effective=1 << 39 | 1 << 7, inheritable=1 << 33 | 1 << 19)

    pid = machine.stopped(differ)
    cred = check(proc, whole_machine, pid)[Group.CRED]
    kernel = int(oracle.status(proc, "1")["CapBnd"], 16)
    assert cred == Cred(
        inheritable=1 << 33 | 1 << 19,
        permitted=1 << 7 | 1 << 19 | 1 << 33 | 1 << 39,
        effective=1 << 39 | 1 << 7,
        bounding=kernel & bounding,
        uid=201,
        euid=202,
        suid=203,
        fsuid=204,
        gid=101,
        egid=102,
        sgid=103,
        fsgid=104,
    )


@pytest.mark.promise("G4", "G8", "N2")
def test_ids_are_those_of_the_openers_user_namespace(machine: Population, proc: int, whole_machine: int) -> None:
    """Inside, 1000 and 1001 are 0 and 1; all other ids are unmapped."""
    namespace = user_namespace(machine)
    inside = Credentials(user_namespace=namespace)
    alice, root = machine.stopped(who=ALICE), machine.stopped()
    mixed = machine.stopped(lambda: os.setresuid(1001, 5, 1000))
    overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())

    def look(fd: int | None = None) -> dict[int, tuple[object, tuple[int, ...]]]:
        """Return what /proc and the answer say of each; ``fd`` is by default a file that the caller opens itself."""
        source = os.open("/proc/task-diag", os.O_RDWR) if fd is None else fd
        try:
            found: dict[int, tuple[object, tuple[int, ...]]] = {}
            for pid in (alice, root, mixed):
                cred = one(source, pid).cred
                assert cred is not None
                found[pid] = (of_proc(proc, str(pid))[Group.CRED], astuple(cred)[4:8])
                assert fd is not None or found[pid][0] == cred
            return found
        finally:
            if fd is None:
                os.close(source)

    wanted = {alice: (0, 0, 0, 0), root: (overflow,) * 4, mixed: (1, overflow, 0, overflow)}
    assert {pid: ids for pid, (_, ids) in run_as(inside, look).items()} == wanted
    outside = {alice: (1000,) * 4, root: (0,) * 4, mixed: (1001, 5, 1000, 5)}
    assert {pid: ids for pid, (_, ids) in look().items()} == outside
    # A file that was opened outside shows the opener's ids to a reader inside.
    assert {pid: ids for pid, (_, ids) in run_as(inside, partial(look, whole_machine)).items()} == outside
    os.close(namespace)


@pytest.mark.promise("G4", "G5", "G8")
def test_a_thread_has_credentials_of_its_own(machine: Population, proc: int, whole_machine: int) -> None:
    pid = machine.stopped(partial(start_threads, 1, partial(syscalls.take_ids, ALICE.uid, ALICE.gid)))
    (thread,) = set(oracle.threads(proc, pid)) - {pid}
    found = ask(whole_machine, Strategy.THREAD, pid)
    uids = {task.pid: task.cred and task.cred.uid for task in found.values()}
    assert uids == {pid: 0, thread: ALICE.uid}
    check(proc, whole_machine, thread)


@pytest.mark.promise("G4", "G8", "N4")
def test_a_set_uid_program(machine: Population, proc: int, whole_machine: int, tmp_path: Path) -> None:
    program = tmp_path / "sleep"
    program.write_bytes(Path("/bin/sleep").resolve().read_bytes())
    os.chown(program, BOB.uid, BOB.gid)
    program.chmod(0o6755)
    programs.open_to_all(tmp_path)
    pid = machine.spawn(then=lambda: os.execv(program, ["sleep", "100000"]), who=ALICE)
    wait_for(lambda: oracle.status(proc, str(pid))["Name"] == b"sleep", "exec of a set-uid program")
    cred = check(proc, whole_machine, pid)[Group.CRED]
    assert isinstance(cred, Cred)
    assert (cred.uid, cred.euid, cred.suid, cred.fsuid) == (1000, 1001, 1001, 1001)
    assert (cred.gid, cred.egid, cred.sgid, cred.fsgid) == (1000, 1001, 1001, 1001)


@pytest.mark.promise("G4", "G5", "G8")
def test_processes_of_every_user(machine: Population, world: PidNamespace, proc: int, whole_machine: int) -> None:
    """Not dumpable, root of a user namespace, and nobody that the opener's user namespace knows."""
    namespace = user_namespace(machine)
    for who in (
        replace(ALICE, dumpable=False),
        Credentials(user_namespace=namespace),
        Credentials(uid=1, gid=1, capabilities=0, user_namespace=namespace),
        Credentials(uid=0xFFFF_FFFE, gid=0x8000_0000),
    ):
        for population in (machine, world):
            pid = population.stopped(who=who)
            said = check(proc, whole_machine, pid)
            assert of_answer(ask(whole_machine)[pid]) == said
    os.close(namespace)


@pytest.mark.promise("G4", "G5", "G8")
@pytest.mark.parametrize("number", [32_767, 32_768, 65_536, 4_194_303])
def test_processes_of_high_numbers(world: PidNamespace, task_diag: int, number: int) -> None:
    world.spawn_as(number)
    proc = world.procfs.fd
    by_process, by_thread = partial(of_proc, proc, str(number)), partial(of_thread, proc, number, number)
    for strategy, pid, truth in (
        (Strategy.ALL, 0, by_process),
        (Strategy.ONE, number, by_process),
        (Strategy.ALL_THREAD, 0, by_thread),
        (Strategy.THREAD, number, by_thread),
    ):
        answer = partial(ask, task_diag, strategy, pid)
        said = agree(truth, lambda answer=answer: of_answer(answer()[number]))  # type: ignore[misc]
        base = said[Group.BASE]
        assert isinstance(base, Base)
        assert (base.pid, base.tgid) == (number, number)


# STAT


@pytest.fixture
def swap() -> Iterator[None]:
    """Swap to a RAM disk."""
    subprocess.run(["/usr/sbin/mkswap", DISK], check=True, capture_output=True)
    syscalls.swapon(DISK)
    yield
    syscalls.swapoff(DISK)


def swapped_out(pages: int) -> mmap.mmap:
    """Return memory whose pages have all been written and swapped out."""
    memory = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"x" * pages * PAGE)
    status = Path("/proc/self/status")

    def gone() -> bool:
        memory.madvise(MADV_PAGEOUT)
        return int(oracle.parse_status(status.read_bytes())["VmSwap"].split()[0]) * 1024 >= pages * PAGE

    wait_for(gone, f"{pages} pages in swap")
    return memory


def work(seconds: float) -> None:
    """Use user and system time, and cause minor and major page faults."""
    memory = swapped_out(8)
    assert memory[0] == memory[5 * PAGE] == ord("x")
    while time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) < seconds or min(os.times()[:2]) < seconds / 4:
        sum(range(1000))
        os.listdir("/proc/self/fd")  # noqa: PTH208


@pytest.mark.promise("G5", "G8")
@pytest.mark.usefixtures("swap")
@pytest.mark.deadline(30)
def test_times_and_faults_of_a_process_its_threads_and_children(
    machine: Population, proc: int, whole_machine: int
) -> None:
    """All eight numbers of the process are above 0; of its threads those of children, and parts of the rest."""

    def live() -> None:
        for _ in range(2):
            if os.fork() == 0:
                work(0.08)
                os._exit(0)
            os.wait()
        ended = threading.Thread(target=partial(work, 0.05))
        ended.start()
        ended.join()
        start_threads(2)
        work(0.15)

    pid = machine.stopped(live)
    stat = check(proc, whole_machine, pid)[Group.STAT]
    assert isinstance(stat, Stat)
    *numbers, threads = astuple(stat)
    assert threads == 3
    assert all(number > 0 for number in numbers), stat

    members = oracle.threads(proc, pid)
    for thread in members:
        # ONE gives the numbers of the process for any of its threads.
        assert check(proc, whole_machine, thread)[Group.STAT] == stat
    by_thread = {thread: of_answer(task) for thread, task in ask(whole_machine, Strategy.THREAD, pid).items()}
    assert by_thread == {thread: of_thread(proc, pid, thread) for thread in members}
    parts = [astuple(said[Group.STAT]) for said in by_thread.values()]  # type: ignore[arg-type]
    for part in parts:
        assert part[8] == 3
        assert (part[1], part[3], *part[6:8]) == (numbers[1], numbers[3], *numbers[6:]), "not the process's children"
    # The process counts what an ended thread did; no living thread does.
    assert sum(part[0] for part in parts) < numbers[0]
    assert sum(part[2] for part in parts) < numbers[2]


@pytest.mark.promise("G3", "G5", "G8")
def test_a_process_whose_leader_has_exited(machine: Population, proc: int, whole_machine: int) -> None:
    """The leader is a zombie without an mm; its threads still have it."""

    def live() -> None:
        start_threads(2)

    pid = machine.spawn(live, syscalls.exit_thread, state="Z")
    members = sorted(oracle.threads(proc, pid))
    assert len(members) == 3
    said = check(proc, whole_machine, pid)
    assert said[Group.MEM] == Mem(*[0] * 8)
    for thread in members[1:]:
        memory = check(proc, whole_machine, thread)[Group.MEM]
        assert isinstance(memory, Mem)
        assert memory.rss > 0
    for strategy, target in ((Strategy.THREAD, pid), (Strategy.THREAD, members[1]), (Strategy.ALL_THREAD, 0)):
        found = ask(whole_machine, strategy, target)
        for thread in members:
            assert of_answer(found[thread]) == of_thread(proc, pid, thread)
    assert list(ask(whole_machine, Strategy.THREAD, pid)) == members


@pytest.mark.promise("C4", "G5", "G8", "O1", "O2", "R5")
@pytest.mark.deadline(240)
def test_ten_thousand_threads_in_one_process(
    machine: Population, proc: int, whole_machine: int, tmp_path: Path
) -> None:
    count = 10_000
    program = programs.compiled("many_threads", tmp_path, "-pthread")
    pid = machine.spawn(then=lambda: os.execv(program, [program.name, str(count - 1)]))
    stat = Path(f"/proc/{pid}/stat")
    wait_for(lambda: oracle.parse_stat(stat.read_bytes())[1][17] == b"%d" % count, f"{count} threads")
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    usage = check(proc, whole_machine, pid)[Group.STAT]
    assert isinstance(usage, Stat)
    assert usage.threads == count
    members = sorted(oracle.threads(proc, pid))
    assert len(members) == count
    for size in (4096, 65536):
        for strategy, target in ((raw.THREAD, members[-1]), (raw.ALL_THREAD, 0)):
            raw.ask(whole_machine, Request(strategy=strategy, pid=target, show=1 << 4))
            answers = list(raw.answers(b"".join(raw.drain(whole_machine, size))))
            assert [answer.pid for answer in answers if answer.tgid == pid] == members
            pids = [answer.pid for answer in answers]
            assert pids == sorted(set(pids))
    found = ask(whole_machine, Strategy.THREAD, pid)
    for thread in (*members[:3], *members[5000:5003], *members[-3:]):
        assert of_answer(found[thread]) == of_thread(proc, pid, thread)


# IDENT


@pytest.mark.promise("G4", "G8")
def test_the_start_is_exact_to_the_nanosecond(machine: Population, whole_machine: int) -> None:
    started = []
    for _ in range(3):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        pid = machine.sleeping()
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        ident = one(whole_machine, pid).ident
        assert ident is not None
        assert before < ident.start_boottime < after
        started.append(ident.start_boottime)
    assert started == sorted(set(started))
    assert any(start % TICK for start in started)


@pytest.mark.promise("G4", "G8", "N2")
def test_the_start_is_told_in_the_readers_time_namespace(machine: Population, proc: int, whole_machine: int) -> None:
    """The boot time there is 1000.000000123 s ahead, for any opener."""
    offset = 1_000_000_000_123
    pid = machine.stopped()

    def start(fd: int) -> int:
        ident = one(fd, pid).ident
        assert ident is not None
        return ident.start_boottime

    def inside() -> tuple[int, int, int]:
        fd = os.open("/proc/task-diag", os.O_RDWR)
        return start(fd), start(whole_machine), oracle.stat(proc, str(pid))["starttime"]

    def in_namespace() -> tuple[int, int, int]:
        syscalls.unshare(syscalls.CLONE_NEWTIME)
        Path("/proc/self/timens_offsets").write_text(f"boottime {offset // 10**9} {offset % 10**9}\n")
        return run_in_child(inside)

    opened_inside, opened_outside, text = run_in_child(in_namespace)
    assert opened_inside == opened_outside == start(whole_machine) + offset
    assert opened_inside // TICK == text


def inode(pid: int, flags: int = 0) -> int:
    """Return the inode number of a pidfd."""
    pidfd = os.pidfd_open(pid, flags)
    try:
        return os.fstat(pidfd).st_ino
    finally:
        os.close(pidfd)


def idents(fd: int, strategy: Strategy = Strategy.ALL, pid: int = 0) -> dict[int, int]:
    """Return the inode of each task by pid."""
    tasks = ask(fd, strategy, pid, groups=(Group.IDENT,)).values()
    return {task.pid: task.ident.inode for task in tasks if task.ident}


@pytest.mark.promise("G8")
def test_the_inode_is_that_of_a_pidfd(machine: Population, proc: int, whole_machine: int) -> None:
    pid = machine.sleeping()
    threaded = machine.spawn(partial(start_threads, 2), state="S")
    zombie = machine.zombie()
    everyone = idents(whole_machine)
    for process in (pid, threaded, zombie, 1, 2, os.getpid()):
        assert everyone[process] == inode(process)
    threads = idents(whole_machine, Strategy.THREAD, threaded)
    # PIDFD_THREAD
    assert threads == {thread: inode(thread, os.O_EXCL) for thread in oracle.threads(proc, threaded)}
    assert threads[threaded] == everyone[threaded]
    assert len(set(everyone.values())) == len(everyone)
    assert idents(whole_machine, Strategy.ALL_THREAD).items() >= threads.items()


@pytest.mark.promise("G8")
def test_the_inode_tells_two_owners_of_one_number_apart(world: PidNamespace, task_diag: int) -> None:
    first = world.spawn_as(50)
    then = idents(task_diag)
    world.kill(first)
    second = world.spawn_as(50)
    now = idents(task_diag)
    assert then.keys() == now.keys()
    assert then[1] == now[1]
    assert then[50] != now[50] == inode(second)


@pytest.mark.promise("G8", "W8")
def test_the_inode_stays_with_a_process_that_execs_from_a_thread(
    machine: Population, whole_machine: int, gate: Gate
) -> None:
    pid = machine.spawn(partial(exec_from_thread, gate))
    then = idents(whole_machine)[pid]
    gate.open()
    os.waitpid(pid, os.WUNTRACED)
    assert idents(whole_machine)[pid] == then == inode(pid)


@pytest.mark.promise("G6")
def test_sizes_of_memory_beyond_32_bits(machine: Population, proc: int, whole_machine: int) -> None:
    """Mapped, and not there: private memory that can be written counts as data."""

    def live() -> None:
        kept(mmap.mmap(-1, 5 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE))

    mem = check(proc, whole_machine, machine.stopped(live))[Group.MEM]
    assert isinstance(mem, Mem)
    assert min(mem.vsize, mem.data) > 5 << 30


@pytest.mark.promise("G5")
def test_switches_are_a_tasks_own(machine: Population, proc: int, whole_machine: int) -> None:
    """Not those of threads that have ended, which the kernel keeps with the process."""

    def sleep() -> None:
        for _ in range(100):
            time.sleep(0.001)

    def live() -> None:
        ended = threading.Thread(target=sleep)
        ended.start()
        ended.join()

    sched = check(proc, whole_machine, machine.stopped(live))[Group.SCHED]
    assert isinstance(sched, Sched)
    assert sched.nvcsw < 100


@pytest.fixture
def hierarchy() -> Iterator[int]:
    """Mount cgroup2, attached nowhere."""
    fd = syscalls.mount("cgroup2")
    yield fd
    os.close(fd)


@pytest.mark.promise("G8")
def test_the_cgroup_is_the_inode_of_its_folder(
    machine: Population, proc: int, whole_machine: int, hierarchy: int
) -> None:
    root = Path(f"/proc/self/fd/{hierarchy}")
    top = root / f"groups-{os.getpid()}"
    folders = [top.joinpath(*["below"] * depth) for depth in range(12)]
    pids = []
    for folder in folders:
        folder.mkdir()
        pid = machine.sleeping()
        (folder / "cgroup.procs").write_text(str(pid))
        pids.append(pid)
    zombie = machine.zombie()

    def cgroup(pid: int) -> int:
        ident = one(whole_machine, pid).ident
        assert ident is not None
        return ident.cgroup

    try:
        for folder, pid in zip(folders, pids, strict=True):
            assert cgroup(pid) == folder.stat().st_ino == oracle.cgroup(proc, str(pid), hierarchy)
        for pid in (1, 2, zombie, os.getpid()):
            assert cgroup(pid) == oracle.cgroup(proc, str(pid), hierarchy)
        deepest = folders[-1].stat().st_ino
        os.kill(pids[-1], signal.SIGKILL)
        os.waitid(os.P_PID, pids[-1], os.WEXITED | os.WNOWAIT)
        assert cgroup(pids[-1]) == deepest, "a zombie has left the cgroup in which it died"
        machine.reap(pids.pop())
    finally:
        for pid in pids:
            machine.kill(pid)
        for folder in reversed(folders):
            wait_for(lambda folder=folder: _removed(folder), f"{folder} is empty")  # type: ignore[misc]


@pytest.mark.promise("G5", "G8")
def test_a_thread_has_a_cgroup_of_its_own(machine: Population, proc: int, whole_machine: int, hierarchy: int) -> None:
    """In a threaded cgroup below that of its leader."""
    top = Path(f"/proc/self/fd/{hierarchy}/groups-{os.getpid()}")
    below = top / "threads"
    below.mkdir(parents=True)
    pid = machine.spawn(partial(start_threads, 1), state="S")
    (thread,) = {*oracle.threads(proc, pid)} - {pid}
    try:
        (below / "cgroup.type").write_text("threaded")
        (top / "cgroup.procs").write_text(str(pid))
        (below / "cgroup.threads").write_text(str(thread))
        wanted = {pid: top.stat().st_ino, thread: below.stat().st_ino}
        for strategy, target in ((Strategy.THREAD, pid), (Strategy.ALL_THREAD, 0)):
            tasks = ask(whole_machine, strategy, target)
            assert {number: tasks[number].ident.cgroup for number in wanted} == wanted  # type: ignore[union-attr]
        for number in wanted:
            ident = one(whole_machine, number).ident
            assert ident is not None
            assert ident.cgroup == wanted[number]
    finally:
        machine.kill(pid)
        for folder in (below, top):
            wait_for(lambda folder=folder: _removed(folder), f"{folder} is empty")  # type: ignore[misc]


def _removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


# MEM


@pytest.mark.promise("G6", "G8")
@pytest.mark.usefixtures("swap")
@pytest.mark.deadline(30)
def test_memory_of_every_kind(machine: Population, proc: int, whole_machine: int, tmp_path: Path) -> None:
    """Private, shared, file-backed, locked, swapped and freed memory: eight numbers, none zero, no two the same."""
    kept: list[object] = []
    file = tmp_path / "file"
    file.write_bytes(bytes(96 * PAGE))

    def live() -> None:
        shared = mmap.mmap(-1, 200 * PAGE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        shared.write(b"s" * 150 * PAGE)
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        assert sum(mapped[::PAGE]) == 0
        locked = mmap.mmap(-1, 40 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        syscalls.mlock(raw.address_of(locked), 31 * PAGE)
        with mmap.mmap(-1, 700 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as passing:
            passing.write(b"p" * 700 * PAGE)
        kept.extend((shared, mapped, locked, swapped_out(57)))

    pid = machine.stopped(live)
    mem = check(proc, whole_machine, pid)[Group.MEM]
    assert isinstance(mem, Mem)
    assert all(value % PAGE == 0 for value in astuple(mem))
    assert len(set(astuple(mem)) | {0}) == 9
    assert mem.locked == 31 * PAGE
    assert mem.swap >= 57 * PAGE
    assert mem.shared >= (150 + 96) * PAGE
    assert mem.peak_rss >= mem.rss + 500 * PAGE
    assert mem.vsize > mem.data > (40 + 57) * PAGE


@pytest.mark.promise("G8")
def test_two_processes_with_one_memory(machine: Population, proc: int, whole_machine: int) -> None:
    pid = machine.uninterruptible()
    (child,) = oracle.children(proc, pid)
    wait_for(lambda: oracle.letter(proc, child) == "S", "the vforked child asleep")
    for process in (pid, child):
        check(proc, whole_machine, process)


# SCHED


@pytest.mark.promise("G8")
@pytest.mark.parametrize(
    ("policy", "rt_priority"),
    [
        (os.SCHED_OTHER, 0),
        (os.SCHED_BATCH, 0),
        (os.SCHED_IDLE, 0),
        (os.SCHED_FIFO, 1),
        (os.SCHED_FIFO, 99),
        (os.SCHED_RR, 50),
        (os.SCHED_RR | os.SCHED_RESET_ON_FORK, 7),
    ],
)
def test_policies(machine: Population, proc: int, whole_machine: int, policy: int, rt_priority: int) -> None:
    pid = machine.stopped()
    os.sched_setscheduler(pid, policy, os.sched_param(rt_priority))
    sched = check(proc, whole_machine, pid)[Group.SCHED]
    assert isinstance(sched, Sched)
    assert (sched.policy, sched.rt_priority) == (policy & ~os.SCHED_RESET_ON_FORK, rt_priority)
    assert sched.priority == (-1 - rt_priority if rt_priority else 20)


@pytest.mark.promise("G8")
def test_a_deadline(machine: Population, proc: int, whole_machine: int) -> None:
    pid = machine.stopped(partial(syscalls.sched_deadline, runtime=50_000_000, period=100_000_000))
    sched = check(proc, whole_machine, pid)[Group.SCHED]
    assert isinstance(sched, Sched)
    assert (sched.policy, sched.priority, sched.rt_priority) == (6, -101, 0)


@pytest.mark.promise("G8")
def test_nice_values(machine: Population, proc: int, whole_machine: int) -> None:
    pid = machine.stopped()
    for nice in (-20, -1, 0, 1, 19):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        sched = check(proc, whole_machine, pid)[Group.SCHED]
        assert isinstance(sched, Sched)
        assert (sched.nice, sched.priority) == (nice, 20 + nice)


@pytest.mark.promise("G8")
def test_the_processor_and_the_switches(machine: Population, proc: int, whole_machine: int) -> None:
    def switch() -> None:
        for _ in range(3):
            for cpu in (0, 1):
                os.sched_setaffinity(0, {cpu})
        # A sleep that is over before the CPU is given up is no switch.
        for _ in range(50):
            time.sleep(0.001)

    pids = {cpu: machine.stopped(partial(_settle, switch, cpu)) for cpu in (0, 1)}
    for cpu, pid in pids.items():
        sched = check(proc, whole_machine, pid)[Group.SCHED]
        assert isinstance(sched, Sched)
        assert sched.processor == cpu
        assert sched.nvcsw > 20
        assert sched.nivcsw > 0


def _settle(before: Callable[[], None], cpu: int) -> None:
    before()
    os.sched_setaffinity(0, {cpu})


@pytest.mark.promise("G5", "G8")
def test_a_thread_is_scheduled_by_itself(machine: Population, proc: int, whole_machine: int) -> None:
    def live() -> None:
        start_threads(1)
        for _ in range(50):
            time.sleep(0.001)

    pid = machine.stopped(live)
    (thread,) = set(oracle.threads(proc, pid)) - {pid}
    os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, thread, 7)
    for strategy, target in ((Strategy.THREAD, pid), (Strategy.ALL_THREAD, 0)):
        found = ask(whole_machine, strategy, target)
        leader, other = found[pid].sched, found[thread].sched
        assert leader is not None
        assert other is not None
        assert (leader.nice, other.nice) == (0, 7)
        assert (leader.policy, other.policy) == (os.SCHED_OTHER, os.SCHED_BATCH)
        assert leader.nvcsw > other.nvcsw
        for task in (pid, thread):
            assert of_answer(found[task]) == of_thread(proc, pid, task)
    for task in (pid, thread):
        check(proc, whole_machine, task)


# JOB


@pytest.fixture
def terminal() -> Iterator[int]:
    """Open a pty and yield its terminal side; the other side stays open."""
    controlling, end = os.openpty()
    yield end
    os.close(end)
    os.close(controlling)


def have_terminal(terminal: int) -> None:
    """Become the leader of a session and make ``terminal`` its controlling terminal."""
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    # It calls tcsetpgrp() again when it is in the background itself.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


@pytest.mark.promise("G4", "G8")
def test_job_control_on_a_terminal(world: PidNamespace, task_diag: int, proc: int, terminal: int) -> None:
    """A session with a foreground and a background job; when its leader exits, the session loses the terminal."""

    def lead() -> None:
        have_terminal(terminal)
        for _ in range(2):
            job = os.fork()
            if job == 0:
                pause()
            os.setpgid(job, job)
            os.tcsetpgrp(terminal, job)

    leader = world.spawn(lead, state="S")
    # Their numbers in the new namespace are in the order of the forks, those outside may have wrapped.
    background, foreground = sorted(oracle.children(proc, leader), key=world.number)
    number = os.fstat(terminal).st_rdev
    with TaskDiag() as machine:
        for pid in (leader, background, foreground):
            outside, inside = check(proc, machine.fileno(), pid), check(world.procfs.fd, task_diag, world.number(pid))
            for says, group in ((outside, foreground), (inside, world.number(foreground))):
                job = says[Group.JOB]
                assert isinstance(job, Job)
                assert (job.tty_nr, job.tpgid, job.exit_signal) == (number, group, signal.SIGCHLD)
        inside_number = world.number(background)
        world.kill(leader)
        for fd, files, pid in ((machine.fileno(), proc, background), (task_diag, world.procfs.fd, inside_number)):
            job = check(files, fd, pid)[Group.JOB]
            assert isinstance(job, Job)
            assert (job.tty_nr, job.tpgid) == (0, -1)


@pytest.mark.promise("G4", "G8")
def test_a_foreground_group_of_another_pid_namespace_is_0(
    machine: Population, world: PidNamespace, task_diag: int, proc: int, terminal: int
) -> None:
    def lead() -> None:
        have_terminal(terminal)
        syscalls.setns(world.fd, syscalls.CLONE_NEWPID)
        fork(pause)

    leader = machine.spawn(lead, state="S")
    (child,) = oracle.children(proc, leader)
    job = check(world.procfs.fd, task_diag, world.number(child))[Group.JOB]
    assert isinstance(job, Job)
    assert (job.tty_nr, job.tpgid) == (os.fstat(terminal).st_rdev, 0)


@pytest.mark.promise("G8")
def test_the_exit_signal(world: PidNamespace, task_diag: int) -> None:
    signals = (signal.SIGCHLD, signal.SIGUSR1, 0)
    proc = world.procfs.fd

    def live() -> None:
        start_threads(1)
        for number in signals:
            if syscalls.clone(exit_signal=number) == 0:
                syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
                pause()

    number = world.number(world.spawn(live))
    found = [check(proc, task_diag, child)[Group.JOB] for child in oracle.children(proc, number)]
    assert [job.exit_signal for job in found if isinstance(job, Job)] == [*signals]
    threads = ask(task_diag, Strategy.THREAD, number).values()
    assert [task.job and task.job.exit_signal for task in threads] == [signal.SIGCHLD, -1]


@pytest.mark.promise("G8")
def test_flags(machine: Population, proc: int, whole_machine: int) -> None:
    """PF_FORKNOEXEC is cleared by exec; kernel threads have PF_KTHREAD."""
    forked, executed = machine.stopped(), machine.spawn(then=lambda: os.execv("/bin/sleep", ["sleep", "100000"]))
    wait_for(lambda: oracle.status(proc, str(executed))["Name"] == b"sleep", "exec")
    for pid, flags in ((forked, 0x40), (executed, 0), (2, 0x40 | oracle.PF_KTHREAD)):
        job = check(proc, whole_machine, pid)[Group.JOB]
        assert isinstance(job, Job)
        assert job.flags & (0x40 | oracle.PF_KTHREAD) == flags
