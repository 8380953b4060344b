"""The command ``nbrl``, also ``python -m nbrl``."""

import contextlib
import os
import signal
import sys


def main() -> int:
    """Run the command of this process; Ctrl-C while the program loads ends it as later on, without a traceback.

    After a signal the process ends at once: all is saved, and Python's own clearing up takes longer than that where
    other programs keep the cores busy.
    """
    terminal = sys.stderr.isatty()
    if terminal:
        sys.stderr.write("loading")
        sys.stderr.flush()
    try:
        from nbrl import cli
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        if terminal:
            sys.stderr.write("\r\x1b[K")
    code = cli.main()
    if code > 128:
        with contextlib.suppress(OSError):  # nobody reads any more
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
