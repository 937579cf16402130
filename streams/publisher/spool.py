"""The spool: messages on disk that the broker could not take, sent by the next call before its own.

One append-only log a topic, not a file a message: an outage keeps hundreds of thousands of messages, and one fsync a
write (not one a message and a directory) is what a farm's file server can bear. One directory is for one cluster.

    header   8 bytes magic, u64 sent, u64 end, u32 CRC-32 of the two
    records  u32 length, u32 CRC-32, then MessagePack: [type, regression, body, [[name, value], ...]]

Records between `sent` and `end` are to be sent. An append writes behind `end`, syncs, then moves `end` and syncs: what
a crash leaves behind `end` does not count and is cut off. A damaged header is made anew from the records: then some are
sent twice, which changes no result.

Two locks, which end with their process: `.lck` for a moment around each change, `.snd` held by the one process that
sends the log. Sending is at least once and in the order of the log.
"""

import contextlib
import fcntl
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from livejobs.streams.config import Config, ConfigError
from livejobs.streams.publisher.outgoing import Message

MAGIC = b"LJSPOOL1"
HEADER = struct.Struct("<8sQQI")
FRAME = struct.Struct("<II")
CHUNK_BYTES = 4 * 1024 * 1024

Say = Callable[[str], None]

_Record = tuple[str, str, bytes, tuple[tuple[str, bytes], ...]]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


class SpoolError(Exception):
    """The spool can't be written or read; the text is one line that names the file."""


class SpoolFullError(SpoolError):
    """No room in the spool for all messages; `kept` of them, the first ones, are in it."""

    def __init__(self, text: str, kept: int) -> None:
        super().__init__(text)
        self.kept = kept


class Spool:
    """The log of one topic in `directory`, at most `bytes_max` long. Raises ConfigError when it can't be opened.

    `say` gets a line when something is odd: a torn write, a damaged header.
    """

    def __init__(self, directory: Path | str, topic: str, bytes_max: int, say: Say = lambda _line: None) -> None:
        self.directory, self._bytes_max, self._say = Path(directory), bytes_max, say
        # A topic's name may have 249 characters, a file's 255.
        self.path = self.directory / f"{topic}.log"
        self.sender: BinaryIO | None = None
        """The held lock while this is the process that sends the log."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                self._header()
        except (OSError, SpoolError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise ConfigError(f"[tunnel] spool {self.directory} can't be used: {reason or error}") from error

    def is_empty(self) -> bool:
        """Whether all that was ever kept is sent and acknowledged."""
        with self._locked():
            sent, end = self._header()
        return sent == end

    def backlog_bytes(self) -> int:
        """How much of it is to be sent."""
        with self._locked():
            sent, end = self._header()
        return end - sent

    def append(self, messages: Sequence[Message]) -> None:
        """Keep all messages: they are on disk when this returns. Raises SpoolFullError, SpoolError (none is kept)."""
        records = [_framed(message) for message in messages]
        with self._locked():
            sent, end = self._header()
            room = self._bytes_max - end
            fitting = 0
            for record in records:
                if len(record) > room:
                    break
                room -= len(record)
                fitting += 1
            if fitting:
                data = b"".join(records[:fitting])
                with self._file() as file:
                    file.truncate(end)
                    file.seek(end)
                    file.write(data)
                    _sync(file)
                    self._write_header(file, sent, end + len(data))
        if fitting < len(records):
            raise SpoolFullError(f"the spool {self.path} is full: [tunnel] spoolbytes is {self._bytes_max}", fitting)

    def try_to_send(self) -> bool:
        """Become the process that sends the log; False while another one does. Ends with `sending_ends`."""
        file = self.path.with_suffix(".snd").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self.sender = file
        return True

    def sending_ends(self) -> None:
        """Let others send, and shorten the log."""
        sender, self.sender = self.sender, None
        if sender is None:
            return
        with sender:
            try:
                self.shorten()
            except SpoolError as error:
                self._say(str(error))  # no harm: the log stays as long as it is

    def first(self, bytes_max: int = CHUNK_BYTES) -> tuple[list[Message], int]:
        """The oldest messages, and the offset behind them for `sent_up_to`; only for who sends. Raises SpoolError."""
        with self._locked():
            offset, end = self._header()
            with self._file() as file:
                file.seek(offset)
                data = file.read(min(end - offset, bytes_max))
                first_length = FRAME.size + FRAME.unpack_from(data)[0] if len(data) >= FRAME.size else 0
                if len(data) < first_length <= end - offset:  # a message may be longer than the chunk
                    data += file.read(first_length - len(data))
        messages: list[Message] = []
        with contextlib.suppress(msgspec.MsgspecError):
            for payload in _payloads(data):
                messages.append(Message(*_decode(payload)))
                offset += FRAME.size + len(payload)
        if not messages and offset < end:
            raise SpoolError(f"the spool {self.path} is damaged at byte {offset}: move it away to go on without it")
        return messages, offset

    def sent_up_to(self, offset: int) -> None:
        """What lies before `offset` is acknowledged; only for who sends."""
        with self._locked():
            _, end = self._header()
            with self._file() as file:
                if offset < end:
                    self._write_header(file, offset, end)
                else:
                    # In this order: a crash between the two leaves an empty log, never a stale `sent`.
                    self._write_header(file, HEADER.size, HEADER.size)
                    file.truncate(HEADER.size)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self.path.with_suffix(".lck").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise SpoolError(f"the spool {self.path} can't be written or read: {error.strerror or error}") from error

    def _file(self) -> BinaryIO:
        return self.path.open("r+b")

    def _header(self) -> tuple[int, int]:
        """(sent, end); makes the log when there is none, and repairs the header. Under the lock."""
        if not self.path.exists():
            self._make()
        with self._file() as file:
            raw = file.read(HEADER.size)
            size = os.fstat(file.fileno()).st_size
            if len(raw) == HEADER.size:
                magic, sent, end, crc = HEADER.unpack(raw)
                if magic != MAGIC:
                    raise SpoolError(f"{self.path} is no spool")
                if crc == _header_crc(sent, end) and HEADER.size <= sent <= end <= size:
                    if size > end:
                        self._say(f"{self.path}: {size - end} bytes of a write that was cut short are ignored")
                        file.truncate(end)
                    return sent, end
            self._say(f"{self.path}: the header is damaged; all messages that can be read are sent again")
            file.seek(HEADER.size)
            end = HEADER.size + sum(FRAME.size + len(payload) for payload in _payloads(file.read()))
            self._write_header(file, HEADER.size, end)
            return HEADER.size, end

    def _make(self) -> None:
        new = self.path.with_suffix(".new")
        with new.open("wb") as file:
            self._write_header(file, HEADER.size, HEADER.size)
        self._replace(new)

    def shorten(self) -> bool:
        """Cut off what is sent, where that is at least half of it; whether it was. Only for who sends."""
        with self._locked():
            sent, end = self._header()
            if sent - HEADER.size < end - sent or sent == HEADER.size:
                return False
            new = self.path.with_suffix(".new")
            with self._file() as old, new.open("wb") as file:
                file.seek(HEADER.size)
                old.seek(sent)
                while chunk := old.read(CHUNK_BYTES):
                    file.write(chunk)
                _sync(file)
                self._write_header(file, HEADER.size, HEADER.size + end - sent)
            self._replace(new)
            return True

    def _replace(self, new: Path) -> None:
        new.replace(self.path)
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @staticmethod
    def _write_header(file: BinaryIO, sent: int, end: int) -> None:
        file.seek(0)
        file.write(HEADER.pack(MAGIC, sent, end, _header_crc(sent, end)))
        _sync(file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fdatasync(file.fileno())


def _header_crc(sent: int, end: int) -> int:
    return zlib.crc32(struct.pack("<QQ", sent, end))


def _framed(message: Message) -> bytes:
    payload = _encode((message.kind, message.regression, message.body, message.headers))
    return FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _payloads(data: bytes) -> Iterator[bytes]:
    """The whole and undamaged records at the beginning of `data`."""
    offset = 0
    while offset + FRAME.size <= len(data):
        length, crc = FRAME.unpack_from(data, offset)
        payload = data[offset + FRAME.size : offset + FRAME.size + length]
        if length == 0 or len(payload) < length or zlib.crc32(payload) != crc:
            return
        yield payload
        offset += FRAME.size + length


def of(config: Config, say: Say = lambda _line: None) -> Spool | None:
    """The configured spool, None when there is none. Raises ConfigError."""
    if not config.tunnel.spool:
        return None
    return Spool(config.tunnel.spool, config.kafka.events_topic, config.tunnel.spoolbytes, say)
