"""What tells that files have changed, without reading them: names, sizes and times."""

import hashlib
import os
from pathlib import Path


def file_fingerprint(path: Path) -> list:
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]


def folder_fingerprint(folder: Path) -> str:
    """Digest of names, sizes and times of all files below a folder."""
    digest = hashlib.sha256()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            try:
                status = os.stat(path)
                state = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                # A dangling link is the business of whoever wants to read it.
                state = "unreadable"
            digest.update(f"{os.path.relpath(path, folder)} {state}\n".encode("utf-8", "replace"))
    return digest.hexdigest()
