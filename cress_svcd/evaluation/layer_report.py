"""What became of a model's layers, measured on real inputs, and the table of it."""

import argparse
from pathlib import Path
from typing import Any

import torch

from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.likelihood import Sentences
from cress_svcd.models.attention import call_quantized_projections
from cress_svcd.models.quantized import chosen_policy
from cress_svcd.models.trained import load_trained
from cress_svcd.quantization import apply_policy, quantized_layers
from cress_svcd.quantization.low_bit_modules import convert
from cress_svcd.quantization.report import capture_inputs, layer_rows, summary


def describe(args: argparse.Namespace, model, task, device: torch.device) -> dict[str, Any]:
    """The report: ``checkpoint``, ``policy``, ``sentences``, ``summary`` and ``layers``."""
    if args.quant_policy:
        if quantized_layers(model):
            raise ConfigError(
                f"{args.checkpoint}: is quantised already; --quant-policy is for full precision"
            )
        policy = chosen_policy(args)
        apply_policy(model, policy)
        convert(model, policy.low_bits)
        call_quantized_projections(model)
    if not quantized_layers(model):
        raise ConfigError(
            f"{args.checkpoint}: has no quantised layer; give --quant-policy to see what one would "
            "make of it, or --sensitivity"
        )
    inputs = reference = None
    if args.data:
        sentences = Sentences(task, args.split, args.sentences, args.seed)
        with torch.inference_mode(), capture_inputs(model) as inputs:
            for batch in sentences.batches(device):
                model(**batch["net_input"])
        if args.reference:
            reference = load_trained(args.reference, task).to(device)
            check_reference(model, reference, args.reference)
    return {
        "checkpoint": str(args.checkpoint),
        "policy": args.quant_policy,
        "reference": str(args.reference) if args.reference else None,
        "sentences": len(sentences) if args.data else 0,
        "summary": summary(model),
        "layers": layer_rows(model, inputs, reference),
    }


def check_reference(model, reference, path: Path) -> None:
    """Raises ConfigError unless ``reference`` has all quantised layers in full precision."""
    for name, layer in quantized_layers(model).items():
        try:
            other = reference.get_submodule(name)
        except AttributeError:
            other = None
        found = "nothing" if other is None else f"a {type(other).__name__}"
        if type(other) is not torch.nn.Linear or other.weight.shape != layer.weight.shape:
            raise ConfigError(
                f"--reference {path}: at {name} it has {found}, expected a full-precision layer of "
                f"{layer.out_features}x{layer.in_features}: give the checkpoint that the model was "
                "started from"
            )


def format_layers(report: dict[str, Any]) -> str:
    """The table for people."""
    rows, totals = report["layers"], report["summary"]
    measured = any("cosine" in row for row in rows)
    width = max(len("layer"), *(len(row["name"]) for row in rows))
    head = f"{'layer':<{width}}{'out x in':>12}{'method':>10}{'bits':>6}{'act.':>6}"
    head += f"{'weights':>12}{'KB':>10}" + (f"{'error':>9}{'cosine':>8}" if measured else "")
    lines = [head]
    for row in rows:
        shape = f"{row['out_features']}x{row['in_features']}"
        line = f"{row['name']:<{width}}{shape:>12}{row['method']:>10}{row['weight_bits']:>6g}"
        line += f"{row['activation_bits'] or 'off':>6}{row['parameters']:>12,}"
        line += f"{row['bits'] / 8e3:>10.1f}"
        if measured:
            line += _cell(row, "relative_error", 9) + _cell(row, "cosine", 8)
        lines.append(line)
    share = totals["quantized_weights"] / totals["parameters"]
    lines += [
        f"{totals['quantized_layers']} layers with {totals['quantized_weights']:,} of "
        f"{totals['parameters']:,} parameters ({share:.1%}), "
        f"{totals['bits_per_weight']:.2f} bits a weight with their scales",
        f"the model in {totals['bits'] / 8e6:.2f} MB, of {totals['full_bits'] / 8e6:.2f} MB in 16 "
        "bits",
    ]
    if measured:
        against = report["reference"] or "the layers' own latent weights"
        lines.append(f"error: |y - full| / |full| on {report['sentences']} sentences, {against}")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], key: str, width: int) -> str:
    value = row.get(key)
    return f"{'-' if value is None else format(value, '.3f'):>{width}}"
