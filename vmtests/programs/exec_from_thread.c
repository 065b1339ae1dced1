// SPDX-License-Identifier: GPL-2.0-only
/* Execute itself again and again, each time from a thread that is not the leader. */
#include <pthread.h>
#include <unistd.h>

static char **arguments;

static void *execute(void *unused)
{
	(void)unused;
	execv("/proc/self/exe", arguments);
	_exit(1);
}

int main(int argc, char **argv)
{
	pthread_t thread;

	(void)argc;
	arguments = argv;
	if (pthread_create(&thread, NULL, execute, NULL))
		return 1;
	pthread_join(thread, NULL);
	return 1;
}
