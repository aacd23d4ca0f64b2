"""The nodes of an emulated cluster, in a process of their own: Ray forks for each, and a process that has JAX must not.

Reads wishes from standard input, one of JSON per line, and answers each with a line; ends all nodes with its input.
"""

import json
import os
import sys


def main():
    from ray.cluster_utils import Cluster

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer
    head = {"num_cpus": 0, "include_dashboard": False}
    cluster, nodes = Cluster(initialize_head=True, head_node_args=head), {}
    try:
        print(json.dumps(cluster.address), file=answers, flush=True)
        for line in sys.stdin:
            wish, given = json.loads(line)
            if wish == "add":
                node = cluster.add_node(**given)
                nodes[node.unique_id] = node
                print(json.dumps(node.unique_id), file=answers, flush=True)
            elif wish == "lose":
                cluster.remove_node(nodes.pop(given), allow_graceful=False)
                print(json.dumps(given), file=answers, flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
