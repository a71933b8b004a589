"""`python -m server`: the gateway."""

import os
import sys

from lookalike.cli.dispatch import run
from server.app import main

sys.exit(run(lambda: main(sys.argv[1:], os.environ)))
