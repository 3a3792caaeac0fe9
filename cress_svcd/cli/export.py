"""Write a packed model as a .cress file, which is mapped into memory and used there.

  cress-svcd export model.packed.pt -o model.cress
  cress translate model.cress talk.wav
  cress-svcd translate model.cress talk.flac

The file is for the native engine (native/), which needs neither Python nor torch.  The commands of
this package and fairseq-generate --path read it as well, with the words of the packed model: it
holds everything that the packed file holds.  The format is safetensors; docs/native.md describes
it.

It needs the package safetensors: pip install 'cress_svcd[export]'.
"""

import argparse
from pathlib import Path

from cress_svcd.cli.quick_imports import import_models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("packed", type=Path, metavar="PACKED", help="a file of 'cress-svcd pack'")
    parser.add_argument("-o", "--output", required=True, type=Path, help="file to write")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with config.yaml and dictionary, for a packed model that has none of its own",
    )


def run(args: argparse.Namespace) -> None:
    import_models()
    from cress_svcd.inference.cress_file import write_cress
    from cress_svcd.inference.engine_plan import make_plan, token_tensors
    from cress_svcd.inference.low_bits import widen_state
    from cress_svcd.inference.packed_checkpoint import read_packed, with_digest
    from cress_svcd.translation.segmentation import CHECKPOINT_KEY
    from cress_svcd.translation.translator import load_model

    state = with_digest(widen_state(read_packed(args.packed)))
    model, task = load_model(args.packed, args.data)
    dictionary = task.target_dictionary
    segmenter = (state.get(CHECKPOINT_KEY) or {}).get("numbers")
    normalize = task.data_cfg.normalize
    plan = make_plan(model.eval(), dictionary, normalize, segmenter, task.languages)
    write_cress(args.output, state, plan, token_tensors(dictionary))
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")
