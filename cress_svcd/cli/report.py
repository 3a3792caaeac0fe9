"""What became of a model's layers, and which of them bear few bits.

  cress-svcd report runs/svcd/averaged.pt --data DATA --reference runs/st/averaged.pt
  cress-svcd report runs/st/averaged.pt --quant-policy decoder --json report.json --png report.png
  cress-svcd report runs/st/averaged.pt --data DATA --sensitivity --by module \\
    --budget-bits 3 -o policy.yaml

The first prints every quantised layer of a trained checkpoint: shape, method, bits, stored size,
and, with --data, how far its output is from full precision on real inputs.  Full precision is the
layer of --reference under the same name; without that, the layer's own latent weight.  The second
shows what a policy would make of a full-precision checkpoint, before any training.  --png draws
what the table says: bits and size of each layer, and how far its output is from full precision.

--sensitivity quantises each layer (module, block) of the policy alone, without training, and
measures what that costs in likelihood (bits a target token, teacher-forced) and with --bleu in
BLEU, on sentences of --split.  --budget-bits or --keep-loss then choose layers greedily by loss for
a saved bit, and -o writes them as a policy for --quant-policy; the policy is measured as well, for
losses need not add up.  With --trials what is measured is kept: stopped, the same command goes on.

--kernels prints which kernel would compute the layers of a model, packed or not, on this machine:

  cress-svcd report model.packed.pt --kernels
"""

import argparse
import sys
from pathlib import Path

from cress_svcd.cli.arguments import add_sensitivity_arguments, positive
from cress_svcd.cli.quick_imports import import_models
from cress_svcd.errors import ConfigError

SENTENCES = 16
SEARCH_SENTENCES = 200
DEFAULT_POLICY = "transformer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="of fairseq-train, or an average; --kernels takes a packed file as well",
    )
    parser.add_argument("--data", type=Path, help="folder of prepare-mustc, for measurements")
    parser.add_argument("--split", default="dev", help="measured on (default: %(default)s)")
    parser.add_argument(
        "--sentences",
        type=positive,
        metavar="N",
        help=f"drawn from the split (default: {SENTENCES}; {SEARCH_SENTENCES} for --sensitivity)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the draw (default: %(default)s)")
    parser.add_argument("--reference", type=Path, help="full-precision checkpoint to compare with")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--csv", type=Path, help="write the rows of the table there")
    parser.add_argument("--png", type=Path, help="write a picture of them there")
    parser.add_argument(
        "--kernels", action="store_true", help="print what computes each kind of layer here"
    )

    group = parser.add_argument_group("a full-precision checkpoint, quantised for the report")
    group.add_argument(
        "--quant-policy",
        metavar="POLICY",
        help="a policy file, or the name of one in configs/quant (for --sensitivity the layers to "
        f"choose from; default there: {DEFAULT_POLICY})",
    )
    group.add_argument("--quant-method", metavar="METHOD", help="instead of the policy's")
    group.add_argument("--quant-bits", type=float, metavar="B", help="instead of the policy's")
    group.add_argument(
        "--quant-activation-bits", metavar="B", help="8, 16 or off, instead of the policy's"
    )
    group.add_argument("--quant-options", metavar="JSON", help="instead of the policy's")

    add_sensitivity_arguments(parser)


def run(args: argparse.Namespace) -> None:
    check(args)
    import_models()
    from cress_svcd.evaluation.likelihood import load_for_measuring
    from cress_svcd.translation.options import choose_device
    from cress_svcd.translation.translator import load_model

    device = choose_device(args.device)
    if args.kernels:
        from cress_svcd.evaluation.kernel_report import format_kernels, kernel_rows

        model, _ = load_model(args.checkpoint, args.data)
        rows = kernel_rows(model.to(device).eval())
        write(args, format_kernels(rows), {"kernels": rows}, rows)
        return
    model, task = load_for_measuring(args.checkpoint, args.data, device)
    if args.sensitivity:
        from cress_svcd.evaluation.sensitivity_search import format_search, search

        args.quant_policy = args.quant_policy or DEFAULT_POLICY
        args.sentences = args.sentences or SEARCH_SENTENCES
        report = search(args, model, task, device)
        rows, text = report["units"], format_search(report)
    else:
        from cress_svcd.evaluation.layer_report import describe, format_layers

        args.sentences = args.sentences or SENTENCES
        report = describe(args, model, task, device)
        rows, text = report["layers"], format_layers(report)
    write(args, text, report, rows)


def write(args: argparse.Namespace, text: str, report: dict, rows: list[dict]) -> None:
    from cress_svcd.atomic_files import write_json
    from cress_svcd.evaluation.plots import write_csv

    sys.stdout.write(text)
    if args.json:
        write_json(args.json, report)
    if args.csv:
        write_csv(args.csv, rows)
    if args.png:
        from cress_svcd.evaluation.report_picture import draw

        draw(args.png, rows)


def check(args: argparse.Namespace) -> None:
    """Raises ConfigError for options that do not belong together."""
    budget = args.budget_bits is not None or args.keep_loss is not None
    if not args.sensitivity and (budget or args.output or args.trials or args.bleu):
        raise ConfigError(
            "--budget-bits, --keep-loss, --trials, --bleu and -o belong to --sensitivity"
        )
    if args.output and not budget:
        raise ConfigError("-o writes a proposed policy: give --budget-bits or --keep-loss")
    if args.sensitivity and args.reference:
        raise ConfigError("--reference: with --sensitivity the checkpoint itself is the reference")
    if args.reference and not args.data:
        raise ConfigError("--reference is compared with on real inputs: give --data")
    if (args.reference or args.sensitivity) and args.data is None:
        raise ConfigError("--sensitivity is measured on real sentences: give --data")
    changed = [
        name
        for name in ("method", "bits", "activation_bits", "options")
        if getattr(args, f"quant_{name}") is not None
    ]
    if args.kernels and (args.sensitivity or args.reference or args.quant_policy or changed):
        raise ConfigError(
            "--kernels is a report of its own: leave --sensitivity, --reference and --quant-… out"
        )
    if args.kernels and args.png:
        raise ConfigError("--png: the report of --kernels has no figures to draw")
    if changed and not (args.quant_policy or args.sensitivity):
        option = f"--quant-{changed[0].replace('_', '-')}"
        raise ConfigError(f"{option} changes a --quant-policy: give one")
