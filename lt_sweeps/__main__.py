"""`python -m lt_sweeps`."""

from lt_sweeps.cli.command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
