"""Kafka's default partitioner: which partition a key belongs to (pure).

The hash is murmur2 as in `org.apache.kafka.common.utils.Utils.murmur2`, with its seed; other clients' defaults differ
(librdkafka's is CRC32).
"""

from livejobs.tables.compiled import native

_SEED, _M, _R, _MASK = 0x9747B28C, 0x5BD1E995, 24, 0xFFFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key among `partitions`."""
    return ((murmur2 if native is None else native.murmur2)(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """The hash of a key, 32 bits unsigned."""
    whole = len(data) & ~3
    value = (_SEED ^ len(data)) & _MASK
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        word = (word ^ (word >> _R)) * _M & _MASK
        value = (value * _M & _MASK) ^ word
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * _M & _MASK
    value = (value ^ (value >> 13)) * _M & _MASK
    return value ^ (value >> 15)
