// SPDX-License-Identifier: GPL-2.0-only
/* Start as many threads as the argument says; they and the first one sleep for ever. */
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static void *sleep_for_ever(void *unused)
{
	(void)unused;
	while (pause())
		;
	return NULL;
}

int main(int argc, char **argv)
{
	int count = argc == 2 ? atoi(argv[1]) : 0;
	pthread_attr_t attributes;
	pthread_t thread;

	if (pthread_attr_init(&attributes) || pthread_attr_setstacksize(&attributes, 4 * PTHREAD_STACK_MIN))
		return 1;
	while (count-- > 0)
		if (pthread_create(&thread, &attributes, sleep_for_ever, NULL))
			return 1;
	return !sleep_for_ever(NULL);
}
