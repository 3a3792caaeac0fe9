"""What went wrong with a request, as the protocol says it."""

from typing import Any

from cress_svcd.serving.web import HTTPException, JSONResponse, Request, Response

TYPES = {401: "authentication_error", 429: "rate_limit_error"}
RETRY_SECONDS = 2


class Problem(Exception):
    """An error with a status of HTTP.

    message: for the client's user: what was found, what was expected, what to do.
    param: the field of the request that is wrong.
    code: one word for programs.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status) or (
            "server_error" if self.status >= 500 else "invalid_request_error"
        )
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Response:
        headers = {}
        if self.status in (429, 503):
            headers["Retry-After"] = str(RETRY_SECONDS)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status in (408, 413):  # the rest of the body is not read
            headers["Connection"] = "close"
        return JSONResponse(self.body(), self.status, headers)


def stopping() -> Problem:
    return Problem(503, "the server is being stopped; try again later", code="stopping")


def answer_problem(request: Request, problem: Problem) -> Response:
    return problem.response()


def answer_http(request: Request, error: HTTPException) -> Response:
    """Of Starlette itself: no such address, another method, a body that is no form."""
    return Problem(error.status_code, str(error.detail)).response()
