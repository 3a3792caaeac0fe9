"""What further voices and audio transforms bring on human speech: the table of docs/benchmarks.md.

  python scripts/bench/voices.py HUMAN -o runs/voices --others multi30k/train.en multi30k/train.de

HUMAN is a folder of recordings with all.tsv, as scripts/bench/recordings.py reads it.  A small
model is trained on its sentences, and on a hundred short ones of --others, spoken by synthesisers;
then it hears the people.  So it knows the sentences, but no person: what is measured is how far a
person's voice is from those that it has heard, not whether it can translate English.  Each row has
the same text, number of utterances, model and updates:

  espeak       eight voices of espeak-ng
  voices       espeak-ng, flite, festival, pico and hibari, a fifth each
  … +NAMES     with these --audio-transforms

Rows run --jobs at a time.  A second run does what is missing.  The results are OUT/voices.json.
"""

import argparse
import concurrent.futures
import csv
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pandas

from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.evaluation.outputs import score_output
from cress_svcd.evaluation.word_errors import score_transcripts

ROOT = Path(__file__).parents[2]
VOICES = {
    "flite": "flite:kal16 flite:awb flite:rms flite:slt",
    "festival": "festival:kal_diphone festival:ked_diphone festival:cmu_us_slt_arctic_hts",
    "pico": "pico:en-GB pico:en-US",
    "hibari": "hibari:heart",
}
ROWS = (
    "espeak",
    "espeak +all",
    "voices",
    "voices +all",
    "voices +speed,gain",
    "voices +speed,gain,noise,band,codec",
    "voices +speed,gain,room",
    "voices +speed,gain,mask",
)
OTHERS = 100
# How often each sentence is spoken, and each of the others: by all synthesisers together.
TIMES, OTHER_TIMES = 30, 10
# Wide, for children and slow readers.
SPEAKERS = ["--speaker-per", "segment", "--rate", "120", "200", "--pitch", "15", "90"]
TRAINING = (
    "--user-dir=cress_svcd --task=speech_and_text_translation --tgt-lang={lang} "
    "--criterion=speech_and_text_translation --label-smoothing=0.1 "
    "--arch=hubert_transformer_postln --encoder-layers=2 --decoder-layers=2 "
    "--encoder-embed-dim=192 --decoder-embed-dim=192 --encoder-ffn-embed-dim=768 "
    "--decoder-ffn-embed-dim=768 --encoder-attention-heads=4 --decoder-attention-heads=4 "
    "--conv-channels=256 --layernorm-embedding --dropout=0.1 --optimizer=adam "
    "--adam-betas=(0.9,0.98) --weight-decay=0.0001 --lr-scheduler=polynomial_decay --lr=0.001 "
    "--warmup-updates=200 --clip-norm=1.0 --train-subset=train --valid-subset=dev "
    "--log-format=json --log-interval=100 --no-epoch-checkpoints --validate-interval=1000 "
    "--save-interval=1000 --distributed-world-size=1 --st-training --ctc-head --ctc-weight=0.5 "
    "--max-tokens=320000 --num-workers=2"
)


def call(log: Path, *command: str | os.PathLike) -> None:
    """Run a command of the project's, or of fairseq's; raises CalledProcessError."""
    name, *arguments = map(str, command)
    module = {
        "cress-svcd": "cress_svcd.cli.main",
        "fairseq-train": "fairseq_cli.train",
        "fairseq-generate": "fairseq_cli.generate",
    }.get(name)
    program = [sys.executable, "-m", module] if module else [sys.executable, name]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(f"$ {name} {' '.join(arguments)}\n")
        file.flush()
        subprocess.run([*program, *arguments], stdout=file, stderr=file, check=True, cwd=ROOT)


def write_texts(args: argparse.Namespace, folder: Path) -> None:
    """``SPLIT.en`` and ``SPLIT.LANG``: for espeak alone, for each other synthesiser, and dev."""
    with (args.human / "all.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    column = f"{args.tgt_lang}_refs"
    sentences = {
        row["src_text"].lower(): row[column].split(" ||| ")[0] for row in rows if row[column]
    }
    pairs, others = list(sentences.items()), []
    lines = list(zip(*(path.read_text(encoding="utf-8").splitlines() for path in args.others)))
    random.Random(1).shuffle(lines)
    for english, translation in lines:
        words = re.sub(r"[^a-z']+", " ", english.lower()).split()
        if 4 <= len(words) <= 7 and len(translation.split()) <= 9:
            others.append((" ".join(words), translation.strip()))
    share = 1 + len(VOICES)
    counts = dict.fromkeys(VOICES, (TIMES // share, OTHER_TIMES // share))
    for split, (times, other_times) in {
        "train": (TIMES, OTHER_TIMES),
        "dev": (1, 0),
        **counts,
    }.items():
        chosen = pairs * times + others[:OTHERS] * other_times
        random.Random(split).shuffle(chosen)
        for side, suffix in enumerate(("en", args.tgt_lang)):
            text = "".join(f"{pair[side]}\n" for pair in chosen)
            (folder / f"{split}.{suffix}").write_text(text, encoding="utf-8")


def prepare(args: argparse.Namespace) -> None:
    """Speak the texts, and prepare them and the recordings, in ``OUT/data``."""
    out, lang, log = args.output, args.tgt_lang, args.output / "logs" / "prepare.log"
    if (out / "data" / "human.tsv").exists():
        return
    text, release = out / "text", args.release or out / "release"
    text.mkdir(parents=True, exist_ok=True)
    write_texts(args, text)
    workers = ["--workers", str(args.jobs * 2)]
    for split in ("train", "dev", *VOICES):
        if (release / f"en-{lang}" / "data" / split).exists():
            continue
        files = [text / f"{split}.en", text / f"{split}.{lang}"]
        voices = ["--test-voices", *VOICES[split].split()] if split in VOICES else []
        speak = ["speak", "--split", split, *files, "--tgt-lang", lang, "-o", release, *voices]
        call(log, "cress-svcd", *speak, *SPEAKERS, "--segments-per-file", "50", *workers)
    splits = ["--splits", "train", "dev", *VOICES]
    prepare = ["prepare-mustc", release, "-o", out / "data", "--tgt-lang", lang, *splits]
    prepare += ["--vocab-size", "400", "--standardize-audio"]
    call(log, "cress-svcd", *prepare, *workers)
    call(
        log,
        ROOT / "scripts/bench/recordings.py",
        args.human,
        "-o",
        out / "data" / "human.tsv",
        "--tgt-lang",
        lang,
    )


def make_data(args: argparse.Namespace, name: str, folder: Path) -> None:
    """The data folder of a row: as all, but with its own training split."""
    folder.mkdir(parents=True, exist_ok=True)
    source = args.output / "data"
    for path in source.iterdir():
        link = folder / path.name
        if path.name != "train.tsv" and not link.exists():
            link.symlink_to(path.resolve())
    frame = read_manifest(source / "train.tsv")
    if name.startswith("voices"):
        parts = [read_manifest(source / f"{each}.tsv") for each in VOICES]
        frame = pandas.concat([frame[: len(parts[0])], *parts])
    frame.to_csv(folder / "train.tsv", sep="\t", index=False, quoting=csv.QUOTE_NONE)


def run_row(args: argparse.Namespace, name: str, seed: int) -> dict:
    """Train and measure a row; raises CalledProcessError."""
    folder = args.output / "rows" / f"{name.replace(' ', '').replace(',', '-')}-{seed}"
    result, log = folder / "result.json", folder / "row.log"
    if result.exists():
        return json.loads(result.read_text())
    data, transforms = folder / "data", name.partition(" +")[2]
    make_data(args, name, data)
    changes = [f"seed={seed}", f"ctc.optimization.max_update={args.encoder_updates}"]
    changes += [f"task.audio_transforms='{transforms}'"] if transforms else []
    sets = [word for change in changes for word in ("--set", change)]
    config = ["--config", ROOT / "configs/train/hubert_voices.yaml", "--workers", "2"]
    call(log, "cress-svcd", "pretrain-hubert", data, "-o", folder / "hubert", *config, *sets)
    options = TRAINING.format(lang=args.tgt_lang).split()
    options += [f"--audio-transforms={transforms}"] if transforms else []
    options += [f"--hubert-model-path={folder}/hubert/hubert.pt", "--freeze-hubert"]
    options += [f"--total-num-update={args.updates}", f"--max-update={args.updates}"]
    options += [f"--save-dir={folder}/st", f"--seed={seed}"]
    call(log, "fairseq-train", data, *options)
    scores: dict = {"row": name, "seed": seed}
    task = f"--user-dir=cress_svcd --task=speech_and_text_translation --tgt-lang={args.tgt_lang}"
    for split in ("human", "dev"):
        output = folder / f"{split}.log"
        search = [*task.split(), f"--gen-subset={split}", "--beam=5", "--max-tokens=1600000"]
        call(output, "fairseq-generate", data, f"--path={folder}/st/checkpoint_last.pt", *search)
        manifest = data / f"{split}.tsv"
        scores[split] = score_output(output, manifest)
        heard = score_transcripts(folder / "st/checkpoint_last.pt", manifest, data)
        scores[split] |= heard
    result.write_text(json.dumps(scores, ensure_ascii=False, indent=1))
    return scores


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("human", type=Path, help="folder of recordings")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--others", type=Path, nargs=2, required=True, help="parallel text")
    parser.add_argument("--tgt-lang", default="de")
    parser.add_argument("--release", type=Path, help="a release that has been spoken already")
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--encoder-updates", type=int, default=2000)
    parser.add_argument("--updates", type=int, default=800)
    args = parser.parse_args()
    args.output, args.human = args.output.resolve(), args.human.resolve()
    prepare(args)
    rows = [(name, seed) for seed in args.seeds for name in args.rows]
    results, status = [], 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        futures = {pool.submit(run_row, args, *row): row for row in rows}
        for future in concurrent.futures.as_completed(futures):
            name, seed = futures[future]
            try:
                scores = future.result()
            except subprocess.CalledProcessError:
                print(f"voices: {name}, seed {seed}: left out, see {args.output}/rows", flush=True)
                status = 1
                continue
            for split in ("human", "dev"):
                found = scores[split]
                print(
                    f"{name} | {seed} | {split} | BLEU {found['bleu']} | chrF {found['chrf']} | "
                    f"exact {found['exact_match']} | words wrong {found['word_error_rate']} | "
                    f"letters wrong {found['letter_error_rate']}",
                    flush=True,
                )
                for key in ("translations", "transcripts"):
                    found.pop(key, None)
            results.append(scores)
            (args.output / "voices.json").write_text(json.dumps(results, indent=1))
    return status


if __name__ == "__main__":
    sys.exit(main())
