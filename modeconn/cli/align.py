"""The command that aligns one network to another. Imports torch only to work."""

import argparse
from pathlib import Path

import modeconn
from modeconn.cli.options import add_data_dir
from modeconn.cli.sources import add_data, add_sources, data_of, model_of
from modeconn.errors import OptionError


def add_align(parser: argparse.ArgumentParser) -> None:
    """Add the options of aligning one network to another."""
    add_sources(parser)
    add_data(parser, "what units are matched on", "train")
    parser.add_argument(
        "--method",
        metavar="METHOD",
        help="weights, activations or straight-through (default: activations with --data, weights without)",
    )
    parser.add_argument("--groups", action="store_true", help="only print which units can change places, of one or two")
    parser.add_argument("--tries", type=int, default=5, metavar="N", help="random orders of the groups (default: 5)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of these orders (default: 0)")
    parser.add_argument("--double", action="store_true", help="compute in float64")
    parser.add_argument("--batch-size", type=int, default=250, metavar="N", help="examples (default: 250)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add_data_dir(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("aligned.safetensors"),
        help="file of the second network, aligned (default: aligned.safetensors)",
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="of the alignment itself (.safetensors)")
    parser.add_argument(
        "--apply",
        type=Path,
        metavar="FILE",
        help="align one network by what --save wrote: another checkpoint, a task vector; in the memory of two tensors",
    )


def align(options: argparse.Namespace) -> None:
    """Permute the units of the second network so that it is most like the first, and write it."""
    from modeconn.analysis.alignment.alignment import table
    from modeconn.weights.writing import stream_weights

    if options.apply is not None:
        _apply(options)
        return
    if len(options.networks) != 2 and not (options.groups and len(options.networks) == 1):
        raise OptionError("give two networks, of which the second is aligned to the first; with --groups, one will do")
    options.calibration = None
    data, _, shape, classes = (None,) * 4 if options.data is None else data_of(options)
    found = modeconn.align_many(
        options.networks if len(options.networks) == 2 else options.networks * 2,
        data,
        method="weights" if options.groups else options.method,
        model=model_of(options, shape, classes),
        tries=1 if options.groups else options.tries,
        **{name: getattr(options, name) for name in ("seed", "double", "device", "batch_size", "data_dir")},
        checkpoint_key=options.checkpoint_key,
    )
    alignment = found.alignments[1].noting(*found.notes)
    if options.groups:
        print("\n".join(table(alignment.symmetry)))
        return
    print(alignment)
    stream_weights(alignment.permuted(found.weights[1]), options.out)
    print(f"Weights: {options.out}")
    if options.save is not None:
        alignment.save(options.save)
        print(f"Alignment: {options.save}")


def _apply(options: argparse.Namespace) -> None:
    """Write a network with its units in the order that a saved alignment says."""
    if len(options.networks) != 1 or options.groups or options.save is not None:
        raise OptionError("--apply takes one network, and writes it to --out")
    source = options.networks[0]
    alignment = modeconn.load_alignment(options.apply)
    alignment.apply_to_file(source, options.out)
    print(f"{source} in the order of {alignment.names[0]}, as {options.apply} says")
    print(f"Weights: {options.out}")
