"""Tables of file formats: the columns of CSV files and the keys of JSON files, from the code that writes them."""

from typing import Any

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to the build."""
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
