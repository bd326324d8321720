"""`python -m lt_sweeps`, and the command `lt-sweeps`."""

import os
import signal
import sys
from io import TextIOWrapper

from lt_sweeps.config.garbage_collection import collect_rarely


def run() -> int:
    """Run the command line of this process; return the exit status."""
    collect_rarely()
    # A user-defined module may ask torch for a GPU at import. Torch then initializes CUDA, after
    # which no fork of this process can use CUDA. With this variable torch asks NVML instead.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for stream in (sys.stdout, sys.stderr):  # terminals without table characters
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
    except KeyboardInterrupt:  # Ctrl-C during the imports, which take a second
        status = 130
    for number in (signal.SIGINT, signal.SIGTERM):  # from here on, exit without a traceback
        signal.signal(number, signal.SIG_DFL)
    return status


if __name__ == "__main__":
    sys.exit(run())
