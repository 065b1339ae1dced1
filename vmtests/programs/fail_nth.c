// SPDX-License-Identifier: GPL-2.0-only
/*
 * Open, ask and read with the 1st, 2nd, ... of the kernel's allocations and
 * copies in that call failing, until one goes through without having failed.
 * For each call a line: what it was, which failure, whether the kernel came
 * to inject it, the call's errno, and the messages read after it to the end.
 * At last read with every page refused that the kernel asks for in that call,
 * so that what may be had in another way is not had either, and without.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/task_diag.h>

static char answer[65536];
static int fail_nth;

static void give_up(const char *what)
{
	perror(what);
	exit(1);
}

static void arm(int nth)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%d", nth);

	/* What is left of an earlier failure may strike this call. */
	for (int attempt = 0; pwrite(fail_nth, text, length, 0) != length; attempt++)
		if (attempt == 3)
			give_up("fail-nth");
}

/* Whether the failure came in the call before: nothing is left to fail. */
static int disarm(void)
{
	char text[16] = "";
	/* If just one more was to come, it strikes here. */
	int injected = pread(fail_nth, text, sizeof(text) - 1, 0) > 0 && atoi(text) == 0;

	arm(0);
	return injected;
}

static int messages(int fd, long count)
{
	int found = 0;

	do {
		for (long at = 0; at < count; found++)
			at += ((struct nlmsghdr *)(answer + at))->nlmsg_len;
		count = read(fd, answer, sizeof(answer));
	} while (count > 0);
	if (count < 0)
		give_up("read to the end");
	return found;
}

static int ask(int fd)
{
	struct {
		struct nlmsghdr header;
		struct task_diag_pid request;
	} question = {
		.header = { .nlmsg_len = sizeof(question), .nlmsg_type = TASK_DIAG_CMD_GET },
		.request = {
			.show_flags = TASK_DIAG_SHOW_BASE | TASK_DIAG_SHOW_CMDLINE,
			.dump_strategy = TASK_DIAG_DUMP_ALL,
		},
	};

	return write(fd, &question, sizeof(question));
}

static int try(const char *call, const char *path, int nth)
{
	int opening = !strcmp(call, "open"), asking = !strcmp(call, "write");
	int fd = opening ? -1 : open(path, O_RDWR);
	int injected, error, found;
	long result;

	if (!opening && fd < 0)
		give_up(path);
	if (!opening && !asking && ask(fd) < 0)
		give_up("write");
	arm(nth);
	if (opening)
		result = fd = open(path, O_RDWR);
	else if (asking)
		result = ask(fd);
	else
		result = read(fd, answer, sizeof(answer));
	error = result < 0 ? errno : 0;
	injected = disarm();

	found = fd < 0 ? 0 : messages(fd, opening || asking || result < 0 ? 0 : result);
	printf("%s %d %d %d %d\n", call, nth, injected, error, found);
	if (fd >= 0)
		close(fd);
	return injected;
}

static void try_starved(const char *path, int starved)
{
	int make_it_fail = open("/proc/thread-self/make-it-fail", O_RDWR);
	int fd = open(path, O_RDWR);
	long result;
	int error;

	if (fd < 0 || ask(fd) < 0)
		give_up(path);
	if (make_it_fail < 0 || pwrite(make_it_fail, starved ? "1" : "0", 1, 0) != 1)
		give_up("make-it-fail");
	result = read(fd, answer, sizeof(answer));
	error = result < 0 ? errno : 0;
	if (pwrite(make_it_fail, "0", 1, 0) != 1)
		give_up("make-it-fail");
	close(make_it_fail);

	printf("starved %d %d %d %d\n", 2 - starved, starved, error, messages(fd, result < 0 ? 0 : result));
	close(fd);
}

int main(int argc, char **argv)
{
	static const char * const calls[] = { "open", "write", "read" };

	if (argc != 2)
		return 1;
	/* No page of the program's own is to be the one that fails. */
	memset(answer, 0, sizeof(answer));
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		give_up("mlockall");
	fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	if (fail_nth < 0)
		give_up("fail-nth");
	for (int i = 0; i < 3; i++)
		for (int nth = 1; try(calls[i], argv[1], nth); nth++)
			;
	try_starved(argv[1], 1);
	try_starved(argv[1], 0);
	return 0;
}
