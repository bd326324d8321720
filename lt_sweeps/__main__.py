"""`python -m lt_sweeps`, and the command `lt-sweeps`."""

import os
import signal
import sys
from io import TextIOWrapper

from lt_sweeps.config.garbage_collection import collect_rarely


def run() -> int:
    """Run the command line of this process; returns the exit status."""
    collect_rarely()
    # A user's module may ask torch for a GPU when it is imported. Torch then asks the driver, after
    # which no fork of this process can use CUDA, unless this lets it ask without the driver.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for stream in (sys.stdout, sys.stderr):  # a terminal without the characters of tables
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    # `python -m` looks for modules in the current folder, and an installed command does not.
    try:
        here = os.getcwd()
    except FileNotFoundError:
        print("error: the current folder has been removed; cd to another", file=sys.stderr)
        return 1
    if not getattr(sys.flags, "safe_path", False) and here not in sys.path:
        sys.path.insert(0, here)
    try:
        from lt_sweeps.cli.command_line import main

        status = main()
    except KeyboardInterrupt:  # imports take a second, in which a person may think again
        status = 130
    for number in (signal.SIGINT, signal.SIGTERM):  # what is left is to end, without a traceback
        signal.signal(number, signal.SIG_DFL)
    return status


if __name__ == "__main__":
    sys.exit(run())
