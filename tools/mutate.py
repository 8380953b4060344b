"""One-line faults in returns, losses, optimisers, statistics, memory, exploration, checkpoints and the interface.

Each must be found by a test.

    python tools/mutate.py --out mutants.json            # all of them, some two hours on one core
    python tools/mutate.py --only 3 17 --out some.json   # some

Each is written into a copy of the tree, whose code compiles anew, and the tests of that part run until one fails. A
fault that no test finds survives, and is printed. Results are kept in the file: a second call goes on where one stopped.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LIMIT = 900  # seconds for the tests of one fault


class Fault(NamedTuple):
    """A line of a file, and what stands there instead."""

    file: str
    line: str
    instead: str


DRIVER, STATISTICS, OPTIMISERS = (f"nbrl/methods/{name}.py" for name in ("driver", "running_statistics", "optimisers"))
A3C, Q, DPG, REPLAY = (f"nbrl/methods/{name}.py" for name in ("a3c", "q_values", "dpg", "replay"))
CRITIC, PPO, PQN, PASSES = (f"nbrl/methods/{name}.py" for name in ("actor_critic", "ppo", "pqn", "minibatches"))
N_STEP, ONE_STEP, SARSA = (f"nbrl/methods/{name}.py" for name in ("n_step_q", "one_step_q", "one_step_sarsa"))
ACTIONS, SNAPSHOT, LEARNER, TABLE = "nbrl/actions.py", "nbrl/snapshot.py", "nbrl/learner.py", "nbrl/nets/table.py"
INTERFACE, GYM, VECTOR = "nbrl/envs/interface.py", "nbrl/envs/gym.py", "nbrl/envs/vector.py"
PREDICTION, RND, ICM, NOVELTY = (f"nbrl/bonuses/{name}.py" for name in ("prediction", "rnd", "icm", "novelty"))
EXCHANGE, EVERYONE, MESSAGES = "nbrl/exchange.py", "nbrl/nets/everyone.py", "nbrl/envs/agents/messages.py"
POLICY, NUMPY, CHECKPOINT = "nbrl/policy_file.py", "nbrl/numpy_policy.py", "nbrl/checkpoint.py"

# The tests of each part, those that are likely to find it first.
TESTS = {
    DRIVER: [
        "tests/methods",
        "tests/test_learner.py",
        "tests/test_schedules.py",
        "tests/envs/test_vector.py",
        "tests/test_what_people_bring.py",
        "tests/test_several_agents.py",
    ],
    STATISTICS: ["tests/methods", "tests/test_learner.py", "tests/test_resume.py", "tests/test_exchange.py"],
    EXCHANGE: ["tests/test_exchange.py"],
    EVERYONE: ["tests/test_several_agents.py"],
    MESSAGES: ["tests/envs/test_messages.py"],
    OPTIMISERS: ["tests/test_optimisers.py", "tests/methods"],
    A3C: ["tests/methods"],
    CRITIC: ["tests/bonuses/test_prediction.py", "tests/methods", "tests/test_schedules.py"],
    PPO: ["tests/methods", "tests/envs/test_vector.py"],
    PQN: ["tests/methods"],
    PASSES: ["tests/methods", "tests/test_action_spaces.py", "tests/test_resume.py", "tests/envs/test_vector.py"],
    Q: ["tests/methods"],
    DPG: ["tests/methods", "tests/envs/test_vector.py", "tests/test_resume.py"],
    REPLAY: ["tests/methods", "tests/test_resume.py", "tests/envs/test_vector.py"],
    N_STEP: ["tests/methods"],
    ONE_STEP: ["tests/methods"],
    SARSA: ["tests/methods"],
    ACTIONS: ["tests/nets", "tests/methods", "tests/test_action_spaces.py", "tests/test_testing.py"],
    SNAPSHOT: [
        "tests/test_resume.py",
        "tests/test_hostile_files.py",
        "tests/test_trainer.py",
        "tests/test_what_people_bring.py",
    ],
    LEARNER: ["tests/test_learner.py", "tests/methods", "tests/test_resume.py"],
    TABLE: ["tests/nets", "tests/methods", "tests/envs/test_vector.py"],
    INTERFACE: ["tests/envs/test_interface.py", "tests/test_testing.py", "tests/test_what_people_bring.py"],
    GYM: ["tests/envs/test_gym.py", "tests/test_what_people_bring.py"],
    VECTOR: ["tests/envs/test_vector.py", "tests/test_callbacks.py"],
    POLICY: ["tests/test_hostile_files.py", "tests/test_policy_files.py"],
    NUMPY: ["tests/test_numpy_policy.py", "tests/test_spaces.py", "tests/test_action_spaces.py"],
    CHECKPOINT: ["tests/test_checkpoint.py", "tests/test_power_cuts.py"],
    **{part: ["tests/bonuses", "tests/test_resume.py"] for part in (PREDICTION, RND, ICM, NOVELTY)},
}

# ruff: noqa: E501 - a line of code and what stands instead are one line each
FAULTS = [
    # Returns, ends and the loop
    Fault(DRIVER, "            R = V = rollout.end_value[t, i]", "            R = rollout.end_value[t, i]"),
    Fault(DRIVER, "        V = rollout.value[t, i]", "        V = rollout.R[t, i]"),
    Fault(DRIVER, "    V, one = R, np.float32(1.0)", "    V, one = np.float32(0.0), np.float32(1.0)"),
    Fault(DRIVER, "        R = rollout.reward[t, i] + rollout.discount[t, i] * ((one - gae_lambda) * V + gae_lambda * R)",
          "        R = rollout.reward[t, i] + rollout.discount[t, i] * ((one - gae_lambda) * R + gae_lambda * V)"),
    Fault(DRIVER, "    rollout.discount[t, i] = 0 if terminated or status & CUT else method.discount",
          "    rollout.discount[t, i] = 0 if terminated else method.discount"),
    Fault(DRIVER, "    rollout.truncated[t, i] = truncated and not terminated", "    rollout.truncated[t, i] = truncated"),
    Fault(DRIVER, "    actors.episode_return[actor] += reward", "    actors.episode_return[actor] += scaled"),
    Fault(DRIVER, "    worker.rollout.reward[t, i] = min(max(scaled, -method.reward_clip), method.reward_clip)",
          "    worker.rollout.reward[t, i] = min(scaled, method.reward_clip)"),
    Fault(DRIVER, "        actors.state[actor, i] = 0", "        pass"),
    Fault(DRIVER, "    actors.discounted[actor] = 0", "    pass"),
    Fault(DRIVER, "        worker.work.continues[t * k + i] = t > 0 and not ended[t - 1, i]",
          "        worker.work.continues[t * k + i] = t > 0"),
    Fault(DRIVER, "    worker.turn = group + 1 if group + 1 < worker.owners.size else 0", "    worker.turn = group"),
    Fault(DRIVER, "    return method.learning_rate * scheduled(method.learning_rate_points, steps / method.total_steps)",
          "    return method.learning_rate * scheduled(method.learning_rate_points, 0.5 * steps / method.total_steps)"),
    Fault(DRIVER, "    optimiser.learning_rate = annealed(method, steps_taken(shared))",
          "    optimiser.learning_rate = annealed(method, shared.steps[worker.thread, 0])"),
    Fault(DRIVER, "    optimiser.owner = worker.owners[first // worker.rollout.reward.shape[1]]",
          "    optimiser.owner = worker.owners[0]"),
    Fault(DRIVER, "    if not np.isfinite(norm):", "    if norm < 0:"),
    Fault(DRIVER, "    for thread in range(shared.steps.shape[0]):", "    for thread in range(1):"),
    Fault(DRIVER, "            scaled *= min(scale_of(statistics.total, returns), 1.0)  # returns of zeros would make the first reward huge",
          "            scaled *= min(scale_of(statistics.own, returns), 1.0)"),
    Fault(DRIVER, "            scaled *= min(scale_of(statistics.total, returns), 1.0)  # returns of zeros would make the first reward huge",
          "            scaled *= scale_of(statistics.total, returns)"),
    Fault(DRIVER, "        actors.discounted[actor] = method.discount * actors.discounted[actor] + reward",
          "        actors.discounted[actor] = actors.discounted[actor] + reward"),
    Fault(DRIVER, "    if method.max_episode_steps and actors.episode_length[actor] + 1 >= method.max_episode_steps:",
          "    if method.max_episode_steps and actors.episode_length[actor] >= method.max_episode_steps:"),
    Fault(DRIVER, "        void[sample] = True", "        pass"),
    Fault(DRIVER, "    worker.work.void[sample] = does & ALIVE == 0  # of whoever does not act nothing is learnt",
          "    worker.work.void[sample] = False"),
    Fault(DRIVER, "        left = actors.alive[actor] & ALIVE == 0 or actors.alive[actor] & NEW != 0",
          "        left = actors.alive[actor] & ALIVE == 0"),
    Fault(DRIVER, "                forget(actors, actor)", "                pass"),
    Fault(DRIVER, "        if (actor + 1) % actors.agents == 0:", "        if True:"),
    Fault(DRIVER, "    record[RETURN], record[LENGTH] = total / n, actors.episode_length[first]",
          "    record[RETURN], record[LENGTH] = total, actors.episode_length[first]"),
    Fault(DRIVER, "    slope = (points[after, 1] - points[before, 1]) / (points[after, 0] - points[before, 0])",
          "    slope = points[after, 1] - points[before, 1]"),
    # A3C
    Fault(A3C, "            advantage = rollout.R[t, i] - rollout.value[t, i]", "            advantage = rollout.R[t, i]"),
    Fault(A3C, "            dv[sample, 0] = -np.float32(method.value_weight) * advantage", "            dv[sample, 0] = -advantage"),
    Fault(CRITIC, "        returns(rollout, i, v[samples + i, 0], np.float32(method.gae_lambda))",
          "        returns(rollout, i, v[i, 0], np.float32(method.gae_lambda))"),
    Fault(CRITIC, "            rollout.value[t, i] = v[t * k + i, 0]", "            rollout.value[t, i] = v[i * t_max + t, 0]"),
    Fault(A3C, "    backward(work, t_max * k, k)  # accumulates d theta and d theta_v over the rollout", "    backward(work, t_max * k, 1)"),
    Fault(CRITIC, "    return np.float32(method.entropy_weight * scheduled(method.entropy_points, progress(method, shared)))",
          "    return np.float32(method.entropy_weight)"),
    Fault(CRITIC, "        draw(policy, worker.actors.random[first + i])", "        draw(policy, worker.actors.random[first])"),
    # Several passes in minibatches
    Fault(PPO, "        A = np.float32((np.float64(R - old_value + rollout.bonus_advantage[t, actor]) - mean) * scale)", "        A = np.float32(np.float64(R - old_value) * scale)"),
    Fault(PPO, "        clipped = r > one + epsilon if A > 0 else r < one - epsilon", "        clipped = r > one + epsilon or r < one - epsilon"),
    Fault(PPO, "        policy_gradient(policy, work, i, a, (zero if clipped else r * A) / n, beta / n)",
          "        policy_gradient(policy, work, i, a, (zero if clipped else A) / n, beta / n)"),
    Fault(PPO, "            return clipped_error * clipped_error / 2, np.float32(0.0)", "            return clipped_error * clipped_error / 2, error"),
    Fault(PPO, "        if work.void[i]:", "        if False:"),
    Fault(PPO, "    deviation = math.sqrt(m2 / count) + MIN_DEVIATION", "    deviation = math.sqrt(m2 / (count - 1)) + MIN_DEVIATION"),
    Fault(PPO, "    return mean, 1 / (max(deviation, NOISE * return_deviation(worker)) if method.normalise_rewards else deviation)",
          "    return mean, 1 / deviation"),
    Fault(PQN, "        dq[i, a] /= np.float32(samples)", "        pass"),
    Fault(PQN, "        returns(rollout, i, last[argmax(last)], np.float32(method.q_lambda))",
          "        returns(rollout, i, last[0], np.float32(method.q_lambda))"),
    Fault(PQN, "        worker.rollout.end_value[t, i + agent] = q[agent, argmax(q[agent])]",
          "        worker.rollout.end_value[t, i + agent] = q[agent, 0]"),
    Fault(PASSES, "        order[i] = i", "        pass"),
    Fault(PASSES, "        j = integer(random, i + 1)", "        j = integer(random, i)"),
    Fault(PASSES, "                copy(work.theta, shared.theta)  # theta' = theta", "                pass"),
    Fault(PASSES, "            work.void[i] = worker.work.void[sample]", "            work.void[i] = False"),
    Fault(PASSES, "                carry_state(work, i - width, i)", "                pass"),
    Fault(PASSES, "                mask_outputs(policy, work, i, rollout.mask[batches.sample[i]])", "                pass"),
    Fault(PASSES, "            backward(work, samples, k if whole else size * n)", "            backward(work, samples, k)"),
    Fault(PASSES, "    count_steps(shared, worker, env_steps(worker))", "    count_steps(shared, worker, worker.rollout.reward.shape[0])"),
    # Losses and policies
    Fault(ACTIONS, "        dlogits[i] = p * advantage + entropy_weight * p * (log_p + entropy)",
          "        dlogits[i] = p * advantage + entropy_weight * p * log_p"),
    Fault(ACTIONS, "    dlogits[action] -= advantage", "    dlogits[action] += advantage"),
    Fault(ACTIONS, "        entropy -= dlogits[i] * (logits[i] - log_total)", "        entropy -= dlogits[i] * logits[i]"),
    Fault(ACTIONS, "        dmean[i] = -advantage * difference / v", "        dmean[i] = -advantage * difference"),
    Fault(ACTIONS, "        ds[i] = half / v * (advantage * (np.float32(1.0) - squared) - entropy_weight) * slope",
          "        ds[i] = half / v * (advantage * (np.float32(1.0) - squared) - entropy_weight)"),
    Fault(ACTIONS, "        log_pi -= half * (squared + LOG_2_PI + log_v)", "        log_pi -= half * (squared + log_v)"),
    Fault(ACTIONS, "    dvalues[action] = -error", "    dvalues[action] = -2 * error"),
    Fault(ACTIONS, "        dvalues[i] = 0", "        pass"),
    Fault(ACTIONS, "    if u >= epsilon:", "    if u > 1 - epsilon:"),
    Fault(ACTIONS, "        legal += values[i] > ILLEGAL", "        legal += 1"),
    Fault(ACTIONS, "        if not mask[j]:", "        if mask[j]:"),
    Fault(ACTIONS, "    highest = logits[0]\n    for i in range(1, logits.size):\n        highest = max(highest, logits[i])\n    total = np.float32(0.0)",
          "    highest = np.float32(0.0)\n    total = np.float32(0.0)"),
    Fault(ACTIONS, "        env_action[i] = min(max(bounds[CENTRE, i] + bounds[HALF, i] * action[i], bounds[LOW, i]), bounds[HIGH, i])",
          "        env_action[i] = bounds[CENTRE, i] + bounds[HALF, i] * action[i]"),
    Fault(ACTIONS, "        action[i] = mean[i] + math.sqrt(variance(s[i])[0]) * np.float32(noise[i])",
          "        action[i] = mean[i] + variance(s[i])[0] * np.float32(noise[i])"),
    Fault(ACTIONS, "        rescale_action(policy.bounds, policy.action[t, i], policy.env_action[i])",
          "        rescale_action(policy.bounds, policy.action[t, 0], policy.env_action[i])"),
    # Value methods
    Fault(Q, "    return max(final, 1 - (1 - final) * steps / epsilon_steps)", "    return max(final, 1 - steps / epsilon_steps)"),
    Fault(Q, "    due = steps_taken(shared) // target_interval", "    due = steps_taken(shared) // (2 * target_interval)"),
    Fault(Q, "    if due > atomic_load(address_at(shared.target_copies, 0)):", "    if due >= atomic_load(address_at(shared.target_copies, 0)):"),
    Fault(Q, "        copy(shared.target, shared.theta)", "        copy(shared.theta, shared.target)"),
    Fault(Q, "    policy.epsilon = epsilon_after(method.final_epsilons[actor], steps_taken(shared), method.epsilon_steps)",
          "    policy.epsilon = epsilon_after(method.final_epsilons[0], steps_taken(shared), method.epsilon_steps)"),
    Fault(Q, "    q = target_q(method, policy, worker, worker.rollout.reward.size + i, n)",
          "    q = outputs(worker.work, worker.work.table.shape[0] + Q, worker.rollout.reward.size + i, n)"),
    Fault(Q, "    copy_inputs(target, first, worker.work, first, samples)", "    copy_inputs(target, first, worker.work, 0, samples)"),
    Fault(N_STEP, "        returns(rollout, i, q_last[i, argmax(q_last[i])], np.float32(1.0))", "        returns(rollout, i, q_last[i, 0], np.float32(1.0))"),
    Fault(N_STEP, "    q_last = target_q(method, policy, worker, t_max * k, k)", "    q_last = target_q(method, policy, worker, 0, k)"),
    Fault(N_STEP, "    refresh_target(shared, method.target_interval)  # theta^- = theta every I_target steps of T", "    pass"),
    Fault(ONE_STEP, "            best = rollout.end_value[t, i] if rollout.ended[t, i] else q_next[sample, argmax(q_next[sample])]",
          "            best = q_next[sample, argmax(q_next[sample])]"),
    Fault(ONE_STEP, "    q_next = target_q(method, policy, worker, k, t_max * k)", "    q_next = target_q(method, policy, worker, 0, t_max * k)"),
    Fault(SARSA, "                following = q_next[sample, a_next]", "                following = q_next[sample].max()"),
    Fault(SARSA, "                a_next = policy.action[t + 1, i, 0] if t + 1 < t_max else next_action[actor]",
          "                a_next = policy.action[t + 1, i, 0] if t + 1 < t_max else np.argmax(q_next[sample])"),
    Fault(SARSA, "            policy.action[t, i, 0] = next_action[actor]", "            explore(method, policy, shared, worker, actor, t * k + i, policy.action[t, i])"),
    Fault(SARSA, "        next_action[actor] = -1", "        pass"),
    Fault(SARSA, "    a[0] = -1  # the next episode begins with another", "    pass"),
    # Deterministic policy gradient and its memory
    Fault(DPG, "            value = 2 * uniform(row) - 1 if at_random else mu[i, j] + method.std[first + i] * normal(row)",
          "            value = 2 * uniform(row) - 1 if at_random else mu[i, j] + method.std[i] * normal(row)"),
    Fault(DPG, "            a[i, j] = min(max(value, -1.0), 1.0)", "            a[i, j] = value"),
    Fault(DPG, "        dq[i] = 0 if work.void[i] else -1 / n", "        dq[i] = 1 / n"),
    Fault(DPG, "    backward_part(work, half, end, samples, size)", "    backward_part(work, half, end, samples, 0)"),
    Fault(DPG, "        target[i] += tau * (theta[i] - target[i])", "        target[i] += tau * theta[i]"),
    Fault(DPG, "    return int(math.floor((before + steps) * rate) - math.floor(before * rate))", "    return int(math.floor(steps * rate))"),
    Fault(DPG, "    if stored(method.replay, steps) * shared.steps.shape[0] < method.learning_starts:", "    if stored(method.replay, steps) < method.learning_starts:"),
    Fault(DPG, "        y[i, 0] = row[RETURN] + row[WEIGHT] * q_next[i]", "        y[i, 0] = row[RETURN] + q_next[i]"),
    Fault(DPG, "    return largest * MIN_NOISE ** (actor / max(actors - 1, 1))", "    return largest * MIN_NOISE ** (actor / actors)"),
    Fault(REPLAY, "    return min(replay.written, replay.rows.shape[0] - steps)", "    return min(replay.written, replay.rows.shape[0])"),
    Fault(REPLAY, "        replay.drawn[i] = (written - 1 - integer(random, count)) % ring", "        replay.drawn[i] = (written - integer(random, count)) % ring"),
    Fault(REPLAY, "            w *= rollout.discount[t, i]", "            w = rollout.discount[t, i]"),
    Fault(REPLAY, "            R = rollout.reward[t, i] + rollout.discount[t, i] * R", "            R = rollout.reward[t, i] + R"),
    Fault(REPLAY, "            row[RETURN], row[WEIGHT] = R, VOID_ROW if void[t * k + i] else w", "            row[RETURN], row[WEIGHT] = R, w"),
    Fault(REPLAY, "    replay.written += t_max * k", "    replay.written += t_max"),
    Fault(REPLAY, "    replay.written = len(rows)", "    replay.written = 0"),
    # Bonuses that learn
    Fault(PREDICTION, "            bonus.following[j] = j + k", "            bonus.following[j] = j"),
    Fault(PREDICTION, "        if work.void[sample] or bonus.end[sample] == BROKEN:", "        if work.void[sample]:"),
    Fault(PREDICTION, "                bonus.discounted[actor] = DISCOUNT * bonus.discounted[actor] + bonus.error[j]",
          "                bonus.discounted[actor] = bonus.error[j]"),
    Fault(PREDICTION, "        copy(bonus.own_theta, bonus.theta)  # theta' = theta", "        pass"),
    Fault(PREDICTION, "    merge(bonus.moments, seen)", "    pass"),
    Fault(RND, "        predictor.void[row] = True", "        predictor.void[row] = False"),
    Fault(RND, "            difference = found[row, i] - wanted[row, i]", "            difference = wanted[row, i] - found[row, i]"),
    Fault(NOVELTY, "            bonus.error[j] = new if bonus.is_first[begin + j // k, j % k] else 0.0",
          "            bonus.error[j] = new"),
    Fault(ICM, "                gradients[after, i] += given[j, FEATURES + i]", "                pass"),
    Fault(ICM, "        copy(span(x, FEATURES, FEATURES), features[j if after == NONE else after])",
          "        copy(span(x, FEATURES, FEATURES), features[j])"),
    Fault(CRITIC, "            advantage = error + BONUS_DISCOUNT * BONUS_LAMBDA * advantage",
          "            advantage = error + BONUS_DISCOUNT * advantage"),
    Fault(CRITIC, "    output_gradients(work, method.bonus_head, i, 1)[0, 0] = np.float32(method.value_weight) * error / n",
          "    output_gradients(work, method.bonus_head, i, 1)[0, 0] = error / n"),
    # Optimisers
    Fault(OPTIMISERS, "    correction = np.float32(1 / (1 - beta2**update))", "    correction = np.float32(1.0)"),
    Fault(OPTIMISERS, "    step = np.float32(learning_rate / (1 - beta1**update))", "    step = np.float32(learning_rate)"),
    Fault(OPTIMISERS, "        g_i = old * g[i] + new * d_i * d_i", "        g_i = old * g[i] + new * d[i] * d[i]"),
    Fault(OPTIMISERS, "        theta[i] -= learning_rate * d_i / np.sqrt(g_i + epsilon)", "        theta[i] -= learning_rate * d_i / (np.sqrt(g_i) + epsilon)"),
    Fault(OPTIMISERS, "        m_i = old * m[i] + new * scale * d[i]", "        m_i = old * m[i] + scale * d[i]"),
    Fault(OPTIMISERS, "    return limit / norm if norm > limit else 1.0", "    return limit / norm"),
    Fault(OPTIMISERS, "    if rho > 4:", "    if rho > 5:"),
    Fault(OPTIMISERS, "    rho = longest - 2 * update * power / (1 - power)", "    rho = longest - update * power / (1 - power)"),
    # Running statistics
    Fault(STATISTICS, "    statistics[M2, feature] += difference * (value - statistics[MEAN, feature])", "    statistics[M2, feature] += difference * difference"),
    Fault(STATISTICS, "    total[M2, feature] += m2 + difference * difference * old * new / (old + new)", "    total[M2, feature] += m2"),
    Fault(STATISTICS, "    if statistics[COUNT, feature] < 2:", "    if statistics[COUNT, feature] < 1:"),
    Fault(STATISTICS, "            total[i, j] = 0", "            pass"),
    Fault(STATISTICS, "    buffer = 1 - published[row, 0]", "    buffer = 0"),
    Fault(STATISTICS, "    fill_total(shared, 0, shared.published.shape[0], worker.statistics.total)",
          "    fill_total(shared, 0, shared.published.shape[0] - 1, worker.statistics.total)"),
    Fault(DRIVER, "    total = atomic_load(address_at(shared.elsewhere, 0))", "    total = 0"),
    Fault(EXCHANGE, "        known[i] += change[i]", "        pass"),
    Fault(EXCHANGE, "        known[i] += change", "        known[i] += others[i] - known[i]"),
    Fault(EXCHANGE, "        theta[i] += change", "        theta[i] = others[i]"),
    Fault(EXCHANGE, "        velocity[i] = momentum * velocity[i] + d", "        velocity[i] = momentum * velocity[i] + change[i]"),
    Fault(EXCHANGE, "            if other != machine:", "            if True:"),
    Fault(EXCHANGE, "        share = np.float32(1 / len(self._present))", "        share = np.float32(1 / len(self._steps or [1]))"),
    Fault(STATISTICS, "    _merge(statistics, 0, size, work.scale * average, work.scale * work.scale * spread)",
          "    _merge(statistics, 0, size, work.scale * average, work.scale * spread)"),
    # What enters a network
    Fault(TABLE, "            x[i] = min(max((x[i] - mean) * scale, -CLIP), CLIP)", "            x[i] = (x[i] - mean) * scale"),
    Fault(TABLE, "        finite = finite and np.isfinite(vector[i])", "        finite = True"),
    Fault(TABLE, "                output_gradients(work, layer, sample, 1)[0, :] = 0", "                pass"),
    # Several agents
    Fault(EVERYONE, "            if work.void[other]:", "            if False:"),
    Fault(EVERYONE, "            other = sample - agent + (agent + place) % n", "            other = sample - agent + place"),
    Fault(MESSAGES, "        speaks = here and alive[a] & SPEAKS != 0", "        speaks = here"),
    Fault(MESSAGES, "        does = state[SAID + n + a]", "        does = alive[a]"),
    # Checkpoints
    Fault(SNAPSHOT, "        learner.shared.target_copies[0] = steps // learner.config.target_interval", "        learner.shared.target_copies[0] = 0"),
    Fault(SNAPSHOT, "        worker.turn = turn", "        pass"),
    Fault(SNAPSHOT, "    learner.shared.statistics[0, :] = statistics", "    pass"),
    Fault(SNAPSHOT, "        learner.shared.steps[0, 0], learner.shared.updates[0] = steps, updates", "        learner.shared.steps[0, 0] = steps"),
    Fault(SNAPSHOT, "            rows[actors] = getattr(worker.actors, name)", "            rows[:] = getattr(worker.actors, name)[:1]"),
    Fault(SNAPSHOT, "        at += sizes[number]", "        at += 0"),
    Fault(SNAPSHOT, "        can_go_on = with_episodes and number in running and np.isfinite(seen).all()", "        can_go_on = with_episodes and number in running"),
    Fault(SNAPSHOT, "        learner.environment.check_state(saved)", "        pass"),
    Fault(CHECKPOINT, "    sync_directory(path.parent)", "    pass"),
    Fault(CHECKPOINT, "            os.fsync(file.fileno())", "            pass"),
    Fault(POLICY, "        if not np.isfinite(arrays[name]).all():", "        if False:"),
    Fault(POLICY, "            if numbers * agents > MAX_SAMPLE:", "            if False:"),
    # Acting, and the interface
    Fault(NUMPY, "            x = np.clip((x - mean) * scale, -CLIP, CLIP)", "            x = (x - mean) * scale"),
    Fault(NUMPY, "            values[mask == 0] = -np.inf", "            pass"),
    Fault(INTERFACE, "    return status & STEPPED != 0 and status & ~ALL_BITS == 0", "    return status & STEPPED != 0"),
    Fault(INTERFACE, "        return self._guard is None or np.array_equal(self._guard, GUARD)", "        return True"),
    Fault(GYM, "            status |= bit if read_number(f\"{name}, as {self._class}.step gave it,\", flag, \"true or false\") else 0",
          "            status |= bit if flag else 0"),
    Fault(GYM, "        given = self._environment.reset(seed=seed % SEEDS)", "        given = self._environment.reset()"),
    Fault(VECTOR, "                self.last[i] = _of(infos[key], i)", "                pass"),
    Fault(VECTOR, "            self._due[i] = True", "            pass"),
    Fault(LEARNER, "        owners = 1 if self.optimiser.shared else len(groups)", "        owners = 1"),
    Fault(LEARNER, "        return int(self.shared.steps[:, 0].sum())", "        return int(self.shared.steps[0, 0])"),
]  # fmt: skip


def applied(fault: Fault) -> str:
    """The file's text with the fault; ValueError where its line is not there once."""
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    if text.count(fault.line + "\n") != 1:
        raise ValueError(f"{fault.file} has {text.count(fault.line + chr(10))} times: {fault.line.strip()}")
    return text.replace(fault.line + "\n", fault.instead + "\n")


def tried(fault: Fault) -> tuple[str, float]:
    """What the tests of its part say of a fault, and in how many seconds: found and by which, survives, or too long."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        ignored = shutil.ignore_patterns(".git", "runs", "__pycache__", ".*_cache", "*.egg-info", ".hypothesis")
        shutil.copytree(ROOT, tree, ignore=ignored)
        (tree / fault.file).write_text(applied(fault), encoding="utf-8")
        began = time.monotonic()
        words = ["pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *TESTS[fault.file]]
        variables = {**os.environ, "PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(Path(folder, "cache"))}
        try:
            ended = subprocess.run(
                [sys.executable, "-m", *words], cwd=tree, env=variables, capture_output=True, text=True, timeout=LIMIT
            )
        except subprocess.TimeoutExpired:
            return "takes too long", time.monotonic() - began
        if ended.returncode == 0:
            return "survives", time.monotonic() - began
        if ended.returncode not in (1, 2):  # tests that failed, or could not be collected
            raise RuntimeError(f"pytest ended with {ended.returncode}: {ended.stdout[-300:]}")
        named = [
            line.split()[1] for line in ended.stdout.splitlines() if line.startswith(("FAILED tests", "ERROR tests"))
        ]
        return " by ".join(["found", *named[:1]]), time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where results are kept")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of faults, from 0")
    parsed = parser.parse_args()
    results = json.loads(parsed.out.read_text()) if parsed.out.exists() else {}
    numbers = range(len(FAULTS)) if parsed.only is None else parsed.only
    for number in numbers:
        fault = FAULTS[number]
        key = f"{fault.file}: {fault.line.strip()} -> {fault.instead.strip()}"
        if key not in results:
            result, seconds = tried(fault)
            results[key] = result
            parsed.out.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{number:>4} {result:15} {seconds:5.0f} s  {key}", flush=True)
    found = sum(result != "survives" for result in results.values())
    print(f"{found} of {len(results)} found, of {len(FAULTS)}")
    return 0 if found == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
