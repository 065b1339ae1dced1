// SPDX-License-Identifier: GPL-2.0-only
/* Be as many processes as the argument says, all asleep; say so with one byte, and end when standard input does. */
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	long count = argc == 2 ? atol(argv[1]) : 0;
	char byte;

	while (count-- > 0) {
		pid_t pid = fork();

		if (pid < 0)
			return 1;
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
	}
	if (write(STDOUT_FILENO, "+", 1) != 1)
		return 1;
	return read(STDIN_FILENO, &byte, 1) < 0;
}
