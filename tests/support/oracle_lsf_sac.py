"""One LSF-SAC update in plain NumPy float64: loops over episodes, steps, agents, actions; written from the equations.

Nothing but the record of a game is imported from the package. Parameters are the nested dicts of the code under test,
as NumPy arrays; `cfg` is any object with the settings' names (without `message_dim` there are no messages); noise is
given. Every loss is a function of the parameters, so central differences give the gradients. Twin critics and mixers
are numbered.
"""

import math
from typing import NamedTuple

import numpy as np

from lsf_jax.testing.games import Game


class Noise(NamedTuple):
    """What is random in the update of one episode."""

    online: np.ndarray | None  # standard normal numbers of the messages, [T+1, N, sent]
    target: np.ndarray | None  # the same for the target encoder
    gumbel: np.ndarray  # [T, N, A]: a' at t+1 is the argmax of log π + gumbel, which draws it from π


class Outputs(NamedTuple):
    """Outputs of the networks over one episode."""

    pi: np.ndarray  # [T+1, N, A]; 0 where unavailable
    log_pi: np.ndarray  # [T+1, N, A]; meaningless where unavailable
    q: list[np.ndarray]  # of each critic, [T+1, N, A]
    target_q: list[np.ndarray]
    next_action: np.ndarray  # [T, N]
    mean: np.ndarray | None  # [T+1, N, sent]
    decoder: np.ndarray | None  # [T+1, N, A] probabilities


TERMS = ("td", "message_ce", "message_kl", "policy", "temperature")


def has_messages(cfg):
    return hasattr(cfg, "message_dim")


def critics(p, cfg):
    """The parameters of each critic with its mixer: one, or the two halves of what is stacked."""
    return [chosen_half(p, j) for j in (0, 1)] if cfg.twin else [p]


def chosen_half(p, j):
    return {name: halves(p[name], j) for name in ("critic", "mixer")}


def halves(tree, j):
    return {name: halves(leaf, j) for name, leaf in tree.items()} if isinstance(tree, dict) else tree[j]


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
    """Message means, and [x, M]; x alone where there are no messages."""
    if not has_messages(cfg):
        return None, x
    mean = message_means(p_encoder, x, cfg)
    sent = mean + cfg.message_noise * noise
    informed = [
        [np.concatenate([x[t, i], received_by(i, sent[t], cfg)]) for i in range(x.shape[1])] for t in range(len(x))
    ]
    return mean, np.array(informed)


def critic_values(p, informed):
    return np.stack([recurrent_net(p["critic"], informed[:, i]) for i in range(informed.shape[1])], axis=1)


def mixing_weights(p, state, agents):
    if not p:
        return None
    w1 = np.abs(mlp(p["kernel_1"], state)).reshape(agents, -1)
    w2 = np.abs(mlp(p["kernel_2"], state))
    return w1, linear(p["bias_1"], state), w2, mlp(p["bias_2"], state)[0]


def mixed(weights, values):
    """f_mix: |w2| · ELU(|W1| q + b1) + b2, one hidden unit after another; without weights the sum."""
    if weights is None:
        return sum(values)
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


def decoded(p, informed, avail, cfg):
    """q_ψ(A_j | T_j, M) of every agent and row."""
    decoder = np.zeros(avail.shape)
    for t in range(avail.shape[0]):
        for i in range(avail.shape[1]):
            allowed = avail[t, i] if cfg.decoder_mask else np.ones_like(avail[t, i])
            decoder[t, i] = softmax_over(mlp(next(iter(p["decoder"].values())), informed[t, i]), allowed)
    return decoder


def draws(log_pi, avail, gumbel):
    """a' ~ π at rows 1..T by the Gumbel-max trick."""
    action = np.zeros(gumbel.shape[:2], int)
    for t in range(gumbel.shape[0]):
        for i in range(gumbel.shape[1]):
            action[t, i] = best_available(log_pi[t + 1, i] + gumbel[t, i], avail[t + 1, i])
    return action


def outputs_of(params, targets, game, noise, cfg, encoder_of_td=None):
    """Run every network; `encoder_of_td` replaces the encoder whose messages the critic (not the decoder) reads."""
    p, x = params["critic"], inputs_of(game)
    mean, informed = informed_inputs(p.get("encoder"), x, noise.online, cfg)
    critic_reads = informed if encoder_of_td is None else informed_inputs(encoder_of_td, x, noise.online, cfg)[1]
    target_informed = informed_inputs(targets["critic"].get("encoder"), x, noise.target, cfg)[1]
    actor_reads = informed if has_messages(cfg) and cfg.communicate else x
    pi, log_pi = policy(params["actor"], actor_reads, game.avail, cfg)
    return Outputs(
        pi=pi,
        log_pi=log_pi,
        q=[critic_values(one, critic_reads) for one in critics(p, cfg)],
        target_q=[critic_values(one, target_informed) for one in critics(targets["critic"], cfg)],
        next_action=draws(log_pi, game.avail, noise.gumbel),
        mean=mean,
        decoder=decoded(p, informed, game.avail, cfg) if has_messages(cfg) else None,
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


def next_values(targets, game, outputs, alpha, cfg):
    """v(t+1) for t = 0..T-1: what the target mixer makes of s_{t+1}, in the six readings of eq. (16); min of twins."""
    steps, agents = game.action.shape
    out = np.full(steps, np.inf)
    for j, one in enumerate(critics(targets["critic"], cfg)):
        for t in range(steps):
            values = [next_utility(game, outputs, j, t, i, alpha, cfg) for i in range(agents)]
            out[t] = min(out[t], mixed(mixing_weights(one["mixer"], game.state[t + 1], agents), values))
    return out


def next_utility(game, outputs, j, t, i, alpha, cfg):
    """Target critic j's value of agent i at t+1."""
    row, value = t + 1, 0.0
    avail, q = game.avail[row, i], outputs.target_q[j][row, i]
    if cfg.td_target in ("expected", "soft_expected"):
        for a in range(len(q)):
            bonus = alpha * outputs.log_pi[row, i, a] if cfg.td_target == "soft_expected" else 0.0
            value += outputs.pi[row, i, a] * (q[a] - bonus)
        return value
    if cfg.td_target == "sampled":
        return q[outputs.next_action[t, i]]
    scores = {"greedy_actor": outputs.pi, "critic_max": outputs.target_q[j], "double_q": outputs.q[j]}[cfg.td_target]
    return q[best_available(scores[row, i], avail)]


def lambda_return(game, t, values, cfg, bonus=None):
    """The forward view: a weighted mean of all n-step returns that fit in the episode.

    `bonus[t]`, of the policy at t+1, is earned at every later step of an n-step return and in its bootstrap.
    """
    bonus = np.zeros(len(values)) if bonus is None else bonus
    horizon, total = game.length - t, 0.0
    for n in range(1, horizon + 1):
        rewards = sum(cfg.discount**k * cfg.reward_scale * game.reward[t + k] for k in range(n))
        ended = game.terminal[t + n - 1]
        rewards += sum(cfg.discount**k * bonus[t + k - 1] for k in range(1, n))
        n_step = rewards + (0.0 if ended else cfg.discount**n * (values[t + n - 1] + bonus[t + n - 1]))
        total += (cfg.trace ** (n - 1)) * ((1.0 - cfg.trace) if n < horizon else 1.0) * n_step
    return total


def label_of(game, outputs, t, j, cfg):
    """p(A_j | T) at step t: a distribution over actions."""
    if cfg.label == "actor_soft":
        return outputs.pi[t, j]
    scores = outputs.target_q[0] if cfg.label == "critic_greedy" else outputs.pi
    label = np.zeros(game.avail.shape[-1])
    label[best_available(scores[t, j], game.avail[t, j])] = 1.0
    return label


def step_terms(params, targets, game, outputs, t, values, bonus, env_steps, cfg):
    """The loss terms of one step, weights of eq. (8) included."""
    alpha = alpha_of(float(params["temperature"]), cfg, env_steps)
    terms = dict.fromkeys(TERMS, 0.0)
    if t < game.length:
        terms["td"] = td_error(params, game, outputs, t, lambda_return(game, t, values, cfg, bonus), cfg)
    if has_messages(cfg):
        terms |= message_terms(game, outputs, t, cfg)
    terms["policy"] = -cfg.lambda_2 * min(soft_values(params, game, outputs, t, alpha, cfg))
    terms["temperature"] = float(params["temperature"]) * excess_entropy(game, outputs, t, cfg)
    return terms


def td_error(params, game, outputs, t, target, cfg):
    """Σ over critics of ½ w (Q_tot_j - y)², w = 1 where Q_tot_j is below y."""
    agents, total = game.action.shape[1], 0.0
    for q, one in zip(outputs.q, critics(params["critic"], cfg)):
        chosen = [q[t, i, game.action[t, i]] for i in range(agents)]
        error = mixed(mixing_weights(one["mixer"], game.state[t], agents), chosen) - target
        total += 0.5 * (1.0 if error < 0 else cfg.overestimate_weight) * error**2
    return total


def message_terms(game, outputs, t, cfg):
    """λ1 · eq. (12) of one step."""
    terms = {"message_ce": 0.0, "message_kl": 0.0}
    for j in range(game.avail.shape[1]):
        label = label_of(game, outputs, t, j, cfg)
        for a in range(game.avail.shape[2]):
            terms["message_ce"] -= cfg.lambda_1 * label[a] * math.log(outputs.decoder[t, j, a] + 1e-6)
        terms["message_kl"] += cfg.lambda_1 * cfg.beta * 0.5 * sum(m * m for m in outputs.mean[t, j])
    return terms


def soft_values(params, game, outputs, t, alpha, cfg):
    """What the policy loss climbs, for each critic: f(E_π[q - α log π]), or minus f of minus that (release)."""
    agents, out = game.avail.shape[1], []
    for q, one in zip(outputs.q, critics(params["critic"], cfg)):
        weights, soft = mixing_weights(one["mixer"], game.state[t], agents), []
        for i in range(agents):
            available = np.flatnonzero(game.avail[t, i])
            soft.append(sum(outputs.pi[t, i, a] * (q[t, i, a] - alpha * outputs.log_pi[t, i, a]) for a in available))
        paper = cfg.policy_sign == "paper"
        out.append(mixed(weights, soft) if paper else -mixed(weights, [-value for value in soft]))
    return out


def excess_entropy(game, outputs, t, cfg):
    """Mean of H - H0 over the agents that have a choice at step t."""
    excess, actions = [], game.avail.shape[2]
    for i in range(game.avail.shape[1]):
        available = np.flatnonzero(game.avail[t, i])
        if len(available) > 1:
            surprise = -sum(outputs.pi[t, i, a] * outputs.log_pi[t, i, a] for a in available)
            goal = cfg.target_entropy_fraction * math.log(len(available))
            excess.append(surprise - (goal if cfg.target_entropy == "fraction" else -actions))
    return sum(excess) / len(excess) if excess else 0.0


def loss_terms(params, targets, games, noises, cfg, env_steps=0, encoder_of_td=None, per_step=False):
    """Means over valid steps of every term; `mask_messages=False` counts padded steps in the message sums' numerator.

    With `per_step`, the terms of every step and episode, `[B, T]` each, instead.
    """
    steps = games[0].action.shape[0]
    table = {name: np.zeros((len(games), steps)) for name in TERMS}
    for b, (game, noise) in enumerate(zip(games, noises)):
        outputs = outputs_of(params, targets, game, noise, cfg, encoder_of_td)
        alpha = alpha_of(float(params["temperature"]), cfg, env_steps)
        values = next_values(targets, game, outputs, 0.0, cfg)
        bonus = next_values(targets, game, outputs, alpha, cfg) - values
        for t in range(steps):
            terms = step_terms(params, targets, game, outputs, t, values, bonus, env_steps, cfg)
            for name in TERMS:
                unmasked = name.startswith("message") and has_messages(cfg) and not cfg.mask_messages
                if t < game.length or unmasked:
                    table[name][b, t] = terms[name]
    if per_step:
        return table
    count = max(sum(game.length for game in games), 1)
    return {name: values.sum() / count for name, values in table.items()}


GROUP_TERMS = {"critic": ("td", "message_ce", "message_kl"), "actor": ("policy",), "temperature": ("temperature",)}


def derivative(group, path, index, params, targets, games, noises, cfg, env_steps=0, step=1e-5):
    """Central difference of the loss that trains `group` with respect to one of the group's numbers."""
    frozen = params["critic"]["encoder"] if has_messages(cfg) and not cfg.td_gradient_to_encoder else None

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
    """Utilities [N, A], Q_tot of every joint action (C order) and π [N, A] in a first observation, means over noise.

    Of twin critics, the mean utilities and the smaller Q_tot.
    """
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
    p, x = params["critic"], inputs_of(game)
    utilities, table, pi = np.zeros((agents, actions)), np.zeros(actions**agents), np.zeros((agents, actions))
    for noise in noises:
        informed = informed_inputs(p.get("encoder"), x, noise, cfg)[1]
        twins = [
            (mixing_weights(one["mixer"], state, agents), critic_values(one, informed)[0]) for one in critics(p, cfg)
        ]
        utilities += sum(q for _, q in twins) / len(twins) / len(noises)
        for number in range(actions**agents):
            joint = [number // actions ** (agents - 1 - i) % actions for i in range(agents)]
            totals = [mixed(weights, [q[i, joint[i]] for i in range(agents)]) for weights, q in twins]
            table[number] += min(totals) / len(noises)
        actor_reads = informed if has_messages(cfg) and cfg.communicate else x
        pi += policy(params["actor"], actor_reads, avail[None], cfg)[0][0] / len(noises)
    return utilities, table, pi
