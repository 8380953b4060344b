"""The command ``nbrl``, also ``python -m nbrl``."""

import signal
import sys


def main() -> int:
    """Run the command of this process; Ctrl-C while the program loads ends it as later on, without a traceback."""
    try:
        from nbrl import cli
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
