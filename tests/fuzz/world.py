"""Small sound files of every kind, made by our own code: what the fuzzer damages."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from cress_svcd.cli.main import main
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.data.feature_cache import segments_digest, writing_features
from tests.helpers.deltalm_files import TINY
from tests.helpers.hubert_files import make_hubert
from tests.helpers.mustc_release import make_release
from tests.helpers.odd_audio import encoded, flac_in_ogg, sweep
from tests.helpers.training_options import make_model, make_task, parse, save_checkpoint
from tests.helpers.translation_model import make_checkpoint

ROOT = Path(__file__).parents[2]
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "ulaw.wav": ("WAV", "ULAW"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "alac.caf": ("CAF", "ALAC_16"),
    "nist": ("NIST", "PCM_16"),
    "voc": ("VOC", "PCM_16"),
    "mat": ("MAT5", "PCM_16"),
}
SECONDS = 0.4
# As fairseq-train and fairseq-generate print them.
LOG = """\
2026-01-01 00:00:00 | INFO | fairseq.trainer | Preparing to load checkpoint runs/a/last.pt
2026-01-01 00:00:00 | INFO | fairseq.trainer | No existing checkpoint found runs/a/last.pt
2026-01-01 00:00:01 | INFO | train_inner | {"epoch": 1, "loss": "9.5", "num_updates": "10", \
"lr": "0.001", "gnorm": "2.5", "loss_scale": "4"}
2026-01-01 00:00:02 | INFO | fairseq.trainer | NOTE: gradient overflow detected, ignoring
2026-01-01 00:00:03 | INFO | dev | {"epoch": 1, "dev_loss": "8.5", "dev_bleu": "1.5", \
"dev_num_updates": "10"}
2026-01-01 00:00:04 | INFO | train_inner | {"epoch": 2, "loss": "7.5", "num_updates": "20", \
"lr": "0.001", "gnorm": "1.5", "loss_scale": "4"}
"""
SUBTITLES = "1\n00:00:00,000 --> 00:00:01,500\n{}\n\n2\n00:00:01,500 --> 00:00:05,500\n{}\nb\n"
POLICY = """\
description: all kinds of rules
rules:
  - match: "decoder.layers.*"
    exclude: ["decoder.layers.*.fc1"]
    method: svcd
    bits: 1
    activation_bits: 8
    keep_weight: false
  - match: ["encoder.layers.*.fc1", "encoder.layers.*.fc2"]
    method: uniform
    bits: 4
    options: {}
exclude: ["*.out_proj"]
"""
RECIPE = """\
name: small
about: two stages
settings:
  out: runs/{name}
  name: small
  updates: 3
  average: true
  tasks: [a, b]
stages:
  - name: first
    does: "print"
    commands: [[cress-svcd, --version]]
    makes: ["{out}/made"]
    when: "{average}"
  - name: second
    does: "average {updates}"
    needs: ["{out}/made"]
    commands: [[cress-svcd, average, "{out}", -o, "{out}/made"], [echo, "{tasks}"]]
    output: "{out}/log"
report:
  - name: "row"
    scores: "{out}/scores.json"
"""


def command(*words) -> None:
    """Run one of ours, which must succeed."""
    assert main([str(word) for word in words]) == 0, words


def make_world(folder: Path) -> Path:
    """Fill ``folder``; returns it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make_release(folder / "release", talks=2, segments=4)
    prepared = folder / "prepared"
    command("prepare-mustc", folder / "release", "-o", prepared, "--tgt-lang", "de", "--text-data",
            "--vocab-size", "45", "--workers", "1", "-q")  # fmt: skip
    _make_audio(folder / "audio")
    _make_models(folder / "models", prepared)
    _make_features(folder / "features", prepared)
    _make_texts(folder / "texts", prepared, folder / "audio")
    return folder


def _make_audio(folder: Path) -> None:
    folder.mkdir()
    wave, stereo = sweep(SECONDS, 8000), sweep(SECONDS, 8000, 2)
    for name, (form, subtype) in FORMATS.items():
        content = encoded(stereo if name in ("wav", "flac") else wave, form, subtype, 8000)
        (folder / f"sound.{name}").write_bytes(content)
    pages = flac_in_ogg(encoded(wave, "FLAC", "PCM_16", 8000))
    (folder / "sound.oga").write_bytes(b"".join(pages))
    wav = (folder / "sound.wav").read_bytes()
    (folder / "joined.wav").write_bytes(wav + wav)
    np.save(folder / "sound.npy", wave[:, 0])
    np.save(folder / "short.npy", (wave * 3000).astype(np.int16))


def _make_models(folder: Path, prepared: Path) -> None:
    folder.mkdir()
    for name in ("config.yaml", "dict.de.txt", "dict.en.txt"):
        if (prepared / name).is_file():
            shutil.copy(prepared / name, folder)
    hubert = folder / "hubert.pt"
    make_hubert(hubert)
    full = make_checkpoint(folder / "checkpoint1.pt", prepared, hubert)
    state = torch.load(full, weights_only=True)
    state["extra_state"]["val_loss"] = 1.5
    state["cfg"]["checkpoint"]["maximize_best_checkpoint_metric"] = False
    torch.save(state, full)
    shutil.copy(full, folder / "checkpoint2.pt")
    flags = ["--hubert-model-path", hubert, "--quant-policy", "decoder"]
    cfg = parse(prepared, *flags, arch="quant_transformer")
    task = make_task(prepared)
    quantised = save_checkpoint(folder / "quantised.pt", cfg, task, make_model(cfg, task))
    command("pack", quantised, "-o", folder / "packed.pt", "--data", prepared, "-q")
    low = ["--embedding-bits", "2", "--hubert-bits", "4", "--subsampler-bits", "3"]
    command("pack", quantised, "-o", folder / "low_bits.pt", "--data", prepared, "-q", *low)
    shutil.copy(TINY, folder / "deltalm.pt")
    shutil.copytree(ROOT / "tests/fixtures/hubert_huggingface/base", folder.parent / "huggingface")


def _make_features(folder: Path, prepared: Path) -> None:
    frame = read_manifest(prepared / "dev.tsv")
    with writing_features(folder, "dev", 4, {"segments": segments_digest(frame)}) as add:
        for _ in range(len(frame)):
            add(np.ones((3, 4), np.float32))


def _make_texts(folder: Path, prepared: Path, audio: Path) -> None:
    folder.mkdir()
    frame = read_manifest(prepared / "dev.tsv")
    recordings = list(dict.fromkeys(spec.split(":")[0] for spec in frame["audio"]))
    lines = [
        f"T-{number}\t{text}\nH-{number}\t-0.5\t{text}\nD-{number}\t-0.5\t{text}\n"
        for number, text in enumerate(frame["tgt_text"])
    ]
    end = "| INFO | Translated 8 sentences (40 tokens) in 2.5s (4.0 sentences/s)\n"
    (folder / "generated.out").write_text("".join(lines) + end, encoding="utf-8")
    shutil.copy(folder / "generated.out", folder / "other.out")
    records = [
        {"source": path, "start": start, "end": start + 1.0, "text": "Ein Satz."}
        for path in recordings
        for start in (0.0, 1.5)
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "translated.jsonl").write_text(text, encoding="utf-8")
    name = Path(recordings[0]).stem
    srt = SUBTITLES.format("a", "Ein Satz.")
    (folder / f"{name}.srt").write_text(srt, encoding="utf-8")
    (folder / f"{name}.vtt").write_text("WEBVTT\n\n" + srt.replace(",", "."), encoding="utf-8")
    (folder / "train.log").write_text(LOG, encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
    shutil.copy(ROOT / "configs" / "train" / "hubert_demo.yaml", folder / "pretraining.yaml")
    (folder / "list.txt").write_text(
        f"{audio / 'sound.wav'}\n{audio / 'sound.flac'}\n", encoding="utf-8"
    )
    (folder / "sentences.txt").write_text(
        "The red house.\nSeven tall trees sang.\n", encoding="utf-8"
    )
    for side, line in (("en", "the red house\n"), ("de", "das rote Haus\n")):
        (folder / f"extra.{side}").write_text(line * 4, encoding="utf-8")
    command("score", folder / "generated.out", "--json", folder / "scores.json")
    outputs = [folder / "generated.out", folder / "other.out"]
    command("compare", *outputs, "--resamples", "10", "--json", folder / "compared.json")
    command("report", folder.parent / "models" / "quantised.pt", "--json", folder / "report.json")
