"""The commands: ``cress-svcd COMMAND``, one module each (see :mod:`cress_svcd.cli.main`)."""
