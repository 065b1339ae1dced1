// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hold the exec_update_lock of one's own process for writing, without privilege and until killed: the lock is taken
 * by a thread that has Landlock restrict all threads, and waits for one of them; that one is in vfork(), and waits for
 * a child that only pauses. With any argument it first waits for a byte on standard input.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/landlock.h, which an older distribution does not have whole */
#define LOG_SUBDOMAINS_OFF	(1U << 2)
#define TSYNC			(1U << 3)

static int paused[2];

static void *wait_for_child(void *unused)
{
	if (vfork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (write(paused[1], "", 1) == 1)
			for (;;)
				pause();
		_exit(1);
	}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	char byte;

	(void)argv;
	if (argc > 1 && read(0, &byte, 1) != 1)
		return 1;
	if (pipe(paused) || pthread_create(&thread, NULL, wait_for_child, NULL) || read(paused[0], &byte, 1) != 1)
		return 1;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return 1;
	syscall(SYS_landlock_restrict_self, -1, LOG_SUBDOMAINS_OFF | TSYNC);
	perror("landlock_restrict_self");
	return 1;
}
