# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""What is done to every byte, compiled: record batches unpacked and packed, and job bodies read in one pass.

It decides nothing that is not decided elsewhere. `live` and `finish` answer for plain bodies only, and then exactly
what `streams.core.messages` would answer; `run` takes plain messages only, and then does exactly what `streams.core.fold` would
do. All others are left to those two, which know every rule. The tests hold both against each other. Without this module
(no C compiler at hand when livejobs was installed) all is the same, and slower.

The format of record batches is Kafka's, version 2: the record batch section of its protocol guide.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeASCII, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, strlen

from time import time

from msgspec import DecodeError
from msgspec.json import Decoder, encode as _encode

from livejobs.tables.states import JobState

cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>
    #include <string.h>
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif

    static uint32_t lj_crc_table[8][256];
    static int lj_crc_ready = 0;

    static void lj_crc_init(void) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t crc = i;
            for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1)));
            lj_crc_table[0][i] = crc;
        }
        for (uint32_t i = 0; i < 256; i++)
            for (int t = 1; t < 8; t++)
                lj_crc_table[t][i] = (lj_crc_table[t - 1][i] >> 8) ^ lj_crc_table[0][lj_crc_table[t - 1][i] & 255];
        lj_crc_ready = 1;
    }

    static uint32_t lj_crc_soft(uint32_t crc, const unsigned char *at, size_t size) {
        if (!lj_crc_ready) lj_crc_init();
        for (; size >= 8; at += 8, size -= 8) {
            crc ^= (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
            crc = lj_crc_table[7][crc & 255] ^ lj_crc_table[6][crc >> 8 & 255] ^ lj_crc_table[5][crc >> 16 & 255]
                ^ lj_crc_table[4][crc >> 24] ^ lj_crc_table[3][at[4]] ^ lj_crc_table[2][at[5]]
                ^ lj_crc_table[1][at[6]] ^ lj_crc_table[0][at[7]];
        }
        for (; size; at++, size--) crc = (crc >> 8) ^ lj_crc_table[0][(crc ^ *at) & 255];
        return crc;
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    __attribute__((target("sse4.2")))
    static uint32_t lj_crc_hard(uint32_t crc, const unsigned char *at, size_t size) {
        uint64_t wide = crc;
        for (; size >= 8; at += 8, size -= 8) {
            uint64_t word;
            memcpy(&word, at, 8);
            wide = __builtin_ia32_crc32di(wide, word);
        }
        crc = (uint32_t)wide;
        for (; size; at++, size--) crc = __builtin_ia32_crc32qi(crc, *at);
        return crc;
    }
    static uint32_t lj_crc32c(const unsigned char *at, size_t size) {
        return ~(__builtin_cpu_supports("sse4.2") ? lj_crc_hard : lj_crc_soft)(0xFFFFFFFFu, at, size);
    }
    #else
    static uint32_t lj_crc32c(const unsigned char *at, size_t size) {
        return ~lj_crc_soft(0xFFFFFFFFu, at, size);
    }
    #endif
    /* The first quote, backslash or control character; or a place before it, less than a step from the end. */
    #if defined(__SSE2__) && defined(__GNUC__)
    static inline const unsigned char *lj_past_text(const unsigned char *at, const unsigned char *end) {
        const __m128i quote = _mm_set1_epi8(34), slash = _mm_set1_epi8(92), control = _mm_set1_epi8(31);
        for (; end - at >= 16; at += 16) {
            __m128i text = _mm_loadu_si128((const __m128i *)at);
            __m128i marks = _mm_or_si128(_mm_cmpeq_epi8(text, quote), _mm_cmpeq_epi8(text, slash));
            int mask = _mm_movemask_epi8(_mm_or_si128(marks, _mm_cmpeq_epi8(_mm_min_epu8(text, control), text)));
            if (mask) return at + __builtin_ctz(mask);
        }
        return at;
    }
    #else
    static inline const unsigned char *lj_past_text(const unsigned char *at, const unsigned char *end) {
        const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
        for (; end - at >= 8; at += 8) {
            uint64_t word, quote, slash, marks;
            memcpy(&word, at, 8);
            quote = word ^ (ones * 34), slash = word ^ (ones * 92);
            marks = (((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((word - ones * 32) & ~word)) & highs;
            if (!marks) continue;
    #if defined(__GNUC__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            at += __builtin_ctzll(marks) >> 3;  /* the lowest mark is right, others may be not */
    #endif
            return at;
        }
        return at;
    }
    #endif
    static uint32_t lj_crc32c_soft(const unsigned char *at, size_t size) {
        return ~lj_crc_soft(0xFFFFFFFFu, at, size);
    }
    """
    uint32_t lj_crc32c(const uint8_t *at, size_t size) noexcept nogil
    uint32_t lj_crc32c_soft(const uint8_t *at, size_t size) noexcept nogil
    const uint8_t *lj_past_text(const uint8_t *at, const uint8_t *end) noexcept nogil


def crc32c(bytes data not None, Py_ssize_t start=0, bint portable=False):
    """CRC-32C of the bytes from `start` on: by the processor's instruction where it has one, or by table (`portable`)."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
    if not 0 <= start <= PyBytes_GET_SIZE(data):
        raise ValueError("there is no such place")
    return (lj_crc32c_soft if portable else lj_crc32c)(at + start, PyBytes_GET_SIZE(data) - start)


def murmur2(bytes data not None):
    """See `streams.core.partitioner.murmur2`."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data), i
    cdef uint32_t value = <uint32_t>0x9747B28C ^ <uint32_t>size, word
    for i in range(size // 4):
        word = at[0] | at[1] << 8 | at[2] << 16 | <uint32_t>at[3] << 24
        word *= <uint32_t>0x5BD1E995
        word = (word ^ word >> 24) * <uint32_t>0x5BD1E995
        value = value * <uint32_t>0x5BD1E995 ^ word
        at += 4
    if size & 3:
        for i in range(size & 3):
            value ^= <uint32_t>at[i] << 8 * i
        value *= <uint32_t>0x5BD1E995
    value = (value ^ value >> 13) * <uint32_t>0x5BD1E995
    return value ^ value >> 15


# ---------------------------------------------------------------------------------------------------- records

cdef enum:
    HEAD_BYTES = 61  # a batch's header
    LOG_BYTES = 12  # of it: base offset and length, which the length does not count
    CRC_FROM = 21  # the checksum covers what follows it
    LOG_APPEND_TIME = 0x08
    TRANSACTIONAL = 0x10
    NOT_PLAIN = 0x37  # compressed, transactional or control

cdef inline uint64_t _big(const uint8_t *at, int size) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(size):
        value = value << 8 | at[i]
    return value


cdef inline void _put_big(uint8_t *at, uint64_t value, int size) noexcept nogil:
    cdef int i
    for i in range(size):
        at[size - 1 - i] = value >> (8 * i) & 255


cdef inline const uint8_t *_varint(const uint8_t *at, const uint8_t *end, int64_t *value) noexcept nogil:
    """Read a zigzag varint; NULL if it does not end in time."""
    cdef uint64_t raw = 0
    cdef int shift = 0
    while at != NULL and at < end and shift < 64:
        raw |= <uint64_t>(at[0] & 127) << shift
        if at[0] < 128:
            value[0] = <int64_t>(raw >> 1) ^ -<int64_t>(raw & 1)
            return at + 1
        at += 1
        shift += 7
    return NULL


cdef inline uint8_t *_put_varint(uint8_t *at, int64_t value) noexcept nogil:
    cdef uint64_t raw = (<uint64_t>value << 1) ^ <uint64_t>(value >> 63)
    while raw > 127:
        at[0] = raw & 127 | 128
        at += 1
        raw >>= 7
    at[0] = raw
    return at + 1


cdef dict _kinds = {kind: kind for kind in (
    b"job-live", b"job-finish", b"batch-job-finish", b"regr-start", b"regr-update", b"regr-finish", b"regr-tank",
    b"_livejobs.tick")}


cdef class Record:
    """One record of a partition: what a ConsumerRecord has of it, and `kind`, the value of its last header `type`."""

    cdef readonly long long offset
    cdef readonly long long timestamp
    cdef readonly bytes key
    cdef readonly bytes value
    cdef readonly bytes kind
    cdef bytes _headers  # as they are in the batch, from their number on

    @property
    def headers(self):
        """Names and values, in order. A name that is no UTF-8 is read with surrogates, so that nothing is lost."""
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(self._headers)
        cdef const uint8_t *end = at + PyBytes_GET_SIZE(self._headers)
        cdef int64_t count = 0, size = 0
        at = _varint(at, end, &count)
        found = []
        while count > 0:
            at = _varint(at, end, &size)
            name = at[:size].decode("utf-8", "surrogateescape")
            at = _varint(at + size, end, &size)
            found.append((name, at[:size] if size >= 0 else None))
            at += size if size > 0 else 0
            count -= 1
        return found


def bytes_of(list records not None, Py_ssize_t overhead):
    """The size of records, with so many bytes for each beside its own."""
    cdef Py_ssize_t size = overhead * len(records)
    cdef Record record
    for given in records:
        if type(given) is Record:
            record = <Record>given
            size += PyBytes_GET_SIZE(record._headers)
            if record.key is not None:
                size += PyBytes_GET_SIZE(record.key)
            if record.value is not None:
                size += PyBytes_GET_SIZE(record.value)
        else:
            size += len(given.key or b"") + len(given.value or b"")
    return size


cdef const uint8_t *_sized(const uint8_t *at, const uint8_t *end, int64_t *size) noexcept nogil:
    """Read the length of what follows, which must be there; -1 stands for null."""
    at = _varint(at, end, size)
    if at == NULL or size[0] < -1 or size[0] > end - at:
        return NULL
    return at


cdef Record _record(const uint8_t *at, const uint8_t *end):
    """The record between `at` and `end`, its offset and time still relative; None if it is malformed."""
    cdef Record record = Record.__new__(Record)
    cdef int64_t size = 0, count = 0, delta = 0
    cdef const uint8_t *headers
    cdef const uint8_t *name
    if at >= end:
        return None
    at = _varint(at + 1, end, &delta)  # behind the attributes
    record.timestamp = delta
    at = _varint(at, end, &delta)
    record.offset = delta
    at = _sized(at, end, &size)
    if at == NULL:
        return None
    if size >= 0:
        record.key = PyBytes_FromStringAndSize(<const char *>at, size)
        at += size
    at = _sized(at, end, &size)
    if at == NULL:
        return None
    if size >= 0:
        record.value = PyBytes_FromStringAndSize(<const char *>at, size)
        at += size
    headers = at
    at = _varint(at, end, &count)
    record.kind = b""
    while at != NULL and count > 0:
        at = _sized(at, end, &size)
        if at == NULL or size < 0:
            return None
        name = at if size == 4 and memcmp(at, b"type", 4) == 0 else NULL
        at = _sized(at + size, end, &size)
        if at == NULL:
            return None
        if name != NULL:
            kind = at[:size] if size > 0 else b""
            record.kind = _kinds.get(kind, kind)
        at += size if size > 0 else 0
        count -= 1
    if at != end or count < 0:
        return None
    record._headers = PyBytes_FromStringAndSize(<const char *>headers, end - headers)
    return record


def records(bytes data not None, Py_ssize_t start, Py_ssize_t count, long long base_offset, long long last,
            long long base_ms, bint append_time):
    """The records of one batch, which fill `data` from `start` on, uncompressed. ValueError where it is malformed.

    Their offsets are `base_offset` to that and `last`, in order, some of them maybe gone. `base_ms` is the first record's time, or with `append_time` the time of all of them.
    """
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
    if not 0 <= start <= PyBytes_GET_SIZE(data):
        raise ValueError("there is no such place")
    return _records(at + start, at + PyBytes_GET_SIZE(data), count, base_offset, last, base_ms, append_time, [])


cdef list _records(const uint8_t *at, const uint8_t *end, Py_ssize_t count, long long base_offset, int64_t last,
                   long long base_ms, bint append_time, list found):
    cdef int64_t size = 0, before = -1
    cdef Record record
    while count > 0:
        at = _sized(at, end, &size)
        record = None if at == NULL else _record(at, at + size)
        if record is None:
            raise ValueError(f"a record of the batch at offset {base_offset} is malformed")
        if not before < record.offset <= last:
            raise ValueError(f"the records of the batch at offset {base_offset} are not in order")
        before = record.offset
        record.offset += base_offset
        record.timestamp = base_ms if append_time else base_ms + record.timestamp
        found.append(record)
        at += size
        count -= 1
    if at != end:
        raise ValueError(f"the batch at offset {base_offset} is longer than its records")
    return found


def plain(bytes data not None, Py_ssize_t at, Py_ssize_t most, bint all_count):
    """Unpack consecutive plain batches of a fetched record set, from position `at` on.

    Stops before a batch that is compressed, a control batch, of another version, malformed or not there as a whole,
    and after `most` records; also before one that is part of a transaction, unless `all_count` says that none of them
    is to be left out. Returns the records, the position behind them and the offset after the last batch
    (-1: there was none). ValueError where a checksum is wrong.
    """
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef const uint8_t *head
    cdef Py_ssize_t total = PyBytes_GET_SIZE(data), size
    cdef int64_t next_offset = -1, base
    cdef bint append_time
    cdef list found = []
    cdef Py_ssize_t good
    cdef int others = NOT_PLAIN & ~TRANSACTIONAL if all_count else NOT_PLAIN
    while total - at >= HEAD_BYTES and len(found) < most:
        head = start + at
        size = LOG_BYTES + <Py_ssize_t>_big(head + 8, 4)
        if size < HEAD_BYTES or size > total - at or head[16] != 2 or head[22] & others:
            break
        base = <int64_t>_big(head, 8)
        if _big(head + 17, 4) != lj_crc32c(head + CRC_FROM, size - CRC_FROM):
            raise ValueError(f"the batch at offset {base} has a wrong checksum")
        append_time = head[22] & LOG_APPEND_TIME
        good = len(found)
        try:
            _records(head + HEAD_BYTES, head + size, <int>_big(head + 57, 4), base, <int>_big(head + 23, 4),
                     <int64_t>_big(head + (35 if append_time else 27), 8), append_time, found)
        except ValueError:
            del found[good:]
            break
        next_offset = base + <int>_big(head + 23, 4) + 1
        at += size
    return found, at, next_offset


cdef inline Py_ssize_t _record_bytes_max(bytes key, bytes value, list headers) except -1:
    cdef Py_ssize_t size = 64
    size += 0 if key is None else PyBytes_GET_SIZE(key)
    size += 0 if value is None else PyBytes_GET_SIZE(value)
    for name, data in headers:
        size += 20 + 4 * len(name) + (0 if data is None else len(data))
    return size


cdef uint8_t *_put_bytes(uint8_t *at, bytes data) noexcept:
    cdef Py_ssize_t size
    if data is None:
        return _put_varint(at, -1)
    size = PyBytes_GET_SIZE(data)
    at = _put_varint(at, size)
    memcpy(at, PyBytes_AS_STRING(data), size)
    return at + size


def pack(list outputs not None, Py_ssize_t start, Py_ssize_t bytes_max):
    """Pack outputs (key, value, headers), from index `start` on, behind an empty batch header.

    Returns a bytearray of at most `bytes_max` bytes (more only where one output alone needs more) and the index of the
    next output. All records have the batch's time.
    """
    cdef bytearray packed = bytearray(bytes_max if bytes_max < 65536 else 65536)
    cdef uint8_t *base = packed
    cdef uint8_t *at
    cdef Py_ssize_t used = HEAD_BYTES, need, i = start, room = len(packed), scratch_size
    cdef bytes key, value, name_bytes
    cdef list headers
    cdef uint8_t length[10]
    while i < len(outputs):
        key, value, headers = outputs[i]
        need = _record_bytes_max(key, value, headers)
        if i > start and used + need > bytes_max:
            break
        if used + need + 10 > room:
            room = max(2 * room, used + need + 10)
            packed.extend(bytes(room - len(packed)))
            base = packed
        at = base + used + 10  # the record's length is put before it afterwards
        at[0] = 0
        at = _put_varint(at + 1, 0)
        at = _put_varint(at, i - start)
        at = _put_bytes(at, key)
        at = _put_bytes(at, value)
        at = _put_varint(at, len(headers))
        for name, data in headers:
            name_bytes = (<str>name).encode("utf-8", "surrogateescape")
            at = _put_bytes(at, name_bytes)
            at = _put_bytes(at, data)
        need = at - (base + used + 10)
        scratch_size = _put_varint(length, need) - length
        memcpy(base + used, length, scratch_size)
        memmove_down(base + used + scratch_size, base + used + 10, need)
        used += scratch_size + need
        i += 1
    del packed[used:]
    return packed, i


cdef extern from "string.h" nogil:
    void *memmove_down "memmove"(void *to, const void *source, size_t size)


def seal(bytearray packed not None, int attributes, long long now_ms, long long producer_id, int producer_epoch, int sequence,
         int count):
    """Fill in the header of a packed batch."""
    cdef uint8_t *head = packed
    cdef Py_ssize_t size = len(packed)
    if size < HEAD_BYTES:
        raise ValueError("no packed batch")
    _put_big(head, 0, 8)
    _put_big(head + 8, size - LOG_BYTES, 4)
    _put_big(head + 12, <uint64_t>-1, 4)
    head[16] = 2
    _put_big(head + 21, attributes, 2)
    _put_big(head + 23, count - 1, 4)
    _put_big(head + 27, now_ms, 8)
    _put_big(head + 35, now_ms, 8)
    _put_big(head + 43, <uint64_t>producer_id, 8)
    _put_big(head + 51, <uint64_t>producer_epoch, 2)
    _put_big(head + 53, <uint64_t>sequence, 4)
    _put_big(head + 57, count, 4)
    _put_big(head + 17, lj_crc32c(head + CRC_FROM, size - CRC_FROM), 4)


# ---------------------------------------------------------------------------------------------------- job bodies

cdef enum:
    JOB_BYTES_MAX = 512 * 1024
    SIGNATURE_BYTES_MAX = 256
    DIGITS_MAX = 17
    DEPTH_MAX = 12
    NAMES_MAX = 32

cdef enum:  # the fields of a job
    START_TIME, CATEGORY, JOBDIR, SEED, CONFIG, UNIQUEID, BUILD, TESTGROUP, HOST, USERNAME, SOURCECODE, EXTID, METADATA
    RESULT, COMPUTE_MS, RUNTIME_MS, CYCLES, EXIT_CODE, FINISH_TIME, FAIL_MESSAGE, BUCKET, FIELDS, UNKNOWN

cdef struct Span:  # a value in the text; a string without its quotes
    const uint8_t *at
    Py_ssize_t size
    bint escaped

cdef struct Body:
    Span spans[22]  # by Field; at is NULL: absent or null
    int64_t numbers[22]
    int first, last  # the fields that are its identity, once `_identity` has found it

cdef struct Names:  # the keys of one object
    Span spans[32]
    int count

cdef inline int _field(const uint8_t *at, Py_ssize_t size) noexcept nogil:
    if size == 4:
        if memcmp(at, b"seed", 4) == 0: return SEED
        if memcmp(at, b"host", 4) == 0: return HOST
    elif size == 5:
        if memcmp(at, b"build", 5) == 0: return BUILD
        if memcmp(at, b"extid", 5) == 0: return EXTID
    elif size == 6:
        if memcmp(at, b"jobdir", 6) == 0: return JOBDIR
        if memcmp(at, b"config", 6) == 0: return CONFIG
        if memcmp(at, b"result", 6) == 0: return RESULT
        if memcmp(at, b"cycles", 6) == 0: return CYCLES
        if memcmp(at, b"bucket", 6) == 0: return BUCKET
    elif size == 8:
        if memcmp(at, b"category", 8) == 0: return CATEGORY
        if memcmp(at, b"username", 8) == 0: return USERNAME
        if memcmp(at, b"metadata", 8) == 0: return METADATA
        if memcmp(at, b"uniqueid", 8) == 0: return UNIQUEID
    elif size == 9:
        if memcmp(at, b"testgroup", 9) == 0: return TESTGROUP
        if memcmp(at, b"exit_code", 9) == 0: return EXIT_CODE
    elif size == 10:
        if memcmp(at, b"start_time", 10) == 0: return START_TIME
        if memcmp(at, b"compute_ms", 10) == 0: return COMPUTE_MS
        if memcmp(at, b"runtime_ms", 10) == 0: return RUNTIME_MS
        if memcmp(at, b"sourcecode", 10) == 0: return SOURCECODE
    elif size == 11:
        if memcmp(at, b"finish_time", 11) == 0: return FINISH_TIME
    elif size == 12:
        if memcmp(at, b"fail_message", 12) == 0: return FAIL_MESSAGE
    return UNKNOWN


cdef inline const uint8_t *_space(const uint8_t *at, const uint8_t *end) noexcept nogil:
    while at < end and (at[0] == 32 or at[0] == 10 or at[0] == 13 or at[0] == 9):
        at += 1
    return at


cdef const uint8_t *_string(const uint8_t *at, const uint8_t *end, Span *span) noexcept nogil:
    """Read a string from its opening quote on; the text is known to be UTF-8. NULL: not plain."""
    if at >= end or at[0] != 34:
        return NULL
    at += 1
    span.at, span.escaped = at, False
    while True:
        at = lj_past_text(at, end)
        while at < end and at[0] != 34 and at[0] != 92 and at[0] >= 32:
            at += 1
        if at >= end or at[0] < 32:
            return NULL
        if at[0] == 34:
            span.size = at - span.at
            return at + 1
        span.escaped = True  # a backslash
        if end - at < 2 or (at[1] != 34 and at[1] != 92 and at[1] != 47 and at[1] != 98 and at[1] != 102
                            and at[1] != 110 and at[1] != 114 and at[1] != 116):
            return NULL
        at += 2


cdef const uint8_t *_number(const uint8_t *at, const uint8_t *end, Span *span, int64_t *value) noexcept nogil:
    """Read a number of few digits; `value` is -1 unless it is a non-negative integer. NULL: not plain."""
    cdef const uint8_t *digits
    cdef int64_t total = 0
    span.at, span.escaped = at, False
    if at < end and at[0] == 45:
        at += 1
    digits = at
    while at < end and 48 <= at[0] <= 57 and at - digits < DIGITS_MAX:
        total = total * 10 + at[0] - 48
        at += 1
    if at == digits or (digits[0] == 48 and at - digits > 1):
        return NULL
    value[0] = total if digits == span.at else -1
    if at < end and at[0] == 46:
        value[0] = -1
        at += 1
        digits = at
        while at < end and 48 <= at[0] <= 57 and at - digits < DIGITS_MAX:
            at += 1
        if at == digits:
            return NULL
    span.size = at - span.at
    if at < end and (48 <= at[0] <= 57 or at[0] == 101 or at[0] == 69 or at[0] == 46):
        return NULL
    return at


cdef inline const uint8_t *_word(const uint8_t *at, const uint8_t *end, const char *word, int size) noexcept nogil:
    return at + size if end - at >= size and memcmp(at, word, size) == 0 else NULL


cdef inline bint _is_new(Names *names, Span *name) noexcept nogil:
    cdef int i
    if name.escaped or names.count == NAMES_MAX:
        return False
    for i in range(names.count):
        if names.spans[i].size == name.size and memcmp(names.spans[i].at, name.at, name.size) == 0:
            return False
    names.spans[names.count] = name[0]
    names.count += 1
    return True


cdef const uint8_t *_value(const uint8_t *at, const uint8_t *end, int depth) noexcept nogil:
    """Read past any value. NULL: not plain."""
    cdef Span span
    cdef Names names
    cdef int64_t number
    cdef uint8_t closing
    if at >= end or depth > DEPTH_MAX:
        return NULL
    if at[0] == 34:
        return _string(at, end, &span)
    if at[0] == 110:
        return _word(at, end, b"null", 4)
    if at[0] == 116:
        return _word(at, end, b"true", 4)
    if at[0] == 102:
        return _word(at, end, b"false", 5)
    if at[0] != 91 and at[0] != 123:
        return _number(at, end, &span, &number)
    closing = at[0] + 2
    names.count = 0
    at = _space(at + 1, end)
    if at < end and at[0] == closing:
        return at + 1
    while True:
        if closing == 125:
            at = _string(at, end, &span)
            if at == NULL or not _is_new(&names, &span):
                return NULL
            at = _space(at, end)
            if at >= end or at[0] != 58:
                return NULL
            at = _space(at + 1, end)
        at = _value(at, end, depth + 1)
        if at == NULL:
            return NULL
        at = _space(at, end)
        if at >= end:
            return NULL
        if at[0] == closing:
            return at + 1
        if at[0] != 44:
            return NULL
        at = _space(at + 1, end)


cdef const uint8_t *_pairs(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """Read past an array of arrays of two strings. NULL: not plain."""
    cdef Span span
    cdef int i
    if at >= end or at[0] != 91:
        return NULL
    at = _space(at + 1, end)
    if at < end and at[0] == 93:
        return at + 1
    while True:
        if at >= end or at[0] != 91:
            return NULL
        for i in range(2):
            at = _string(_space(at + 1, end), end, &span)
            if at == NULL:
                return NULL
            at = _space(at, end)
            if at >= end or at[0] != (44 if i == 0 else 93):
                return NULL
        at = _space(at + 1, end)
        if at >= end:
            return NULL
        if at[0] == 93:
            return at + 1
        if at[0] != 44:
            return NULL
        at = _space(at + 1, end)


cdef bint _read(const uint8_t *at, const uint8_t *end, Body *body) noexcept nogil:
    """Read a job's body. False: not plain."""
    cdef Names unknown
    cdef Span name
    cdef Span *span
    cdef int field
    cdef uint32_t seen = 0
    cdef int i
    unknown.count = 0
    for i in range(FIELDS):
        body.spans[i].at = NULL
        body.numbers[i] = 0
    at = _space(at, end)
    if at >= end or at[0] != 123:
        return False
    while True:
        at = _string(_space(at + 1, end), end, &name)
        if at == NULL:
            return False
        at = _space(at, end)
        if at >= end or at[0] != 58:
            return False
        at = _space(at + 1, end)
        field = _field(name.at, name.size)
        if field == UNKNOWN:
            if not _is_new(&unknown, &name):
                return False
            at = _value(at, end, 1)
        else:
            if seen & (1u << field):
                return False
            seen |= 1u << field
            span = &body.spans[field]
            if at < end and at[0] == 110:
                at = _word(at, end, b"null", 4)
            elif field == METADATA:
                at = _pairs(at, end)
            elif COMPUTE_MS <= field <= EXIT_CODE:
                at = _number(at, end, span, &body.numbers[field])
                if at == NULL or body.numbers[field] < 0:
                    return False
            elif field == SEED and at < end and at[0] != 34:
                at = _number(at, end, span, &body.numbers[field])
            else:
                at = _string(at, end, span)
        if at == NULL:
            return False
        at = _space(at, end)
        if at >= end or (at[0] != 44 and at[0] != 125):
            return False
        if at[0] == 125:
            return _space(at + 1, end) == end


cdef inline int _digits(const uint8_t *at, int size) noexcept nogil:
    """A number of so many digits; -1 if they are not all digits."""
    cdef int value = 0, i
    for i in range(size):
        if not 48 <= at[i] <= 57:
            return -1
        value = value * 10 + at[i] - 48
    return value


cdef bint _time(Span *span, int64_t *ms) noexcept nogil:
    """An RFC 3339 time as milliseconds since the epoch, rounded down. False: not plain."""
    cdef const uint8_t *at = span.at
    cdef const uint8_t *end = at + span.size
    cdef int year, month, day, hour, minute, second, length, offset = 0, fraction = 0, places = 0
    cdef int64_t days
    if span.escaped or span.size < 20 or at[4] != 45 or at[7] != 45 or at[10] != 84 or at[13] != 58 or at[16] != 58:
        return False
    year, month, day = _digits(at, 4), _digits(at + 5, 2), _digits(at + 8, 2)
    hour, minute, second = _digits(at + 11, 2), _digits(at + 14, 2), _digits(at + 17, 2)
    if not 1 < year < 9999 or not 1 <= month <= 12 or not 0 <= hour < 24 or not 0 <= minute < 60 or not 0 <= second < 60:
        return False
    length = 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31
    if month == 2:
        length = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    if not 1 <= day <= length:
        return False
    at += 19
    if at[0] == 46:
        at += 1
        while at < end and 48 <= at[0] <= 57:
            if places < 3:
                fraction = fraction * 10 + at[0] - 48
            places += 1
            at += 1
        if not 1 <= places <= 6:
            return False
        while places < 3:
            fraction *= 10
            places += 1
    if end - at == 6 and (at[0] == 43 or at[0] == 45) and at[3] == 58:
        if not 0 <= _digits(at + 1, 2) < 24 or not 0 <= _digits(at + 4, 2) < 60:
            return False
        offset = (_digits(at + 1, 2) * 60 + _digits(at + 4, 2)) * (1 if at[0] == 43 else -1)
    elif end - at != 1 or at[0] != 90:
        return False
    # Days since the epoch, by years that begin in March: the leap day is then the last one.
    if month < 3:
        year -= 1
        month += 12
    days = 365 * <int64_t>year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 719469
    ms[0] = ((days * 24 + hour) * 60 + minute - offset) * 60000 + second * 1000 + fraction
    return True


cdef enum:
    TIME_BYTES = 24

cdef int64_t _MS_MIN = -62135596800000, _MS_MAX = 253402300799999  # the years 1 to 9999


cdef inline uint8_t *_put_digits(uint8_t *at, int value, int count, uint8_t behind) noexcept nogil:
    """Decimal digits, and one more byte."""
    cdef int i
    for i in range(count - 1, -1, -1):
        at[i] = 48 + value % 10
        value //= 10
    at[count] = behind
    return at + count + 1


cdef int _put_text(uint8_t *at, int64_t ms) except -1:
    """See `tables.times.to_text`; writes TIME_BYTES."""
    cdef int64_t days, rest, era, year
    cdef int day_of_era, year_of_era, day, month
    if not _MS_MIN <= ms <= _MS_MAX:
        raise OverflowError(f"{ms} ms since the epoch: the years are 1 to 9999")
    days = ms // 86400000 - (ms % 86400000 < 0)  # rounded down, also before the epoch
    rest = ms - days * 86400000
    # The inverse of what `_time` does: years that begin in March, 400 of them an era.
    days += 719468
    era = days // 146097
    day_of_era = <int>(days - era * 146097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5 - 1
    month += 3 if month < 10 else -9
    year = year_of_era + era * 400 + (month <= 2)
    at = _put_digits(at, <int>year, 4, 45)
    at = _put_digits(at, month, 2, 45)
    at = _put_digits(at, day, 2, 84)
    at = _put_digits(at, <int>(rest // 3600000), 2, 58)
    at = _put_digits(at, <int>(rest // 60000 % 60), 2, 58)
    at = _put_digits(at, <int>(rest // 1000 % 60), 2, 46)
    _put_digits(at, <int>(rest % 1000), 3, 90)
    return 0


def to_text(long long ms):
    """See `tables.times`."""
    cdef uint8_t text[TIME_BYTES]
    _put_text(text, ms)
    return PyUnicode_DecodeASCII(<const char *>text, TIME_BYTES, NULL)


def from_text(str text not None):
    """See `tables.times`; None where the text is not plain, and left to it."""
    cdef Span span
    cdef int64_t ms
    span.at, span.escaped = <const uint8_t *>PyUnicode_AsUTF8AndSize(text, &span.size), False
    return ms if _time(&span, &ms) else None


cdef inline bint _open(object text, Body *body):
    """Read a body if its size is allowed and it is UTF-8."""
    return type(text) is bytes and _scan(<const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), body)


cdef bint _scan(const uint8_t *at, Py_ssize_t size, Body *body):
    """As `_open`, for bytes in memory."""
    cdef Py_ssize_t i = 0
    cdef uint64_t word, high = 0
    if size > JOB_BYTES_MAX:
        return False
    while size - i >= 8:
        memcpy(&word, at + i, 8)
        high |= word
        i += 8
    while i < size:
        high |= at[i]
        i += 1
    if high & <uint64_t>0x8080808080808080:
        try:
            PyUnicode_DecodeUTF8(<const char *>at, size, NULL)
        except UnicodeDecodeError:
            return False
    return _read(at, at + size, body)


cdef inline bint _plain_text(Span *span, bint may_be_empty) noexcept nogil:
    return span.at != NULL and not span.escaped and (may_be_empty or span.size > 0)


cdef bint _identity(Body *body, bint *timed, int64_t *start_ms) noexcept nogil:
    """Find which fields are a job's identity. False: not plain. Checks the times on the way."""
    cdef Span *spans = body.spans
    timed[0] = spans[START_TIME].at != NULL
    if timed[0] and not _time(&spans[START_TIME], start_ms):
        return False
    if spans[UNIQUEID].at != NULL and (spans[UNIQUEID].size > 0 or spans[UNIQUEID].escaped):
        body.first = body.last = UNIQUEID
        return not spans[UNIQUEID].escaped
    body.first, body.last = START_TIME, CONFIG
    return (timed[0] and _plain_text(&spans[CATEGORY], False) and _plain_text(&spans[JOBDIR], False)
            and _plain_text(&spans[SEED], True) and _plain_text(&spans[CONFIG], True))


cdef bytes _key(Body *body):
    """What follows the regression in a job's key."""
    cdef Span *spans = body.spans
    cdef bytes key
    cdef char *to
    cdef Py_ssize_t size = 1
    cdef int i
    for i in range(body.first, body.last + 1):
        size += spans[i].size + 3
    key = PyBytes_FromStringAndSize(NULL, size - 1)
    to = PyBytes_AS_STRING(key)
    for i in range(body.first, body.last + 1):
        to[0] = 34
        memcpy(to + 1, spans[i].at, spans[i].size)
        to += spans[i].size + 1
        to[0] = 34
        to[1] = 44 if i < body.last else 93
        to += 2
    return key


cdef bint _is_live(Body *read) noexcept nogil:
    """Whether it is a plain live job."""
    cdef bint timed
    cdef int64_t start_ms, finish_ms
    cdef Span *spans = read.spans
    if spans[RESULT].at == NULL or spans[RESULT].size != 4 or memcmp(spans[RESULT].at, b"live", 4) != 0:
        return False
    if read.numbers[COMPUTE_MS] or read.numbers[RUNTIME_MS] or read.numbers[CYCLES] or (
            spans[FAIL_MESSAGE].at != NULL and spans[FAIL_MESSAGE].size > 0):
        return False
    if spans[FINISH_TIME].at != NULL and not _time(&spans[FINISH_TIME], &finish_ms):
        return False
    return _identity(read, &timed, &start_ms)


cdef bytes _plain_live(Body *read):
    """The end of the key of a plain live job; None if it is none."""
    return _key(read) if _is_live(read) else None


def live(body):
    """What `messages.live` gives for a plain body; None for all others."""
    cdef Body read
    return _plain_live(&read) if _open(body, &read) else None


cdef str _PASS = "pass", _FAIL = "fail", _SKIP = "skip"
cdef int64_t MS_MAX = 253402300799999  # the end of the year 9999


cdef struct Finish:  # the end of a plain finished job
    bint timed  # it has a start
    bint ended  # it has an end, given or start + runtime
    int64_t start_ms
    int64_t finish_ms


cdef bint _is_finish(Body *read, Finish *found) noexcept nogil:
    """Whether it is a plain finished job; then its end."""
    cdef Span *spans = read.spans
    cdef const uint8_t *result = spans[RESULT].at
    if result == NULL or spans[RESULT].size != 4 or (
            memcmp(result, b"pass", 4) != 0 and memcmp(result, b"fail", 4) != 0 and memcmp(result, b"skip", 4) != 0):
        return False
    if not _identity(read, &found.timed, &found.start_ms):
        return False
    if spans[BUCKET].at != NULL and spans[BUCKET].size > SIGNATURE_BYTES_MAX:
        return False
    found.ended = spans[FINISH_TIME].at != NULL
    if found.ended:
        return _time(&spans[FINISH_TIME], &found.finish_ms)
    if found.timed and spans[RUNTIME_MS].at != NULL and found.start_ms + read.numbers[RUNTIME_MS] <= MS_MAX:
        found.ended = True
        found.finish_ms = found.start_ms + read.numbers[RUNTIME_MS]
    return True


cdef bytes _plain_finish(Body *read, Finish *found):
    """The end of the key of a plain finished job; None if it is none."""
    return _key(read) if _is_finish(read, found) else None


def finish(body):
    """The fields of what `messages.finish` gives for a plain body, as a tuple; None for all others."""
    cdef Body read
    cdef Finish found
    cdef Span *spans = read.spans
    cdef Span *text
    cdef bytes key
    cdef str result
    cdef object reason = None
    if not _open(body, &read):
        return None
    key = _plain_finish(&read, &found)
    if key is None:
        return None
    result = _PASS if spans[RESULT].at[0] == 112 else _FAIL if spans[RESULT].at[0] == 102 else _SKIP
    if result is _FAIL:
        text = &spans[BUCKET]
        if text.at == NULL or text.size == 0:
            text = &spans[FAIL_MESSAGE]
        if text.at != NULL:
            reason = PyBytes_FromStringAndSize(<const char *>text.at - 1, text.size + 2)
    return (key, result, read.numbers[CYCLES], read.numbers[COMPUTE_MS], read.numbers[RUNTIME_MS],
            spans[CYCLES].at != NULL and spans[RUNTIME_MS].at != NULL, found.start_ms if found.timed else None,
            found.finish_ms if found.ended else None, spans[BUCKET].at != NULL and spans[BUCKET].size > 0, reason)


# ---------------------------------------------------------------------------------------------------- fail signatures

cdef enum:
    LINE_BYTES_MAX = 1024  # of a fail message that is plain
    READ_MAX = 4096  # see `streams.core.signature`
    SIGNATURE_MAX = 256
    BRACKET_MAX = 100
    WORD = 1  # this and what follows: classes of characters
    DIGIT = 2
    HEX = 4
    LETTER = 8
    PATH = 16
    VERILOG = 32

cdef uint8_t _classes[256]


cdef _classify(bytes characters, int kind):
    for character in characters:
        _classes[<int>character] |= kind


_classify(b"0123456789", WORD | DIGIT | HEX | PATH | VERILOG)
_classify(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_", WORD | LETTER | PATH)
_classify(b"ABCDEFabcdef", HEX | VERILOG)
_classify(b".+@%=:~-", PATH)
_classify(b"xXzZ_?", VERILOG)

ctypedef Py_ssize_t (*Match)(const uint8_t *at, Py_ssize_t i, Py_ssize_t size) noexcept nogil


cdef inline bint _in(const uint8_t *at, Py_ssize_t i, Py_ssize_t size, int kind) noexcept nogil:
    return i < size and _classes[at[i]] & kind


cdef inline bint _behind(const uint8_t *at, Py_ssize_t i, int kind) noexcept nogil:
    return i > 0 and _classes[at[i - 1]] & kind


cdef inline Py_ssize_t _past(const uint8_t *at, Py_ssize_t i, Py_ssize_t size, int kind) noexcept nogil:
    while i < size and _classes[at[i]] & kind:
        i += 1
    return i


# Each says where the match ends that begins at place i; i, if there is none.

cdef Py_ssize_t _path(const uint8_t *at, Py_ssize_t i, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t next = i, end = i
    if (at[i] != 47 and at[i] != 46 and at[i] != 126) or _behind(at, i, WORD) or (i > 0 and at[i - 1] == 47):
        return i
    if at[i] != 47:
        next += 1
        if at[i] == 46 and i + 2 < size and at[i + 1] == 46 and at[i + 2] == 47:
            next += 1
    while next < size and at[next] == 47 and _in(at, next + 1, size, PATH):
        next = end = _past(at, next + 1, size, PATH)
    return end + 1 if end > i and end < size and at[end] == 47 else end


cdef Py_ssize_t _hexadecimal(const uint8_t *at, Py_ssize_t i, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t next = i
    if _classes[at[i]] & DIGIT:
        if at[i] == 48 and i + 2 < size and (at[i + 1] | 32) == 120 and not _behind(at, i, WORD):
            next = i + 2
            while next < size and (_classes[at[next]] & HEX or at[next] == 95):
                next += 1
            if next > i + 2:
                return next
        if _behind(at, i, DIGIT):
            return i
        next = _past(at, i, size, DIGIT)
    if next + 2 < size and at[next] == 39 and (at[next + 1] | 32) == 104 and _classes[at[next + 2]] & VERILOG:
        return _past(at, next + 2, size, VERILOG)
    return i


cdef Py_ssize_t _mixed(const uint8_t *at, Py_ssize_t i, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t next = i
    cdef int kinds = 0
    if not _classes[at[i]] & HEX or _behind(at, i, WORD):
        return i
    while next < size and _classes[at[next]] & HEX:
        kinds |= _classes[at[next]]
        next += 1
    return next if next - i >= 6 and kinds & DIGIT and kinds & LETTER and not _in(at, next, size, WORD) else i


cdef inline Py_ssize_t _name(const uint8_t *at, Py_ssize_t i, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t closing
    i = _past(at, i, size, WORD)
    while i < size and at[i] == 91:
        closing = i + 1
        while closing < size and closing - i <= BRACKET_MAX and at[closing] > 32 and at[closing] != 93:
            closing += 1
        if closing >= size or at[closing] != 93:
            break
        i = closing + 1
    return i


cdef Py_ssize_t _hierarchy(const uint8_t *at, Py_ssize_t i, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t next, end = i
    if not _classes[at[i]] & LETTER or _behind(at, i, WORD):
        return i
    next = _name(at, i, size)
    while next < size and at[next] == 46 and _in(at, next + 1, size, LETTER):
        next = end = _name(at, next + 1, size)
    return end


cdef Py_ssize_t _decimal(const uint8_t *at, Py_ssize_t i, Py_ssize_t size) noexcept nogil:
    if not _classes[at[i]] & DIGIT:
        return i
    i = _past(at, i, size, DIGIT)
    while _in(at, i + 1, size, DIGIT) and (at[i] == 46 or at[i] == 44 or at[i] == 95):
        i = _past(at, i + 1, size, DIGIT)
    return i


cdef Py_ssize_t _replace(Match match, const uint8_t *at, Py_ssize_t size, uint8_t *to, const char *word, Py_ssize_t word_size) noexcept nogil:
    """Write a line with a word for each match; returns its size."""
    cdef Py_ssize_t i = 0, end, used = 0
    while i < size:
        end = match(at, i, size)
        if end > i:
            memcpy(to + used, word, word_size)
            used += word_size
            i = end
        else:
            to[used] = at[i]
            used += 1
            i += 1
    return used


def reduce(str message not None):
    """What `streams.core.signature.reduce` gives; None where the line that counts is long, or not of printable ASCII."""
    cdef uint8_t one[4 * LINE_BYTES_MAX]  # no word is more than four times as long as what it stands for
    cdef uint8_t other[4 * LINE_BYTES_MAX]
    cdef Py_ssize_t size, start = 0, end = 0, i, used
    cdef const uint8_t *at
    cdef bint blank = True
    if not message.isascii():
        return None
    at = <const uint8_t *>PyUnicode_AsUTF8AndSize(message, &size)
    size = min(size, READ_MAX)
    while end < size:
        if at[end] == 10:
            if not blank:
                break
            start = end + 1
        elif at[end] > 32 and at[end] < 127:
            blank = False
        elif at[end] != 32 and at[end] != 9:
            return None
        end += 1
    if blank or end - start > LINE_BYTES_MAX:
        return None
    used = _replace(_path, at + start, end - start, one, b"<path>", 6)
    used = _replace(_hexadecimal, one, used, other, b"<hex>", 5)
    used = _replace(_mixed, other, used, one, b"<hex>", 5)
    used = _replace(_hierarchy, one, used, other, b"<hierarchy>", 11)
    used = _replace(_decimal, other, used, one, b"<n>", 3)
    size = 0
    for i in range(used):  # runs of space are one, none at the ends
        if one[i] > 32:
            other[size] = one[i]
            size += 1
        elif size and i + 1 < used and one[i + 1] > 32:
            other[size] = 32
            size += 1
    return PyUnicode_DecodeASCII(<const char *>other, min(size, SIGNATURE_MAX), NULL)


# ---------------------------------------------------------------------------------------------------- restore

cdef inline void _put_time(char *to, int64_t ms) noexcept nogil:
    _put_big(<uint8_t *>to, ms, 8)


cdef bint _came_before(bytes key, bytearray seen):
    """As `tables.jobs`."""
    cdef size_t bit = <size_t>hash(key) & <size_t>(PyByteArray_GET_SIZE(seen) * 8 - 1)
    cdef uint8_t *at = <uint8_t *>PyByteArray_AS_STRING(seen) + (bit >> 3)
    cdef uint8_t mask = <uint8_t>(1 << (bit & 7))
    if at[0] & mask:
        return True
    at[0] |= mask
    return False


cdef bint _restore(Record record, put, delete, bytearray seen, list entries):
    """What `tables.jobs.restore` does, for a record as a worker writes it; False: for no other."""
    cdef const uint8_t *at
    cdef const uint8_t *end
    cdef Span name, updated
    cdef int64_t seen_ms
    cdef Py_ssize_t size
    cdef bytes live
    cdef char *to
    if record.key is None or record.value is None or PyBytes_AS_STRING(record._headers)[0] != 0:
        return False
    at = <const uint8_t *>PyBytes_AS_STRING(record.value)
    size = PyBytes_GET_SIZE(record.value)
    end = at + size
    if size < 100 or memcmp(at, b'{"regression":', 14) != 0:
        return False
    at = _string(at + 14, end, &name)
    if at == NULL or end - at < 60 or memcmp(at, b',"result":"', 11) != 0:
        return False
    if memcmp(at + 11, b'live","job":', 12) != 0:
        if memcmp(at + 15, b'","job":', 8) != 0:
            return False
        if seen is None or _came_before(record.key, seen):
            delete(b"L" + record.key)
        put(b"F" + record.key, record.value)
        return True
    updated.at, updated.size, updated.escaped = end - 26, 24, False
    if memcmp(end - 39, b'","updated":"', 13) != 0 or end[-2] != 34 or end[-1] != 125:
        return False
    if not _time(&updated, &seen_ms) or seen_ms < 0:
        return False
    live = PyBytes_FromStringAndSize(NULL, size + 16)
    to = PyBytes_AS_STRING(live)
    _put_time(to, seen_ms)
    _put_time(to + 8, 0)
    memcpy(to + 16, end - size, size)
    put(b"L" + record.key, live)
    if seen is None or _came_before(record.key, seen):
        delete(b"F" + record.key)
    entries.append(_seen_key(seen_ms, record.key))
    return True


def restore(list records not None, Py_ssize_t start, batch, bytearray seen, list entries not None):
    """Put what records of the topic `jobs` do to a store into a batch, and what is to be bundled into `entries`.

    Returns the index of the first record that is left.

    It takes records as a worker writes them; all others are left to `tables.jobs.restore_ops`.
    """
    cdef Py_ssize_t at = start
    put, delete = batch.put, batch.delete
    while at < len(records) and type(records[at]) is Record and (
            _restore(<Record>records[at], put, delete, seen, entries)):
        at += 1
    return at


# ---------------------------------------------------------------------------------------------------- plain messages

cdef object _ABSENT = JobState.ABSENT
cdef object _LIVE = JobState.LIVE
cdef object _FINISHED = JobState.FINISHED
cdef bytes _JOB_LIVE = _kinds[b"job-live"]
cdef bytes _JOB_FINISH = _kinds[b"job-finish"]
cdef str _OPEN = "open"
cdef str _STATE_HEADER = "livejobs.state"
_signatures = Decoder(dict[str, int]).decode


@cython.no_gc  # it is in no cycle, and there are very many
cdef class Row:
    """See `tables.fields`."""

    cdef public object state, stored, verdict
    cdef public bint dirty
    cdef public str result, first_seen, signature
    cdef public long long updated_ms, seen_ms, spared
    cdef public bytes body

    def __cinit__(self):
        self.state = self.stored = _ABSENT
        self.result = self.first_seen = ""

    def value(self, bytes name_json not None):
        """The value of the record in the topic `jobs`; the regression's name comes as JSON."""
        return self._value(name_json)

    cdef bytes _value(self, bytes name_json):
        cdef bytes body = b"null" if self.body is None else self.body, tail = b'"}', value
        cdef Py_ssize_t result_size, seen_size
        cdef const char *result = PyUnicode_AsUTF8AndSize(self.result, &result_size)
        cdef const char *first_seen = PyUnicode_AsUTF8AndSize(self.first_seen, &seen_size)
        cdef char *at
        if self.signature is not None:
            tail = b'","signature":' + <bytes>_encode(self.signature)
            tail += b"}" if self.verdict is None else b',"verdict":"' + (<str>self.verdict).encode() + b'"}'
        value = PyBytes_FromStringAndSize(NULL, 14 + PyBytes_GET_SIZE(name_json) + 11 + result_size + 8
            + PyBytes_GET_SIZE(body) + 15 + seen_size + 13 + TIME_BYTES + PyBytes_GET_SIZE(tail))
        at = _put(PyBytes_AS_STRING(value), b'{"regression":', 14)
        at = _put(at, PyBytes_AS_STRING(name_json), PyBytes_GET_SIZE(name_json))
        at = _put(at, b',"result":"', 11)
        at = _put(at, result, result_size)
        at = _put(at, b'","job":', 8)
        at = _put(at, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        at = _put(at, b',"first_seen":"', 15)
        at = _put(at, first_seen, seen_size)
        at = _put(at, b'","updated":"', 13)
        _put_text(<uint8_t *>at, self.updated_ms)
        _put(at + TIME_BYTES, PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
        return value


cdef inline char *_put(char *at, const char *data, Py_ssize_t size) noexcept nogil:
    memcpy(at, data, size)
    return at + size


cdef char *_put_number(char *at, const char *name, int64_t value) noexcept nogil:
    """A whole number behind its name."""
    cdef char digits[20]
    cdef int count = 0
    cdef uint64_t rest = <uint64_t>value
    at = _put(at, name, strlen(name))
    if value < 0:
        at = _put(at, b"-", 1)
        rest = 0 - rest
    while rest or not count:
        digits[count] = <char>(48 + rest % 10)
        rest //= 10
        count += 1
    while count:
        count -= 1
        at[0] = digits[count]
        at += 1
    return at


cdef inline char *_put_moment(char *at, const char *name, int64_t ms) except NULL:
    """A time behind its name."""
    at = _put(_put(at, name, strlen(name)), b'"', 1)
    _put_text(<uint8_t *>at, ms)
    return _put(at + TIME_BYTES, b'"', 1)


cdef inline char *_put_json(char *at, const char *name, object value) except NULL:
    """A fraction, or null, behind its name."""
    cdef bytes json = _encode(value)
    return _put(_put(at, name, strlen(name)), PyBytes_AS_STRING(json), PyBytes_GET_SIZE(json))


cdef class RegressionFields:
    """See `tables.fields`."""

    cdef public str name, phase, start
    cdef public bytes key, name_json, prefix, fields
    cdef public long long version, updated_ms, heard_ms, deadline_ms, live, passed, fail, skip, size, held_bytes, touched
    cdef public bint exists, stored, dirty, complete, tanked, dropping
    cdef public bytearray seen
    cdef public dict rows, signatures
    cdef public object ending, cycles, compute_ms, runtime_ms, rate_cycles, rate_runtime_ms, closed_ms, sealed_ms
    cdef public object first_start_ms, last_finish_ms, span, submitted

    def __cinit__(self, str name not None):
        self.name = name
        self.key = name.encode()
        self.name_json = _encode(name)
        self.prefix = b"[" + self.name_json + b","
        self.fields = b"{}"
        self.version = -1
        self.deadline_ms = 1LL << 62
        self.size = 400
        self.complete = True
        self.rows = {}
        self.signatures = {}
        self.phase = _OPEN
        self.cycles = self.compute_ms = self.runtime_ms = self.rate_cycles = self.rate_runtime_ms = 0


cdef enum:
    NUMBERS_BYTES = 1024  # more than a statistics record's names, with the longest numbers, times and status
    STATUS_BYTES_MAX = 16


def stats_value(RegressionFields regression not None, str status not None):
    """The value of a regression's record in `regression-stats`: see `tables.regressions.Regression.record`.

    OverflowError where a number does not fit in 64 bits: the record is left to that. The counts are of messages that
    were read, and so far below 2^53.
    """
    cdef char numbers[NUMBERS_BYTES]
    cdef char *at = _put(numbers, b',"status":"', 11)
    cdef Py_ssize_t size
    cdef int64_t judged = regression.passed + regression.fail, finished = judged + regression.skip
    cdef object first = regression.first_start_ms, last = regression.last_finish_ms, submitted = regression.submitted
    cdef const char *text = PyUnicode_AsUTF8AndSize(status, &size)
    if size > STATUS_BYTES_MAX:
        raise ValueError("there is no such status")
    at = _put(at, text, size)
    at = _put_number(at, b'","version":', regression.version)
    at = _put_moment(at, b',"updated":', regression.updated_ms)
    at = _put_number(at, b',"live":', regression.live)
    at = _put_number(at, b',"pass":', regression.passed)
    at = _put_number(at, b',"fail":', regression.fail)
    at = _put_number(at, b',"skip":', regression.skip)
    at = _put_number(at, b',"finished":', finished)
    at = _put_moment(at, b',"heard":', regression.heard_ms)
    if submitted is None:
        at = _put_json(_put_json(at, b',"submitted":', None), b',"remaining":', None)
    else:
        at = _put_number(at, b',"submitted":', submitted)
        at = _put_number(at, b',"remaining":', submitted - finished)
    at = _put_json(at, b',"pass_rate":', <double>regression.passed / <double>judged if judged else None)
    at = _put_number(at, b',"cycles":', regression.cycles)
    at = _put_number(at, b',"compute_ms":', regression.compute_ms)
    at = _put_number(at, b',"runtime_ms":', regression.runtime_ms)
    at = _put_json(
        at, b',"cycles_per_second":',
        regression.rate_cycles * 1000 / regression.rate_runtime_ms if regression.rate_runtime_ms else None,
    )
    if first is None:
        at = _put_json(at, b',"first_start":', None)
    else:
        at = _put_moment(at, b',"first_start":', first)
    if last is None:
        at = _put_json(at, b',"last_finish":', None)
    else:
        at = _put_moment(at, b',"last_finish":', last)
    if first is None or last is None:
        at = _put_json(at, b',"duration_ms":', None)
    else:
        at = _put_number(at, b',"duration_ms":', last - first)
    return b"".join((
        b'{"regression":', regression.name_json, PyBytes_FromStringAndSize(numbers, at - numbers),
        b',"signatures":', _encode(regression.signatures), b',"fields":', regression.fields, b"}",
    ))


cdef inline const uint8_t *_expect(const uint8_t *at, const uint8_t *end, const char *text) noexcept nogil:
    """Read past this text; NULL where it is not there, or nothing was."""
    cdef Py_ssize_t size = strlen(text)
    return at + size if at != NULL and end - at >= size and memcmp(at, text, size) == 0 else NULL


cdef inline const uint8_t *_count(const uint8_t *at, const uint8_t *end, const char *name, int64_t *value) noexcept nogil:
    """Read a number that is not negative, behind its name."""
    cdef Span span
    at = _expect(at, end, name)
    at = NULL if at == NULL else _number(at, end, &span, value)
    return NULL if value[0] < 0 else at


cdef inline const uint8_t *_unless_null(const uint8_t *at, const uint8_t *end, const char *name, bint *known) noexcept nogil:
    """Read to the value behind this name; where that is null, which is then not `known`, past it."""
    at = _expect(at, end, name)
    known[0] = at != NULL and at < end and at[0] != 110
    return at if known[0] else _expect(at, end, b"null")


cdef inline const uint8_t *_maybe_count(const uint8_t *at, const uint8_t *end, const char *name, bint *known, int64_t *value) noexcept nogil:
    """Read a number that is not negative, or null, behind its name."""
    at = _unless_null(at, end, name, known)
    return _count(at, end, b"", value) if known[0] else at


cdef inline const uint8_t *_moment(const uint8_t *at, const uint8_t *end, const char *name, bint *known, int64_t *ms) noexcept nogil:
    """Read a time, or null, behind its name."""
    cdef Span span
    at = _unless_null(at, end, name, known)
    if not known[0]:
        return at
    at = _string(at, end, &span)
    return at if at != NULL and _time(&span, ms) else NULL


cdef inline const uint8_t *_past_number(const uint8_t *at, const uint8_t *end, const char *name) noexcept nogil:
    """Read past any number, or null, behind its name: it follows from others."""
    cdef bint known
    cdef const uint8_t *begin
    begin = at = _unless_null(at, end, name, &known)
    if not known:
        return at
    while at < end and (48 <= at[0] <= 57 or at[0] == 46 or at[0] == 101 or at[0] == 45 or at[0] == 43):
        at += 1
    return at if at > begin else NULL


cdef const uint8_t *_past_object(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """Read past an object, of which is known that it is JSON."""
    cdef Span span
    cdef int depth = 0
    if at == NULL or at >= end or at[0] != 123:
        return NULL
    while at != NULL and at < end:
        if at[0] == 34:
            at = _string(at, end, &span)
            continue
        if at[0] == 123 or at[0] == 91:
            depth += 1
        elif at[0] == 125 or at[0] == 93:
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return NULL


def stored_regression(bytes stored not None, type regression_type not None):
    """What `tables.regressions.from_stored` gives for the row of a plain regression; None for all others.

    Plain is one that is open, neither tanked nor being ended, as a worker writes it. Its JSON is taken as good: what is
    restored has been read by `from_record`.
    """
    cdef const uint8_t *begin = <const uint8_t *>PyBytes_AS_STRING(stored)
    cdef const uint8_t *end = begin + PyBytes_GET_SIZE(stored)
    cdef const uint8_t *at = begin + 12
    cdef const uint8_t *record
    cdef const uint8_t *signatures
    cdef const uint8_t *fields
    cdef Span name, start
    cdef int64_t version = 0, live = 0, passed = 0, fail = 0, skip = 0, cycles = 0, compute_ms = 0, runtime_ms = 0
    cdef int64_t rate_cycles = 0, rate_runtime_ms = 0, updated_ms = 0, heard_ms = 0, submitted = 0, first_ms = 0, last_ms = 0
    cdef bint expected, timed, ended, known
    cdef RegressionFields regression
    if end - begin < 12 or begin[0] > 127 or _big(begin + 8, 4) > <uint64_t>(end - at):
        return None
    record = at + _big(begin + 8, 4)

    at = _expect(at, record, b"{")
    start.at = NULL
    if _expect(at, record, b'"start":') != NULL:
        at = _string(at + 8, record, &start)
        if at == NULL or start.escaped:
            return None
        at += at < record and at[0] == 44
    if _expect(at, record, b'"rate_cycles":') != NULL:
        at = _count(at, record, b'"rate_cycles":', &rate_cycles)
        if at != NULL and at < record and at[0] == 44:
            at += 1
    if _expect(at, record, b'"rate_runtime_ms":') != NULL:
        at = _count(at, record, b'"rate_runtime_ms":', &rate_runtime_ms)
    if at == NULL or at + 1 != record or at[0] != 125:
        return None

    at = _expect(record, end, b'{"regression":')
    at = NULL if at == NULL else _string(at, end, &name)
    if at == NULL or name.escaped:
        return None
    at = _count(at, end, b',"status":"LIVE","version":', &version)
    at = _moment(at, end, b',"updated":', &known, &updated_ms)
    if at == NULL or not known:
        return None
    at = _count(at, end, b',"live":', &live)
    at = _count(at, end, b',"pass":', &passed)
    at = _count(at, end, b',"fail":', &fail)
    at = _count(at, end, b',"skip":', &skip)
    at = _past_number(at, end, b',"finished":')
    at = _moment(at, end, b',"heard":', &known, &heard_ms)
    if at == NULL or not known:
        return None
    at = _maybe_count(at, end, b',"submitted":', &expected, &submitted)
    at = _past_number(at, end, b',"remaining":')
    at = _past_number(at, end, b',"pass_rate":')
    at = _count(at, end, b',"cycles":', &cycles)
    at = _count(at, end, b',"compute_ms":', &compute_ms)
    at = _count(at, end, b',"runtime_ms":', &runtime_ms)
    at = _past_number(at, end, b',"cycles_per_second":')
    at = _moment(at, end, b',"first_start":', &timed, &first_ms)
    at = _moment(at, end, b',"last_finish":', &ended, &last_ms)
    at = _past_number(at, end, b',"duration_ms":')
    signatures = _expect(at, end, b',"signatures":')
    fields = _expect(_past_object(signatures, end), end, b',"fields":')
    at = _past_object(fields, end)
    if at == NULL or at + 1 != end or at[0] != 125:
        return None

    try:
        regression = regression_type(PyUnicode_DecodeUTF8(<const char *>name.at, name.size, NULL))
        if start.at != NULL:
            regression.start = PyUnicode_DecodeUTF8(<const char *>start.at, start.size, NULL)
        if signatures[1] != 125:
            text = PyBytes_FromStringAndSize(<const char *>signatures, fields - 10 - signatures)
            regression.signatures = _signatures(text)
    except (UnicodeDecodeError, DecodeError):
        return None
    regression.deadline_ms = <int64_t>_big(begin, 8)
    regression.rate_cycles, regression.rate_runtime_ms = rate_cycles, rate_runtime_ms
    regression.version, regression.updated_ms, regression.heard_ms = version, updated_ms, heard_ms
    regression.live, regression.passed, regression.fail, regression.skip = live, passed, fail, skip
    regression.submitted = submitted if expected else None
    regression.cycles, regression.compute_ms, regression.runtime_ms = cycles, compute_ms, runtime_ms
    regression.first_start_ms = first_ms if timed else None
    regression.last_finish_ms = last_ms if ended else None
    regression.fields = PyBytes_FromStringAndSize(<const char *>fields, at - fields)
    regression.exists = regression.stored = True
    regression.complete = False
    regression.size = end - record
    return regression


def run(list records not None, Py_ssize_t start, fold, Py_ssize_t rows_max, Py_ssize_t bytes_max, Py_ssize_t row_bytes):
    """Fold plain messages in, from index `start` on; returns the index of the first one that is left.

    Plain is what nearly all are: a live message or a finish with a plain body, of a job that is live or new, in a
    regression that is known, open, and not being ended. Stops also when as many rows or bytes have changed as given.
    A new row takes `row_bytes` of memory, and its key.
    """
    cdef dict regressions = fold._regressions
    cdef dict dirty_rows = fold._dirty_rows
    cdef dict dirty_regressions = fold._dirty_regressions
    cdef bint tracking = fold.rules.enable_live, finished, is_new
    cdef long long epoch = fold._epoch, batch = fold._batch, now
    cdef Py_ssize_t at = start, changed = fold._bytes, cached = 0, stats_bytes = 0
    cdef Record record
    cdef RegressionFields regression
    cdef Row row
    cdef Body body
    cdef tuple given
    cdef bytes tail, key
    cdef str first_seen = None
    cdef long long first_seen_ms = 0
    while at < len(records) and len(dirty_rows) < rows_max and changed < bytes_max:
        if type(records[at]) is not Record:
            break
        record = <Record>records[at]
        finished = record.kind is _JOB_FINISH
        if not finished and not (tracking and record.kind is _JOB_LIVE):
            break
        regression = regressions.get(record.key)
        if regression is None:
            regression = fold._load_own(record.key)
        if regression is None or regression.phase != "open" or regression.ending is not None:
            break
        if epoch | record.offset <= regression.version:
            break
        given = None
        if finished:
            given = finish(record.value)
            if given is None:
                break
            tail = given[0]
        else:
            tail = _plain_live(&body) if _open(record.value, &body) else None
            if tail is None:
                break
        key = regression.prefix + tail
        row = regression.rows.get(key)
        # As `Overlay._load_row`; a job whose bit is not set yet is new, and from there on it is taken.
        if row is None and not regression.complete and (regression.seen is None or _came_before(key, regression.seen)):
            row = fold._load_row(regression, key)
        is_new = row is None or row.state is _ABSENT
        if not is_new and row.state is not _LIVE:
            break

        # From here on it is taken: what `Fold._heard`, `_move`, `_publish` and `streams.core.statistics` would do.
        now = max(record.timestamp, regression.updated_ms)
        regression.exists = True
        regression.heard_ms = regression.updated_ms = now
        regression.version = epoch | record.offset
        if not regression.dirty:
            regression.dirty = True
            regression.touched = batch
            stats_bytes += regression.size
            dirty_regressions[regression.key] = regression
        if is_new:
            if row is None:
                row = regression.rows[key] = Row()
                regression.held_bytes += row_bytes + PyBytes_GET_SIZE(key)
                cached += row_bytes + PyBytes_GET_SIZE(key)
            if first_seen is None or first_seen_ms != now:  # those of a batch share a few texts
                first_seen, first_seen_ms = to_text(now), now
            row.first_seen = first_seen
        row.updated_ms = now
        row.body = record.value
        row.spared = 0
        if finished:
            if not is_new:
                regression.live -= 1
            row.state = _FINISHED
            row.result = given[1]
            if given[1] is _PASS:
                regression.passed += 1
            elif given[1] is _SKIP:
                regression.skip += 1
            else:
                regression.fail += 1
                row.signature = fold._signature_of(regression, given)
                regression.signatures[row.signature] = regression.signatures.get(row.signature, 0) + 1
            _add(regression, given, now)
        elif is_new:
            row.state = _LIVE
            row.result = "live"
            regression.live += 1
        if not row.dirty:
            row.dirty = True
            dirty_rows[key] = (regression, row)
        changed += PyBytes_GET_SIZE(record.value)
        at += 1
    if at > start:
        fold.version = epoch | (<Record>records[at - 1]).offset
    fold._bytes = changed
    fold._stats_bytes += stats_bytes
    fold._cached += cached
    return at


def write_rows(dict dirty_rows not None, list outputs not None, list ops not None, list began not None, write_row,
               long long seen_ms):
    """What `Overlay._write_row` does with the rows that have changed: their records, and what the store is told.

    It is left to `write_row` where a row is gone or an ending spares it. Returns the least time of the others' P
    entries, and of `seen_ms`.
    """
    cdef bytes key, value, live
    cdef tuple changed
    cdef RegressionFields regression, before = None
    cdef Row row
    cdef bytes name_json = None
    cdef char *to
    for key, changed in dirty_rows.items():
        regression, row = changed
        if row.state is _ABSENT or row.spared or (row.state is _LIVE and row.stored is _FINISHED):
            write_row(key, regression, row)
            continue
        if regression is not before:
            before, name_json = regression, regression.name_json
        row.dirty = False
        value = row._value(name_json)
        row.body = None
        outputs.append((key, value, []))
        if row.state is not _LIVE:
            if row.stored is _LIVE:
                ops.append((b"L" + key, None))
            ops.append((b"F" + key, value))
            row.stored = _FINISHED
            continue
        if row.stored is not _LIVE:
            row.seen_ms = row.updated_ms
            began.append(_seen_key(row.seen_ms, key))
            row.stored = _LIVE
        seen_ms = min(seen_ms, row.seen_ms)
        live = PyBytes_FromStringAndSize(NULL, 16 + PyBytes_GET_SIZE(value))
        to = PyBytes_AS_STRING(live)
        _put_time(to, row.seen_ms)
        _put_time(to + 8, 0)
        memcpy(to + 16, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        ops.append((b"L" + key, live))
    return seen_ms


def write_regressions(dict regressions not None, dict moved not None, list outputs not None, list ops not None, write,
                      silence_ms, long long retention_ms, Py_ssize_t copies, long long deadline_ms):
    """What `Overlay._write_regression` does with the regressions that have changed: records, and what the store is told.

    It is left to `write` where a regression is not plain (see `stored_regression`) or its deadline is to be moved.
    Returns how much more memory, in bytes, the others take: `copies` times what their records have grown; and the least
    time of their D entries, and of `deadline_ms`.
    """
    cdef bytes name, value, state, stored
    cdef RegressionFields regression
    cdef Py_ssize_t held, more = 0
    cdef long long due_ms
    cdef bint silent = silence_ms is not None
    cdef long long silent_ms = silence_ms if silent else 0
    cdef char *to
    for name, regression in regressions.items():
        due_ms = regression.heard_ms + silent_ms if silent else 1LL << 62  # as `streams.core.rules.deadline`
        if not regression.live:
            due_ms = min(due_ms, regression.heard_ms + retention_ms)
        value = state = None
        if (regression.dirty and regression.exists and due_ms >= regression.deadline_ms and name not in moved
                and regression.phase == _OPEN and not regression.tanked and regression.ending is None
                and regression.closed_ms is None and regression.sealed_ms is None and not regression.dropping):
            try:
                value, state = stats_value(regression, "LIVE"), _plain_state(regression)
            except OverflowError:
                pass
        if state is None:
            write(name, regression)
            continue
        regression.dirty = False
        stored = PyBytes_FromStringAndSize(NULL, 12 + PyBytes_GET_SIZE(state) + PyBytes_GET_SIZE(value))
        to = PyBytes_AS_STRING(stored)
        _put_time(to, regression.deadline_ms)
        _put_big(<uint8_t *>to + 8, PyBytes_GET_SIZE(state), 4)
        to = _put(to + 12, PyBytes_AS_STRING(state), PyBytes_GET_SIZE(state))
        _put(to, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        ops.append((b"R" + name, stored))
        held = copies * (PyBytes_GET_SIZE(value) - regression.size)
        regression.held_bytes += held
        more += held
        regression.size = PyBytes_GET_SIZE(value)
        outputs.append((name, value, [(_STATE_HEADER, state)]))
        regression.stored = True
        deadline_ms = min(deadline_ms, regression.deadline_ms)
    return more, deadline_ms


cdef bytes _plain_state(RegressionFields regression):
    """The header of a plain regression's record: see `tables.regressions.StatsPrivate`."""
    cdef char text[80]  # more than two names, with the longest numbers
    cdef char *at = text
    cdef bytes start = b"" if regression.start is None else b',"start":' + <bytes>_encode(regression.start)
    if regression.rate_cycles:
        at = _put_number(at, b',"rate_cycles":', regression.rate_cycles)
    if regression.rate_runtime_ms:
        at = _put_number(at, b',"rate_runtime_ms":', regression.rate_runtime_ms)
    return b"{" + (start + PyBytes_FromStringAndSize(text, at - text))[1:] + b"}"


cdef bytes _seen_key(long long ms, bytes key):
    cdef bytes entry = PyBytes_FromStringAndSize(NULL, 9 + PyBytes_GET_SIZE(key))
    cdef char *to = PyBytes_AS_STRING(entry)
    if ms < 0:
        raise ValueError("a time before the epoch")
    to[0] = 80
    _put_time(to + 1, ms)
    memcpy(to + 9, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
    return entry


cdef _add(RegressionFields regression, tuple given, long long now):
    """What `statistics.add` does."""
    cdef object start = given[6], end = now if given[7] is None else given[7]
    regression.cycles += given[2]
    regression.compute_ms += given[3]
    regression.runtime_ms += given[4]
    if given[5]:
        regression.rate_cycles += given[2]
        regression.rate_runtime_ms += given[4]
    if start is not None and (regression.first_start_ms is None or start < regression.first_start_ms):
        regression.first_start_ms = start
    if regression.last_finish_ms is None or end > regression.last_finish_ms:
        regression.last_finish_ms = end
    if regression.span is not None:
        regression.span.add(start, end)


# ---------------------------------------------------------------------------------------------------- publishing

cdef bint _is_job(const uint8_t *at, Py_ssize_t size, bint finished):
    cdef Body read
    cdef Finish found
    return _scan(at, size, &read) and (_is_finish(&read, &found) if finished else _is_live(&read))


def is_job(bytes body not None, bint finished):
    """Whether this is a plain body that `messages.finish` (or else `messages.live`) takes; others they must judge."""
    return _is_job(<const uint8_t *>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), finished)


cdef bytes _varint_bytes(int64_t value):
    cdef uint8_t varint[10]
    return PyBytes_FromStringAndSize(<char *>varint, _put_varint(varint, value) - varint)


def sized(bytes data not None):
    """Bytes behind their length, as a record has its key."""
    return _varint_bytes(PyBytes_GET_SIZE(data)) + data


def packed_headers(list pairs not None):
    """Names and values of headers, as a record has them."""
    return _varint_bytes(len(pairs)) + b"".join([sized((<str>name).encode()) + sized(data) for name, data in pairs])


cdef class Packer:
    """A batch that is being filled.

    It takes messages until it is `bytes_max` long; the first one always. Once it is built it takes no more.
    """

    cdef bytearray _packed
    cdef Py_ssize_t _used, _room, _bytes_max
    cdef int _count
    cdef bint _built

    def __cinit__(self, Py_ssize_t bytes_max):
        self._bytes_max = bytes_max
        self._room = 4096
        self._packed = bytearray(self._room)
        self._used = HEAD_BYTES

    cdef bint _put(self, bytes key, const uint8_t *value, Py_ssize_t size, bytes headers) except -1:
        cdef uint8_t varint[10]
        cdef uint8_t *at
        cdef Py_ssize_t key_size = PyBytes_GET_SIZE(key), headers_size = PyBytes_GET_SIZE(headers), length, need, room
        length = 2 + (_put_varint(varint, self._count) - varint)  # attributes, time, place in the batch
        length += key_size + (_put_varint(varint, size) - varint) + size + headers_size
        need = self._used + (_put_varint(varint, length) - varint) + length
        if self._built or (need > self._bytes_max and self._count):
            return False
        if need > self._room:
            room = max(need, min(4 * self._room, self._bytes_max))
            PyByteArray_Resize(self._packed, room)
            self._room = room
        at = _put_varint(<uint8_t *>(<char *>self._packed) + self._used, length)
        at[0] = at[1] = 0
        at = _put_varint(at + 2, self._count)
        memcpy(at, PyBytes_AS_STRING(key), key_size)
        at = _put_varint(at + key_size, size)
        memcpy(at, value, size)
        memcpy(at + size, PyBytes_AS_STRING(headers), headers_size)
        self._used = need
        self._count += 1
        return True

    def add(self, bytes key not None, bytes value not None, bytes headers not None):
        """Add a message, its key from `sized`, its headers from `packed_headers`. False when it is full."""
        return self._put(key, <const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), headers)

    def lines(self, bytes key not None, bytes headers not None, bint finished, bytes data not None, Py_ssize_t at):
        """Add a message for each line of `data` from `at` on: plain bodies of finished (or else live) jobs.

        Returns the position behind them, their number, and whether it is full. Stops also before a line that is no
        such body, or has no end.
        """
        cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef const uint8_t *line
        cdef const uint8_t *end
        cdef const uint8_t *stop = start + PyBytes_GET_SIZE(data)
        cdef int before = self._count
        cdef Py_ssize_t after
        while at < stop - start:
            line = start + at
            end = <const uint8_t *>memchr(line, 10, stop - line)
            if end == NULL:
                break
            after = end + 1 - start
            line = _space(line, end)
            while end > line and ((end - 1)[0] == 32 or (end - 1)[0] == 13 or (end - 1)[0] == 9):
                end -= 1
            if not _is_job(line, end - line, finished):
                break
            if not self._put(key, line, end - line, headers):
                return at, self._count - before, True
            at = after
        return at, self._count - before, False

    def messages(self):
        """Its records."""
        cdef const uint8_t *at = <const uint8_t *>(<char *>self._packed)
        return _records(at + HEAD_BYTES, at + self._used, self._count, 0, self._count - 1, 0, True, [])

    def record_count(self):
        """Number of records."""
        return self._count

    def size(self):
        """Size in bytes."""
        return self._used

    def built(self, long long producer_id, int producer_epoch, int base_sequence):
        """As it is sent; nothing can be added from now on."""
        self._built = True
        PyByteArray_Resize(self._packed, self._used)
        seal(self._packed, 0, int(time() * 1000), producer_id, producer_epoch, base_sequence, self._count)
        return self._packed
