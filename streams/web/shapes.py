"""What answers look like: for the OpenAPI document. Answers themselves are put together from stored records."""

from typing import Annotated, Any

import msgspec

from livejobs.streams.web.ingest import Progress
from livejobs.tables.asks import Name
from livejobs.tables.regressions import StatsNumbers
from livejobs.tables.view_rows import ListedJob


class _InView(StatsNumbers, kw_only=True):
    id: str
    """Its name, again: rows of every list have an id."""
    started: str | None
    """What regr-start gave as starttime, else when its first job was seen."""
    series: str | None
    """Of a regression named `series/NUMBER`."""
    number: int | None
    fields: dict[str, Any]


class RegressionRow(_InView, kw_only=True):
    """A regression in a list: its statistics without signatures, and of `fields` what a list shows."""


class RegressionAnswer(_InView, kw_only=True):
    """One regression: its whole statistics record, and its neighbours in its series."""

    signatures: dict[str, int]
    latest: str | None
    previous: str | None
    following: str | None


class HostRow(msgspec.Struct, kw_only=True):
    """A host with live jobs."""

    id: str
    host: str
    live: int
    oldest: str
    """Start of the job that runs longest."""
    oldest_job: str | None
    regressions: int
    fails: int
    """Fails of the last 24 hours."""


class _List(msgspec.Struct, kw_only=True):
    next: str | None
    """`cursor` of the next page; null: there is none."""
    total: int
    exact: bool
    """False: there are more than `total`."""
    partial: bool
    """True: it was stopped at its time limit, there may be more rows."""


class RegressionList(_List, kw_only=True):
    """A page of regressions."""

    rows: list[RegressionRow]


class JobList(_List, kw_only=True):
    """A page of jobs."""

    rows: list[ListedJob]


class HostList(_List, kw_only=True):
    """A page of hosts."""

    rows: list[HostRow]


class JobAnswer(msgspec.Struct, kw_only=True):
    """One job: its record as in the topic `jobs`, and earlier ones, the newest first."""

    id: str
    started: str
    record: dict[str, Any]
    earlier: list[dict[str, Any]]
    earlier_since: str | None
    """Since when earlier records have been kept: when the view was made."""


class Facet(msgspec.Struct):
    """A value to filter by, and how many regressions have it."""

    value: str
    count: int


class FacetsAnswer(msgspec.Struct):
    """Values to filter regressions by, the most frequent first."""

    project: list[Facet]
    group: list[Facet]
    user: list[Facet]


class _ByResult(msgspec.Struct, kw_only=True):
    passed: list[int] = msgspec.field(name="pass")
    fail: list[int]
    skip: list[int]


class FinishesChart(_ByResult, kw_only=True):
    """Jobs that finished in each step of time."""

    start: str | None
    step_ms: int


class RuntimeChart(_ByResult, kw_only=True):
    """Jobs by runtime, one bin between each two edges."""

    edges_ms: list[int]


class CyclesChart(_ByResult, kw_only=True):
    """Jobs by cycles, one bin between each two edges."""

    edges: list[int]


class ChartsAnswer(msgspec.Struct, kw_only=True):
    """Charts of the finished jobs of one regression."""

    regression: str | None
    finishes: FinishesChart
    runtime: RuntimeChart
    cycles: CyclesChart


class WhoamiAnswer(msgspec.Struct, kw_only=True):
    """Who asks, and what is allowed."""

    user: str | None
    may_read: bool
    may_tank: bool
    login: bool
    """Whether a token can be given at /session."""


class HealthAnswer(msgspec.Struct, kw_only=True):
    """How fresh the view is."""

    ready: bool
    now: str
    connected: bool
    as_of: str | None
    behind: int
    rebuilding: Progress | None
    unreadable: int
    """Records in the topics that no worker of ours wrote."""


class TankAnswer(msgspec.Struct, kw_only=True):
    """The message is published; the status follows."""

    regression: str
    tank: bool


Reason = Annotated[str, msgspec.Meta(max_length=1000)]
Token = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class TankBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which regression to tank, and why."""

    regression: Name
    reason: Reason | None = None


class UntankBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which regression to untank."""

    regression: Name


class SessionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token, to get a cookie for it."""

    token: Token
