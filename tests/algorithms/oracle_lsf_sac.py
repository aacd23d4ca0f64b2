"""One LSF-SAC update in plain NumPy float64: loops over episodes, steps, agents, actions; written from the equations.

Nothing is imported from the package. Parameters are the nested dicts of the code under test, as NumPy arrays; `cfg` is
any object with the settings' names; message noise is given. Every loss is a function of the parameters, so central
differences give the gradients.
"""

import math
from typing import NamedTuple

import numpy as np


class Game(NamedTuple):
    """One padded episode of L valid steps: arrays of T rows (actions, ...) and T+1 rows (obs, state, avail)."""

    obs: np.ndarray
    state: np.ndarray
    avail: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray
    length: int


class Noise(NamedTuple):
    """Standard normal numbers of the messages, `[T+1, N, sent]` for the online and the target encoder."""

    online: np.ndarray
    target: np.ndarray


class Heard(NamedTuple):
    """What the networks said about one episode."""

    pi: np.ndarray  # [T+1, N, A]; 0 where unavailable
    log_pi: np.ndarray  # [T+1, N, A]; meaningless where unavailable
    q: np.ndarray
    target_q: np.ndarray
    mean: np.ndarray  # [T+1, N, sent]
    decoder: np.ndarray  # [T+1, N, A] probabilities


TERMS = ("td", "message_ce", "message_kl", "policy", "temperature")


def linear(p, x):
    out = p["bias"].astype(float).copy()
    for i, value in enumerate(x):
        out += value * p["kernel"][i]
    return out


def mlp(p, x):
    names = sorted(p)
    for name in names[:-1]:
        x = np.maximum(linear(p[name], x), 0.0)
    return linear(p[names[-1]], x)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def gru(p, h, x):
    """PyTorch's GRUCell; columns of the stacked kernels are reset, update, candidate."""
    width = len(h)
    gate = {}
    for number, name in enumerate(("reset", "update", "new")):
        columns = slice(number * width, (number + 1) * width)
        gate[name] = (
            linear({"kernel": p["gru_input_kernel"][:, columns], "bias": p["gru_input_bias"][columns]}, x),
            linear({"kernel": p["gru_hidden_kernel"][:, columns], "bias": p["gru_hidden_bias"][columns]}, h),
        )
    r, z = sigmoid(sum(gate["reset"])), sigmoid(sum(gate["update"]))
    n = np.tanh(gate["new"][0] + r * gate["new"][1])
    return (1.0 - z) * n + z * h


def recurrent_net(p, rows):
    """Outputs of one agent over its rows of inputs, from a zero hidden state; feed-forward if it has no GRU."""
    h, out = np.zeros(p["input_layer"]["bias"].shape[0]), []
    for x in rows:
        features = np.maximum(linear(p["input_layer"], x), 0.0)
        if "gru_input_kernel" in p:
            h = features = gru(p, h, features)
        else:
            features = np.maximum(linear(p["hidden_layer"], features), 0.0)
        out.append(linear(p["output_layer"], features))
    return np.array(out)


def inputs_of(game):
    """x_i(t) = observation, one-hot of the action at t-1 (zeros at t = 0), one-hot of i."""
    rows, agents, actions = game.avail.shape
    x = np.zeros((rows, agents, game.obs.shape[-1] + actions + agents))
    for t in range(rows):
        for i in range(agents):
            x[t, i, : game.obs.shape[-1]] = game.obs[t, i]
            if t > 0 and game.action[t - 1, i] < actions:
                x[t, i, game.obs.shape[-1] + game.action[t - 1, i]] = 1.0
            x[t, i, game.obs.shape[-1] + actions + i] = 1.0
    return x


def message_means(p, x, cfg):
    out = []
    for j in range(x.shape[1]):
        if cfg.encoder_input == "history":
            out.append(recurrent_net(p["history"], x[:, j]))
        else:
            out.append(np.array([mlp(p["current"], row) for row in x[:, j]]))
    return np.stack(out, axis=1)


def received_by(i, sent, cfg):
    """M_i of one step: every sender's message (broadcast), or the block it addressed to i (per receiver)."""
    d = cfg.message_dim
    parts = [m if cfg.message_routing == "broadcast" else m[i * d : (i + 1) * d] for m in sent]
    return np.concatenate(parts)


def informed_inputs(p_encoder, x, noise, cfg):
    mean = message_means(p_encoder, x, cfg)
    sent = mean + noise
    informed = [
        [np.concatenate([x[t, i], received_by(i, sent[t], cfg)]) for i in range(x.shape[1])] for t in range(len(x))
    ]
    return mean, np.array(informed)


def critic_values(p, informed):
    return np.stack([recurrent_net(p["critic"], informed[:, i]) for i in range(informed.shape[1])], axis=1)


def mixing_weights(p, state, agents):
    w1 = np.abs(mlp(p["kernel_1"], state)).reshape(agents, -1)
    w2 = np.abs(mlp(p["kernel_2"], state))
    return w1, linear(p["bias_1"], state), w2, mlp(p["bias_2"], state)[0]


def mixed(weights, values):
    """f_mix: |w2| · ELU(|W1| q + b1) + b2, one hidden unit after another."""
    w1, b1, w2, b2 = weights
    total = b2
    for e in range(len(w2)):
        x = b1[e] + sum(values[i] * w1[i, e] for i in range(len(values)))
        total += w2[e] * (x if x > 0 else math.exp(x) - 1.0)
    return total


def softmax_over(logits, avail):
    top = max(value for value, ok in zip(logits, avail) if ok)
    weights = np.array([math.exp(value - top) if ok else 0.0 for value, ok in zip(logits, avail)])
    return weights / weights.sum()


def policy(p, x, avail, cfg):
    logits = np.stack([recurrent_net(p, x[:, i]) for i in range(x.shape[1])], axis=1)
    if cfg.logit_clamp:
        logits = np.minimum(np.maximum(logits, -5.0), 2.0)
    pi = np.zeros(avail.shape)
    for t in range(avail.shape[0]):
        for i in range(avail.shape[1]):
            pi[t, i] = softmax_over(logits[t, i], avail[t, i])
    return pi, np.log(np.where(pi > 0, pi, 1.0))


def listen(params, targets, game, noise, cfg, encoder_of_td=None):
    """Run every network; `encoder_of_td` replaces the encoder through which the critic (not the decoder) hears."""
    p = params["critic"]
    x = inputs_of(game)
    mean, informed = informed_inputs(p["encoder"], x, noise.online, cfg)
    critic_reads = informed if encoder_of_td is None else informed_inputs(encoder_of_td, x, noise.online, cfg)[1]
    target_informed = informed_inputs(targets["critic"]["encoder"], x, noise.target, cfg)[1]
    decoder = np.zeros(game.avail.shape)
    for t in range(len(x)):
        for i in range(x.shape[1]):
            allowed = game.avail[t, i] if cfg.decoder_mask else np.ones_like(game.avail[t, i])
            decoder[t, i] = softmax_over(mlp(next(iter(p["decoder"].values())), informed[t, i]), allowed)
    pi, log_pi = policy(params["actor"], x, game.avail, cfg)
    return Heard(
        pi=pi,
        log_pi=log_pi,
        q=critic_values(p, critic_reads),
        target_q=critic_values(targets["critic"], target_informed),
        mean=mean,
        decoder=decoder,
    )


def best_available(values, avail):
    return max((a for a in range(len(values)) if avail[a]), key=lambda a: (values[a], -a))


def alpha_of(log_alpha, cfg, env_steps):
    alpha = math.exp(log_alpha) if cfg.learn_temperature else cfg.alpha
    if cfg.alpha_clamps and env_steps < 2_000_000:
        alpha = min(alpha, 0.999)
    if cfg.alpha_clamps and env_steps > 3_000_000:
        alpha = max(alpha, 0.19)
    return alpha


def next_values(targets, game, heard, alpha, cfg):
    """v(t+1) for t = 0..T-1: what the target mixer makes of s_{t+1}, in the five readings of eq. (16)."""
    steps, agents = game.action.shape
    out = np.zeros(steps)
    for t in range(steps):
        row, values = t + 1, np.zeros(agents)
        for i in range(agents):
            avail, q = game.avail[row, i], heard.target_q[row, i]
            if cfg.td_target in ("expected", "soft_expected"):
                for a in range(len(q)):
                    bonus = alpha * heard.log_pi[row, i, a] if cfg.td_target == "soft_expected" else 0.0
                    values[i] += heard.pi[row, i, a] * (q[a] - bonus)
            else:
                judge = {"greedy_actor": heard.pi, "critic_max": heard.target_q, "double_q": heard.q}[cfg.td_target]
                values[i] = q[best_available(judge[row, i], avail)]
        out[t] = mixed(mixing_weights(targets["critic"]["mixer"], game.state[row], agents), values)
    return out


def lambda_return(game, t, values, cfg):
    """The forward view: a weighted mean of all n-step returns that fit in the episode."""
    horizon, total = game.length - t, 0.0
    for n in range(1, horizon + 1):
        rewards = sum(cfg.discount**k * cfg.reward_scale * game.reward[t + k] for k in range(n))
        ended = game.terminal[t + n - 1]
        n_step = rewards + (0.0 if ended else cfg.discount**n * values[t + n - 1])
        total += (cfg.trace ** (n - 1)) * ((1.0 - cfg.trace) if n < horizon else 1.0) * n_step
    return total


def label_of(game, heard, t, j, cfg):
    """p(A_j | T) at step t: a distribution over actions."""
    if cfg.label == "actor_soft":
        return heard.pi[t, j]
    judge = heard.target_q if cfg.label == "critic_greedy" else heard.pi
    label = np.zeros(game.avail.shape[-1])
    label[best_available(judge[t, j], game.avail[t, j])] = 1.0
    return label


def step_terms(params, targets, game, heard, t, values, env_steps, cfg):
    """The five loss terms of one step, weights of eq. (8) included."""
    agents, actions = game.avail.shape[1:]
    weights = mixing_weights(params["critic"]["mixer"], game.state[t], agents)
    alpha = alpha_of(float(params["temperature"]), cfg, env_steps)
    terms = dict.fromkeys(TERMS, 0.0)
    if t < game.length:
        chosen = [heard.q[t, i, game.action[t, i]] for i in range(agents)]
        terms["td"] = 0.5 * (mixed(weights, chosen) - lambda_return(game, t, values, cfg)) ** 2
    for j in range(agents):
        label = label_of(game, heard, t, j, cfg)
        for a in range(actions):
            terms["message_ce"] -= cfg.lambda_1 * label[a] * math.log(heard.decoder[t, j, a] + 1e-6)
        terms["message_kl"] += cfg.lambda_1 * cfg.beta * 0.5 * sum(m * m for m in heard.mean[t, j])
    soft, excess = [], []
    for i in range(agents):
        available = [a for a in range(actions) if game.avail[t, i, a]]
        soft.append(sum(heard.pi[t, i, a] * (heard.q[t, i, a] - alpha * heard.log_pi[t, i, a]) for a in available))
        if len(available) > 1:
            surprise = -sum(heard.pi[t, i, a] * heard.log_pi[t, i, a] for a in available)
            goal = cfg.target_entropy_fraction * math.log(len(available))
            excess.append(surprise - (goal if cfg.target_entropy == "fraction" else -actions))
    if cfg.policy_sign == "paper":
        terms["policy"] = -cfg.lambda_2 * mixed(weights, soft)
    else:
        terms["policy"] = cfg.lambda_2 * mixed(weights, [-value for value in soft])
    terms["temperature"] = float(params["temperature"]) * (sum(excess) / len(excess) if excess else 0.0)
    return terms


def loss_terms(params, targets, games, noises, cfg, env_steps=0, encoder_of_td=None, per_step=False):
    """Means over valid steps of every term; `mask_messages=False` counts padded steps in the message sums' numerator.

    With `per_step`, the terms of every step and episode, `[B, T]` each, instead.
    """
    steps = games[0].action.shape[0]
    table = {name: np.zeros((len(games), steps)) for name in TERMS}
    for b, (game, noise) in enumerate(zip(games, noises)):
        heard = listen(params, targets, game, noise, cfg, encoder_of_td)
        alpha = alpha_of(float(params["temperature"]), cfg, env_steps)
        values = next_values(targets, game, heard, alpha, cfg)
        for t in range(steps):
            terms = step_terms(params, targets, game, heard, t, values, env_steps, cfg)
            for name in TERMS:
                unmasked = name.startswith("message") and not cfg.mask_messages
                if t < game.length or unmasked:
                    table[name][b, t] = terms[name]
    if per_step:
        return table
    count = max(sum(game.length for game in games), 1)
    return {name: values.sum() / count for name, values in table.items()}


GROUP_TERMS = {"critic": ("td", "message_ce", "message_kl"), "actor": ("policy",), "temperature": ("temperature",)}


def derivative(group, path, index, params, targets, games, noises, cfg, env_steps=0, step=1e-5):
    """Central difference of the loss that trains `group` with respect to one of the group's numbers."""
    frozen = params["critic"]["encoder"] if not cfg.td_gradient_to_encoder else None

    def loss(shift):
        moved = shifted(params, (group, *path), index, shift)
        terms = loss_terms(moved, targets, games, noises, cfg, env_steps, frozen)
        return sum(terms[name] for name in GROUP_TERMS[group])

    return (loss(step) - loss(-step)) / (2 * step)


def shifted(tree, path, index, shift):
    """A copy of a nested dict in which one number of one leaf is moved."""
    if not path:
        leaf = np.array(tree, float)
        leaf[index] += shift
        return leaf
    return {**tree, path[0]: shifted(tree[path[0]], path[1:], index, shift)}


def joint_values(params, obs, state, avail, noises, cfg):
    """Utilities [N, A] and Q_tot of every joint action (C order) in a first observation, averaged over the noise."""
    agents, actions = avail.shape
    game = Game(
        obs=obs[None],
        state=state[None],
        avail=avail[None],
        action=np.zeros((0, agents), int),
        reward=np.zeros(0),
        terminal=np.zeros(0, bool),
        length=0,
    )
    x = inputs_of(game)
    weights = mixing_weights(params["critic"]["mixer"], state, agents)
    utilities, table = np.zeros((agents, actions)), np.zeros(actions**agents)
    for noise in noises:
        q = critic_values(params["critic"], informed_inputs(params["critic"]["encoder"], x, noise, cfg)[1])[0]
        utilities += q / len(noises)
        for number in range(actions**agents):
            joint = [number // actions ** (agents - 1 - i) % actions for i in range(agents)]
            table[number] += mixed(weights, [q[i, joint[i]] for i in range(agents)]) / len(noises)
    return utilities, table
