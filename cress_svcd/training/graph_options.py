"""The options of training without waiting for the GPU, for the tasks that offer it."""

from dataclasses import dataclass, field

from fairseq.dataclass import ChoiceEnum, FairseqDataclass


@dataclass
class GraphTrainingOptions(FairseqDataclass):
    """``graph_training`` and ``batch_shapes``; a task that has them answers as
    :class:`graph_trainer.GraphTrainer` says."""

    graph_training: ChoiceEnum(["auto", "on", "off"]) = field(
        default="auto",
        metadata={
            "help": "train without waiting for the GPU: batches of a shape that has come before "
            "are one CUDA graph each, and what is logged is read every --log-interval. auto: on "
            "CUDA with --batch-shapes, where the training can be captured",
            "argparse_const": "on",
        },
    )
    batch_shapes: int = field(
        default=0,
        metadata={
            "help": "pad batches to so many lengths, chosen from the corpus, each with a number of "
            "segments of its own, so that few shapes come again and again; 0: each batch is as "
            "long as its longest segment"
        },
    )
