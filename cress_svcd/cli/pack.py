"""Pack a quantised checkpoint: a bit a weight, a small file that translates by itself.

  cress-svcd pack runs/svcd/checkpoint_best.pt -o model.packed.pt
  cress-svcd pack runs/svcd/averaged.pt -o model.packed.pt --int8-embeddings --int8-convolutions
  cress-svcd pack runs/svcd/averaged.pt -o small.packed.pt --int8-embeddings --int8-convolutions \
    --subsampler-bits 4
  cress-svcd translate model.packed.pt talk.flac
  fairseq-generate DATA --user-dir cress_svcd ... --path model.packed.pt

Every quantised layer becomes a bit for each sign of its weight (ternary: two bits, k bits: k) and
its scales; the rest goes into --dtype.  Latent weights, the optimizer, the teacher and, without
--keep-ctc-head, the CTC head are left out.  Vocabulary and config are taken from the data folder
into the file, so that 'cress-svcd translate' needs nothing else.  The words are those of the
checkpoint as long as --dtype fp32 is given; half precision and int8 round what is not packed, and
'cress-svcd unpack' gives the model that they leave.

It prints the sizes by part, the bits that a weight of the packed layers takes with the layers'
scales, and how many times smaller than in fp32 and fp16 the model is.  The format is documented
in cress_svcd/inference/packed_checkpoint.py.
"""

import argparse
from pathlib import Path

from cress_svcd.cli.quick_imports import import_models

DTYPES = ("fp32", "fp16", "bf16")
LOW_BITS = {
    "embedding": "embeddings and output projection",
    "hubert": "HuBERT's convolutions and the projection after them",
    "subsampler": "the subsampler's convolutions",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="of a quantised arch, trained"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="file to write")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="fp16",
        help="of what is not packed, and of the packed layers' scales (default: %(default)s)",
    )
    parser.add_argument(
        "--int8-embeddings",
        action="store_true",
        help="embeddings and output projection in int8, also while translating (faster)",
    )
    parser.add_argument(
        "--int8-convolutions",
        action="store_true",
        help="the convolutions of HuBERT and of the subsampler in int8, and the projection after "
        "HuBERT's",
    )
    for kind, what in LOW_BITS.items():
        parser.add_argument(
            f"--{kind}-bits",
            type=int,
            choices=(1, 2, 3, 4),
            metavar="{1,2,3,4}",
            help=f"{what} at so few bits a weight in the file, rounded with one scale a row, and "
            "in int8 while translating",
        )
    parser.add_argument(
        "--bf16-convolutions",
        action="store_true",
        help="compute the convolutions in bf16 on processors that have instructions for it: "
        "faster, and no longer exactly what was trained",
    )
    parser.add_argument(
        "--keep-ctc-head",
        action="store_true",
        help="keep the CTC head, which 'cress-svcd translate --transcript' needs; it is as large "
        "as an embedding",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with config.yaml, dictionary and sentencepiece model of the checkpoint "
        "(default: where it was trained, then near the checkpoint)",
    )
    parser.add_argument(
        "--allow-full",
        action="store_true",
        help="take a checkpoint without quantised layers too: only --dtype and --int8-* apply",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the sizes there as well")


def run(args: argparse.Namespace) -> None:
    import_models()
    from cress_svcd.atomic_files import write_json
    from cress_svcd.inference.pack_checkpoint import pack_checkpoint
    from cress_svcd.inference.packed_tensors import Precision
    from cress_svcd.quantization.low_bit_grid import LowBits

    precision = Precision(
        args.dtype,
        args.int8_embeddings,
        args.int8_convolutions,
        args.bf16_convolutions,
        args.keep_ctc_head,
        LowBits(args.embedding_bits, args.hubert_bits, args.subsampler_bits),
    )
    report = pack_checkpoint(
        args.checkpoint, args.output, precision, data=args.data, allow_full=args.allow_full
    )
    if args.json:
        write_json(args.json, report)
    print(table(report))
    print(f"{args.output}: {report['file_bytes'] / 1e6:.1f} MB")


def table(report: dict) -> str:
    """The report in lines."""
    lines = [
        f"{'part':<20} {'parameters':>12} {'fp32 MB':>9} {'packed MB':>10} {'smaller':>8} "
        f"{'bits':>6}"
    ]
    rows = {
        **report["parts"],
        "whole": {
            "parameters": report["fp32_bytes"] // 4,
            "bytes": report["bytes"],
            "fp32_bytes": report["fp32_bytes"],
        },
    }
    for name, part in rows.items():
        lines.append(
            f"{name:<20} {part['parameters']:>12,} {part['fp32_bytes'] / 1e6:>9.2f} "
            f"{part['bytes'] / 1e6:>10.2f} {part['fp32_bytes'] / part['bytes']:>7.1f}x "
            f"{8 * part['bytes'] / part['parameters']:>6.2f}"
        )
    smaller = report["times_smaller_than"]
    lines.append(f"{smaller['fp32']} times smaller than fp32, {smaller['fp16']} than fp16")
    if report["quantized_layers"]:
        lines.append(
            f"{report['quantized_layers']} packed layers: {report['bits_per_weight']:.3f} bits a "
            "weight, scales included"
        )
    return "\n".join(lines)
