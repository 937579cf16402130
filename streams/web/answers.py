"""The JSON of answers, whole or as what has changed."""

import msgspec

from livejobs.tables.listing import Page

_encode = msgspec.json.encode


def tail(page: Page) -> bytes:
    """What a list says beside its rows: the end of its JSON object."""
    exact, partial = (b"true" if one else b"false" for one in (page.exact, page.partial))
    return b'"next":%b,"total":%d,"exact":%b,"partial":%b}' % (_encode(page.next), page.total, exact, partial)


def whole(answer: Page | bytes) -> bytes:
    """An answer's JSON."""
    if isinstance(answer, bytes):
        return answer
    return b'{"rows":[%b],%b' % (b",".join(row for _, row in answer.rows), tail(answer))
