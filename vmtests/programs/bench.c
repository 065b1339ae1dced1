// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure ways to look at all processes, in turn and with the same processes.
 *
 *	bench CROWD COUNT ROUNDS WAY...
 *
 * CROWD is the program of crowd.c, which makes COUNT processes and is one
 * itself. In each round each WAY is taken once; the order is rotated from round
 * to round. Round 0 warms the caches. A line for each look:
 *
 *	time ROUND WAY NANOSECONDS TASKS CROWD DIGEST
 *
 * TASKS is how many were seen, CROWD how many of them belong to the crowd, and
 * DIGEST stands for what was told of these: ways that tell the same fields have
 * the same, those that tell less than BASE have "-". The last line is "end".
 *
 * What can be kept from one look to the next is kept, in all ways: buffers and
 * open files of /proc itself.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/netlink.h>
#include <linux/task_diag.h>

#define PID_LIMIT	(4 << 20)
#define WAYS_MAX	64

/* What is told of one task */
struct record {
	int pid;
	int ppid;
	int pgrp;
	int session;
	char state;
	char comm[16];
};

struct way {
	const char *name;
	void (*look)(const struct way *way);
	int tells_base;
	uint64_t show;
	uint32_t strategy;
};

static struct record *records;
static long seen, room;
static char buffer[256 << 10] __attribute__((aligned(8)));
static int proc;
/* By pid: 0 if it is not the crowd's, else the look at which it was last seen. */
static unsigned int *members;

static void give_up(const char *what)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static struct record *another(int pid)
{
	if (seen == room) {
		errno = EOVERFLOW;
		give_up("more tasks than there is room for");
	}
	records[seen].pid = pid;
	return &records[seen++];
}

/* /proc/task-diag */

static const char letters[] = {
	[TASK_DIAG_RUNNING]		= 'R',
	[TASK_DIAG_INTERRUPTIBLE]	= 'S',
	[TASK_DIAG_UNINTERRUPTIBLE]	= 'D',
	[TASK_DIAG_STOPPED]		= 'T',
	[TASK_DIAG_TRACE_STOP]		= 't',
	[TASK_DIAG_DEAD]		= 'X',
	[TASK_DIAG_ZOMBIE]		= 'Z',
	[TASK_DIAG_PARKED]		= 'P',
	[TASK_DIAG_IDLE]		= 'I',
};

static void take_base(struct record *record, const struct task_diag_base *base)
{
	record->ppid = base->ppid;
	record->pgrp = base->pgid;
	record->session = base->sid;
	record->state = base->state < sizeof(letters) ? letters[base->state] : '?';
	memcpy(record->comm, base->comm, sizeof(record->comm));
}

static void take_message(const struct nlmsghdr *header)
{
	const struct task_diag_msg *message = (const void *)(header + 1);
	const char *at = (const char *)(message + 1);
	const char *end = (const char *)header + header->nlmsg_len;
	struct record *record;

	/* What does not fit into one read comes in two messages. */
	if (seen && records[seen - 1].pid == (int)message->pid)
		record = &records[seen - 1];
	else
		record = another(message->pid);

	while (at < end) {
		const struct nlattr *attribute = (const void *)at;

		if (attribute->nla_type == TASK_DIAG_BASE)
			take_base(record, (const void *)(at + NLA_HDRLEN));
		at += NLA_ALIGN(attribute->nla_len);
	}
}

static void by_task_diag(const struct way *way)
{
	static int fd = -1;
	struct {
		struct nlmsghdr header;
		struct task_diag_pid request;
	} question = {
		.header = {
			.nlmsg_len = sizeof(question),
			.nlmsg_type = TASK_DIAG_CMD_GET,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
		},
		.request = {
			.show_flags = way->show,
			.dump_strategy = way->strategy,
		},
	};
	ssize_t count;

	if (fd < 0)
		fd = openat(proc, "task-diag", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		give_up("/proc/task-diag");
	if (write(fd, &question, sizeof(question)) != sizeof(question))
		give_up("/proc/task-diag does not take the request");
	while ((count = read(fd, buffer, sizeof(buffer))) > 0) {
		const char *at = buffer;

		while (at < buffer + count) {
			const struct nlmsghdr *header = (const void *)at;

			take_message(header);
			at += NLMSG_ALIGN(header->nlmsg_len);
		}
	}
	if (count < 0)
		give_up("/proc/task-diag does not answer");
}

/* /proc/PID */

static int number(const char **text)
{
	int negative = **text == '-', value = 0;

	for (*text += negative; **text >= '0' && **text <= '9'; ++*text)
		value = value * 10 + (**text - '0');
	return negative ? -value : value;
}

static inline void for_each_process(void (*visit)(const char *name))
{
	ssize_t count;

	if (lseek(proc, 0, SEEK_SET))
		give_up("/proc cannot be read again");
	while ((count = getdents64(proc, buffer, sizeof(buffer))) > 0) {
		const char *at = buffer;

		while (at < buffer + count) {
			const struct dirent64 *entry = (const void *)at;

			if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
				visit(entry->d_name);
			at += entry->d_reclen;
		}
	}
	if (count < 0)
		give_up("/proc");
}

/* @file of the process @name, as text; -1 if the process is gone. */
static ssize_t read_file(const char *name, const char *file, char *text, size_t size)
{
	char path[64], *end = stpcpy(path, name);
	ssize_t count;
	int fd;

	*end++ = '/';
	strcpy(end, file);
	fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		if (errno != ENOENT)
			give_up(path);
		return -1;
	}
	count = read(fd, text, size - 1);
	if (count < 0 && errno != ESRCH)
		give_up(path);
	close(fd);
	if (count >= 0)
		text[count] = '\0';
	return count;
}

static void visit_stat(const char *name)
{
	char text[2048];
	const char *at = text, *comm, *end;
	ssize_t count = read_file(name, "stat", text, sizeof(text));
	struct record *record;
	size_t length;

	if (count <= 0)
		return;
	record = another(number(&at));
	comm = at + 2;
	/* The name may be anything, what follows it has no bracket. */
	end = memrchr(text, ')', count);
	length = end - comm;
	if (length > sizeof(record->comm) - 1)
		length = sizeof(record->comm) - 1;
	memcpy(record->comm, comm, length);
	memset(record->comm + length, 0, sizeof(record->comm) - length);
	record->state = end[2];
	at = end + 4;
	record->ppid = number(&at);
	at++;
	record->pgrp = number(&at);
	at++;
	record->session = number(&at);
}

static void by_stat(const struct way *way)
{
	(void)way;
	for_each_process(visit_stat);
}

static void visit_number(const char *name)
{
	another(number(&name));
}

static void by_readdir(const struct way *way)
{
	(void)way;
	for_each_process(visit_number);
}

/* struct pidfd_info as it was first, which <linux/pidfd.h> may not have yet. */
struct info {
	uint64_t mask;
	uint64_t cgroupid;
	uint32_t pid, tgid, ppid;
	uint32_t ids[8];
	int32_t exit_code;
};

_Static_assert(sizeof(struct info) == 64, "the first struct pidfd_info has another size");
#define GET_INFO	_IOWR(0xff, 11, struct info)
#define INFO_PID	(1 << 0)

static void visit_pidfd(const char *name)
{
	struct info info = { .mask = INFO_PID };
	int fd = syscall(SYS_pidfd_open, number(&name), 0);

	if (fd < 0) {
		if (errno != ESRCH)
			give_up("pidfd_open");
		return;
	}
	if (!ioctl(fd, GET_INFO, &info))
		another(info.pid)->ppid = info.ppid;
	else if (errno != ESRCH)
		give_up("PIDFD_GET_INFO");
	close(fd);
}

static void by_pidfd(const struct way *way)
{
	(void)way;
	for_each_process(visit_pidfd);
}

/* workspace/bench.py has a line for each of these, too. */
static const struct way ways[] = {
	{ "base", by_task_diag, 1, TASK_DIAG_SHOW_BASE, TASK_DIAG_DUMP_ALL },
	{ "bare", by_task_diag, 0, 0, TASK_DIAG_DUMP_ALL },
	{ "stat", by_stat, 1, 0, 0 },
	{ "readdir", by_readdir, 0, 0, 0 },
	{ "pidfd", by_pidfd, 0, 0, 0 },
};

static const struct way *find_way(const char *name)
{
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++)
		if (!strcmp(ways[i].name, name))
			return &ways[i];
	errno = ENOENT;
	give_up(name);
	return NULL;
}

/* The crowd */

struct crowd {
	pid_t pid;
	int alive;		/* it lives until this is closed */
};

static struct crowd start_crowd(const char *program, const char *count)
{
	struct crowd crowd;
	int in[2], out[2];
	char byte;

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		give_up("pipe");
	crowd.pid = fork();
	if (crowd.pid < 0)
		give_up("fork");
	if (!crowd.pid) {
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		execl(program, program, count, NULL);
		give_up(program);
	}
	crowd.alive = in[1];
	close(in[0]);
	close(out[1]);
	/* It has said itself why it cannot. */
	if (read(out[0], &byte, 1) != 1)
		exit(1);
	close(out[0]);
	return crowd;
}

static void end_crowd(struct crowd crowd)
{
	int status;

	close(crowd.alive);
	waitpid(crowd.pid, &status, 0);
}

/* Take note of who belongs to the crowd; return how many of them are not asleep yet. */
static long find_members(const char *name, long *found)
{
	long awake = 0;

	*found = 0;
	seen = 0;
	for_each_process(visit_stat);
	for (long i = 0; i < seen; i++) {
		if (strcmp(records[i].comm, name) || records[i].pid >= PID_LIMIT)
			continue;
		members[records[i].pid] = 1;
		++*found;
		awake += records[i].state != 'S';
	}
	return awake;
}

static void wait_for_members(struct crowd crowd, long wanted)
{
	char name[24];
	long found, awake;

	members = calloc(PID_LIMIT, sizeof(*members));
	if (!members)
		give_up("members");
	snprintf(name, sizeof(name), "crowd-%d", crowd.pid);
	for (int tries = 0; (awake = find_members(name, &found)) && tries < 1000; tries++)
		usleep(10000);
	if (found != wanted || awake) {
		fprintf(stderr, "bench: /proc shows %ld of the %ld processes of the crowd, %ld of them awake.\n",
			found, wanted, awake);
		exit(1);
	}
}

static uint64_t hashed(uint64_t hash, const void *data, size_t size)
{
	const unsigned char *byte = data;

	while (size--)
		hash = (hash ^ *byte++) * 0x100000001b3;
	return hash;
}

static void report(int round, const struct way *way, int64_t nanoseconds)
{
	static unsigned int look = 1;
	uint64_t digest = 0;
	long found = 0;

	look++;
	for (long i = 0; i < seen; i++) {
		const struct record *record = &records[i];
		uint64_t hash = 0xcbf29ce484222325;

		/* One that is told twice counts once. */
		if (record->pid >= PID_LIMIT || !members[record->pid] || members[record->pid] == look)
			continue;
		members[record->pid] = look;
		found++;
		hash = hashed(hash, &record->pid, sizeof(record->pid));
		hash = hashed(hash, &record->ppid, sizeof(record->ppid));
		hash = hashed(hash, &record->pgrp, sizeof(record->pgrp));
		hash = hashed(hash, &record->session, sizeof(record->session));
		hash = hashed(hash, &record->state, sizeof(record->state));
		digest += hashed(hash, record->comm, sizeof(record->comm));
	}
	printf("time %d %s %lld %ld %ld ", round, way->name, (long long)nanoseconds, seen, found);
	if (way->tells_base)
		printf("%016llx\n", (unsigned long long)digest);
	else
		puts("-");
}

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* A move to another CPU would be measured with the way that it happens in. */
static void stay_here(void)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(sched_getcpu(), &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
}

int main(int argc, char **argv)
{
	const struct way *chosen[WAYS_MAX];
	int wanted = argc - 4, rounds;
	struct crowd crowd;
	long count;

	if (wanted < 1 || wanted > WAYS_MAX) {
		fprintf(stderr, "usage: bench CROWD COUNT ROUNDS WAY...\n");
		return 2;
	}
	count = atol(argv[2]);
	rounds = atoi(argv[3]);
	for (int i = 0; i < wanted; i++)
		chosen[i] = find_way(argv[4 + i]);

	proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (proc < 0)
		give_up("/proc");
	crowd = start_crowd(argv[1], argv[2]);
	/* Others may come; that the memory is there already is part of no way. */
	room = 2 * count + 65536;
	records = malloc(room * sizeof(*records));
	if (!records)
		give_up("records");
	memset(records, 0, room * sizeof(*records));
	memset(buffer, 0, sizeof(buffer));
	wait_for_members(crowd, count + 1);
	printf("crowd %ld\n", count + 1);
	fflush(stdout);
	stay_here();

	for (int round = 0; round <= rounds; round++) {
		for (int i = 0; i < wanted; i++) {
			const struct way *way = chosen[(round + i) % wanted];
			int64_t start;

			seen = 0;
			start = now();
			way->look(way);
			report(round, way, now() - start);
		}
		fflush(stdout);
	}
	puts("end");
	fflush(stdout);
	end_crowd(crowd);
	return 0;
}
