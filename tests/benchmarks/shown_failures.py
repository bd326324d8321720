"""For pytest (`-p shown_failures`): a failure is printed when it happens, and not at the end alone.

A run that is stopped for its time writes no summary, and xdist's workers even keep it from ending.
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
