"""What every command line shares: an error a person can act on, and an exit status that means something."""

from __future__ import annotations

import sys
from collections.abc import Callable

from lookalike.errors import LookalikeError, OperatorError


def run(main: Callable[[], int | None]) -> int:
    """The exit status: what `main` returns; 2: the operator can mend it; 1: the service failed; 130: Ctrl-C."""
    try:
        return main() or 0
    except LookalikeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, OperatorError) else 1
    except KeyboardInterrupt:
        return 130
