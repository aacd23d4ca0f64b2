"""VDAC and MAA2C in plain NumPy float64: losses of one update, written from the equations; nothing from the package.

The networks' building blocks are those of the LSF-SAC oracle. `given` holds what the losses must take as constants, the
V_tot behind targets and advantages, so that central differences are gradients.
"""

import math

import numpy as np

from tests.support import oracle_lsf_sac as oracle

TERMS = ("policy", "entropy_bonus", "td")


def heads(params, game):
    """Logits [T+1, N, A] and state values [T+1, N], from one network or from two."""
    x, agents = oracle.inputs_of(game), game.avail.shape[1]
    if "actor_critic" in params:
        outputs = [oracle.recurrent_net(params["actor_critic"]["agent"], x[:, i]) for i in range(agents)]
        return np.stack([row[:, :-1] for row in outputs], axis=1), np.stack([row[:, -1] for row in outputs], axis=1)
    logits = [oracle.recurrent_net(params["actor"], x[:, i]) for i in range(agents)]
    values = [oracle.recurrent_net(params["critic"]["agent"], x[:, i])[:, 0] for i in range(agents)]
    return np.stack(logits, axis=1), np.stack(values, axis=1)


def value_total(params, game):
    """V_tot [T+1]: a sum where the mixer has no parameters."""
    mixer, values = params.get("actor_critic", params.get("critic"))["mixer"], heads(params, game)[1]
    if not mixer:
        return np.array([sum(row) for row in values])
    weights = [oracle.mixing_weights(mixer, state, values.shape[1]) for state in game.state]
    return np.array([oracle.mixed(w, row) for w, row in zip(weights, values)])


def entropies(pi):
    """In nats, of every agent; zero for one without a choice."""
    return [-sum(p * math.log(p) for p in row if p > 0) for row in pi]


def mean_entropy(pi, avail):
    """Mean over the agents that have more than one action, for people."""
    found = [entropy for entropy, open_to in zip(entropies(pi), avail) if open_to.sum() > 1]
    return sum(found) / len(found) if found else 0.0


def epsilon(env_steps, cfg):
    progress = min(env_steps / cfg.epsilon_anneal, 1.0)
    return cfg.epsilon_start + (cfg.epsilon_finish - cfg.epsilon_start) * progress


def floored(logits, avail, floor, over):
    """π with its floor: uniform with probability `floor`; over what is available, or over all and then renormalised."""
    some = np.ones_like(avail) if over == "all" else avail
    pi = avail * ((1.0 - floor) * oracle.softmax_over(logits, some) + floor * some / some.sum())
    return pi / pi.sum()


def loss_terms(params, games, cfg, given, env_steps):
    """Means over valid steps of every term; `given` is V_tot [T+1] of every game."""
    floor = epsilon(env_steps, cfg) if cfg.epsilon_floor == "inside" else 0.0
    sums = dict.fromkeys((*TERMS, "entropy"), 0.0)
    for game, constant in zip(games, given):
        logits, learned = heads(params, game)[0], value_total(params, game)
        for t in range(game.length):
            agents = range(game.avail.shape[1])
            pi = [floored(logits[t, i], game.avail[t, i], floor, cfg.floor_over) for i in agents]
            y = oracle.lambda_return(game, t, constant[1:], cfg)
            log_chosen = [math.log(pi[i][game.action[t, i]]) for i in agents]
            sums["td"] += cfg.value_weight * (learned[t] - y) ** 2
            sums["policy"] -= (y - constant[t]) * sum(log_chosen) / len(log_chosen)
            sums["entropy_bonus"] -= cfg.entropy_weight * sum(entropies(pi)) / len(pi)
            sums["entropy"] += mean_entropy(pi, game.avail[t])
    count = sum(game.length for game in games)
    return {name: total / count for name, total in sums.items()}


def derivative(group, path, index, params, games, cfg, env_steps, step=1e-5):
    """Central difference of the loss that trains a group with respect to one of its numbers."""
    trains = {"actor_critic": TERMS, "critic": ("td",), "actor": ("policy", "entropy_bonus")}[group]
    given = [value_total(params, game) for game in games]

    def loss(shift):
        terms = loss_terms(oracle.shifted(params, (group, *path), index, shift), games, cfg, given, env_steps)
        return sum(terms[name] for name in trains)

    return (loss(step) - loss(-step)) / (2 * step)
