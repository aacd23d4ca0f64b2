"""One update of DOP in plain NumPy float64, written from its equations; nothing is imported from the package.

The critic's steps are plain gradient descent with every derivative by central differences, so that the chain of them
is exact; to make that affordable the critic is written with matrix products over rows, everything else with loops.
"""

import numpy as np

from tests.support import oracle_lsf_sac as oracle


def apply(layer, x):
    layer = layer.get("Linear_0", layer)
    return x @ layer["kernel"] + layer["bias"]


def local_values(p, state, obs):
    """Q_i = a + v of [s, o_i, one-hot i]: [R, N, A] from states [R, S] and observations [R, N, O]."""
    rows, agents = obs.shape[:2]
    shared = np.repeat(state[:, None], agents, axis=1)
    x = np.concatenate([shared, obs, np.broadcast_to(np.eye(agents), (rows, agents, agents))], axis=-1)
    for name in ("Linear_0", "Linear_1"):
        x = np.maximum(apply(p["critic"]["trunk"][name], x), 0.0)
    return apply(p["critic"]["advantage"], x) + apply(p["critic"]["value"], x)


def kernels(p, state, agents):
    first, second = np.abs(apply(p["mixer"]["kernel_1"], state)), np.abs(apply(p["mixer"]["kernel_2"], state))
    return first.reshape(len(state), agents, -1), second


def weights(p, state, agents):
    """k(s): |W_1| |W_2| divided by its sum over agents, [R, N]."""
    first, second = kernels(p, state, agents)
    product = np.einsum("rne,re->rn", first, second)
    return product / product.sum(axis=-1, keepdims=True)


def q_total(p, values, state, mixer):
    """[R]: Σ k_i q_i, or QMIX's |w_2| · ELU(|W_1| q + b_1) + b_2."""
    if mixer == "linear":
        return (weights(p, state, values.shape[1]) * values).sum(axis=-1)
    first, second = kernels(p, state, values.shape[1])
    x = np.einsum("rn,rne->re", values, first) + apply(p["mixer"]["bias_1"], state)
    last = p["mixer"]["bias_2"]
    bias = apply(last["Linear_1"], np.maximum(apply(last["Linear_0"], state), 0.0))[:, 0]
    return (second * np.where(x > 0, x, np.exp(np.minimum(x, 0.0)) - 1.0)).sum(axis=-1) + bias


def floored_policy(p, game, epsilon, over):
    """(1 - ε) softmax + ε uniform, [T+1, N, A]: over available actions, or over all and then renormalised."""
    x, pi = oracle.inputs_of(game), np.zeros(game.avail.shape)
    for i in range(x.shape[1]):
        for t, logits in enumerate(oracle.recurrent_net(p, x[:, i])):
            avail = game.avail[t, i]
            some = avail | (over == "all")
            pi[t, i] = avail * ((1 - epsilon) * oracle.softmax_over(logits, some) + epsilon * some / some.sum())
            pi[t, i] /= pi[t, i].sum()
    return pi


def taken(q, action):
    return np.take_along_axis(q, action[..., None], axis=-1)[..., 0]


def target_values(p, pi, game, mixer):
    """Q_tot of the actions taken at t, and of the expectation over π at t+1; [T] each."""
    q = local_values(p, game.state, game.obs)
    done = q_total(p, taken(q[:-1], game.action), game.state[:-1], mixer)
    return done, q_total(p, (pi * q).sum(axis=-1)[1:], game.state[1:], mixer)


def sarsa_targets(p, pi, game, cfg):
    """λ-returns of Q_tot of the actions taken; the last row, whose action nobody took, counts with its expectation."""
    done, expected = target_values(p, pi, game, cfg.mixer)
    values = [done[t + 1] if t + 1 < game.length else expected[t] for t in range(game.length)]
    return [oracle.lambda_return(game, t, values, cfg) for t in range(game.length)]


def tree_targets(p, pi, game, cfg):
    """q_t + Σ_{l<n} (γ λ)^l [Π_{j=1..l} Π_i π_i(u_{t+j})] δ_{t+l}."""
    done, expected = target_values(p, pi, game, cfg.mixer)
    joint = taken(pi[:-1], game.action).prod(axis=-1)
    out = []
    for t in range(game.length):
        y = done[t]
        for ahead in range(min(cfg.tree_steps, game.length - t)):
            now = t + ahead
            bootstrap = 0.0 if game.terminal[now] else cfg.discount * expected[now]
            error = cfg.reward_scale * game.reward[now] + bootstrap - done[now]
            y += (cfg.discount * cfg.tree_trace) ** ahead * joint[t + 1 : now + 1].prod() * error
        out.append(y)
    return out


def critic_batch_of(params, targets, on, off, epsilon, cfg):
    """(game, y) of recent and of old episodes."""
    out = []
    for games, rule in ((on, sarsa_targets), (off, tree_targets)):
        for game in games:
            pi = floored_policy(params["actor"], game, epsilon, cfg.floor_over)
            out.append((game, rule(targets["critic"], pi, game, cfg)))
    return out


def gradient_at(p, t, batch, cfg, step=1e-5):
    """Sum of squared errors of step t, the number of its valid rows, and the derivative of the mean, leaf by leaf."""
    rows = [(game, y) for game, y in batch if t < game.length]
    state, obs = (np.stack([getattr(game, name)[t] for game, _ in rows]) for name in ("state", "obs"))
    action, y = np.stack([game.action[t] for game, _ in rows]), np.array([y[t] for _, y in rows])

    def loss(p):
        values = taken(local_values(p, state, obs), action)
        return np.square(q_total(p, values, state, cfg.mixer) - y).mean()

    def derivative(path, leaf):
        out = np.zeros_like(leaf)
        for index in np.ndindex(leaf.shape):
            moved = [loss(oracle.shifted(p, path, index, sign * step)) for sign in (1, -1)]
            out[index] = (moved[0] - moved[1]) / (2 * step)
        return out

    return loss(p) * len(rows), len(rows), map_leaves(derivative, p)


def map_leaves(function, tree, path=()):
    if isinstance(tree, dict):
        return {name: map_leaves(function, value, (*path, name)) for name, value in tree.items()}
    return function(path, tree)


def pick(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def critic_pass(p, batch, steps, rate, cfg):
    """Gradient descent, one step for each time step from the first to the last; and the mean squared error met."""
    total, count = 0.0, 0
    for t in range(steps):
        if any(t < game.length for game, _ in batch):
            error, rows, slopes = gradient_at(p, t, batch, cfg)
            p = map_leaves(lambda path, leaf, slopes=slopes: leaf - rate * pick(slopes, path), p)
            total, count = total + error, count + rows
    return p, total / count


def policy_loss(actor, p, games, epsilon, over, frozen):
    """-mean k_i (Q_i(u_i) - E_π Q_i) log π_i(u_i) over agents and valid steps; advantages by the `frozen` actor."""
    total, count = 0.0, 0
    for game in games:
        pi, given = (floored_policy(each, game, epsilon, over) for each in (actor, frozen))
        q = local_values(p, game.state, game.obs)
        k = weights(p, game.state, q.shape[1])
        for t in range(game.length):
            for i, a in enumerate(game.action[t]):
                advantage = q[t, i, a] - sum(given[t, i] * q[t, i])
                total -= k[t, i] * advantage * np.log(pi[t, i, a]) / q.shape[1]
            count += 1
    return total / count
