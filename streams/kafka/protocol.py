"""Requests that aiokafka does not know, or knows in versions too old for us: those of KIP-447.

With them the group's coordinator refuses the offsets of a member that has lost its partitions, and tells nobody an
offset that may still change.
"""

from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

NO_LEADER_EPOCH = -1
_TEXT = CompactString("utf-8")
_END = ("tags", TaggedFields)


def _by_topic(*of_partition: tuple[str, Any]) -> tuple[str, Any]:
    """`topics`: (name, [(partition, what is given of it, tags)], tags)."""
    partitions = CompactArray(("partition", Int32), *of_partition, _END)
    return "topics", CompactArray(("name", _TEXT), ("partitions", partitions), _END)


class TxnOffsetCommitResponse3(Response):  # type: ignore[misc]
    """`topics`: (name, [(partition, error code, tags)], tags)."""

    API_KEY = 28
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        _by_topic(("error_code", Int16)),
        _END,
    )


class TxnOffsetCommitRequest3(RequestStruct):  # type: ignore[misc]
    """Offsets of a transaction, with the group's generation and member that it belongs to."""

    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = TxnOffsetCommitResponse3
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("group_id", _TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", _TEXT),
        ("group_instance_id", _TEXT),
        _by_topic(("offset", Int64), ("leader_epoch", Int32), ("metadata", _TEXT)),
        _END,
    )


class OffsetFetchResponse7(Response):  # type: ignore[misc]
    """`topics`: (name, [(partition, offset, leader epoch, metadata, error code, tags)], tags)."""

    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        _by_topic(("offset", Int64), ("leader_epoch", Int32), ("metadata", _TEXT), ("error_code", Int16)),
        ("error_code", Int16),
        _END,
    )


class OffsetFetchRequest7(RequestStruct):  # type: ignore[misc]
    """What a group has committed; with `require_stable` only what no open transaction may change."""

    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = OffsetFetchResponse7
    SCHEMA = Schema(
        ("group_id", _TEXT),
        ("topics", CompactArray(("name", _TEXT), ("partitions", CompactArray(Int32)), _END)),
        ("require_stable", Boolean),
        _END,
    )


class TxnOffsetCommit(Request[TxnOffsetCommitRequest3]):  # type: ignore[misc]
    """The fields of TxnOffsetCommitRequest3, in their order."""

    API_KEY = 28

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: type[TxnOffsetCommitRequest3]) -> TxnOffsetCommitRequest3:
        """The request itself."""
        return request_struct_class(*self._fields, {})


class OffsetFetch(Request[OffsetFetchRequest7]):  # type: ignore[misc]
    """The fields of OffsetFetchRequest7, in their order."""

    API_KEY = 9

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: type[OffsetFetchRequest7]) -> OffsetFetchRequest7:
        """The request itself."""
        return request_struct_class(*self._fields, {})
