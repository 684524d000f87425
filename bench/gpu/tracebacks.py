"""A plugin of pytest that prints a failure as soon as it is known. Where pytest is stopped, its own summary is lost."""


def pytest_runtest_logreport(report):
    if report.failed:
        print(f"\n== {report.nodeid}\n{report.longreprtext}", flush=True)
