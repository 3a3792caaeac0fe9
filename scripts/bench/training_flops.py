"""Arithmetic of one second of speech in training, forward and backward, as JSON.

usage: python scripts/bench/training_flops.py fairseq-train DATA --user-dir cress_svcd …

The command is that of a training stage (cress-svcd recipe … --dry-run prints it); its model is
built on the CPU and given ten seconds of noise with transcript and translation of four tokens a
second each.  Counted by torch: two operations for each multiplication of matrices, convolutions
and attention; the rest is left out.
"""

import json
import sys

import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from torch.utils.flop_counter import FlopCounterMode

SAMPLE_RATE = 16_000
SECONDS = 10
TOKENS_A_SECOND = 4


def main() -> int:
    if len(sys.argv) < 3 or sys.argv[1] != "fairseq-train":
        sys.stderr.write(__doc__)
        return 2
    parser = options.get_training_parser()
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, sys.argv[2:]))
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model).train()
    tokens = torch.randint(10, len(task.target_dictionary), (1, SECONDS * TOKENS_A_SECOND))
    lengths = torch.tensor([tokens.size(1)])
    text = {"text_tokens": tokens, "text_lengths": lengths} if cfg.task.mt_finetune else {}
    with FlopCounterMode(display=False) as counter:
        output = model(
            0.1 * torch.randn(1, SECONDS * SAMPLE_RATE),
            torch.tensor([SECONDS * SAMPLE_RATE]),
            tokens,
            **text,
        )
        output[0].sum().backward()
    report = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gflop_a_second_of_speech": round(counter.get_total_flops() / SECONDS / 1e9, 1),
    }
    json.dump(report, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
