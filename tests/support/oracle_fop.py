"""One update of FOP in plain NumPy float64, loops written from its equations; nothing is imported from the package.

The networks' building blocks are those of the LSF-SAC oracle. The next joint actions are given: they are drawn.
"""

import math

import numpy as np

from tests.support import oracle_lsf_sac as oracle


def temperature(env_steps):
    return max(0.05, 0.5 - env_steps / 200_000)


def local_values(p, game):
    """q [T+1, N, A] of one critic: layers of [o_i, one-hot i], at every row apart."""
    rows, agents, actions = game.avail.shape
    q = np.zeros((rows, agents, actions))
    for t in range(rows):
        for i in range(agents):
            q[t, i] = oracle.mlp(p, np.concatenate([game.obs[t, i], np.arange(agents) == i]))
    return q


def soft_value(q, avail, alpha, masked):
    return alpha * math.log(sum(math.exp(value / alpha) for value, ok in zip(q, avail) if ok or not masked))


def importance(heads, s, joint):
    """λ of all agents: Σ_k |key_k(s)| σ(agents_k(s)) σ(actions_k([s, u]))."""
    total = np.zeros(len(joint))
    u = np.concatenate([s, np.concatenate(joint)])
    for k in range(heads["key"]["Linear_0"]["kernel"].shape[0]):
        head = {name: {"Linear_0": {w: x[k] for w, x in layer["Linear_0"].items()}} for name, layer in heads.items()}
        key = abs(oracle.mlp(head["key"], s)[0]) + 1e-10
        total += key * oracle.sigmoid(oracle.mlp(head["agents"], s)) * oracle.sigmoid(oracle.mlp(head["actions"], u))
    return total


def q_total(p, game, q, t, action, alpha, masked, advantage=None):
    """V(s) + Σ q_i + Σ (λ_i - 1)(q_i - v_i); `advantage` replaces q_i - v_i, through which nothing is learned."""
    agents, actions = q.shape[1:]
    s, joint = game.state[t], [np.arange(actions) == action[i] for i in range(agents)]
    weights = importance(p["mixer"]["importance"]["heads"], s, joint)
    total = oracle.mlp(p["mixer"]["state_value"], s)[0]
    for i in range(agents):
        gap = q[t, i, action[i]] - soft_value(q[t, i], game.avail[t, i], alpha, masked)
        gap = gap if advantage is None else advantage[i]
        total += q[t, i, action[i]] + (weights[i] - 1.0) * gap
    return total


def advantages(q, game, t, action, alpha, masked):
    return [q[t, i, action[i]] - soft_value(q[t, i], game.avail[t, i], alpha, masked) for i in range(q.shape[1])]


def policy(p, game):
    """π and log π [T+1, N, A], 0 and 0 where unavailable."""
    x, pi = oracle.inputs_of(game), np.zeros(game.avail.shape)
    for i in range(x.shape[1]):
        for t, row in enumerate(oracle.recurrent_net(p, x[:, i])):
            pi[t, i] = oracle.softmax_over(row, game.avail[t, i])
    return pi, np.log(np.where(pi > 0, pi, 1.0))


def twin(params, k):
    """The parameters of critic k."""
    if isinstance(params, dict):
        return {name: twin(value, k) for name, value in params.items()}
    return params[k]


def targets_of(params, targets, game, next_action, alpha, cfg):
    """y of every step that happened."""
    log_pi = policy(params["actor"], game)[1]
    values, surprises = np.zeros(len(next_action)), np.zeros(len(next_action))
    for t in range(game.length):
        drawn = next_action[t]
        both = []
        for k in range(2):
            p = twin(targets["critic"], k)
            both.append(q_total(p, game, local_values(p["critic"], game), t + 1, drawn, alpha, cfg.soft_mask))
        values[t] = min(both)
        surprises[t] = -np.mean([log_pi[t + 1, i, drawn[i]] for i in range(len(drawn))])
    if cfg.entropy_in_target == "inside":
        return [oracle.lambda_return(game, t, values, cfg, alpha * surprises) for t in range(game.length)]
    return [oracle.lambda_return(game, t, values, cfg) + alpha * surprises[t] for t in range(game.length)]


def loss_terms(params, targets, games, next_actions, alpha, cfg, frozen=None):
    """Means over valid steps of every loss and quantity; `frozen` parameters hold what a loss takes as given."""
    sums = dict.fromkeys(("td", "policy", "q_total", "entropy", "alpha"), 0.0)
    frozen = params if frozen is None else frozen
    for game, next_action in zip(games, next_actions):
        y = targets_of(frozen, targets, game, next_action, alpha, cfg)
        pi, log_pi = policy(params["actor"], game)
        critics = [twin(params["critic"], k) for k in range(2)]
        q = [local_values(p["critic"], game) for p in critics]
        given = [local_values(twin(frozen["critic"], k)["critic"], game) for k in range(2)]
        for t in range(game.length):
            action = game.action[t]
            for k, p in enumerate(critics):
                gaps = advantages(given[k], game, t, action, alpha, cfg.soft_mask)
                total = q_total(p, game, q[k], t, action, alpha, cfg.soft_mask, gaps)
                sums["td"] += (total - y[t]) ** 2
                sums["q_total"] += total / 2
            for i, a in zip(*np.nonzero(game.avail[t])):
                worth = min(given[0][t, i, a], given[1][t, i, a])
                sums["policy"] += pi[t, i, a] * (alpha * log_pi[t, i, a] - worth) / len(action)
                choosers = max((game.avail[t].sum(axis=-1) > 1).sum(), 1)
                sums["entropy"] -= pi[t, i, a] * log_pi[t, i, a] / choosers
            sums["alpha"] += alpha
    count = sum(game.length for game in games)
    return {name: value / count for name, value in sums.items()}


def derivative(group, path, index, params, targets, games, next_actions, alpha, cfg, step=1e-5):
    """Central difference of the group's own loss with respect to one of its numbers; everything else stands still."""

    def loss(shift):
        moved = oracle.shifted(params, (group, *path), index, shift)
        terms = loss_terms(moved, targets, games, next_actions, alpha, cfg, frozen=params)
        return terms["td" if group == "critic" else "policy"]

    return (loss(step) - loss(-step)) / (2 * step)
