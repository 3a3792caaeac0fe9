"""The search of 'cress-svcd report --sensitivity': each group quantised alone, kept as it goes."""

import argparse
import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq.dataclass.configs import GenerationConfig
from torch import nn
from tqdm import tqdm

from cress_svcd.atomic_files import parse_json, read_text
from cress_svcd.errors import ConfigError, OutputError
from cress_svcd.evaluation.likelihood import Likelihood, Sentences, bleu
from cress_svcd.evaluation.sensitivity import (
    Proposal,
    find_groups,
    propose,
    ranking,
    require_reachable,
)
from cress_svcd.models.quantized import chosen_policy
from cress_svcd.quantization import LayerSpec, quantized_layers
from cress_svcd.quantization.convert import quantized_meanwhile
from cress_svcd.translation.translator import Translator

logger = logging.getLogger(__name__)

BASELINE = "full precision"


class Trials:
    """What was measured, by what was quantised; in a file of JSON lines if there is a path.

    The first line says what was asked, so that answers to something else are not mixed in.
    """

    def __init__(self, path: Path | None, question: Mapping[str, Any]):
        self.path, self.results = path, {}
        if path is None:
            return
        header = {"question": dict(question)}
        if not path.exists():
            self._append(header)
            return
        try:
            lines = read_text(path).splitlines(keepends=True)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--trials {path}: cannot be read ({error}); remove it") from None
        whole = [line for line in lines if line.endswith("\n")]
        where = f"--trials {path}"
        entries = [parse_json(line, where, number) for number, line in enumerate(whole, start=1)]
        if not entries or entries[0] != header:
            raise ConfigError(
                f"--trials {path}: was measured with other settings, or of another checkpoint; "
                "name another file, or remove this one"
            )
        if lines and not lines[-1].endswith("\n"):  # stopped while it was written
            path.write_text("".join(lines[:-1]), encoding="utf-8")
        for number, entry in enumerate(entries[1:], start=2):
            name = entry.get("quantized") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not isinstance(entry.get("nll"), int | float):
                raise ConfigError(f"{where}:{number}: no quantized and nll in it; remove the line")
            self.results[name] = entry
        logger.info("%s: %d measured before", path, len(self.results))

    def get(self, name: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What was measured for ``name``, now or before."""
        if name not in self.results:
            self.results[name] = {"quantized": name, **measure()}
            if self.path:
                self._append(self.results[name])
        return self.results[name]

    def _append(self, entry: dict[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise OutputError(
                f"--trials {self.path}: cannot be written ({error.strerror})"
            ) from None


class Measurement:
    """Likelihood, and BLEU if it is asked for, of a model with some layers quantised."""

    def __init__(self, model: nn.Module, sentences: Sentences, device, beam: int | None):
        self.model = model
        batches = sentences.batches(device)
        task = sentences.task
        self.likelihood = Likelihood(model, batches, task.target_dictionary.pad())
        self.translate = None
        if beam is not None:
            references = sentences.references()
            translator = Translator(model, task, GenerationConfig(beam=beam), device)
            self.translate = lambda: bleu(translator, batches, references)

    @torch.inference_mode()
    def __call__(self, specs: Mapping[str, LayerSpec]) -> dict[str, float]:
        """``nll`` (bits a token) and ``bleu`` with the layers of ``specs`` quantised."""
        decoder_only = all(name.startswith("decoder.") for name in specs)
        with quantized_meanwhile(self.model, specs):
            result = {"nll": self.likelihood(self.model, decoder_only)}
            if self.translate:
                result["bleu"] = self.translate()
        return result


def search(args: argparse.Namespace, model: nn.Module, task, device) -> dict[str, Any]:
    """Measure every group; propose a policy if a budget is given.

    Returns:
        ``checkpoint``, ``split``, ``sentences``, ``by``, ``policy``, ``baseline`` (nll, bleu),
        ``units`` (most sensitive first; see ``ranking``, with nll and bleu), and ``proposal``
        (bits_per_weight, predicted_loss, measured, policy) or None.

    Raises:
        ConfigError: the model is quantised already, the policy does not fit, the budget cannot be
            met, or the file of trials is of something else.
    """
    if quantized_layers(model):
        raise ConfigError(
            f"{args.checkpoint}: is quantised already; --sensitivity starts from a "
            "full-precision checkpoint"
        )
    policy = chosen_policy(args)
    specs = policy.resolve(model)
    sentences = Sentences(task, args.split, args.sentences, args.seed)
    groups = find_groups(model, specs, args.by)
    if args.budget_bits is not None:
        require_reachable(groups, args.budget_bits)  # before hours of measuring
    trials = Trials(args.trials, question(args, specs))
    measurement = Measurement(model, sentences, device, args.beam if args.bleu else None)
    baseline = trials.get(BASELINE, lambda: measurement({}))
    found = {}
    for group in tqdm(groups, desc="measuring", unit=args.by, disable=None):
        alone = {layer: specs[layer] for layer in group.layers}
        found[group.name] = trials.get(group.name, lambda alone=alone: measurement(alone))
    losses = {name: result["nll"] - baseline["nll"] for name, result in found.items()}
    rows = ranking(groups, losses)
    for row in rows:
        row |= _scores(found[row["name"]], baseline)
    proposal = None
    if args.budget_bits is not None or args.keep_loss is not None:
        proposal = propose(groups, losses, specs, args.budget_bits, args.keep_loss)
        # What no pattern names is not measured, and stays as the policy has it.
        kept = dataclasses.replace(proposal.policy, low_bits=policy.low_bits)
        proposal = dataclasses.replace(proposal, policy=kept)
        if args.output:
            proposal.policy.save(args.output)
            logger.info("policy: %s", args.output)
    return {
        "checkpoint": str(args.checkpoint),
        "split": args.split,
        "sentences": len(sentences),
        "by": args.by,
        "policy": args.quant_policy,
        "baseline": _scores(baseline, baseline),
        "units": rows,  # groups; the key is a contract: files of --json have it
        "proposal": proposal and _measured(proposal, specs, measurement, baseline),
    }


def _measured(
    proposal: Proposal, specs: Mapping[str, LayerSpec], measurement: Measurement, baseline: dict
) -> dict[str, Any]:
    layers = [layer for rule in proposal.policy.rules for layer in rule.match]
    result = measurement({layer: specs[layer] for layer in layers})
    return {
        "units": list(proposal.groups),  # as above
        "layers": len(layers),
        "bits_per_weight": proposal.bits_per_weight,
        "predicted_loss": proposal.predicted_loss,
        "measured": {"loss": result["nll"] - baseline["nll"], **_scores(result, baseline)},
        "policy": proposal.policy.to_dict(),
    }


def _scores(result: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    scores = {"nll": result["nll"]}
    if "bleu" in result:
        scores |= {"bleu": result["bleu"], "bleu_change": result["bleu"] - baseline["bleu"]}
    return scores


def question(args: argparse.Namespace, specs: Mapping[str, LayerSpec]) -> dict[str, Any]:
    """What the trials depend on, as plain data."""
    layers = {name: spec.to_dict() for name, spec in specs.items()}
    content = hashlib.sha256()
    with args.checkpoint.open("rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    return {
        "checkpoint": content.hexdigest(),
        "layers": hashlib.sha256(json.dumps(layers, sort_keys=True).encode()).hexdigest(),
        "split": args.split,
        "sentences": args.sentences,
        "seed": args.seed,
        "by": args.by,
        "beam": args.beam if args.bleu else None,
    }


def format_search(report: dict[str, Any]) -> str:
    """The table for people, the most sensitive first."""
    rows: Sequence[dict] = report["units"]
    with_bleu = "bleu" in report["baseline"]
    width = max(len(report["by"]), *(len(row["name"]) for row in rows)) + 2
    lines = [
        f"{report['by']:<{width}}{'weights':>11}{'bits/token':>12}{'loss':>9}{'per Mbit':>10}"
        + (f"{'BLEU':>8}{'change':>8}" if with_bleu else "")
    ]
    for row in rows:
        line = f"{row['name']:<{width}}{row['weights']:>11,}{row['nll']:>12.4f}{row['loss']:>+9.4f}"
        line += f"{row['loss_per_megabit']:>10.4f}"
        if with_bleu:
            line += f"{row['bleu']:>8.2f}{row['bleu_change']:>+8.2f}"
        lines.append(line)
    scores = report["baseline"]
    shown = f", BLEU {scores['bleu']:.2f}" if with_bleu else ""
    lines.append(
        f"full precision: {scores['nll']:.4f} bits a token{shown}, on {report['sentences']} "
        f"sentences of {report['split']}"
    )
    if report["proposal"]:
        lines += _format_proposal(report["proposal"])
    return "\n".join(lines) + "\n"


def _format_proposal(proposal: dict[str, Any]) -> list[str]:
    measured = proposal["measured"]
    shown = f", BLEU {measured['bleu_change']:+.2f}" if "bleu" in measured else ""
    return [
        f"proposed: {proposal['layers']} layers, {proposal['bits_per_weight']:.2f} bits a weight "
        f"over the policy's layers; loss {proposal['predicted_loss']:+.4f} as the sum of its "
        f"parts, {measured['loss']:+.4f} measured{shown}, before any training"
    ]
