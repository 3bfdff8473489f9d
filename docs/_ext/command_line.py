"""The reference of the commands: a page for each, with every option, from the parsers themselves."""

import argparse
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from generated import title, write_pages
from modeconn.cli.main import _parser

_HEADINGS = {"positional arguments": "arguments", None: "options"}
FOLDER = Path(__file__).parents[1] / "reference" / "commands"


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to the build."""
    app.connect("builder-inited", lambda app: write_pages(FOLDER, pages()))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def commands() -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """The help and the parser of every command, by its name."""
    parser = _parser([])
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in subparsers._choices_actions}
    return {name: (helps[name], command) for name, command in subparsers.choices.items()}


def pages() -> dict[str, str]:
    """The text of a page for each command, and of one that lists them."""
    found = commands()
    helps = {name: _plain(text) for name, (text, _) in found.items()}
    rows = "\n".join(f"   * - :doc:`modeconn {name} <{name}>`\n     - {text}" for name, text in helps.items())
    listed = "\n".join(f"   modeconn {name} <{name}>" for name in found)
    index = (
        f"{title('Commands', '=')}\n``modeconn COMMAND --help`` prints the same. Exit status 0: done; 1: an error, "
        "said in a sentence; 2: options that are wrong; 130: interrupted; 143: terminated.\n\n"
        f".. list-table::\n   :widths: 30 70\n\n{rows}\n\n.. toctree::\n   :hidden:\n\n{listed}\n"
    )
    return {name: _page(name, command) for name, (_, command) in found.items()} | {"index": index}


def _page(name: str, parser: argparse.ArgumentParser) -> str:
    text = [title(f"modeconn {name}", "="), _plain(parser.description or ""), ""]
    if parser.epilog:
        text += [_plain(parser.epilog), ""]
    text.append(f".. program:: modeconn {name}\n")
    for group in parser._action_groups:
        shown = [action for action in group._group_actions if action.help is not argparse.SUPPRESS]
        shown = [action for action in shown if not isinstance(action, argparse._HelpAction)]
        if shown:
            text.append(title(_HEADINGS.get(group.title, group.title).capitalize(), "-"))
            text += [_plain(group.description), ""] if group.description else []
            text += [_option(parser, action) for action in shown]
    return "\n".join(text) + "\n"


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """One option, as Sphinx's directive of that name."""
    if action.option_strings:
        value = "" if action.nargs == 0 else f" {parser._get_formatter()._format_args(action, _metavar(action))}"
        signature = ", ".join(f"{flag}{value}" for flag in action.option_strings)
        kind = "option"
    else:
        signature, kind = parser._get_formatter()._format_args(action, _metavar(action)), "describe"
    text = action.help or ""
    if text and "%(" in text:
        text %= vars(action) | {"prog": parser.prog}
    else:
        text = text.replace("%%", "%")
    return f".. {kind}:: {signature}\n\n   {_marked(text)}\n"


def _metavar(action: argparse.Action) -> str:
    if action.choices is not None and action.metavar is None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper() if action.metavar is None else str(action.metavar)


def _marked(text: str) -> str:
    """Text of a parser with options as code, and what reStructuredText would read as markup escaped."""
    text = re.sub(r"([\\*`|_])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![\w-])--[a-z][\w-]*(?:\.[a-z][\w-]*)?", r"``\g<0>``", text)


def _plain(text: str) -> str:
    """The same as a sentence."""
    text = _marked(text)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', ':', '?')) else '.'}" if text else ""
