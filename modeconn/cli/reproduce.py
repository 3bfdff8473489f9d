"""The command that computes the papers' figures. Imports torch only to work."""

import argparse
import json
from pathlib import Path

from modeconn.cli.options import add_data_dir, add_store
from modeconn.errors import OptionError
from modeconn.progress import progress_bar
from modeconn.reproduce.figure import CITED, DISAGREES, PAPERS, PROTOCOLS
from modeconn.reproduce.scripts import figure_names, load_figure


def add_reproduce(parser: argparse.ArgumentParser) -> None:
    """Add the options of a paper's figure."""
    parser.add_argument("figure", nargs="?", metavar="FIGURE", help="which; --list names them")
    parser.add_argument("--list", action="store_true", help="list the figures, their networks and protocols")
    parser.add_argument("--ledger", action="store_true", help="write README.md beside the figures: what agrees")
    parser.add_argument("--network", help="one of the figure's (default: the first that has the protocol)")
    parser.add_argument(
        "--protocol",
        default="short",
        help="paper (its lengths and replicates), short (what two cores finish), or smoke (a try) (default: short)",
    )
    parser.add_argument("--precision", help="float32 or bfloat16 (default: the protocol's; emulated bfloat16 is slow)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add_store(parser)
    add_data_dir(parser)
    parser.add_argument(
        "--saved", type=Path, metavar="DIR", help="draw the finished study in this folder; compute nothing"
    )
    parser.add_argument("--out", type=Path, help="folder to write (default: figures/FIGURE; the ledger: figures)")


def reproduce(options: argparse.Namespace) -> None:
    """Compute a figure of a paper, list them all, or write the ledger of what agrees."""
    if options.list:
        print("\n".join(_listed()))
        return
    if options.ledger:
        from modeconn.reproduce.ledger import write_ledger

        print(write_ledger(options.out or Path("figures")))
        return
    if options.figure is None:
        raise OptionError("which figure? modeconn reproduce --list names them")
    figure = load_figure(options.figure)
    figure.studies(options.network or figure.default_network(options.protocol), options.protocol, options.precision)
    from modeconn.reproduce.run import reproduce as compute

    with progress_bar() as report:
        path = compute(
            figure,
            options.figure.replace("_", "-").removesuffix(".py"),
            network=options.network,
            protocol=options.protocol,
            precision=options.precision,
            workers=options.workers,
            device=options.device,
            store=options.store,
            data_dir=options.data_dir,
            out=options.out,
            saved=options.saved,
            command=options.command,
            report=report,
            say=print,
        )
    about = json.loads(path.read_text())
    print(f"{', '.join(filter(None, (CITED[figure.paper], figure.item)))}, {about['network']}: {about['verdict']}")
    print(f"  paper: {about['claim'] or '-'}")
    print(f"  here:  {about['found']}")
    if about["verdict"] == DISAGREES and (why := figure.networks[about["network"]].why.get(options.protocol)):
        print(f"  why that may be: {why}")
    print(f"Files: {path.with_suffix('')}.png, .pdf, .csv, .json")


def _listed() -> list[str]:
    """A line for each figure, under the name of its paper."""
    lines = []
    figures = {name: load_figure(name) for name in figure_names()}
    width = max(map(len, figures))
    for paper, title in PAPERS.items():
        lines += [title, ""]
        for name, figure in figures.items():
            if figure.paper == paper:
                lines.append(f"  {name:<{width}}  {figure.shows}")
                for network, of in figure.networks.items():
                    protocols = [protocol for protocol in PROTOCOLS if protocol in of.protocols]
                    lines.append(f"  {'':<{width}}    {network}: {', '.join(protocols) or 'not computed: ' + of.cost}")
        lines.append("")
    return lines
