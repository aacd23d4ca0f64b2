"""A Ray cluster whose nodes are processes of this machine, in a process of its own: where JAX runs nothing may fork.

Run as a script it reads JSON lists, one a line, and answers each with a line of JSON: ["address"], where it is; ["add",
settings], the number of one more node, `Cluster.add_node`'s settings; ["kill", number], a node ends as if it lost its
power, but for its workers, which find out by themselves; ["settle"], once the cluster knows which nodes there are.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


class Nodes:
    """The other end of such a process, which is given the head's settings and ends with its input."""

    def __init__(self, head, **variables):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), json.dumps(head)],
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self.ask("address")

    def ask(self, *words):
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the emulated cluster ended; standard error has the reason"
        return json.loads(line)

    def close(self):
        self.process.communicate()
        assert self.process.returncode == 0


def serve(cluster, questions, answers):
    """Does what is asked for, until nobody asks any more."""
    nodes = []

    def add(settings):
        nodes.append(cluster.add_node(**settings))
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

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray and its processes print is no answer
    head = {"include_dashboard": False} | json.loads(sys.argv[1])
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        serve(cluster, sys.stdin, answers)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
