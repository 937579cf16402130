"""The view's answers: lists page by page, one regression, one job. What would take too long is stopped, and says so."""

import contextlib
import heapq
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from livejobs.tables import times
from livejobs.tables.asks import HostsQuery, JobsQuery, QueryError, RegressionsQuery
from livejobs.tables.listing import Listing, Page, after_of, cursor_of, equal, order_of
from livejobs.tables.view_rows import FAIL, LIVE, NONE, RESULTS, listed_job, words_of

COUNT_MAX = 10_000
"""Rows are counted up to here."""
SEARCH_SECONDS_MAX = 0.25
"""A list gives what it has found until then."""
QUERY_SECONDS_MAX = 2.0
"""What is not a list fails then."""
FOUND_MAX = 2_000
"""Jobs that a search takes from the index of words; what more of them have is so common that the list's own order
finds a page of it at once."""
WORDS_MAX = 8
FAILS_HOURS = 24
EARLIER_MAX = 50
FACETS_MAX = 200
STEPS_OF_PROGRESS = 20_000


class TooSlowError(Exception):
    """A query was stopped: it took too long."""


_encode, _decode = msgspec.json.encode, msgspec.json.decode
Found = tuple[Any, ...]


class Reader:
    """Reads a view; in one thread at a time. All that happens inside `snapshot` sees one state of it."""

    def __init__(self, path: Path) -> None:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA query_only = ON")
        self._db.execute("PRAGMA cache_size = -8192")
        self._deadline = 0.0
        self._db.set_progress_handler(self._is_late, STEPS_OF_PROGRESS)

    def close(self) -> None:
        """Close it."""
        self._db.close()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """One state of the view. Raises TooSlowError."""
        self._deadline = time.monotonic() + QUERY_SECONDS_MAX
        self._db.execute("BEGIN")
        try:
            yield
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                raise TooSlowError from error
            raise
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def rows(self, sql: str, *values: object) -> list[Found]:
        """What SQL finds."""
        return self._db.execute(sql, values).fetchall()

    def _one(self, sql: str, *values: object) -> Found | None:
        row: Found | None = self._db.execute(sql, values).fetchone()
        return row

    # ------------------------------------------------------------------ lists

    def regressions(self, query: RegressionsQuery) -> Page:
        """A page of regressions. Raises QueryError."""
        where, values = ["r.known = 1"], list[Any]()
        statuses = query.status.split(",") if query.status else []
        if statuses:
            where.append(f"r.status IN ({','.join('?' * len(statuses))})")
            values += statuses
        elif not query.hidden:
            where.append("r.status <> 'TANKED'")
        for column, value in (("project", query.project), ("team", query.group), ("user", query.user)):
            equal(where, values, f"r.{column}", value)
        equal(where, values, "r.series", query.series)
        for word in (query.q or "").lower().split()[:WORDS_MAX]:
            where.append("instr(r.words, ?)")
            values.append(word)
        name, down = order_of(query.sort)
        listing = Listing(
            source="regressions AS r",
            where=where,
            values=values,
            order=f"r.{name}",
            key="r.id",
            down=down,
        )
        page, found = self._merge([listing], query, query.limit)
        join = "regressions AS r ON r.id = p.value CROSS JOIN statistics AS s ON s.id = r.id"
        columns = "r.name, r.started, r.series, r.number"
        rows = self._shown(found, columns, ("CAST(s.listed AS TEXT)",), join)
        return page._replace(rows=[(head[0], _with(_view_fields(*head), text.encode())) for head, text in rows])

    def jobs(self, query: JobsQuery) -> Page:
        """A page of jobs. Raises QueryError."""
        results = sorted({RESULTS.index(name) for name in query.result.split(",")})
        _check_jobs(query, results)
        where: list[str] = []
        values: list[Any] = []
        regression = self.number_of(query.regression) if query.regression else None
        if query.regression and regression is None:
            return Page([], None, 0, exact=True, partial=False)
        equal(where, values, "j.regression", regression)
        for column in ("host", "user", "test", "build", "seed", "config", "signature"):
            equal(where, values, f"j.{column}", getattr(query, column))
        if query.verdict:
            where.append("j.verdict >= 0")
        source, key, count_max = "jobs AS j", "j.id", COUNT_MAX
        if query.q is not None:
            source, count_max = self._search(query.q, results, where, values)
        name, down = order_of(query.sort)
        column = f"j.{_JOB_SORTS[name]}"
        listings = [
            Listing(
                source=source,
                where=[*where, f"j.result = {result}"],
                values=values,
                order=column,
                key=key,
                down=down,
            )
            for result in results
        ]
        page, found = self._merge(listings, query, query.limit, count_max)
        texts = ("CAST(j.key AS TEXT)", "CAST(j.record AS TEXT)")
        rows = self._shown(found, "j.started_ms", texts, "jobs AS j ON j.id = p.value")
        return page._replace(rows=[(key, listed_job(key, head[0], record)) for head, key, record in rows])

    def _search(self, q: str, results: Sequence[int], where: list[str], values: list[Any]) -> tuple[str, int]:
        """Narrow a list of jobs down to those with some words; what to select from, and how far to count."""
        words = words_of(q).split()[:WORDS_MAX]
        if not words:
            raise QueryError("q", "at least one letter or digit")
        if list(results) != [LIVE]:
            for word in words:
                where.append(f"instr(lower({_ALL_TEXTS}), ?)")
                values.append(word)
            return "jobs AS j", COUNT_MAX
        match = " AND ".join(f'"{word}" *' for word in words)
        sql = "SELECT rowid FROM live_words WHERE live_words MATCH ? LIMIT ?"
        found = [row[0] for row in self._db.execute(sql, (match, FOUND_MAX + 1))]
        if len(found) <= FOUND_MAX:
            where.append("m.value IS NOT NULL")
            values.insert(0, _encode(found).decode())
            return "json_each(?) AS m CROSS JOIN jobs AS j ON j.id = m.value", COUNT_MAX
        for word in words:
            where.append("instr(j.words, ?)")
            values.append(f" {word}")
        return "jobs AS j", 0

    def hosts(self, query: HostsQuery) -> Page:
        """A page of hosts with live jobs. Raises QueryError."""
        source = f"""(
            SELECT host, count(*) AS live, min(started_ms) AS oldest FROM jobs
            WHERE result = {LIVE} AND host <> '' GROUP BY host
        ) AS h"""
        where: list[str] = []
        values: list[Any] = []
        if query.q is not None:
            where.append("instr(lower(h.host), ?)")
            values.append(query.q.lower())
        name, down = order_of(query.sort)
        listing = Listing(
            source=source,
            where=where,
            values=values,
            order=f"h.{name}",
            key="h.host",
            down=down,
        )
        page, found = self._merge([listing], query, query.limit)
        since = times.to_text(int(time.time() // 60 * 60_000) - FAILS_HOURS * times.HOUR_MS)
        columns = f"""p.value, (SELECT count(*) FROM jobs WHERE result = {LIVE} AND host = p.value),
            (SELECT min(started_ms) FROM jobs WHERE result = {LIVE} AND host = p.value),
            (SELECT count(DISTINCT regression) FROM jobs WHERE result = {LIVE} AND host = p.value),
            (SELECT count(*) FROM jobs WHERE result = {FAIL} AND host = p.value AND updated >= '{since}')"""
        live = f"FROM jobs WHERE result = {LIVE} AND host = p.value"
        oldest = f"(SELECT CAST(key AS TEXT) {live} ORDER BY started_ms, id LIMIT 1)"
        rows = self._shown(found, columns, (oldest,), "(SELECT 1) ON 1")
        return page._replace(rows=[(head[0], _host_row(head, job)) for head, job in rows])

    def _shown(self, found: Sequence[Found], columns: str, texts: Sequence[str], join: str) -> list[list[Any]]:
        """Of each row a list of columns, and texts. One step of SQLite: it gives Python's lock away only once."""
        each = " || char(0) || ".join((f"json_array({columns})", *texts))
        sql = f"SELECT group_concat({each}, char(0)) FROM json_each(?) AS p CROSS JOIN {join}"
        (text,) = self.rows(sql, _encode([key for key, _ in found]).decode())[0]
        parts: list[Any] = text.split("\0") if text else []
        size = 1 + len(texts)
        return [[_decode(parts[at]), *parts[at + 1 : at + size]] for at in range(0, len(parts), size)]

    def _merge(
        self, listings: Sequence[Listing], query: Any, limit: int, count_max: int = COUNT_MAX
    ) -> tuple[Page, list[Found]]:
        """A page of several lists of the same order as one; its rows are still to be made."""
        after = after_of(query)
        self._deadline = time.monotonic() + SEARCH_SECONDS_MAX
        parts, partial = [], False
        for listing in listings:
            rows, stopped = self._page(*listing.page(after, limit + 1))
            parts.append(rows)
            partial = partial or stopped
        found = list(heapq.merge(*parts, key=lambda row: (row[1], row[0]), reverse=listings[0].down))
        more = len(found) > limit
        found = found[:limit]
        if not more and after is None:
            total, exact = len(found), not partial
        else:
            total, exact = self._count(listings, count_max)
        self._deadline = time.monotonic() + QUERY_SECONDS_MAX
        cursor = cursor_of(query, found[-1][1], found[-1][0]) if more else None
        return Page([], cursor, max(total, len(found)), exact=exact, partial=partial), found

    def _count(self, listings: Sequence[Listing], count_max: int) -> tuple[int, bool]:
        """How many rows there are, up to a number; and whether that is all."""
        total = 0
        for listing in listings:
            if total <= count_max:
                try:
                    sql, values = listing.counting(count_max + 1 - total)
                    total += self.rows(sql, *values)[0][0] if count_max else 1
                except sqlite3.OperationalError as error:
                    _assert_late(error)
                    return total, False
        return min(total, count_max), total <= count_max

    def _page(self, sql: str, values: Sequence[Any]) -> tuple[list[Found], bool]:
        """Key and value of rows, and whether they ended because it took too long."""
        try:
            (text,) = self.rows(f"SELECT json_group_array(json_array(id, value)) FROM ({sql})", *values)[0]
            return [tuple(row) for row in _decode(text)], False
        except sqlite3.OperationalError as error:
            _assert_late(error)
        rows: list[Found] = []
        self._deadline = time.monotonic() + SEARCH_SECONDS_MAX
        try:
            rows.extend(self._db.execute(sql, values))  # as many as it finds, one by one
        except sqlite3.OperationalError as error:
            _assert_late(error)
            return rows, True
        return rows, False

    # ------------------------------------------------------------------ one

    def number_of(self, name: str) -> int | None:
        """A regression's row, by its name or as `SERIES/$`, the latest of a series; None if there is none."""
        row = self._one("SELECT id FROM regressions WHERE name = ?", name)
        if row is None and name.endswith("/$"):
            sql = "SELECT id FROM regressions WHERE series = ? AND known = 1 ORDER BY number DESC, id DESC LIMIT 1"
            row = self._one(sql, name[:-2])
        return None if row is None else row[0]

    def name_of(self, name: str) -> str | None:
        """A regression's own name; None if there is no such regression."""
        number = self.number_of(name)
        row = self._one("SELECT name FROM regressions WHERE id = ? AND known = 1", number)
        return None if row is None else row[0]

    def regression(self, name: str) -> bytes | None:
        """The whole record of a regression, and what the view knows of it; None if it knows none."""
        sql = "SELECT r.id, r.name, r.started, r.series, r.number, s.record FROM regressions AS r JOIN statistics AS s "
        row = self._one(sql + "ON s.id = r.id WHERE r.id = ? AND r.known = 1", self.number_of(name))
        if row is None:
            return None
        _, own, started, series, member, record = row
        fields = _view_fields(own, started, series, member)
        fields["latest"] = fields["previous"] = fields["following"] = None
        if series:
            fields["latest"] = self._member(series, "1", "DESC", NONE)
            fields["previous"] = self._member(series, "number < ?", "DESC", member)
            fields["following"] = self._member(series, "number > ?", "ASC", member)
        return _with(fields, record)

    def _member(self, series: str, which: str, direction: str, number: int) -> str | None:
        values = (series, number) if "?" in which else (series,)
        sql = f"SELECT name FROM regressions WHERE series = ? AND known = 1 AND {which} ORDER BY number {direction}"
        row = self._one(f"{sql} LIMIT 1", *values)
        return None if row is None else row[0]

    def job(self, key: str) -> bytes | None:
        """The record of a job and earlier ones; None if there is no such job."""
        row = self._one("SELECT id, started_ms, record FROM jobs WHERE key = ?", key.encode())
        if row is None:
            return None
        sql = "SELECT record FROM updates WHERE job = ? ORDER BY seq DESC LIMIT ?"
        earlier = [msgspec.Raw(record) for (record,) in self._db.execute(sql, (row[0], EARLIER_MAX))]
        built = self._one("SELECT value FROM meta WHERE name = 'built'")
        return _encode(
            {
                "id": key,
                "started": times.to_text(row[1]),
                "record": msgspec.Raw(row[2]),
                "earlier": earlier,
                "earlier_since": built[0] if built else None,
            }
        )

    def facets(self) -> bytes:
        """Values of what regressions are filtered by."""
        found = {}
        for shown, column in (("project", "project"), ("group", "team"), ("user", "user")):
            sql = f"SELECT {column}, count(*) FROM regressions WHERE known = 1 AND {column} <> '' GROUP BY 1"
            rows = self.rows(f"{sql} ORDER BY 2 DESC, 1 LIMIT {FACETS_MAX}")
            found[shown] = [{"value": value, "count": count} for value, count in rows]
        return _encode(found)


_ALL_TEXTS = "j.host||' '||j.user||' '||j.test||' '||j.build||' '||j.seed||' '||j.config"
_JOB_SORTS = {
    "started": "started_ms",
    "updated": "updated",
    "finish": "finish_ms",
    "runtime_ms": "runtime_ms",
    "cycles": "cycles",
    "host": "host",
    "test": "test",
}


def _assert_late(error: sqlite3.OperationalError) -> None:
    """Raise what is not an interruption by our deadline."""
    if "interrupted" not in str(error):
        raise error


def _host_row(head: Sequence[Any], job: str) -> bytes:
    host, live, oldest_ms, regressions, fails = head
    oldest = times.to_text(oldest_ms)
    numbers = {"live": live, "oldest": oldest, "oldest_job": job, "regressions": regressions, "fails": fails}
    return _encode({"id": host, "host": host, **numbers})


def _check_jobs(query: JobsQuery, results: Sequence[int]) -> None:
    if query.regression is not None:
        return
    if list(results) != [LIVE] and (list(results) != [FAIL] or query.host is None):
        raise QueryError("result", "without regression, only live or, with host, fail")
    if query.signature is not None or query.verdict:
        raise QueryError("signature" if query.signature is not None else "verdict", "needs regression")
    name = "updated" if FAIL in results else "started"
    if order_of(query.sort)[0] != name:
        raise QueryError("sort", f"without regression, only {name} or -{name} for such jobs")


def _view_fields(name: str, started: str, series: str, number: int) -> dict[str, Any]:
    return {"id": name, "started": started or None, "series": series or None, "number": None if number < 0 else number}


def _with(fields: dict[str, Any], record: bytes) -> bytes:
    """A record with more fields before its own."""
    head: bytes = _encode(fields)
    return head[:-1] + b"," + record[1:] if record[1:2] != b"}" else head
