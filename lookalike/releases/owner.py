"""Who runs this process, for records and leases. Reads the name of the machine."""

from __future__ import annotations

import getpass
import os
import socket


def owner_name() -> str:
    """ "user@host"; of a user without a name, as a container's, its number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
