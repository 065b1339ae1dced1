// SPDX-License-Identifier: GPL-2.0-only
/* Execute FOLDER/secret and FOLDER/alternate in turn, under the names "secret" and "public", as: NAME FOLDER */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char *path;
	int secret;

	if (argc != 2)
		return 2;
	secret = !strcmp(argv[0], "secret");
	/* Back to who it was, so that the next one is again seen by who may see this user. */
	if (secret && setresuid(getuid(), getuid(), getuid()))
		return 3;
	if (asprintf(&path, "%s/%s", argv[1], secret ? "alternate" : "secret") < 0)
		return 4;
	execl(path, secret ? "public" : "secret", argv[1], (char *)0);
	return 1;
}
