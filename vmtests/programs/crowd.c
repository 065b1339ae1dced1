// SPDX-License-Identifier: GPL-2.0-only
/*
 * Be a crowd: as many sleeping processes as the argument says, and this one.
 *
 * Say so with one byte on the standard output; all of them end when the
 * standard input does. They are as mixed as those of a busy machine: a tree,
 * several sessions, process groups and users, and some in pid and user
 * namespaces of their own. What is not permitted is left out, and said once on
 * the standard error. All share one memory, so that they are quickly made.
 *
 * Each is called "crowd-PID", by the pid of this process, so that a crowd can
 * be told from another.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK_SIZE	16384UL		/* a page or two of it are used */
#define FAMILY		10		/* processes below one child of this process */
#define CHILDREN	3		/* of a process in a family, at most */

enum kind { PLAIN, SESSION, PIDNS, USERNS, KINDS };

struct member {
	long size;			/* this one and all below it */
	long family;
	int settled;			/* a futex: it and all below it are made */
};

static struct member *members;
static char *stacks;
static int failed;			/* an errno */

/* No two of them run at once while the crowd is made: they share errno, too. */
static void leave_out(const char *what)
{
	static const char *said[4];

	for (int i = 0; i < 4; i++) {
		if (said[i] == what)
			return;
		if (!said[i]) {
			said[i] = what;
			fprintf(stderr, "crowd: %s: %s; the crowd goes on without.\n", what, strerror(errno));
			return;
		}
	}
}

static int live(void *argument);

/* Make the process @index with @size - 1 below it, and wait until all are there. */
static void add(long index, long size, long family, int namespaces)
{
	struct member *member = &members[index];
	char *stack = stacks + (index + 1) * STACK_SIZE;
	int flags = CLONE_VM | SIGCHLD;

	*member = (struct member) { .size = size, .family = family };
	if (clone(live, stack, flags | namespaces, member) < 0) {
		if (!namespaces || errno == EAGAIN || errno == ENOMEM) {
			failed = errno;
			return;
		}
		leave_out(namespaces & CLONE_NEWUSER ? "user namespaces" : "pid namespaces");
		if (clone(live, stack, flags, member) < 0) {
			failed = errno;
			return;
		}
	}
	while (!__atomic_load_n(&member->settled, __ATOMIC_ACQUIRE))
		syscall(SYS_futex, &member->settled, FUTEX_WAIT, 0, NULL, NULL, 0);
}

/* A process of the crowd. Those below it are made while it may still do all. */
static int live(void *argument)
{
	struct member *member = argument;
	long index = member - members, left = member->size - 1, next = index + 1;
	int first = index % FAMILY == 0;
	enum kind kind = member->family % KINDS;
	uid_t uid = 1000 + member->family % 10;
	char byte;

	/* Whoever waits for the byte is to see the end of this file if it does not come. */
	close(STDOUT_FILENO);
	if (first && kind == SESSION)
		setsid();
	else if (index % 4 == 1)
		setpgid(0, 0);

	for (int child = 0; child < CHILDREN && left && !failed; child++) {
		long size = (left + CHILDREN - child - 1) / (CHILDREN - child);
		/* One namespace in another */
		int nested = first && !child && kind == PIDNS;

		add(next, size, member->family, nested ? CLONE_NEWPID : 0);
		next += size;
		left -= size;
	}

	/* In a user namespace without a map there is no other user to become. */
	if (index % 3 == 1 && kind != USERNS && syscall(SYS_setresuid, uid, uid, uid))
		leave_out("other users");

	__atomic_store_n(&member->settled, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &member->settled, FUTEX_WAKE, 1, NULL, NULL, 0);
	while (read(STDIN_FILENO, &byte, 1))
		;
	_exit(0);
}

int main(int argc, char **argv)
{
	static const int namespaces[KINDS] = {
		[PIDNS]		= CLONE_NEWPID,
		[USERNS]	= CLONE_NEWUSER | CLONE_NEWPID,
	};
	long count = argc == 2 ? atol(argv[1]) : 0;
	char name[24], byte;

	if (count < 1) {
		fprintf(stderr, "usage: crowd COUNT\n");
		return 2;
	}
	members = calloc(count, sizeof(*members));
	stacks = mmap(NULL, count * STACK_SIZE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (!members || stacks == MAP_FAILED) {
		perror("crowd");
		return 1;
	}
	snprintf(name, sizeof(name), "crowd-%d", getpid());
	prctl(PR_SET_NAME, name);
	/* Orphans come to this process, and nobody becomes a zombie. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGCHLD, SIG_IGN);

	for (long index = 0; index < count && !failed; index += FAMILY) {
		long family = index / FAMILY;

		add(index, count - index < FAMILY ? count - index : FAMILY, family, namespaces[family % KINDS]);
	}
	if (failed) {
		fprintf(stderr, "crowd: %ld processes cannot be made: %s\n", count, strerror(failed));
		return 1;
	}
	if (write(STDOUT_FILENO, "+", 1) != 1)
		return 1;
	while (read(STDIN_FILENO, &byte, 1))
		;
	/* SIGCHLD being ignored, this returns when the last one has ended. */
	while (wait(NULL) >= 0 || errno == EINTR)
		;
	return 0;
}
