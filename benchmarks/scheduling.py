"""What does it cost to hand out a block? The driver's own pool with stand-in blocks that compute nothing.

    python benchmarks/scheduling.py --cluster local:2 --blocks 1000

Every block is given to a worker process of a real Ray cluster, sends a few messages as training does, and ends. Printed
are milliseconds per block, which is all overhead, and the driver's memory on the way, which should stay where it is.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from lsf_jax.cluster.connect import connected, nodes_of
from lsf_jax.runs.sweeps.pool import Hand, Hooks, Pool


class Opened(NamedTuple):
    """What a stand-in says once it is there."""

    node: str


class StandIn:
    """A worker whose blocks take no time."""

    def open(self) -> Opened:
        """It is there."""
        return Opened("")

    def run(self, messages: int) -> Any:
        """The messages of a block, at once."""
        for number in range(messages):
            yield number, bytes(200)

    def stop(self) -> None:
        """Nothing has to be stopped."""

    def close(self) -> None:
        """Nothing has to be tidied up."""


def measure(where: str, blocks: int, messages: int, per_block: float) -> dict[str, Any]:
    done: list[int] = []
    memory: dict[int, float] = {}
    driver = psutil.Process()

    def take(job: int, message: tuple[int, bytes]) -> None:
        if message[0] == messages - 1:
            done.append(job)
            if len(done) in (1, blocks // 10, blocks // 2, blocks):
                memory[len(done)] = driver.memory_info().rss / 2**20

    with connected(where) as ray:
        remote = ray.remote(StandIn)

        def start() -> Hand:
            actor = remote.options(num_cpus=per_block, max_concurrency=2).remote()
            return Hand(actor, actor.open.remote())

        hooks = Hooks(lambda _: None, lambda job, _: messages, take, lambda job: None, print)
        pool = Pool(ray, start, {"CPU": per_block}, hooks)
        pool.nodes = nodes_of(ray)
        pool.run([0], lambda: False)  # processes have started
        done.clear()
        warm = [start() for _ in range(pool.n_slots())]
        for hand in warm:
            hand.opened, hand.pending = ray.get(hand.pending), None
        pool.hands.extend(warm)
        begun = time.perf_counter()
        pool.run(range(blocks), lambda: False)
        seconds = time.perf_counter() - begun
        slots = len(warm)
    assert sorted(done) == list(range(blocks))
    return {
        "blocks": blocks,
        "workers": slots,
        "messages per block": messages,
        "seconds": round(seconds, 2),
        "ms per block": round(1000 * seconds / blocks, 2),
        "driver MiB": {str(count): round(size, 1) for count, size in memory.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", default="local:2")
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--messages", type=int, default=4, help="that a block sends")
    parser.add_argument("--per-block", type=float, default=1.0, help="CPUs of a worker")
    parser.add_argument("--quick", action="store_true", help="20 blocks: only shows that it runs")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args()
    found = measure(options.cluster, 20 if options.quick else options.blocks, options.messages, options.per_block)
    for name, value in found.items():
        print(f"{name:<20} {value}")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
