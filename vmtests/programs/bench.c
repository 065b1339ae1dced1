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
 * the same, those that tell pids only have "-". The last line is "end".
 *
 * Ways to look at one process look at one with THREADS threads, and CROWD is
 * how many of these were seen.
 *
 * What can be kept from one look to the next is kept, in all ways: buffers and
 * open files of /proc itself.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/netlink.h>
#include <linux/task_diag.h>

#define PID_LIMIT	(4 << 20)
#define WAYS_MAX	64
#define THREADS		10

/* What is told besides, as far as it stands still: of whom, what has been used, how large */
enum {
	UID, EUID, GID, EGID, CAP_EFF,
	TTY, MINFLT, MAJFLT, UTIME, STIME, PRIORITY, NICE, NR_THREADS, START, PROCESSOR,
	VSIZE, RSS, SHARED, SWAP,
	ARGS,			/* a digest of them */
	VALUES
};

/* What is told of one task */
struct record {
	int pid;
	int ppid;
	int pgrp;
	int session;
	char state;
	char comm[16];
	uint64_t value[VALUES];
};

struct way {
	const char *name;
	void (*look)(const struct way *way);
	int tells;			/* more than pids */
	uint64_t show;
	uint32_t strategy;
};

static struct record *records;
static long seen, room;
static char buffer[256 << 10] __attribute__((aligned(8)));
static int proc;
static long page, tick;
/* The process with threads, and their ids */
static pid_t threaded, threads[THREADS];
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
	memset(records[seen].value, 0, sizeof(records[seen].value));
	return &records[seen++];
}

static uint64_t hashed(uint64_t hash, const void *data, size_t size)
{
	const unsigned char *byte = data;

	while (size--)
		hash = (hash ^ *byte++) * 0x100000001b3;
	return hash;
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

static void take_cred(uint64_t *value, const struct task_diag_cred *cred)
{
	value[UID] = cred->uid;
	value[EUID] = cred->euid;
	value[GID] = cred->gid;
	value[EGID] = cred->egid;
	value[CAP_EFF] = cred->cap_effective[0] | (uint64_t)cred->cap_effective[1] << 32;
}

/* Payloads with 64-bit fields are aligned to 4 bytes, and copied. */
static void take_stat(uint64_t *value, const void *payload)
{
	struct task_diag_stat stat;

	memcpy(&stat, payload, sizeof(stat));
	value[MINFLT] = stat.minflt;
	value[MAJFLT] = stat.majflt;
	value[UTIME] = stat.utime;
	value[STIME] = stat.stime;
	value[NR_THREADS] = stat.threads;
}

static void take_mem(uint64_t *value, const void *payload)
{
	struct task_diag_mem mem;

	memcpy(&mem, payload, sizeof(mem));
	value[VSIZE] = mem.vsize;
	value[RSS] = mem.rss;
	value[SHARED] = mem.shared;
	value[SWAP] = mem.swap;
}

static void take_sched(uint64_t *value, const void *payload)
{
	struct task_diag_sched sched;

	memcpy(&sched, payload, sizeof(sched));
	value[PRIORITY] = sched.priority;
	value[NICE] = sched.nice;
	value[PROCESSOR] = sched.processor;
}

static void take_ident(uint64_t *value, const void *payload)
{
	struct task_diag_ident ident;

	memcpy(&ident, payload, sizeof(ident));
	value[START] = ident.start_boottime / tick;
}

/* The next piece of a command line */
static void take_args(uint64_t *value, const void *piece, size_t size)
{
	value[ARGS] = hashed(value[ARGS], piece, size);
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
		const void *payload = at + NLA_HDRLEN;

		switch (attribute->nla_type) {
		case TASK_DIAG_BASE:
			take_base(record, payload);
			break;
		case TASK_DIAG_CRED:
			take_cred(record->value, payload);
			break;
		case TASK_DIAG_STAT:
			take_stat(record->value, payload);
			break;
		case TASK_DIAG_CMDLINE:
			take_args(record->value, payload, attribute->nla_len - NLA_HDRLEN);
			break;
		case TASK_DIAG_IDENT:
			take_ident(record->value, payload);
			break;
		case TASK_DIAG_MEM:
			take_mem(record->value, payload);
			break;
		case TASK_DIAG_SCHED:
			take_sched(record->value, payload);
			break;
		case TASK_DIAG_JOB:
			record->value[TTY] = ((const struct task_diag_job *)payload)->tty_nr;
			break;
		}
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
			.pid = way->strategy == TASK_DIAG_DUMP_THREAD ? threaded : 0,
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

static int64_t number(const char **text)
{
	int negative = **text == '-';
	uint64_t value = 0;

	for (*text += negative; **text >= '0' && **text <= '9'; ++*text)
		value = value * 10 + (**text - '0');
	return negative ? -(int64_t)value : (int64_t)value;
}

/* Visit the entries of @folder, which is open, that are numbers. */
static inline void for_each_number(int folder, char *text, size_t size,
				   void (*visit)(const char *name))
{
	ssize_t count;

	while ((count = getdents64(folder, text, size)) > 0) {
		const char *at = text;

		while (at < text + count) {
			const struct dirent64 *entry = (const void *)at;

			if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
				visit(entry->d_name);
			at += entry->d_reclen;
		}
	}
	if (count < 0 && errno != ENOENT)
		give_up("/proc");
}

static inline void for_each_process(void (*visit)(const char *name))
{
	if (lseek(proc, 0, SEEK_SET))
		give_up("/proc cannot be read again");
	for_each_number(proc, buffer, sizeof(buffer), visit);
}

/* @file of the process @name, as text; -1 if the process is gone. */
static ssize_t read_file(const char *name, const char *file, char *text, size_t size)
{
	char path[320], *end = stpcpy(path, name);
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

/* The fields of stat behind the state, from the fourth on, up to @last; 0 for who is gone. */
static struct record *take_stat_file(const char *name, int64_t *field, int last)
{
	char text[2048];
	const char *at = text, *comm, *end;
	ssize_t count = read_file(name, "stat", text, sizeof(text));
	struct record *record;
	size_t length;

	if (count <= 0)
		return NULL;
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
	for (int i = 4; i <= last; i++, at++)
		field[i] = number(&at);
	record->ppid = field[4];
	record->pgrp = field[5];
	record->session = field[6];
	return record;
}

static void visit_stat(const char *name)
{
	int64_t field[7];

	take_stat_file(name, field, 6);
}

static void by_stat(const struct way *way)
{
	(void)way;
	for_each_process(visit_stat);
}

/* The @count numbers in a line of status; 0 if it is not there, as in those of kernel threads. */
static void take_line(const char *text, const char *line, uint64_t *value, int count, int base)
{
	const char *at = strstr(text, line);
	char *end;

	for (int i = 0; i < count; i++)
		value[i] = 0;
	if (!at)
		return;
	at += strlen(line);
	for (int i = 0; i < count; i++, at = end)
		value[i] = strtoull(at, &end, base);
}

static void take_ids(const char *text, uint64_t *value)
{
	uint64_t ids[4];

	take_line(text, "\nUid:", ids, 4, 10);
	value[UID] = ids[0];
	value[EUID] = ids[1];
	take_line(text, "\nGid:", ids, 4, 10);
	value[GID] = ids[0];
	value[EGID] = ids[1];
	take_line(text, "\nCapEff:", &value[CAP_EFF], 1, 16);
}

/* What BASE and CRED have */
static void visit_status(const char *name)
{
	char text[4096];
	ssize_t count = read_file(name, "status", text, sizeof(text));
	struct record *record;
	const char *at, *end;
	uint64_t id;
	size_t length;

	if (count <= 0)
		return;
	record = another(number(&name));
	at = text + sizeof("Name:\t") - 1;
	end = strchr(at, '\n');
	length = end - at;
	if (length > sizeof(record->comm) - 1)
		length = sizeof(record->comm) - 1;
	memcpy(record->comm, at, length);
	memset(record->comm + length, 0, sizeof(record->comm) - length);
	at = strstr(end, "\nState:\t");
	record->state = at[sizeof("\nState:\t") - 1];
	take_line(at, "\nPPid:", &id, 1, 10);
	record->ppid = id;
	/* A number that status has once for each namespace: the first is this one's. */
	take_line(at, "\nNSpgid:", &id, 1, 10);
	record->pgrp = id;
	take_line(at, "\nNSsid:", &id, 1, 10);
	record->session = id;
	take_ids(at, record->value);
}

static void by_status(const struct way *way)
{
	(void)way;
	for_each_process(visit_status);
}

static void take_statm(const char *name, uint64_t *value)
{
	char text[256];
	const char *at = text;

	if (read_file(name, "statm", text, sizeof(text)) <= 0)
		return;
	value[VSIZE] = number(&at) * page;
	at++;
	value[RSS] = number(&at) * page;
	at++;
	value[SHARED] = number(&at) * page;
}

static void visit_statm(const char *name)
{
	const char *at = name;
	struct record *record = another(number(&at));

	take_statm(name, record->value);
}

static void by_statm(const struct way *way)
{
	(void)way;
	for_each_process(visit_statm);
}

static void take_cmdline(const char *name, uint64_t *value)
{
	static char text[128 << 10];
	ssize_t count = read_file(name, "cmdline", text, sizeof(text));

	if (count > 0)
		take_args(value, text, count);
}

static void visit_cmdline(const char *name)
{
	const char *at = name;
	struct record *record = another(number(&at));

	take_cmdline(name, record->value);
}

static void by_cmdline(const struct way *way)
{
	(void)way;
	for_each_process(visit_cmdline);
}

/* What ps and top read of each process; returns where it is kept. */
static uint64_t *take_files(const char *name)
{
	int64_t field[40];
	struct record *record = take_stat_file(name, field, 39);
	char text[4096];
	uint64_t *value;

	if (!record)
		return NULL;
	value = record->value;
	value[TTY] = field[7];
	value[MINFLT] = field[10];
	value[MAJFLT] = field[12];
	value[UTIME] = field[14];
	value[STIME] = field[15];
	value[PRIORITY] = field[18];
	value[NICE] = field[19];
	value[NR_THREADS] = field[20];
	value[START] = field[22];
	value[PROCESSOR] = field[39];
	take_statm(name, value);
	if (read_file(name, "status", text, sizeof(text)) > 0) {
		take_ids(text, value);
		take_line(text, "\nVmSwap:", &value[SWAP], 1, 10);
		value[SWAP] *= 1024;
	}
	return value;
}

static void visit_files(const char *name)
{
	take_files(name);
}

static void by_files(const struct way *way)
{
	(void)way;
	for_each_process(visit_files);
}

static void visit_files_and_cmdline(const char *name)
{
	uint64_t *value = take_files(name);

	if (value)
		take_cmdline(name, value);
}

static void by_files_and_cmdline(const struct way *way)
{
	(void)way;
	for_each_process(visit_files_and_cmdline);
}

/* A folder of threads: one is visited at a time. */
static const char *owner;

static void visit_thread(const char *name)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/task/%s", owner, name);
	visit_stat(path);
}

static void visit_threads(const char *name)
{
	char path[32], text[4096] __attribute__((aligned(8)));
	int folder;

	snprintf(path, sizeof(path), "%s/task", name);
	folder = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0) {
		if (errno != ENOENT)
			give_up(path);
		return;
	}
	owner = name;
	for_each_number(folder, text, sizeof(text), visit_thread);
	close(folder);
}

static void by_task(const struct way *way)
{
	(void)way;
	for_each_process(visit_threads);
}

static void by_task_of_one(const struct way *way)
{
	char name[16];

	(void)way;
	snprintf(name, sizeof(name), "%d", threaded);
	visit_threads(name);
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

#define SHOW_CRED	(TASK_DIAG_SHOW_BASE | TASK_DIAG_SHOW_CRED)
#define SHOW_PS		(SHOW_CRED | TASK_DIAG_SHOW_STAT | TASK_DIAG_SHOW_IDENT | \
			 TASK_DIAG_SHOW_MEM | TASK_DIAG_SHOW_SCHED | TASK_DIAG_SHOW_JOB)

/* workspace/bench.py has a line for each of these, too. */
static const struct way ways[] = {
	{ "base", by_task_diag, 1, TASK_DIAG_SHOW_BASE, TASK_DIAG_DUMP_ALL },
	{ "bare", by_task_diag, 0, 0, TASK_DIAG_DUMP_ALL },
	{ "stat", by_stat, 1, 0, 0 },
	{ "readdir", by_readdir, 0, 0, 0 },
	{ "pidfd", by_pidfd, 0, 0, 0 },
	{ "cred", by_task_diag, 1, SHOW_CRED, TASK_DIAG_DUMP_ALL },
	{ "status", by_status, 1, 0, 0 },
	{ "mem", by_task_diag, 0, TASK_DIAG_SHOW_MEM, TASK_DIAG_DUMP_ALL },
	{ "statm", by_statm, 0, 0, 0 },
	{ "ps", by_task_diag, 1, SHOW_PS, TASK_DIAG_DUMP_ALL },
	{ "files", by_files, 1, 0, 0 },
	{ "args", by_task_diag, 0, TASK_DIAG_SHOW_CMDLINE, TASK_DIAG_DUMP_ALL },
	{ "cmdline", by_cmdline, 0, 0, 0 },
	{ "ps_args", by_task_diag, 1, SHOW_PS | TASK_DIAG_SHOW_CMDLINE, TASK_DIAG_DUMP_ALL },
	{ "files_cmdline", by_files_and_cmdline, 1, 0, 0 },
	{ "threads", by_task_diag, 1, TASK_DIAG_SHOW_BASE, TASK_DIAG_DUMP_ALL_THREAD },
	{ "task", by_task, 1, 0, 0 },
	{ "ten", by_task_diag, 1, TASK_DIAG_SHOW_BASE, TASK_DIAG_DUMP_THREAD },
	{ "ten_task", by_task_of_one, 1, 0, 0 },
};

static int is_of_one(const struct way *way)
{
	return way->strategy == TASK_DIAG_DUMP_THREAD || way->look == by_task_of_one;
}

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

/* The process with threads */

static void *sleep_for_ever(void *unused)
{
	while (pause())
		;
	return unused;
}

static int compare(const void *one, const void *other)
{
	return *(const pid_t *)one - *(const pid_t *)other;
}

static void start_threads(void)
{
	char path[32];

	threaded = fork();
	if (threaded < 0)
		give_up("fork");
	if (!threaded) {
		pthread_t thread;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int i = 1; i < THREADS; i++)
			if (pthread_create(&thread, NULL, sleep_for_ever, NULL))
				_exit(1);
		sleep_for_ever(NULL);
	}
	snprintf(path, sizeof(path), "%d", threaded);
	for (int tries = 0; tries < 1000; tries++) {
		int asleep = 0;

		seen = 0;
		visit_threads(path);
		for (long i = 0; i < seen; i++) {
			threads[i % THREADS] = records[i].pid;
			asleep += records[i].state == 'S';
		}
		if (asleep == THREADS) {
			qsort(threads, THREADS, sizeof(*threads), compare);
			return;
		}
		usleep(10000);
	}
	fprintf(stderr, "bench: a process cannot have %d threads.\n", THREADS);
	exit(1);
}

static void end_threads(void)
{
	kill(threaded, SIGKILL);
	waitpid(threaded, NULL, 0);
}

static void report(int round, const struct way *way, int64_t nanoseconds)
{
	static unsigned int look = 1, looked[THREADS];
	uint64_t digest = 0;
	long found = 0;

	look++;
	for (long i = 0; i < seen; i++) {
		const struct record *record = &records[i];
		uint64_t hash = 0xcbf29ce484222325;

		/* One that is told twice counts once. */
		if (is_of_one(way)) {
			const pid_t *thread = bsearch(&record->pid, threads, THREADS,
						      sizeof(*threads), compare);

			if (!thread || looked[thread - threads] == look)
				continue;
			looked[thread - threads] = look;
		} else {
			if (record->pid >= PID_LIMIT || !members[record->pid] || members[record->pid] == look)
				continue;
			members[record->pid] = look;
		}
		found++;
		hash = hashed(hash, &record->pid, sizeof(record->pid));
		hash = hashed(hash, &record->ppid, sizeof(record->ppid));
		hash = hashed(hash, &record->pgrp, sizeof(record->pgrp));
		hash = hashed(hash, &record->session, sizeof(record->session));
		hash = hashed(hash, &record->state, sizeof(record->state));
		hash = hashed(hash, record->value, sizeof(record->value));
		digest += hashed(hash, record->comm, sizeof(record->comm));
	}
	printf("time %d %s %lld %ld %ld ", round, way->name, (long long)nanoseconds, seen, found);
	if (way->tells)
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

	page = sysconf(_SC_PAGESIZE);
	tick = 1000000000 / sysconf(_SC_CLK_TCK);
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
	start_threads();
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
	end_threads();
	end_crowd(crowd);
	return 0;
}
