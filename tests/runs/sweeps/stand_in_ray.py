"""What the pool uses of Ray, in one process: workers whose jobs run when they are looked at."""

import types


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class OutOfMemoryError(RayError):
    pass


class DiedError(RayError):
    pass


class Stream:
    """Messages of a job; an exception among them is raised at its turn."""

    def __init__(self, messages):
        self.messages = iter(messages)

    def __next__(self):
        return next(self.messages)


class Method:
    def __init__(self, call):
        self.call = call

    def options(self, **_):
        return self

    def remote(self, *arguments):
        return self.call(*arguments)


class Actor:
    """A worker; `script(job)` gives the messages of a job."""

    def __init__(self, script, node="node-1"):
        self.asked_to_stop, self.closed = [], []
        self.run = Method(lambda job: Stream(script(job, self)))
        self.stop = Method(lambda: self.asked_to_stop.append(True))
        self.close = Method(lambda: self.closed.append(True))
        self.node = node


class Ray:
    """Nodes by name -> resources."""

    exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, OutOfMemoryError=OutOfMemoryError)

    def __init__(self, nodes):
        self.named, self.killed = nodes, []

    def wait(self, pending, num_returns=1, timeout=None):
        return list(pending), []

    def get(self, value, timeout=None):
        if isinstance(value, Exception):
            raise value
        return value

    def kill(self, actor, no_restart=True):
        self.killed.append(actor)

    def nodes(self):
        return [
            {"NodeID": name, "NodeManagerAddress": f"10.0.0.{place}", "Resources": resources, "Alive": True}
            for place, (name, resources) in enumerate(self.named.items())
        ]

    def get_runtime_context(self):
        return types.SimpleNamespace(get_node_id=lambda: "node-1")
