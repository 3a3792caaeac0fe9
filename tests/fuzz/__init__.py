"""A bounded fuzzer: damaged files to every reader.  ``bash scripts/fuzz.sh --help``.

Nothing else imports this folder.
"""
