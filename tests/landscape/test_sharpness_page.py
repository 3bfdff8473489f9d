"""The examples of docs/curvature.md are run."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "curvature.md"


def test_the_examples_of_the_page_on_curvature_give_what_they_say() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.attempted > 20
    assert found.failed == 0
