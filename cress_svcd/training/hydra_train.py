"""fairseq-hydra-train with the plug-in in place from the start.

  python -m cress_svcd.training.hydra_train --config-dir configs/train --config-name st_base …
  torchrun --nproc-per-node 2 -m cress_svcd.training.hydra_train …

fairseq-hydra-train itself imports the plug-in (``common.user_dir``) only after it has chosen each
process's device; where torchrun started it without GPUs, that is too late for :mod:`compat`.
"""

import json
import sys
from pathlib import Path

from fairseq_cli.hydra_train import cli_main


def main() -> None:
    """Train; ``common.user_dir`` is the package that was imported, whatever is given for it."""
    sys.argv.append(f"common.user_dir={json.dumps(str(Path(__file__).parents[1]))}")
    cli_main()


if __name__ == "__main__":
    main()
