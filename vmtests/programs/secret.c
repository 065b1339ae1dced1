// SPDX-License-Identifier: GPL-2.0-only
/* Take the name "secret" and end: without a C library, so that it lives for as short a time as a program can. */
static long call(long number, long first, const char *second)
{
	long result = number;

	__asm__ volatile("syscall" : "+a"(result) : "D"(first), "S"(second) : "rcx", "r11", "memory");
	return result;
}

void _start(void)
{
	call(157 /* prctl */, 15 /* PR_SET_NAME */, "secret");
	call(60 /* exit */, 0, 0);
	__builtin_unreachable();
}
