"""Forms with a recording, taken in under limits, into files whose names are ours."""

import logging
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cress_svcd.serving.limits import Limits
from cress_svcd.serving.places import Sender
from cress_svcd.serving.problems import Problem
from cress_svcd.serving.web import HTTPException, Receive, Request, UploadFile, run_in_threadpool

logger = logging.getLogger(__name__)

MOST_FIELDS = 32
NPY = b"\x93NUMPY"  # what numpy.save writes first; libsndfile knows all else by its contents


@dataclass(frozen=True)
class Form:
    """A form: the file of its recording, and its other fields."""

    path: Path
    fields: Mapping[str, str]


async def read_form(request: Request, limits: Limits, folder: Path, sender: Sender) -> Form:
    """The form of a request, its recording in a file in ``folder`` that is the caller's to delete.

    Raises:
        Problem: too large, too slow, or not what the protocol asks for; no room on the disk.
        ClientDisconnect: the client left.
    """
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise Problem(415, f"the body is {kind[:80]!r}; expected multipart/form-data")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.upload_bytes:
        raise too_large(limits)
    limited = Request(request.scope, limited_receive(request.receive, limits, sender))
    try:
        async with limited.form(max_files=1, max_fields=MOST_FIELDS) as form:
            upload = form.get("file")
            if not isinstance(upload, UploadFile):
                raise Problem(
                    400,
                    "the form has no file, or was cut off before its end; expected a recording "
                    "in 'file'",
                    "file",
                )
            if not upload.size:
                raise Problem(400, "the file is empty; expected a recording", "file")
            path = await run_in_threadpool(save, upload, folder / uuid.uuid4().hex)
            fields = {key: value for key, value in form.items() if isinstance(value, str)}
    except HTTPException as error:
        raise Problem(
            error.status_code,
            f"the form cannot be read ({error.detail.rstrip('.')}); expected multipart/form-data "
            "with a recording in 'file'",
            "file",
        ) from None
    except OSError as error:
        logger.error("an upload cannot be kept: %s", error)
        reason = error.strerror or "the disk fails"
        raise Problem(
            503, f"the server cannot keep the upload ({reason}); try again later", code="no_room"
        ) from None
    return Form(path, fields)


def save(upload: UploadFile, path: Path) -> Path:
    """Write a file; its path, whose suffix says of an array of numpy that it is one."""
    upload.file.seek(0)
    if upload.file.read(len(NPY)) == NPY:
        path = path.with_suffix(".npy")
    upload.file.seek(0)
    try:
        with open(path, "xb") as file:
            shutil.copyfileobj(upload.file, file)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


def limited_receive(receive: Receive, limits: Limits, sender: Sender) -> Receive:
    """``receive`` of a body that is neither larger nor slower than the limits allow."""

    async def limited() -> Any:
        try:
            message = await sender.receive(receive, limits.silence_seconds)
        except TimeoutError:
            if sender.gave_way:
                raise Problem(
                    408, "the upload was too slow, and others needed its place", "file"
                ) from None
            raise Problem(
                408, f"nothing of the upload came for {limits.silence_seconds:g} s", "file"
            ) from None
        sender.size += len(message.get("body", b""))
        if sender.size > limits.upload_bytes:
            raise too_large(limits)
        expected = (time.monotonic() - sender.begun - limits.silence_seconds) * limits.upload_rate
        if sender.size < expected and message.get("more_body"):
            raise Problem(
                408, f"the upload has less than {limits.upload_rate / 1000:g} kB a second", "file"
            )
        return message

    return limited


def too_large(limits: Limits) -> Problem:
    return Problem(
        413,
        f"the upload is larger than {limits.upload_megabytes:g} MB: send a shorter recording, or "
        "a compressed one (flac, ogg, mp3)",
        "file",
        "upload_too_large",
    )
