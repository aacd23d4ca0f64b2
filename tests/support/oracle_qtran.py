"""QTRAN's values and losses in plain NumPy float64: loops over episodes, steps, agents and actions, from the equations.

Nothing is imported from the package. `frozen` are the parameters where a stopped gradient is meant: central differences
with respect to `params` then see what the code's gradients should.
"""

from typing import NamedTuple

import numpy as np

from tests.support.oracle_lsf_sac import best_available, gru, inputs_of, linear, mlp


class AgentOutputs(NamedTuple):
    """Outputs of one set of agents for an episode, `[T+1, N, ...]`."""

    h: np.ndarray
    q: np.ndarray


def agent_outputs(p, game):
    """Every agent apart, from a zero hidden state; hₜ is what the last layer reads at step t."""
    x = inputs_of(game)
    width, actions = p["output_layer"]["kernel"].shape
    h, q = np.zeros((*x.shape[:2], width)), np.zeros((*x.shape[:2], actions))
    for i in range(x.shape[1]):
        hidden = np.zeros(width)
        for t in range(len(x)):
            first = np.maximum(linear(p["input_layer"], x[t, i]), 0.0)
            if "gru_input_kernel" in p:
                hidden = gru(p, hidden, first)
            else:
                hidden = np.maximum(linear(p["hidden_layer"], first), 0.0)
            h[t, i], q[t, i] = hidden, linear(p["output_layer"], hidden)
    return AgentOutputs(h=h, q=q)


def one_hot(a, n):
    return np.array([1.0 if b == a else 0.0 for b in range(n)])


def joint_base(p, state, h, action, actions):
    """Q_jt(s, τ, u): one number for each of the estimates, here one."""
    encoded = sum(mlp(p["pair"], np.concatenate([h[i], one_hot(action[i], actions)])) for i in range(len(action)))
    return [mlp(p["joint"], np.concatenate([state, encoded]))[0]]


def row_alt(p, state, h, action, actions, i):
    """Q_jt(s, τ, ·, u₋ᵢ), as agent i estimates it."""
    agents = len(action)
    history = sum(mlp(p["history"], h[j]) for j in range(agents))
    others = sum(mlp(p["action"], one_hot(action[j], actions)) for j in range(agents) if j != i)
    return mlp(p["joint"], np.concatenate([state, history, one_hot(i, agents), others]))


def joint_alt(p, state, h, action, actions):
    return [row_alt(p, state, h, action, actions, i)[action[i]] for i in range(len(action))]


def state_value(p, state, h):
    if "history" not in p:
        return mlp(p["Mlp_0"], state)[0]
    history = sum(mlp(p["history"], h[j]) for j in range(len(h)))
    return mlp(p["value"], np.concatenate([state, history]))[0]


def joint_values(alt, *arguments):
    return np.array((joint_alt if alt else joint_base)(*arguments))


def best_actions(q, avail):
    return [best_available(q[i], avail[i]) for i in range(len(q))]


def step_terms(params, frozen, targets, game, t, outputs, cfg, alt):
    """(td, opt, nopt) of step t with their weights; `outputs` are those of online, frozen and target agents."""
    online, still, target = outputs
    agents, actions = game.avail.shape[1:]
    state, action = game.state[t], list(game.action[t])
    ours = online.h[t], online.q[t]
    v = state_value(params["value"], state, ours[0])

    chooser = target.q if alt else online.q
    following = best_actions(chooser[t + 1], game.avail[t + 1])
    bootstrap = joint_values(alt, targets["joint"], game.state[t + 1], target.h[t + 1], following, actions)
    y = cfg.reward_scale * game.reward[t] + (0.0 if game.terminal[t] else cfg.discount) * bootstrap
    td = np.mean((joint_values(alt, params["joint"], state, ours[0], action, actions) - y) ** 2)

    best = best_actions(ours[1], game.avail[t])
    top = sum(ours[1][i][best[i]] for i in range(agents))
    at_best = joint_values(alt, frozen["joint"], state, still.h[t], best, actions)
    opt = np.mean((top - at_best + v) ** 2)

    if alt:
        squares = []
        for i in range(agents):
            row = row_alt(frozen["joint"], state, still.h[t], action, actions, i)
            others = sum(ours[1][j][action[j]] for j in range(agents) if j != i)
            slack = [ours[1][i][a] + others - row[a] + v for a in range(actions) if game.avail[t, i, a]]
            squares.append(min(slack) ** 2)
        nopt = np.mean(squares)
    else:
        total = sum(ours[1][i][action[i]] for i in range(agents))
        nopt = min(0.0, total - joint_base(frozen["joint"], state, still.h[t], action, actions)[0] + v) ** 2
    return td, cfg.opt_weight * opt, cfg.nopt_weight * nopt


def loss_terms(params, frozen, targets, games, cfg, alt):
    """Means over valid steps of td, opt and nopt."""
    sums, count = np.zeros(3), 0
    for game in games:
        outputs = [agent_outputs(p["agent"], game) for p in (params, frozen, targets)]
        for t in range(game.length):
            sums += step_terms(params, frozen, targets, game, t, outputs, cfg, alt)
            count += 1
    return dict(zip(("td", "opt", "nopt"), sums / count))


def forward_fields(params, targets, games, alt):
    """`value` [B, T] and the three joint values [B, T, G] of every valid step, NaN elsewhere."""
    steps, agents = games[0].action.shape
    actions = games[0].avail.shape[-1]
    shape = (len(games), steps, agents if alt else 1)
    out = {name: np.full(shape, np.nan) for name in ("joint", "best_joint", "next_joint")}
    out["value"] = np.full(shape[:2], np.nan)
    for b, game in enumerate(games):
        online, target = agent_outputs(params["agent"], game), agent_outputs(targets["agent"], game)
        chooser = target.q if alt else online.q
        for t in range(game.length):
            here = params["joint"], game.state[t], online.h[t]
            best = best_actions(online.q[t], game.avail[t])
            out["joint"][b, t] = joint_values(alt, *here, list(game.action[t]), actions)
            out["best_joint"][b, t] = joint_values(alt, *here, best, actions)
            following = best_actions(chooser[t + 1], game.avail[t + 1])
            there = targets["joint"], game.state[t + 1], target.h[t + 1]
            out["next_joint"][b, t] = joint_values(alt, *there, following, actions)
            out["value"][b, t] = state_value(params["value"], game.state[t], online.h[t])
    return out
