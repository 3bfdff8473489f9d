"""`python -m modeconn`."""

import sys

from modeconn.cli import main

if __name__ == "__main__":
    sys.exit(main())
