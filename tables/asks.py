"""What can be asked of the view's lists: which rows, in which order, from where on."""

from typing import Annotated, Literal

import msgspec

from livejobs.tables.view_rows import TEXT_MAX

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=8000)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_MAX)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=200)]
Cursor = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
_STATUS, _RESULT = "(LIVE|COMPLETE|ABORTED|TANKED)", "(live|pass|fail|skip)"
Statuses = Annotated[str, msgspec.Meta(pattern=f"^{_STATUS}(,{_STATUS}){{0,3}}$")]
Results = Annotated[str, msgspec.Meta(pattern=f"^{_RESULT}(,{_RESULT}){{0,3}}$")]


class QueryError(ValueError):
    """A query that can't be answered: the parameter to blame, and what is allowed."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field


class RegressionsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which regressions, in which order."""

    status: Statuses | None = None
    project: Text | None = None
    group: Text | None = None
    user: Text | None = None
    series: Name | None = None
    q: Text | None = None
    hidden: bool = False
    sort: Literal[
        "started", "-started", "name", "-name", "heard", "-heard", "updated", "-updated", "live", "-live", "fail",
        "-fail", "finished", "-finished", "remaining", "-remaining", "pass_rate", "-pass_rate", "number", "-number",
    ] = "-started"  # fmt: skip
    limit: Limit = 50
    cursor: Cursor | None = None


class JobsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which jobs, in which order."""

    regression: Name | None = None
    result: Results = "live"
    host: Text | None = None
    user: Text | None = None
    test: Text | None = None
    build: Text | None = None
    seed: Text | None = None
    config: Text | None = None
    signature: Text | None = None
    verdict: bool = False
    q: Text | None = None
    sort: Literal[
        "started", "-started", "updated", "-updated", "finish", "-finish", "runtime_ms", "-runtime_ms", "cycles",
        "-cycles", "host", "-host", "test", "-test",
    ] = "started"  # fmt: skip
    limit: Limit = 50
    cursor: Cursor | None = None


class HostsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which hosts, in which order."""

    q: Text | None = None
    sort: Literal["live", "-live", "host", "-host", "oldest", "-oldest"] = "-live"
    limit: Limit = 50
    cursor: Cursor | None = None
