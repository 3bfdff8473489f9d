"""The examples of docs/batchnorm.md are run."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "batchnorm.md"


def test_the_examples_of_the_page_on_batchnorm_give_what_they_say() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.attempted > 20
    assert found.failed == 0
