"""What can go wrong; the message is the engine's."""


class CressError(Exception):
    """A model, an option or a call cannot be used."""


class AudioError(CressError):
    """A recording cannot be used."""
