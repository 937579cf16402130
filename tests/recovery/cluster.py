"""Three brokers on this machine, each its own controller's voter: topics with three copies outlive the loss of any one."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from livejobs.streams.kafka.broker import Broker, free_port

CLUSTER = "bGl2ZWpvYnMtY2x1c3Rlcg"
"""One id for all: each node formats its own disk."""


class Node(Broker):
    """One of the brokers."""

    def __init__(self, number: int, ports: list[int], voters: str, folder: Path) -> None:
        super().__init__(ports[number], folder / str(number))
        self._number, self._voters = number, voters

    def _settings(self) -> dict[str, str]:
        own = super()._settings()
        controller = self._voters.split(",")[self._number].partition("@")[2]
        copies = dict.fromkeys(("default.replication.factor", "offsets.topic.replication.factor", "transaction.state.log.replication.factor", "share.coordinator.state.topic.replication.factor"), "3")
        return {
            **own,
            **copies,
            "transaction.state.log.min.isr": "2",
            "node.id": str(self._number + 1),
            "controller.quorum.voters": self._voters,
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "controller.quorum.election.timeout.ms": "2000",
            "controller.quorum.fetch.timeout.ms": "4000",
        }

    def _cluster_id(self) -> str:
        return CLUSTER


class Cluster:
    """The three of them."""

    def __init__(self, folder: Path) -> None:
        ports = [free_port() for _ in range(3)]
        voters = ",".join(f"{number + 1}@127.0.0.1:{free_port()}" for number in range(3))
        self.nodes = [Node(number, ports, voters, folder) for number in range(3)]

    @property
    def bootstrap(self) -> str:
        """All three."""
        return ",".join(node.bootstrap for node in self.nodes)

    def __enter__(self) -> Self:
        with ThreadPoolExecutor(3) as pool:  # none answers before it has a majority
            list(pool.map(Node.start, self.nodes))
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()  # the last ones would wait for a majority
