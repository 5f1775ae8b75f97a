"""The command line: ``wgoal`` and ``python -m wgoal``."""

import signal
import sys


def main():
    """Runs the command line with the arguments of this process, and ends the process with its exit code."""
    # Python's handler would wait until the command ends.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from wgoal import _wgoal

    sys.exit(_wgoal.main(["wgoal", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
