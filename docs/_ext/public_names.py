"""The reference of the public names: a page for each name of `modeconn.__all__`, from its docstring.

Signatures show types as the source writes them, so that an alias such as `Source` is not spelled out. Classes that a
function returns, and those that stand in their fields, are described on the page of the first function with them.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import modeconn
from generated import title, write_pages
from modeconn import errors

FOLDER = Path(__file__).parents[1] / "reference" / "names"
# The room of a name to the heading that it stands under; the longest that fits.
GROUPS = {
    "modeconn.analysis.connectivity": "Between networks that exist",
    "modeconn.analysis.compare": "Averages and ensembles",
    "modeconn.analysis.averaging": "Averages and ensembles",
    "modeconn.analysis.connectivity.soup": "Averages and ensembles",
    "modeconn.analysis.connectivity.ensemble": "Averages and ensembles",
    "modeconn.analysis.alignment": "Permutations and other symmetries",
    "modeconn.analysis.connectivity.align": "Permutations and other symmetries",
    "modeconn.analysis.connectivity.align_many": "Permutations and other symmetries",
    "modeconn.analysis.landscape": "Curves, planes and curvature",
    "modeconn.analysis.instability": "Instability analysis",
    "modeconn.tickets": "Lottery tickets and masks",
    "modeconn.pruning": "Lottery tickets and masks",
    "modeconn": "Tasks, training, data, plots and saved results",
}
_DESCRIBED = ("modeconn.analysis.", "modeconn.tickets.", "modeconn.pruning.")  # where results and their parts are


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to the build."""
    app.connect("builder-inited", lambda app: write_pages(FOLDER, pages()))
    app.connect("autodoc-process-signature", _as_written)
    app.connect("autodoc-process-docstring", _as_text, priority=400)  # before napoleon
    # Fields of named tuples are described by their class.
    app.connect("autodoc-skip-member", lambda app, what, name, thing, *rest: _is_tuple_field(thing) or None)
    app.connect("missing-reference", _error)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def public_names() -> list[str]:
    """The public names, without those of the module itself, in the order of the alphabet."""
    return sorted((name for name in modeconn.__all__ if not name.startswith("__")), key=str.lower)


def group_of(name: str) -> str:
    """The heading that a public name stands under."""
    home = modeconn._HOMES[name]
    return GROUPS[max((room for room in GROUPS if f"{home}.".startswith(f"{room}.")), key=len)]


def pages() -> dict[str, str]:
    """The text of a page for each public name, and of one that lists them."""
    described = {id(getattr(modeconn, name)) for name in public_names()}
    texts = {}
    for name in sorted(public_names(), key=lambda name: name.startswith("load_")):  # what loads results comes last
        text = [title(name, "="), f".. currentmodule:: modeconn\n\n{_directive(getattr(modeconn, name), 'modeconn')}"]
        kinds = [kind for kind in _results(getattr(modeconn, name)) if id(kind) not in described]
        described |= {id(kind) for kind in kinds}
        text += [title("Results", "-")] if kinds else []
        text += [_directive(kind, kind.__module__) for kind in kinds]
        texts[name] = "\n".join(text)
    return texts | {"index": _list()}


def _list() -> str:
    text = [title("Public names", "="), "Every name that can be imported from ``modeconn``; all else may move.\n"]
    for group in dict.fromkeys(GROUPS.values()):
        names = [name for name in public_names() if group_of(name) == group]
        if names:
            rows = [f"   * - :doc:`{name}`\n     - {_first_line(getattr(modeconn, name))}" for name in names]
            text += [title(group, "-"), ".. list-table::\n   :widths: 25 75\n", *rows, ""]
    listed = "\n".join(f"   {name}" for name in public_names())
    return "\n".join([*text, f".. toctree::\n   :hidden:\n\n{listed}\n"])


def _directive(thing: Any, module: str) -> str:
    path = f"{module}.{thing.__qualname__}"
    if not inspect.isclass(thing):
        return f".. autofunction:: {path}\n"
    if issubclass(thing, Exception):  # the base of all
        return (
            f".. automodule:: {thing.__module__}\n   :members:\n   :show-inheritance:\n   :exclude-members: unknown\n"
        )
    # Of results also what they share (to_json, to_frame); not what Python's own classes have.
    builtin = next(
        (base.__name__ for base in thing.__mro__[1:] if not base.__module__.startswith("modeconn")), "object"
    )
    return f".. autoclass:: {path}\n   :members:\n   :inherited-members: {builtin}\n"


def _results(thing: Any) -> list[type]:
    """Classes of ours that a function returns, or that stand in fields of those, or of a public class."""
    found: list[type] = []
    waiting = [thing] if inspect.isclass(thing) else list(_classes(inspect.signature(thing).return_annotation, thing))
    while waiting:
        kind = waiting.pop(0)
        if kind in found or not kind.__module__.startswith(_DESCRIBED) or kind.__qualname__.startswith("_"):
            continue
        found.append(kind)
        for annotation in _annotations(kind):
            waiting += _classes(annotation, kind)
    return found


def _annotations(kind: type) -> Iterator[Any]:
    """The types of a class's public fields, and of what its properties and methods give."""
    for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        if not field.name.startswith("_"):
            yield field.type
    for name, member in vars(kind).items():
        function = getattr(member, "fget", None) or getattr(member, "func", None) or member  # of properties
        if inspect.isfunction(function) and not name.startswith("_"):
            yield function.__annotations__.get("return")
        elif name == "__init__":
            yield from function.__annotations__.values()


def _classes(annotation: Any, where: Any) -> Iterator[type]:
    """The classes in an annotation, which may be a name in the module of what has it."""
    if isinstance(annotation, str):
        annotation = vars(inspect.getmodule(where)).get(annotation)
    if inspect.isclass(annotation) and not typing.get_args(annotation):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _classes(part, where)


def _first_line(thing: Any) -> str:
    return _marked(inspect.getdoc(thing).split("\n\n")[0].replace("\n", " "))


# --- docstrings and signatures


def _as_written(app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: Any, returns: Any) -> Any:
    """A function's signature with the annotations that stand in its source."""
    if what not in ("function", "method") or signature is None:
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(thing))))
    except (OSError, TypeError, SyntaxError):
        return None
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef):
        return None
    arguments = function.args
    if what == "method" and arguments.args and arguments.args[0].arg in ("self", "cls"):
        del arguments.args[0]
    return f"({ast.unparse(arguments)})", ast.unparse(function.returns) if function.returns else None


def _is_tuple_field(thing: Any) -> bool:
    return type(thing).__name__ == "_tuplegetter"


def _as_text(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code` and examples: whatever else reStructuredText knows is none of theirs."""
    parts = re.split(r"((?:^ *>>>.*\n(?:^ *\S.*\n)*)+)", "\n".join(lines) + "\n", flags=re.M)
    lines[:] = "".join(part if number % 2 else _marked(part) for number, part in enumerate(parts)).split("\n")


def _marked(text: str) -> str:
    """Text whose `code` is marked as such in reStructuredText.

    Code that a line's end divides is put on one line, at the place where it begins.
    """
    parts = re.split(r"`+([^`]+)`+", text)
    for number, part in enumerate(parts):
        if number % 2:
            name = re.fullmatch(r"modeconn\.(\w+)", part)
            if name and name[1] in modeconn.__all__:
                parts[number] = f":py:obj:`{part}`"
                continue
            joined = r"\ " if re.match(r"\w", parts[number + 1]) else ""
            parts[number] = f"``{re.sub(chr(10) + ' *', ' ', part)}``{joined}"
        else:
            parts[number] = re.sub(r"\\|\||(?<=\w)_(?!\w)", r"\\\g<0>", part)
    return "".join(parts)


def _error(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> Any:
    """Errors that a docstring says are raised lead to their description."""
    name = node["reftarget"]
    if node.get("refdomain") != "py" or not hasattr(errors, name):
        return None
    domain = env.domains["py"]
    return domain.resolve_xref(env, node["refdoc"], app.builder, "exc", f"modeconn.errors.{name}", node, content)
