"""Make a manifest of loose recordings that have translations, to see how a model copes with them.

  python scripts/bench/recordings.py FOLDER -o data/human.tsv --tgt-lang de

FOLDER/all.tsv has a header; of its columns id, audio (relative to FOLDER), src_text, speaker and
XX_refs (translations separated by ' ||| ') are used.  Rows without a translation are left out.
"""

import argparse
import csv
from pathlib import Path

from cress_svcd.data.audio import audio_info, resampled_length
from cress_svcd.data.corpus.manifest import Segment, write_manifest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--tgt-lang", required=True)
    args = parser.parse_args()
    with (args.folder / "all.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    segments = []
    for row in rows:
        references = row[f"{args.tgt_lang}_refs"].split(" ||| ")
        if not references[0]:
            continue
        audio = (args.folder / row["audio"]).resolve()
        info = audio_info(audio)
        segments.append(
            Segment(
                id=row["id"],
                audio=str(audio),
                n_frames=resampled_length(info.frames, info.sample_rate),
                tgt_text=references[0],
                speaker=row["speaker"],
                # Written in capitals there; the synthetic corpus writes sentences.
                src_text=row["src_text"].capitalize(),
                src_lang="en",
                tgt_lang=args.tgt_lang,
            )
        )
    print(f"{args.output}: {write_manifest(args.output, segments)} recordings")


if __name__ == "__main__":
    main()
