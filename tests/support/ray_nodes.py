"""A Ray cluster whose nodes are processes of this machine, in a process of its own: where JAX runs nothing may fork.

Run as a script it reads JSON lists, one a line, and answers each with a line of JSON: ["address"], where it is; ["add",
slots], the number of one more node that offers these slots; ["kill", number], a node ends as if it lost its power;
["settle"], once the cluster knows which nodes there are.
"""

import json
import subprocess
import sys
from pathlib import Path

STORE = 80 * 2**20  # bytes
GAMES = "games"


class Nodes:
    """The other end of such a process."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address = self.ask("address")

    def ask(self, *words):
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.communicate()
        assert self.process.returncode == 0


def serve(cluster, questions, answers):
    """Does what is asked for, until nobody asks any more."""
    nodes = []

    def add(slots):
        nodes.append(cluster.add_node(num_cpus=1, object_store_memory=STORE, resources={GAMES: slots}))
        return len(nodes) - 1

    deeds = {
        "address": lambda: cluster.address,
        "add": add,
        "kill": lambda number: cluster.remove_node(nodes[number], allow_graceful=False),
        "settle": lambda: cluster.wait_for_nodes(60),
    }
    for line in questions:
        name, *arguments = json.loads(line)
        answers.write(json.dumps(deeds[name](*arguments)) + "\n")
        answers.flush()


def main():
    from ray.cluster_utils import Cluster

    answers, sys.stdout = sys.stdout, sys.stderr  # Ray prints
    head = {"include_dashboard": False, "object_store_memory": STORE, "num_cpus": 1}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        serve(cluster, sys.stdin, answers)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
