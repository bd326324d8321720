"""`python -m lt_sweeps`."""

from lt_sweeps.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
