"""The probe beside every comparison: a NumPy matrix product of 2048³ in float32, the machine's rate at that moment."""

from worker import claim_output, serve

SIDE = 2048
GFLOP = 2 * SIDE**3 / 1e9


def main() -> None:
    """Serve products."""
    channel = claim_output()
    import numpy as np

    left, right = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), np.float32)
    out = np.empty_like(left)

    def run() -> dict[str, float]:
        np.matmul(left, right, out=out)
        return {}

    serve(channel, {"GFLOP": GFLOP}, run)


if __name__ == "__main__":
    main()
