"""Serve models: an interface for programs, and a page to try them with.

  cress-svcd serve model.packed.pt
  cress-svcd serve en-de.packed.pt en-ro.packed.pt --port 9000
  cress-svcd serve bit=model.packed.pt full=averaged.pt
  cress-svcd serve model.cress --engine native
  curl -F file=@talk.flac -F response_format=srt http://127.0.0.1:8000/v1/audio/translations

Needs pip install cress_svcd[serve].  http://127.0.0.1:8000/ is the page; the protocol is that of
OpenAI's audio translations, so that its client libraries work:
  POST /v1/audio/translations   file, model, language (of the target), response_format (json, text,
                                srt, vtt, verbose_json), stream (true: segments as they come)
  GET  /v1/models, /health, /metrics (Prometheus), /openapi.json

A request that names no model (or whisper-1) gets the first one that translates to its language.
Requests are translated together, which does not change their words.  What is more than the limits
gets 413, 429 or 503, with a message.

The server is bound to this machine unless --host says otherwise.  SIGTERM and Ctrl-C: it takes
nothing new, and ends when what is under way is answered; a second one ends it at once.
"""

import argparse
import functools
import logging
import math
import os
from pathlib import Path

from cress_svcd.cli.arguments import (
    add_search_arguments,
    add_segmentation_arguments,
    loading_options,
    positive,
    thread_count,
)
from cress_svcd.cli.engines import add_engine_argument, translator_class
from cress_svcd.errors import ConfigError
from cress_svcd.serving.limits import Limits

logger = logging.getLogger(__name__)

TOKEN = "CRESS_SVCD_TOKEN"
# Option, field of ``Limits``, unit, what it limits.
LIMITS = (
    ("--max-upload", "upload_megabytes", "MB", "of an upload"),
    ("--max-recording-seconds", "recording_seconds", "S", "of a recording"),
    ("--max-requests", "requests", "N", "recordings under way, waiting ones included"),
    ("--max-client-requests", "client_requests", "N", "those of one client"),
    ("--max-live", "live", "N", "live connections"),
    ("--max-wait", "wait_seconds", "S", "until a recording is begun"),
    ("--grace", "grace_seconds", "S", "for what is under way when the server is stopped"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]MODEL",
        help="trained checkpoints; without a name, that of the file",
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s, this machine")
    parser.add_argument(
        "--port", type=int, default=8000, help="default: %(default)s; 0: any free one"
    )
    parser.add_argument(
        "--token",
        help=f"ask for this bearer token; other users of the machine can see it here, not in the "
        f"variable {TOKEN} or in --token-file",
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="a file that holds it")
    parser.add_argument(
        "--cors",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="pages of other hosts that may ask, such as https://example.org; default: none",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with config.yaml, dictionary and sentencepiece model of the checkpoints",
    )
    add_engine_argument(parser)
    add_limit_arguments(parser)
    add_search_arguments(parser)
    add_segmentation_arguments(parser)


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    for option, field, unit, what in LIMITS:
        default = getattr(Limits, field)
        group.add_argument(
            option,
            dest=field,
            type=positive if isinstance(default, int) else amount,
            default=default,
            metavar=unit,
            help=f"{what} (default: {default:g})",
        )
    group.add_argument(
        "--workers",
        type=thread_count,
        default=1,
        metavar="N",
        help="batches at a time, each with --threads (default: %(default)s); more only help where "
        "several models are asked, or with --engine native",
    )


def token_of(args: argparse.Namespace) -> str | None:
    """Raises ConfigError: the token is given twice, is empty, or cannot be read."""
    if args.token is not None and args.token_file is not None:
        raise ConfigError("--token and --token-file: give one of them")
    token, where = args.token, "--token"
    if args.token_file is not None:
        where = f"--token-file {args.token_file}"
        try:
            token = args.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: cannot be read ({error})") from None
    elif token is None and TOKEN in os.environ:
        token, where = os.environ[TOKEN], TOKEN
    if token is not None and not (
        token.isascii() and token.isprintable() and token.split() == [token]
    ):
        raise ConfigError(f"{where}: expected a token of printable ASCII characters, no spaces")
    return token


def amount(text: str) -> float:
    """A number, 0 or more."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 or more")
    return number


def origins_of(args: argparse.Namespace) -> list[str]:
    """Raises ConfigError: no browser says one of them."""
    from cress_svcd.serving.gate import is_origin

    for origin in args.cors:
        if not is_origin(origin):
            raise ConfigError(
                f"--cors {origin}: expected scheme and host in small letters without a path, such "
                "as https://example.org"
            )
    return list(args.cors)


def limits_of(args: argparse.Namespace) -> Limits:
    chosen = {field: getattr(args, field) for _, field, _, _ in LIMITS}
    return Limits(**chosen, batch_seconds=args.batch_seconds)


def run(args: argparse.Namespace) -> int:
    # Here: --help does not wait for them.
    from cress_svcd.serving.web import require

    require()
    from cress_svcd.serving.app import Service
    from cress_svcd.serving.gate import LOOPBACK
    from cress_svcd.serving.models import load_models
    from cress_svcd.serving.server import address_of, bind, serve
    from cress_svcd.translation.recording_translator import EVERY

    token, origins, limits = token_of(args), origins_of(args), limits_of(args)
    with bind(args.host, args.port) as listening:
        options = {**loading_options(args), "target_lang": EVERY}
        load = functools.partial(translator_class(args.engine).load, **options)
        models = load_models(args.models, load)
        hosts = LOOPBACK if args.host in LOOPBACK else None
        if hosts is None and token is None:
            logger.warning("whoever reaches %s may use this server: --token-file", args.host)
        service = Service(models, limits, token, hosts, origins, args.workers)
        names = ", ".join(f"{model.name} ({model.language})" for model in models)
        serve(
            service,
            listening,
            lambda: print(f"serving {names} at {address_of(listening)}", flush=True),
        )
    return 0
