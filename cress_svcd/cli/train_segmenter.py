"""Train a segmenter from the corpus's own segments, on the model's speech encoder.

  cress-svcd train-segmenter runs/st/averaged.pt data/en-de -o runs/st/with_segmenter.pt
  cress-svcd train-segmenter model.packed.pt MUSTC_v1.0 --tgt-lang de -o model.seg.packed.pt

The second argument is a prepared folder (its manifests are read) or a release in MuST-C's layout
(its yaml files are).  The encoder is not trained, and the result translates as the model did; but
'cress-svcd translate' then cuts recordings as the corpus is cut (--segmenter learnt, the default
where a model has one).  'average' and 'pack' keep it; the recipes have it as a stage.  Train it on
the model that is to be used: a 1-bit encoder hears a little differently than the one that it was
made of.
"""

import argparse
import logging
from pathlib import Path

from cress_svcd.cli.arguments import positive
from cress_svcd.cli.quick_imports import import_models

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="a trained or packed model")
    parser.add_argument(
        "corpus", type=Path, metavar="DATA|RELEASE", help="a prepared folder, or a release"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="file to write")
    parser.add_argument("--tgt-lang", metavar="LANG", help="of a release: its target language")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with the vocabulary of the model"
    )
    parser.add_argument(
        "--updates", type=positive, default=400, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--windows",
        type=positive,
        default=600,
        metavar="N",
        help="of ten seconds of the corpus, so many are heard; default: %(default)s",
    )
    parser.add_argument(
        "--lr", type=float, default=2e-3, metavar="X", help="learning rate; default: %(default)s"
    )
    parser.add_argument(
        "--if-possible",
        action="store_true",
        help="where every segment of the corpus is a file of its own, or comes from shard-audio: "
        "write the model as it is",
    )
    parser.add_argument("--seed", type=int, default=1, help="of all chance; default: %(default)s")
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda or cuda:N; default: a GPU if there is one"
    )


def run(args: argparse.Namespace) -> None:
    import_models()
    from cress_svcd.errors import CressError
    from cress_svcd.translation.options import choose_device
    from cress_svcd.translation.segmentation import learnt_training
    from cress_svcd.translation.translator import load_model

    logging.getLogger("fairseq").setLevel(logging.WARNING)
    try:
        recordings = learnt_training.read_segmentation(args.corpus, "train", args.tgt_lang)
    except learnt_training.NothingToLearn as error:
        if not args.if_possible:
            raise
        learnt_training.put_into_checkpoint(args.model, args.output, None)
        print(f"{args.output}: without a segmenter: {error}")
        return
    try:
        dev = learnt_training.read_segmentation(args.corpus, "dev", args.tgt_lang)
    except CressError as error:
        logger.info("part of the training data is held out: %s", error)
        dev = None
    model, task = load_model(args.model, args.data)
    model.to(choose_device(args.device)).eval()
    options = learnt_training.Options(args.updates, args.windows, args.lr, args.seed)
    state, score = learnt_training.train_segmenter(
        model, task.data_cfg.normalize, recordings, dev, options
    )
    learnt_training.put_into_checkpoint(args.model, args.output, state)
    numbers = state["numbers"]
    print(
        f"{args.output}: beginnings and ends of segments are found with an F1 of {score:.3f} "
        f"within 0.1 s (threshold {numbers['threshold']}, pause {numbers['pause_seconds']} s)"
    )
