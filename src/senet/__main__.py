"""`python -m senet`."""

import sys

from senet.cli import command

sys.exit(command())
