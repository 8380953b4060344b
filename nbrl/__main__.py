"""``python -m nbrl``: the same as the command ``nbrl``."""

import sys

from nbrl.cli import main

if __name__ == "__main__":
    sys.exit(main())
