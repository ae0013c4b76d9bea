"""`python -m recc`: the same as the command `recc`."""

import sys

from recc.cli import main

if __name__ == "__main__":
    sys.exit(main())
