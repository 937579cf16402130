"""What went wrong, as RFC 9457 has it."""

from http import HTTPStatus

import msgspec

MEDIA_TYPE = "application/problem+json"


class ProblemBody(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of every answer that is an error."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    """One line that says what is wrong, and what is allowed."""
    field: str | None = None
    """The parameter or field to blame, if it is one."""

    def __post_init__(self) -> None:
        self.detail = self.detail[:1000]


class Problem(Exception):  # noqa: N818  it is the standard's name
    """A request that is not answered as asked."""

    def __init__(
        self, status: int, detail: str, field: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.field, self.headers = status, detail, field, headers or {}

    def body(self) -> bytes:
        """As JSON."""
        title = HTTPStatus(self.status).phrase
        whole = ProblemBody(title=title, status=self.status, detail=self.detail, field=self.field)
        # `type` is the default, but a reader looks for it.
        return b'{"type":"about:blank",' + msgspec.json.encode(whole)[1:]


def unavailable(detail: str, seconds: int) -> Problem:
    """It may go well after so many seconds."""
    return Problem(503, detail, headers={"retry-after": str(seconds)})
