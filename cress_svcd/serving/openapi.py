"""The server's description in OpenAPI 3.1."""

from collections.abc import Sequence
from typing import Any

from cress_svcd import __version__
from cress_svcd.serving.answers import ANSWERS

ERRORS = {
    "400": "the form or the recording cannot be used",
    "401": "the bearer token is missing or wrong",
    "404": "there is no such model",
    "408": "the upload stopped",
    "413": "the upload is too large, or the recording too long",
    "415": "the body is no form",
    "422": "the model cannot translate the recording",
    "429": "too many recordings of one client at a time",
    "500": "the server failed; its log has the details",
    "503": "too many recordings at a time, no room on the disk, or the server is being stopped",
}


def document(models: Sequence[str]) -> dict[str, Any]:
    """The description of a server with these models."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "cress-svcd serve", "version": __version__},
        "security": [{"bearer": []}, {}],
        "paths": {
            "/v1/audio/translations": {"post": translations(models)},
            "/v1/audio/translations/live": {"get": LIVE},
            "/v1/models": {"get": reading("The models of this server.")},
            "/v1/models/{name}": {"parameters": [NAME], "get": reading("A model.")},
            "/health": {"get": reading("200 while recordings are taken, 503 when stopping.")},
            "/metrics": {"get": reading("Counters in Prometheus' text.", "text/plain")},
        },
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": ERROR, "Translation": TRANSLATION},
        },
    }


NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
TRANSLATION = {
    "type": "object",
    "required": ["text"],
    "properties": {
        "text": {"type": "string"},
        "language": {"type": "string", "description": "with verbose_json: of the text"},
        "duration": {"type": "number", "description": "with verbose_json: seconds"},
        "segments": {"type": "array", "items": {"type": "object"}},
    },
}


LIVE = {
    "summary": "Translate speech while it is spoken (WebSocket).",
    "description": (
        'The client sends {"type": "start", "model": …}, with "token" where it cannot send a '
        "header, then binary messages of PCM (16 kHz, 16 bits, little endian, one channel), then "
        '{"type": "stop"}. The server sends ready, partial with text and the part of it that '
        "stays, final for each segment, done; or error."
    ),
    "responses": {"101": {"description": "the connection is one of messages from now on"}},
}


def translations(models: Sequence[str]) -> dict[str, Any]:
    fields = {
        "file": {"type": "string", "format": "binary", "description": "a recording"},
        "model": {"type": "string", "examples": list(models)},
        "language": {"type": "string", "description": "the target, such as de"},
        "response_format": {"type": "string", "enum": list(ANSWERS), "default": "json"},
        "stream": {"type": "boolean", "description": "server-sent events, a segment each"},
        "prompt": {"type": "string", "description": "not used"},
        "temperature": {"type": "number", "description": "not used"},
    }
    schema = {"type": "object", "required": ["file"], "properties": fields}
    ok = {"schema": {"$ref": "#/components/schemas/Translation"}}
    text = {"schema": {"type": "string"}}
    failed = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    good = {
        "application/json": ok,
        **dict.fromkeys(("text/plain", "application/x-subrip", "text/vtt"), text),
        "text/event-stream": text,
    }
    return {
        "summary": "Translate a recording.",
        "description": (
            "With stream=true server-sent events: transcript.text.segment for each segment as it "
            "comes, then transcript.text.done."
        ),
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}},
        "responses": {
            "200": {"description": "the translation", "content": good},
            **{
                status: {"description": words, "content": failed}
                for status, words in ERRORS.items()
            },
        },
    }


def reading(summary: str, kind: str = "application/json") -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {kind: {}}}},
    }
