"""A pytest plugin (`-p shown_failures`) that prints a failure at once, not only at the end.

A run that is stopped at a time limit writes no summary, and xdist's workers even keep it running.
"""

from __future__ import annotations

import os

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # xdist's workers load this too, and send their reports to the process that prints.
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(
            f"\n-- {report.nodeid} failed in its {report.when}\n{report.longreprtext}", flush=True
        )
