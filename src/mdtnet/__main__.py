"""`python -m mdtnet` is the command line."""

import sys

from mdtnet.cli import main

sys.exit(main())
