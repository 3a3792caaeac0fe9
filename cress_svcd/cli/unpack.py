"""Turn a packed model back into a checkpoint of fairseq.

  cress-svcd unpack model.packed.pt -o checkpoint.pt

Sign weights, scales and everything else are exactly those of the packed model, and so are its
translations; all is in fp32.  The latent weights are not those that were trained, which packing has
left out: they are the smallest choice with the same sign weights.
"""

import argparse
import json
from pathlib import Path

from cress_svcd.cli.quick_imports import import_models
from cress_svcd.errors import CheckpointError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("packed", type=Path, metavar="PACKED", help="a file of 'cress-svcd pack'")
    parser.add_argument("-o", "--output", required=True, type=Path, help="checkpoint to write")


def run(args: argparse.Namespace) -> None:
    import_models()
    from cress_svcd.atomic_files import write_checkpoint
    from cress_svcd.inference.packed_checkpoint import read_packed
    from cress_svcd.inference.packed_structure import read_description
    from cress_svcd.inference.packed_tensors import unpack_tensors
    from cress_svcd.models.checkpoint_files import PACKED_HEADER

    state = read_packed(args.packed)
    options = state["cfg"]["model"]
    try:
        description = read_description(options.pop("packed"))
        state["model"], layers = unpack_tensors(state["model"], description)
    except CheckpointError as error:
        raise CheckpointError(f"{args.packed}: {error}") from None
    if layers:
        options["quantization_map"] = json.dumps(layers)
    write_checkpoint(
        args.output,
        {key: value for key, value in state.items() if key != PACKED_HEADER},
    )
    print(f"{args.output}: {len(layers)} layers unpacked")
