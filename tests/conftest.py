"""What holds for all tests of the tools."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Heed ^C, in this process and in what the tests start.

    A shell without job control has it ignored in what it runs in the background, and that is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
