"""IQL, VDN, QMIX, QPLEX, OW- and CW-QMIX in plain NumPy float64: losses of one update, written from the equations.

Nothing is imported from the package; the networks' building blocks are those of the LSF-SAC oracle. `frozen` parameters
hold what a loss takes as given, so that central differences are gradients.
"""

import numpy as np

from tests.support import oracle_lsf_sac as oracle


def utilities(p, game):
    """q [T+1, N, A] of every agent's history."""
    x = oracle.inputs_of(game)
    return np.stack([oracle.recurrent_net(p, x[:, i]) for i in range(x.shape[1])], axis=1)


def best_joint(q, avail):
    """Every agent's own best available action."""
    return [oracle.best_available(q[i], avail[i]) for i in range(len(q))]


def taken(q, action):
    return [q[i, a] for i, a in enumerate(action)]


def duplex_weights(p, state, action, actions):
    """w, b of QPLEX's affine map and the importances λ of a joint action."""
    joint = np.concatenate([np.arange(actions) == a for a in action]).astype(float)
    w, b = np.abs(oracle.mlp(p["scale"], state)) + 1e-10, oracle.mlp(p["shift"], state)
    heads, importance = p["importance"]["heads"], np.zeros(len(action))
    for k in range(heads["key"]["Linear_0"]["bias"].shape[0]):
        head = {
            name: {layer: {kind: leaf[k] for kind, leaf in leaves.items()} for layer, leaves in layers.items()}
            for name, layers in heads.items()
        }
        key = abs(oracle.mlp(head["key"], state)[0]) + 1e-10
        agents = oracle.sigmoid(oracle.mlp(head["agents"], state))
        importance += key * agents * oracle.sigmoid(oracle.mlp(head["actions"], np.concatenate([state, joint])))
    return w, b, importance


def total_alone(p, q, avail, action, state):
    """IQL: every agent's own value, one group for each."""
    return taken(q, action)


def total_sum(p, q, avail, action, state):
    return [sum(taken(q, action))]


def total_monotonic(p, q, avail, action, state):
    return [oracle.mixed(oracle.mixing_weights(p, state, len(q)), taken(q, action))]


def total_free(p, q, avail, action, state):
    joint = oracle.mlp(p["joint"], np.concatenate([state, taken(q, action)]))[0]
    return [joint + oracle.mlp(p["state_value"], state)[0]]


def total_duplex(p, q, avail, action, state):
    """V_tot + A_tot = Σ ṽᵢ + Σ λᵢ (q̃ᵢ - ṽᵢ), with the best available action's value in ṽ."""
    w, b, importance = duplex_weights(p, state, action, q.shape[1])
    total = 0.0
    for i, best in enumerate(best_joint(q, avail)):
        value = w[i] * q[i, best] + b[i]
        total += value + importance[i] * (w[i] * q[i, action[i]] + b[i] - value)
    return [total]


TOTALS = {"iql": total_alone, "vdn": total_sum, "qmix": total_monotonic, "qplex": total_duplex}


def learned_total(name, p, frozen, game, q, frozen_q, t):
    """Q_tot of what was done at step t, as a function of what its gradient reaches: in QPLEX not the advantages."""
    avail, action, state = game.avail[t], game.action[t], game.state[t]
    if name != "qplex":
        return TOTALS[name](p["mixer"], q[t], avail, action, state)
    w, b, importance = duplex_weights(p["mixer"], state, action, q.shape[2])
    given, total = duplex_weights(frozen["mixer"], state, action, q.shape[2])[0], 0.0
    for i, best in enumerate(best_joint(frozen_q[t], avail)):
        gap = given[i] * (frozen_q[t, i, action[i]] - frozen_q[t, i, best])
        total += w[i] * q[t, i, action[i]] + b[i] + (importance[i] - 1.0) * gap
    return [total]


def returns(game, bootstraps, cfg):
    """λ-returns [T][G] of bootstrap values [T][G]."""
    groups = np.array(bootstraps).T
    return [[oracle.lambda_return(game, t, values, cfg) for values in groups] for t in range(game.length)]


def targets_of(name, p, target, game, cfg, chooser=None):
    """y [T][G] of double Q-learning: chosen by the online utilities (or `chooser`'s), valued by the target networks."""
    q, target_q = utilities((chooser or p)["agent"], game), utilities(target["agent"], game)
    bootstraps = []
    for t in range(1, len(game.avail)):
        action = best_joint(q[t], game.avail[t])
        bootstraps.append(TOTALS[name](target["mixer"], target_q[t], game.avail[t], action, game.state[t]))
    return returns(game, bootstraps, cfg)


def mean(values):
    return sum(values) / len(values)


def spread(q, avail):
    """Mean over agents of the gap between the best and the worst available utility."""
    listed = [[value for value, ok in zip(*rows) if ok] for rows in zip(q, avail)]
    return mean([max(values) - min(values) for values in listed])


def loss_terms(name, params, targets, games, cfg, frozen=None):
    """Means over valid steps of the loss and of what is logged beside it."""
    p, given, target = params["q"], (params if frozen is None else frozen)["q"], targets["q"]
    sums = dict.fromkeys(("td", "q_total", "q_utility", "q_gap", "reward"), 0.0)
    for game in games:
        q, given_q = utilities(p["agent"], game), utilities(given["agent"], game)
        y = targets_of(name, given, target, game, cfg)
        for t in range(game.length):
            groups = learned_total(name, p, given, game, q, given_q, t)
            sums["td"] += mean([0.5 * (total - goal) ** 2 for total, goal in zip(groups, y[t], strict=True)])
            sums["q_total"] += mean(groups)
            sums["q_utility"] += mean(taken(q[t], game.action[t]))
            sums["q_gap"] += spread(q[t], game.avail[t])
            sums["reward"] += game.reward[t]
    count = sum(game.length for game in games)
    return {key: value / count for key, value in sums.items()}


def central_values(p, target, game):
    """ū [T+1][N] of QMIX's utilities, and the target network's Q*(τ, ū) [T+1]."""
    q, target_q = utilities(p["agent"], game), utilities(target["agent"], game)
    best = [best_joint(q[t], game.avail[t]) for t in range(len(q))]
    rows = range(len(q))
    return best, [total_free(target["mixer"], target_q[t], None, best[t], game.state[t])[0] for t in rows]


def weight_of(name, game, t, total, y, best, best_total, cfg):
    """w of step t by the rule of OW- or CW-QMIX."""
    if name == "ow_qmix":
        return 1.0 if total < y else cfg.weight
    if all(game.action[t, i] == best[t][i] for i in range(len(best[t]))):
        return 1.0
    return 1.0 if y > best_total[t] else cfg.weight


def weighted_terms(name, params, targets, games, cfg, frozen=None):
    """Means over valid steps of both branches' losses and of what is logged beside them; and all weights."""
    p, given, target = params["q"], (params if frozen is None else frozen)["q"], targets["q"]["central"]
    sums, weights = dict.fromkeys(("td", "central_td", "q_total", "q_central", "weight"), 0.0), []
    for game in games:
        q, central_q = utilities(p["agent"], game), utilities(p["central"]["agent"], game)
        given_q = utilities(given["agent"], game)
        best, best_total = central_values(given, target, game)
        y = returns(game, [[value] for value in best_total[1:]], cfg)
        for t in range(game.length):
            place = game.avail[t], game.action[t], game.state[t]
            central = total_free(p["central"]["mixer"], central_q[t], *place)[0]
            total = total_monotonic(p["mixer"], q[t], *place)[0]
            before = total_monotonic(given["mixer"], given_q[t], *place)[0]
            weights.append(weight_of(name, game, t, before, y[t][0], best, best_total, cfg))
            sums["td"] += 0.5 * weights[-1] * (total - y[t][0]) ** 2
            sums["central_td"] += 0.5 * cfg.central_weight * (central - y[t][0]) ** 2
            sums["q_total"] += total
            sums["q_central"] += central
            sums["weight"] += weights[-1]
    count = sum(game.length for game in games)
    return {key: value / count for key, value in sums.items()}, weights


def derivative(loss, path, index, params, step=1e-5):
    """Central difference of a loss, a function of (parameters, frozen ones), with respect to one number of "q"."""
    moved = [loss(oracle.shifted(params, ("q", *path), index, shift), params) for shift in (step, -step)]
    return (moved[0] - moved[1]) / (2 * step)
