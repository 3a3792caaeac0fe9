"""The policies that come with the project, by name."""

import os
from pathlib import Path

from cress_svcd.errors import ConfigError
from cress_svcd.quantization.policy import Policy
from cress_svcd.quantization.validation import near

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "quant"


def shipped_policies() -> dict[str, Path]:
    """The policy files of ``configs/quant`` by name; none where only the package is installed."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def find_policy(name: str | os.PathLike) -> Policy:
    """The policy in the file ``name``, else the shipped one of that name.

    Raises:
        ConfigError: there is neither, or the file is no policy.
    """
    shipped = shipped_policies()
    path = Path(name)
    if not path.is_file() and str(name) in shipped:
        path = shipped[str(name)]
    if not path.is_file():
        close = near(str(name), shipped, limit=3) or list(shipped)
        raise ConfigError(
            f"policy {str(name)!r}: neither a file nor a shipped policy; "
            f"shipped: {', '.join(close) or f'none found in {FOLDER}'}"
        )
    return Policy.load(path)
