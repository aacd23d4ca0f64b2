"""NDQ's losses in plain NumPy float64: loops over episodes, steps, agents and actions, message noise given.

Nothing is imported from the package; nets, mixer and returns come from the oracle of LSF-SAC.
"""

import math
from typing import NamedTuple

import numpy as np

from tests.support.oracle_lsf_sac import (
    best_available,
    inputs_of,
    lambda_return,
    mixed,
    mixing_weights,
    mlp,
    recurrent_net,
    softmax_over,
)


class Noise(NamedTuple):
    """Standard normal numbers of one episode's messages, `[T+1, N, N·D]`."""

    online: np.ndarray
    target: np.ndarray


def received_by(i, sent, d):
    """Block i of what every sender sent."""
    return np.concatenate([message[i * d : (i + 1) * d] for message in sent])


def utilities(p, game, noise, cfg):
    """(q, mean, informed inputs) of one set of parameters: utilities read [x_i, messages to i]."""
    x = inputs_of(game)
    rows, agents = x.shape[:2]
    mean = np.array([[mlp(p["encoder"]["current"], x[t, j]) for j in range(agents)] for t in range(rows)])
    informed = np.array(
        [
            [np.concatenate([x[t, i], received_by(i, mean[t] + noise[t], cfg.message_dim)]) for i in range(agents)]
            for t in range(rows)
        ]
    )
    return np.stack([recurrent_net(p["agent"], informed[:, i]) for i in range(agents)], axis=1), mean, informed


def loss_terms(params, targets, games, noises, cfg):
    """Means over valid steps of the four terms, weights included."""
    sums = dict.fromkeys(("td", "message_ce", "message_kl", "message_entropy"), 0.0)
    count = sum(game.length for game in games)
    for game, noise in zip(games, noises):
        q, mean, informed = utilities(params, game, noise.online, cfg)
        target_q, _, _ = utilities(targets, game, noise.target, cfg)
        steps, agents = game.action.shape
        values = np.zeros(steps)
        for t in range(game.length):
            best = [best_available(q[t + 1, i], game.avail[t + 1, i]) for i in range(agents)]
            chosen = [target_q[t + 1, i, best[i]] for i in range(agents)]
            values[t] = mixed(mixing_weights(targets["mixer"], game.state[t + 1], agents), chosen)
        for t in range(game.length):
            taken = [q[t, i, game.action[t, i]] for i in range(agents)]
            total = mixed(mixing_weights(params["mixer"], game.state[t], agents), taken)
            sums["td"] += (total - lambda_return(game, t, values, cfg)) ** 2
            for i in range(agents):
                logits = mlp(params["decoder"]["Mlp_0"], informed[t, i])
                predicted = softmax_over(logits, np.ones(len(logits), bool))
                label = best_available(target_q[t, i], game.avail[t, i])
                sums["message_ce"] -= cfg.c_beta * math.log(predicted[label] + 1e-6)
                for mu, epsilon in zip(mean[t, i], noise.online[t, i]):
                    density = math.exp(-0.5 * (mu + epsilon) ** 2) / math.sqrt(2 * math.pi)
                    sums["message_kl"] += cfg.c_beta * cfg.comm_beta * 0.5 * mu**2
                    sums["message_entropy"] -= cfg.c_beta * cfg.comm_entropy_beta * math.log(density)
    return {name: value / count for name, value in sums.items()}


def acting_utilities(p, inputs, noise, lost, cfg):
    """Utilities of one first step `[N, A]` where the entries `lost[sender, number]` of messages arrive as zeros."""
    sent = [mlp(p["encoder"]["current"], inputs[j]) + noise[j] for j in range(len(inputs))]
    sent = [[0.0 if gone else number for number, gone in zip(*row)] for row in zip(sent, lost)]
    informed = [np.concatenate([x, received_by(i, sent, cfg.message_dim)]) for i, x in enumerate(inputs)]
    return np.array([recurrent_net(p["agent"], [row])[0] for row in informed])
