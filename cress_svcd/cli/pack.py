"""Pack a quantised checkpoint: a bit a weight, a small file that translates by itself.

  cress-svcd pack runs/svcd/checkpoint_best.pt -o model.packed.pt
  cress-svcd pack runs/svcd/averaged.pt -o model.packed.pt --int8-embeddings --int8-convolutions
  cress-svcd translate model.packed.pt talk.flac
  fairseq-generate DATA --user-dir cress_svcd ... --path model.packed.pt

Every quantised layer becomes a bit for each sign of its weight (ternary: two bits, k bits: k) and
its vectors; the rest goes into --dtype.  Latent weights, the optimizer, the teacher and the CTC
head are left out.  Vocabulary and config are taken from the data folder into the file, so that
'cress-svcd translate' needs nothing else.  The words are those of the checkpoint as long as --dtype
fp32 is given; half precision and int8 round what is not packed, and 'cress-svcd unpack' gives the
model that they leave.

It prints the sizes by part, the bits that a weight of the packed layers takes with the layers'
vectors, and how many times smaller than in fp32 and fp16 the model is.  The format is documented
in cress_svcd/inference/packed_checkpoint.py.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from cress_svcd.atomic_files import write_json
from cress_svcd.data.config import DataConfig, dictionary_digest, load_dictionary
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.inference.packed_checkpoint import write_packed
from cress_svcd.inference.packed_tensors import DTYPES, Precision, pack_tensors
from cress_svcd.inference.size_report import size_report
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.translation.translator import find_data

logger = logging.getLogger(__name__)

# Options that name files of the training, which no packed model needs.
FILES = (
    "finetuned_st_model",
    "hubert_model_path",
    "load_pretrained_mt_encoder_decoder_from",
    "deltalm_model_path",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="of a quantised arch, trained"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="file to write")
    parser.add_argument(
        "--dtype",
        choices=list(DTYPES),
        default="fp16",
        help="of what is not packed, and of the packed layers' vectors (default: %(default)s)",
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
    parser.add_argument(
        "--bf16-convolutions",
        action="store_true",
        help="compute the convolutions in bf16 on processors that have instructions for it: "
        "faster, and no longer exactly what was trained",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with config.yaml, dictionary and sentencepiece model of the checkpoint "
        "(default: where it was trained, then beside it)",
    )
    parser.add_argument(
        "--allow-full",
        action="store_true",
        help="take a checkpoint without quantised layers too: only --dtype and --int8-* apply",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the sizes there as well")


def run(args: argparse.Namespace) -> None:
    state = read_checkpoint(args.checkpoint)
    model = (state.get("cfg") or {}).get("model")
    if not isinstance(model, dict) or not isinstance(state.get("model"), dict):
        raise CheckpointError(
            f"{args.checkpoint}: holds no 'model' with its options ('cfg.model'); expected a "
            "checkpoint of fairseq-train"
        )
    layers = json.loads(model.get("quantization_map") or "{}")
    if not layers and not args.allow_full:
        raise CheckpointError(
            f"{args.checkpoint}: nothing in it is quantised (arch {model.get('_name')}): train it "
            "with --arch quant_transformer first, or give --allow-full to convert the precision of "
            "a full-precision model alone"
        )
    precision = Precision(
        args.dtype, args.int8_embeddings, args.int8_convolutions, args.bf16_convolutions
    )
    try:
        tensors, description = pack_tensors(state["model"], layers, precision)
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{args.checkpoint}: {error}") from None
    write_packed(
        args.output,
        {
            "args": None,
            "cfg": {"task": plain(state["cfg"].get("task")), "model": options(model, description)},
            "criterion": None,
            "extra_state": {"train_iterator": {"epoch": 1}},
            "model": tensors,
            "optimizer_history": [
                {
                    "criterion_name": "",
                    "optimizer_name": "",
                    "lr_scheduler_state": {},
                    "num_updates": 0,
                }
            ],
            "task_state": {"dictionary_digest": digest_in(state)} if digest_in(state) else {},
            "vocabulary": vocabulary_of(state, args.checkpoint, args.data),
        },
    )
    report = size_report(tensors, description) | {"file_bytes": args.output.stat().st_size}
    if args.json:
        write_json(args.json, report)
    print(table(report))
    print(f"{args.output}: {report['file_bytes'] / 1e6:.1f} MB")


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: what the file's digest is computed from."""
    return json.loads(json.dumps(value))


def options(model: dict, description: dict) -> dict:
    """The model's options in the packed file."""
    kept = {name: None if name in FILES else value for name, value in model.items()}
    kept["ctc_head"] = False
    if "quantization_map" in kept:
        kept["quantization_map"] = ""
    return plain({**kept, "packed": json.dumps(description)})


def digest_in(state: dict) -> str | None:
    return (state.get("task_state") or {}).get("dictionary_digest")


def vocabulary_of(state: dict, checkpoint: Path, given: Path | None) -> dict[str, Tensor]:
    """The files that the task reads from its data folder, as bytes; empty if there are none.

    Raises:
        ConfigError: the ``given`` folder lacks them.
        CheckpointError: they are not those of the checkpoint.
    """
    task = state["cfg"].get("task") or {}
    name = task.get("config_yaml") or "config.yaml"
    try:
        folder = find_data(checkpoint, task.get("data") or "", name, given)
        data = DataConfig(folder / name)
    except ConfigError as error:
        if given:
            raise
        logger.warning("the vocabulary is not taken into the file: %s", error)
        return {}
    digest = dictionary_digest(load_dictionary(data.dictionary_path))
    if digest_in(state) not in (None, digest):
        raise CheckpointError(
            f"{checkpoint}: it was trained with another dictionary than {data.dictionary_path}; "
            "give --data the folder that it was trained with"
        )
    config = {key: value for key, value in data.config.items() if key != "audio_root"}
    config["vocab_filename"] = data.dictionary_path.name
    files = {data.dictionary_path.name: data.dictionary_path.read_bytes()}
    tokenizer = data.bpe_tokenizer
    if "sentencepiece_model" in tokenizer:
        pieces = Path(tokenizer["sentencepiece_model"])
        files[pieces.name] = pieces.read_bytes()
        config["bpe_tokenizer"] = {**tokenizer, "sentencepiece_model": pieces.name}
    files[name] = yaml.safe_dump(config, allow_unicode=True).encode()
    return {
        name: torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
        for name, content in files.items()
    }


def table(report: dict) -> str:
    """The report in lines."""
    lines = [f"{'part':<20} {'parameters':>12} {'fp32 MB':>9} {'packed MB':>10} {'smaller':>8}"]
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
            f"{part['bytes'] / 1e6:>10.2f} {part['fp32_bytes'] / part['bytes']:>7.1f}x"
        )
    smaller = report["times_smaller_than"]
    lines.append(f"{smaller['fp32']} times smaller than fp32, {smaller['fp16']} than fp16")
    if report["quantized_layers"]:
        lines.append(
            f"{report['quantized_layers']} packed layers: {report['bits_per_weight']:.3f} bits a "
            "weight, vectors included"
        )
    return "\n".join(lines)
