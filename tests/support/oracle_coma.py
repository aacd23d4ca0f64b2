"""One update of COMA in plain NumPy float64, written from its equations with loops; nothing comes from the package.

The networks' building blocks are those of the LSF-SAC oracle; gradients of the critic are written out by hand. The
actions of the rows that only bootstrap are given: they are drawn.
"""

import math

import numpy as np

from tests.support import oracle_lsf_sac as oracle
from tests.support.oracle_vdac import entropies, floored

LAYERS = ("Linear_0", "Linear_1", "Linear_2")


def policy(p, game, floor, over="available"):
    """π [T+1, N, A] with its floor."""
    x, pi = oracle.inputs_of(game), np.zeros(game.avail.shape)
    for i in range(game.avail.shape[1]):
        for t, logits in enumerate(oracle.recurrent_net(p, x[:, i])):
            pi[t, i] = floored(logits, game.avail[t, i], floor, over)
    return pi


def one_hot(action, n_actions):
    return np.array([1.0 if a == action else 0.0 for a in range(n_actions)])


def critic_input(game, t, i, joint):
    """[s, o_i, the others' actions with zeros for i's own, all actions of the step before (zeros at t = 0), i]."""
    agents, actions = game.avail.shape[1:]
    parts = [game.state[t], game.obs[t, i]]
    parts += [one_hot(joint[j], actions) if j != i else np.zeros(actions) for j in range(agents)]
    parts += [one_hot(game.action[t - 1, j], actions) if t > 0 else np.zeros(actions) for j in range(agents)]
    return np.concatenate([*parts, one_hot(i, agents)])


def critic_row(p, game, t, joint):
    """Q_i(s, (a, u_-i)) [N, A] of one row."""
    return np.array([oracle.mlp(p, critic_input(game, t, i, joint)) for i in range(game.avail.shape[1])])


def targets(p, game, drawn, cfg):
    """y [L, N]: each agent's λ-return of the target critic's values of the actions taken, drawn after the last step."""
    values = np.zeros((game.length, game.avail.shape[1]))  # of the row after each step
    for t in range(1, game.length + 1):
        joint = game.action[t] if t < game.length else drawn[t]
        q = critic_row(p, game, t, joint)
        values[t - 1] = [q[i, joint[i]] for i in range(len(joint))]
    agents = range(values.shape[1])
    return np.array([[oracle.lambda_return(game, t, values[:, i], cfg) for i in agents] for t in range(game.length)])


def critic_gradient(p, samples):
    """Mean gradient of (Q(x)[action] - y)² over samples (x, action, y), by backpropagation, and the mean loss."""
    total = {name: {key: np.zeros_like(leaf) for key, leaf in p[name].items()} for name in LAYERS}
    loss = 0.0
    for x, action, y in samples:
        seen = [x]
        for name in LAYERS[:-1]:
            seen.append(np.maximum(oracle.linear(p[name], seen[-1]), 0.0))
        error = oracle.linear(p[LAYERS[-1]], seen[-1])[action] - y
        slope = 2.0 * error * one_hot(action, p[LAYERS[-1]]["bias"].size) / len(samples)
        loss += error**2 / len(samples)
        for name, below in zip(LAYERS[::-1], seen[::-1]):
            total[name]["bias"] += slope
            total[name]["kernel"] += np.outer(below, slope)
            slope = (p[name]["kernel"] @ slope) * (below > 0)
    return total, loss


def train_critic(p, games, wanted, rate):
    """Adam on each time step's samples from the last step to the first; Q of every row just before its own step.

    Returns the parameters, the values, the mean loss over valid steps and the number of optimiser steps.
    """
    p = {name: {key: leaf.copy() for key, leaf in p[name].items()} for name in LAYERS}
    moments = {(name, key): [0.0, 0.0] for name in LAYERS for key in ("kernel", "bias")}
    seen, losses, count = [np.zeros((game.length, *game.avail.shape[1:])) for game in games], 0.0, 0
    for t in reversed(range(max(game.length for game in games))):
        present, samples = [b for b, game in enumerate(games) if t < game.length], []
        for b in present:
            seen[b][t] = critic_row(p, games[b], t, games[b].action[t])
            for i, action in enumerate(games[b].action[t]):
                samples.append((critic_input(games[b], t, i, games[b].action[t]), action, wanted[b][t, i]))
        gradient, loss = critic_gradient(p, samples)
        losses, count = losses + loss * len(present), count + 1
        for (name, key), moment in moments.items():
            g = gradient[name][key]
            moment[0] = 0.9 * moment[0] + 0.1 * g
            moment[1] = 0.999 * moment[1] + 0.001 * g**2
            mean, square = moment[0] / (1 - 0.9**count), moment[1] / (1 - 0.999**count)
            p[name][key] -= rate * mean / (np.sqrt(square) + 1e-8)
    return p, seen, losses / sum(game.length for game in games), count


def baseline(pi, game, t, i, joint, critic):
    """Σ_a π_i(a) Q_i(s, (a, u_-i)), each counterfactual joint action put to the critic."""
    total = 0.0
    for a in range(pi.size):
        imagined = [a if j == i else joint[j] for j in range(len(joint))]
        total += pi[a] * critic_row(critic, game, t, imagined)[i, a]
    return total


def policy_terms(pis, given_pis, values, games, cfg):
    """Means over valid steps of the actor's terms; advantages come from `given_pis` and `values`."""
    policy, bonus = 0.0, 0.0
    for pi, given, q, game in zip(pis, given_pis, values, games):
        agents = range(game.avail.shape[1])
        for t in range(game.length):
            u = game.action[t]
            advantage = [q[t, i, u[i]] - sum(given[t, i] * q[t, i]) for i in agents]
            policy -= sum(advantage[i] * math.log(pi[t, i, u[i]]) for i in agents) / len(agents)
            bonus -= cfg.entropy_weight * sum(entropies(pi[t])) / len(agents)
    count = sum(game.length for game in games)
    return {"policy": policy / count, "entropy_bonus": bonus / count}


def actor_derivative(path, index, params, values, games, floor, cfg, step=1e-5):
    """Central difference of the actor's loss, the advantages standing still."""
    given = [policy(params["actor"], game, floor, cfg.floor_over) for game in games]

    def loss(shift):
        moved = oracle.shifted(params["actor"], path, index, shift)
        pis = [policy(moved, game, floor, cfg.floor_over) for game in games]
        return sum(policy_terms(pis, given, values, games, cfg).values())

    return (loss(step) - loss(-step)) / (2 * step)
