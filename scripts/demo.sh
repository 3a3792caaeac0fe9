#!/usr/bin/env bash
# usage: scripts/demo.sh [--lang de|ro] [--out FOLDER] [--from-stage N] [--force] [--dry-run] [--list]
#
# Everything from a fresh machine to a BLEU score, on two cores and without a GPU: sets up .venv,
# makes a small English corpus with translations, speaks it with several voices in the layout of
# MuST-C, and takes it through the same commands as a real corpus: preparation, pretraining of the
# speech encoder and of the translation model, training of speech translation, averaging, training
# with 1-bit layers, packing, generation.  Ends with a table and report.json.  A second run does
# only what is not done yet.
#   --lang de|ro      language to translate into: German (the default) or Romanian
#   --out FOLDER      where everything is written (default: demo/en-de, demo/en-ro)
#   --from-stage N    begin with this stage, by number or name (--list shows them)
#   --force           run also what is done already
#   --dry-run         print the commands and run none
#   --list            print the settings and the stages
set -euo pipefail
cd "$(dirname "$0")/.."
settings=() options=()
while [ $# -gt 0 ]; do
  case $1 in
    --lang) case ${2-} in
              de|ro) ;;
              *) echo "demo: --lang ${2-}: expected de (German) or ro (Romanian)" >&2; exit 2 ;;
            esac
            settings+=(--set "lang=$2"); shift 2 ;;
    --out) [ $# -ge 2 ] || { echo "demo: --out needs a folder" >&2; exit 2; }
           settings+=(--set "out=$2"); shift 2 ;;
    --from-stage) [ $# -ge 2 ] || { echo "demo: --from-stage needs a number" >&2; exit 2; }
                  options+=(--from-stage "$2"); shift 2 ;;
    --force|--dry-run|--list) options+=("$1"); shift ;;
    -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) echo "demo: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
done
scripts/setup.sh
exec .venv/bin/cress-svcd recipe scripts/recipes/demo.yaml "${settings[@]}" "${options[@]}"
