from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent

KNOWN_SKIPS = ("torchcodec is not installed",)  # it needs FFmpeg's libraries, and PyAV reads the same files
"""Reasons for which a test may be left out where everything is installed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-new-skips", action="store_true", help="fail where a test is skipped for an unknown reason")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or not config.getoption("--no-new-skips"):
        return
    for report in reporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if not re.match("|".join(KNOWN_SKIPS), reason):
            reporter.write_line(f"skipped, and should not be: {report.nodeid}: {reason}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small operations are faster so, and the machines that run tests are shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Recorded cases of the original implementations."""
    return HERE / "golden"


@pytest.fixture(scope="session")
def manifests() -> Path:
    """Names and shapes of the released checkpoints."""
    return HERE / "manifests"
