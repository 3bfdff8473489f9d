"""How the site is built: `python -m sphinx -W docs site`, offline; a warning is an error."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from modeconn import __version__  # noqa: E402

project = "modeconn"
author = "the modeconn developers"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "repository",  # in docs/_ext: pages that are files of the repository, and links to its files
    "public_names",  # the reference of what `modeconn.__all__` has
    "command_line",  # the reference of the commands, from their parsers
    "file_formats",  # tables of columns and keys, from the code
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_ext", "GALLERY_HEADER.rst"]
nitpicky = True
# Types stand in signatures as the source writes them; those of other libraries have no page here.
nitpick_ignore_regex = [
    ("py:(class|obj)", r"(?!modeconn\.).*"),
    ("py:(class|obj)", r"modeconn\.(data|execution|training|weights)\..*"),
    ("py:exc", r"(ExportError|SymmetryError)"),
]
smartquotes_action = "q"  # two hyphens are those of an option
default_role = "code"  # `name` in docstrings
pygments_style = "friendly"
pygments_dark_style = "monokai"

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"modeconn {release}"
html_static_path = ["_static"]
html_css_files = ["modeconn.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",  # every script runs
    "within_subsection_order": "repository.GalleryOrder",
    "reset_modules": ("matplotlib", "repository.fresh_store"),
    "reset_modules_order": "both",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "capture_repr": ("_repr_html_",),
    "min_reported_time": 1e9,
    "remove_config_comments": True,
    "copyfile_regex": r"",
    "write_computation_times": False,
}
