// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ask for BASE of all, and copy the answer to the standard output, 1000 bytes
 * at a time. Built for 32 bits, against the kernel's headers and without a C
 * library, so that it needs none that few machines have.
 */
#include <linux/fcntl.h>
#include <linux/task_diag.h>

_Static_assert(sizeof(void *) == 4, "this is for 32-bit programs");
_Static_assert(sizeof(struct task_diag_pid) == 24, "the request has another size");
_Static_assert(sizeof(struct task_diag_msg) == 12, "the message has another size");
_Static_assert(sizeof(struct task_diag_base) == 44, "BASE has another size");

enum { EXIT = 1, READ = 3, WRITE = 4, OPEN = 5 };

static int call(int number, unsigned long first, unsigned long second, unsigned long third)
{
	int result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(first), "c"(second), "d"(third)
			 : "memory");
	return result;
}

static int dump(void)
{
	static char answer[1000];
	struct {
		struct nlmsghdr header;
		struct task_diag_pid request;
	} question = {
		.header = {
			.nlmsg_len = sizeof(question),
			.nlmsg_type = TASK_DIAG_CMD_GET,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
			.nlmsg_seq = 32,
		},
		.request = {
			.show_flags = TASK_DIAG_SHOW_BASE,
			.dump_strategy = TASK_DIAG_DUMP_ALL,
		},
	};
	int fd = call(OPEN, (unsigned long)"task-diag", O_RDWR, 0);
	int count;

	if (fd < 0)
		return -fd;
	count = call(WRITE, fd, (unsigned long)&question, sizeof(question));
	if (count < 0)
		return -count;
	while ((count = call(READ, fd, (unsigned long)answer, sizeof(answer))) > 0)
		if (call(WRITE, 1, (unsigned long)answer, count) != count)
			return 1;
	return -count;
}

void _start(void)
{
	call(EXIT, dump(), 0, 0);
	__builtin_unreachable();
}
