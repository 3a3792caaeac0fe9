"""What 'cress-svcd recipe --dry-run' prints, as arguments."""

import re
import shlex


def printed_commands(text: str) -> list[list[str]]:
    """The words of each command, without where it writes."""
    commands = []
    for line in text.replace(" \\\n  ", " ").splitlines():
        if not line.startswith(("#", "mkdir -p ")):
            command, redirected = re.subn(r" >>? \S+ 2>&1$", "", line)
            assert redirected, line
            commands.append(shlex.split(command))
    return commands
