"""Unpack the demo corpus: English sentences of everyday life with their translations.

    python scripts/demo/unpack_text.py --tgt-lang de -o demo/en-de/text

writes, line-aligned and one sentence a line:

    train.en train.de  dev.*  tst-COMMON.*    for 'cress-svcd speak'
    mt.en mt.de                               further pairs, to pretrain text translation
"""

import argparse
import lzma
import os
import sys
from pathlib import Path

TEXT = Path(__file__).with_name("text")
LANGUAGES = sorted(folder.name for folder in TEXT.iterdir())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tgt-lang", required=True, help=f"one of {', '.join(LANGUAGES)}")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder of the corpus")
    args = parser.parse_args()
    if args.tgt_lang not in LANGUAGES:
        parser.error(f"--tgt-lang {args.tgt_lang}: expected one of {', '.join(LANGUAGES)}")
    args.output.mkdir(parents=True, exist_ok=True)
    for packed in sorted((TEXT / args.tgt_lang).glob("*.xz")):
        target = args.output / packed.stem
        text = lzma.decompress(packed.read_bytes())
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(text)
        os.replace(partial, target)
        print(f"{target}: {len(text.splitlines()):,} sentences")
    return 0


if __name__ == "__main__":
    sys.exit(main())
