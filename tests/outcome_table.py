"""Plugin of pytest (``-p tests.outcome_table``): a table of every test with outcome, seconds and reason of a skip."""

from collections import defaultdict

import pytest


def reason(reports: list[pytest.TestReport]) -> str:
    """The reason of the skip, or the last line of the failure."""
    for report in reports:
        if report.skipped and isinstance(report.longrepr, tuple):
            return report.longrepr[2].removeprefix("Skipped: ")
        if report.failed:
            return next((line for line in reversed(report.longreprtext.splitlines()) if line.strip()), "")
    return ""


def rows(reports: list[pytest.TestReport]) -> list[tuple[str, str, float, str]]:
    """(test, outcome, seconds of set-up, call and tear-down together, reason) in the order of the run."""
    phases: dict[str, list[pytest.TestReport]] = defaultdict(list)
    for report in reports:
        phases[report.nodeid].append(report)
    table = []
    for test, of_test in phases.items():
        outcomes = {report.outcome for report in of_test}
        outcome = next(outcome for outcome in ("failed", "skipped", "passed") if outcome in outcomes)
        table.append((test, outcome, sum(report.duration for report in of_test), reason(of_test)))
    return table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table above pytest's closing line."""
    reports = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport)
    ]
    terminalreporter.section("outcomes")
    for test, outcome, seconds, why in sorted(rows(reports)):
        terminalreporter.write_line(f"{outcome:7} {seconds:7.1f} s  {test}" + (f"  ({why})" if why else ""))
