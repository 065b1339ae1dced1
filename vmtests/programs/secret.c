// SPDX-License-Identifier: GPL-2.0-only
/* End at once: without a C library, so that it lives for as short a time as a program can. */
void _start(void)
{
	__asm__ volatile("syscall" : : "a"(60), "D"(0) : "rcx", "r11", "memory");
	__builtin_unreachable();
}
