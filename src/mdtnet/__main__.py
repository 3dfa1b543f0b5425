"""`python -m mdtnet` is the command line."""

import sys

from mdtnet.cli.main import main

sys.exit(main())
