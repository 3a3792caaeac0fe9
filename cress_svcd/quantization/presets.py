"""The policies that come with the project, by name."""

import os
from pathlib import Path

from cress_svcd.errors import ConfigError
from cress_svcd.quantization.policy import Policy
from cress_svcd.quantization.validation import near
from cress_svcd.shipped import file_or_shipped, shipped_files, shipped_folder


def find_policy(name: str | os.PathLike[str]) -> Policy:
    """The policy in the file ``name``, else the shipped one of that name.

    Raises:
        ConfigError: there is neither, or the file is no policy.
    """
    path = file_or_shipped(Path(name), "quant")
    if not path.is_file():
        shipped = shipped_files("quant")
        folder = shipped_folder("quant")
        close = near(str(name), shipped, limit=3) or list(shipped)
        raise ConfigError(
            f"policy {str(name)!r}: neither a file nor a shipped policy; "
            f"shipped: {', '.join(close) or f'none, {folder} is missing'}"
        )
    return Policy.load(path)
