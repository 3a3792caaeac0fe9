"""Pretrain a HuBERT-format speech encoder on a prepared corpus, with fairseq's own HuBERT.

examples:
  cress-svcd pretrain-hubert data/en-de -o hubert --config configs/train/hubert_base.yaml
  cress-svcd pretrain-hubert data/en-de -o hubert2 --config configs/train/hubert_base.yaml \\
      --features-from hubert/hubert.pt --layer 6

DATA is the output of prepare-mustc.  The stages, as far as the configuration has them:

  units              each 20 ms get a label: the nearest of some clusters (k-means) of cepstra, or
                     of hidden features of an earlier HuBERT (--features-from, the second
                     iteration); or the phone that is spoken, where it is known (--units phones)
  masked_prediction  fairseq's hubert_pretraining: predict the labels of masked frames
  ctc                CTC on the letters of the transcripts, with a loss on the labels if wished

writes into OUT:
  hubert.pt                            the encoder, a checkpoint as the released ones, for
                                       --hubert-model-path
  {train,dev}.{tsv,km}, dict.km.txt    segments and labels, as fairseq's HuBERT reads them
  kmeans.npz or phones.json            the clusters' centres, or the phones' names
  masked_prediction/, ctc/             fairseq's configuration and checkpoints of a stage
  logs/                                what a stage printed, and TensorBoard files
  summary.json                         segments, seconds, losses, character error rate

The configuration is YAML with fairseq's own sections (configs/train has commented ones); --set
changes single values.  A run that was interrupted goes on where it stopped; what is done is not
done again, unless what it was made from has changed.
"""

import argparse
import os
from pathlib import Path

from cress_svcd.cli.arguments import thread_count
from cress_svcd.cli.recipe import parse_changes
from cress_svcd.errors import ConfigError
from cress_svcd.shipped import describe_missing, file_or_shipped

MFCC, PHONES = "mfcc", "phones"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="prepared folder")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder to write to"
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="YAML file, or the name of one in configs/train: hubert_demo, hubert_base, ...",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value of the configuration, e.g. optimization.max_update=100 or "
        "ctc.optimization.lr=[0.001]; may be repeated",
    )
    units = parser.add_argument_group("units")
    units.add_argument(
        "--units",
        choices=(MFCC, PHONES),
        default=MFCC,
        help="mfcc: clusters of cepstra; phones: known ones (default: %(default)s)",
    )
    units.add_argument(
        "--features-from",
        type=Path,
        metavar="CHECKPOINT",
        help="cluster hidden features of this HuBERT instead of cepstra",
    )
    units.add_argument(
        "--layer", type=int, metavar="N", help="whose output, counted from 1; HuBERT-Base used 6"
    )
    units.add_argument(
        "--phones",
        action="append",
        default=[],
        metavar="SPLIT=FILE",
        help="for --units phones: SPLIT.phones of a release of 'speak --phones', with its "
        "SPLIT.yaml next to it; for train and for dev. Of several target languages XX:SPLIT=FILE "
        "for each",
    )
    parser.add_argument(
        "--workers",
        type=thread_count,
        default=os.cpu_count(),
        metavar="N",
        help="processes that make units (default: all cores)",
    )
    parser.add_argument("--force", action="store_true", help="do everything again")


def run(args: argparse.Namespace) -> None:
    # Here rather than above: --help shall not wait for fairseq.
    from cress_svcd.pretraining.config import load_pretraining_config
    from cress_svcd.pretraining.stages import HubertPretraining, UnitSource
    from cress_svcd.pretraining.summary_table import format_summary

    if args.output.exists() and args.data.exists() and args.output.samefile(args.data):
        raise ConfigError(f"-o {args.output}: the folder of DATA; name another")
    source = UnitSource(args.features_from, args.layer, _phone_files(args))
    file = file_or_shipped(args.config, "train")
    if not file.is_file():
        raise ConfigError(describe_missing(args.config, "train"))
    config = load_pretraining_config(file, parse_changes(args.set))
    pretraining = HubertPretraining(args.data, args.output, config, source, args.workers)
    print(format_summary(pretraining.run(force=args.force), args.output))


def _phone_files(args: argparse.Namespace) -> dict[str, Path]:
    """Files of --phones by split; raises ConfigError for options that do not fit each other."""
    if (args.features_from is None) != (args.layer is None):
        raise ConfigError("--features-from CHECKPOINT and --layer N belong together: give both")
    if args.workers < 1:
        raise ConfigError(f"--workers {args.workers}: expected 1 or more")
    files = {}
    for item in args.phones:
        split, equals, path = item.partition("=")
        if not equals or not split or not path:
            raise ConfigError(f"--phones {item}: expected SPLIT=FILE")
        files[split] = Path(path)
    if args.units == PHONES and args.features_from is not None:
        raise ConfigError("--features-from makes clusters, --units phones needs none: drop one")
    splits = {name.rpartition(":")[2] for name in files}
    if args.units == PHONES and splits != {"train", "dev"}:
        raise ConfigError(
            f"--units phones: needs --phones train=FILE and --phones dev=FILE; found "
            f"{', '.join(sorted(files)) or 'none'}"
        )
    if files and args.units != PHONES:
        raise ConfigError("--phones is for --units phones: add that, or drop --phones")
    return files
