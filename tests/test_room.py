"""Who may fold when there is little room for changes: the first come first, and a batch as a whole."""

import asyncio

from livejobs.streams.config import Kafka
from livejobs.streams.worker import transactions
from livejobs.streams.worker.transactions import Transactions

MAX = transactions.CHANGED_BYTES_MAX


class Busy:
    """A partition at work on a batch."""

    joins_next = False

    def __init__(self) -> None:
        self.claimed_bytes = self.changed_bytes = 0


def test_the_first_to_ask_for_room_gets_it_first() -> None:
    async def main() -> None:
        one, other = Busy(), Busy()
        room = Transactions(Kafka(), lambda: [one, other]).room
        one.claimed_bytes = await room(MAX // 4)
        other.claimed_bytes = await room(MAX // 2)
        large, small = asyncio.create_task(room(MAX // 2)), asyncio.create_task(room(1))
        await asyncio.sleep(0.02)
        assert not large.done()
        assert not small.done()  # there would be room for it, but then the large one might never have enough
        other.claimed_bytes = 0
        assert await asyncio.wait_for(large, 10) == (MAX - 1) // 2
        assert await asyncio.wait_for(small, 10) == 1

    asyncio.run(main())


def test_batches_of_any_size_have_room_for_one_on_its_way_and_one_at_work() -> None:
    async def main() -> None:
        one = Busy()
        room = Transactions(Kafka(), lambda: [one]).room
        one.claimed_bytes = await asyncio.wait_for(room(10 * MAX), 10)
        assert one.claimed_bytes + await asyncio.wait_for(room(10 * MAX), 10) <= MAX

    asyncio.run(main())
