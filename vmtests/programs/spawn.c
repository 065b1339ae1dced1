// SPDX-License-Identifier: GPL-2.0-only
/* Run a program again and again, one after the other. */
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 2)
		return 1;
	for (;;) {
		pid_t pid = fork();

		if (pid < 0)
			return 1;
		if (!pid) {
			execv(argv[1], argv + 1);
			_exit(1);
		}
		waitpid(pid, NULL, 0);
	}
}
