"""`python -m modeconn`."""

import sys

from modeconn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
