"""Become a command that dies with its supervisor: `python -IS leash.py SUPERVISOR_PID COMMAND …`. Linux only.

A supervisor killed with SIGKILL cannot stop what it started, so the kernel must. This runs between fork and exec as a
program of its own, because a `preexec_fn` may deadlock in a supervisor that has threads, as gRPC's do. It becomes the
command: same pid, nothing stays behind. Imports nothing of ours: it starts in about 20 ms.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>; kept across execve.


def main(supervisor: int, command: list[str]) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
            sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != supervisor:  # It died before the kernel was told.
        sys.exit("the supervisor is gone")
    try:
        os.execvp(command[0], command)  # noqa: S606  # the very point: no shell, the given command
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
