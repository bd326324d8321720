"""`python -m lt_sweeps`."""

import sys

try:
    from lt_sweeps.cli.command_line import main
except KeyboardInterrupt:  # imports take a second, in which a person may think again
    sys.exit(130)

if __name__ == "__main__":
    raise SystemExit(main())
