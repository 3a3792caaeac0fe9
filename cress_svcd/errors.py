"""Errors that are the user's to mend: bad input, a wrong file, a missing option.

Every message says where (file and line, key or option), what was found, what was expected, and
what to do about it.  Commands print such an error in one line and exit with status 2; anything
else that is raised is a bug of ours and keeps its traceback.
"""


class CressError(Exception):
    """Base of all errors that the user can mend."""


class ConfigError(CressError):
    """A configuration file or a combination of options is wrong."""


class AudioError(CressError):
    """An audio file or a segment of it cannot be used."""


class ManifestError(CressError):
    """A TSV manifest is malformed."""


class ReleaseError(CressError):
    """A corpus in MuST-C layout is incomplete or inconsistent."""


class CheckpointError(CressError):
    """A checkpoint is damaged, foreign, or does not fit the model."""


class OutputError(CressError):
    """A file cannot be written: a full disk, a folder without permission."""
