"""Word lists as text: a row a line, columns two or more blanks apart, ``#`` begins a comment."""

import re


def rows(table: str) -> list[list[str]]:
    """The rows of ``table`` as lists of columns, in order."""
    lines = (line.partition("#")[0].strip() for line in table.splitlines())
    return [re.split(r"\s{2,}", line) for line in lines if line]


def keyed(table: str) -> dict[str, list[str]]:
    """The rows of ``table`` by their first column; a key that comes twice is an error."""
    result: dict[str, list[str]] = {}
    for key, *columns in rows(table):
        if key in result:
            raise ValueError(f"two rows for {key!r}")
        result[key] = columns
    return result


def mapping(table: str) -> dict[str, str]:
    """Like ``keyed`` for tables of two columns."""
    return {key: value for key, (value,) in keyed(table).items()}
