"""The examples of docs/planes.md are run."""

import doctest
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "planes.md"


@pytest.mark.slow
def test_the_examples_of_the_page_on_planes_give_what_they_say() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.attempted > 20
    assert found.failed == 0
