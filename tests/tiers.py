"""Which tests run by default, on how many workers, and that no test without a tier is slow.

`slow`, `processes` and `simulation` are the tiers that the inner loop leaves out; `pyproject.toml` describes them.
"""

import os
import sys
from collections.abc import Generator
from typing import Any

import pytest

TIERS = ("slow", "processes", "simulation")
LIMIT = 5.0  # seconds of CPU time, of a test without a tier
SLACK = "MODECONN_TEST_SLACK"  # a factor of the limit, for slow machines
IMPORTS = 100  # modules: as many as only a large library has


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run all of a named file or test, whatever its tiers, and take two workers if nothing is named.

    A worker imports PyTorch and collects all tests before it runs one, which only pays for the whole suite.
    """
    if hasattr(config, "workerinput"):
        return
    option, typed = config.option, config.invocation_params.args
    if any(".py" in name for name in config.args) and not any(word.startswith("-m") for word in typed):
        option.markexpr = ""
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not option.keyword
    if everything and not option.usepdb and getattr(option, "numprocesses", 0) is None:
        option.dist, option.tx = "worksteal", ["popen", "popen"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test without a tier that takes more than LIMIT.

    CPU time, with that of processes that it waited for, hardly depends on what else the machine does; time by the clock
    does. A test that waits is not caught: what is worth waiting for is another process. Nor is the first test that
    needs a large library, as the import is not its own.
    """
    modules, began = len(sys.modules), _cpu_seconds()
    result = yield
    took = _cpu_seconds() - began
    limit = LIMIT * float(os.environ.get(SLACK, "1"))
    if took > limit and len(sys.modules) - modules < IMPORTS and not any(map(item.get_closest_marker, TIERS)):
        tiers = "slow, processes or simulation"
        pytest.fail(f"took {took:.1f} s of CPU time, over {limit:g} s: make it quicker, or mark it {tiers}")
    return result


def _cpu_seconds() -> float:
    return sum(os.times()[:4])  # user and system, this process and its children
