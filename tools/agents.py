"""How well agents that talk solve the tasks that need it, and how well they do with their channel cut.

    python tools/agents.py --out DIR [--tasks riddle-3 riddle-4 rial-3 rial-4 lever easy medium hard] [--seeds N]
                           [--steps N] [--cut]
    python tools/agents.py --protocol POLICY

A run is one thread; two go on at a time. Greedy policies are scored: of the riddle exactly, over all courses of days,
of the others in 10,000 episodes of other seeds. Writes agents.json and each policy, and goes on where that stopped.
--protocol prints what a policy of the riddle says and does: by the day, whether the agent has been in the room before,
and what it heard.
"""

import argparse
import contextlib
import json
import multiprocessing
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nbrl
from nbrl import Trainer, configure, envs
from nbrl.envs.agents.switch_riddle import TELL, days
from nbrl.envs.agents.traffic_junction import crashes_and_cars_through
from nbrl.nets.layers import Channel, Communicate, Dense, Gru
from nbrl.spaces import ALIVE, PRESENT

EPISODES, SEED = 10_000, 1_000_000  # held out: training draws its seeds from 64 bits
RUNS_AT_ONCE = 2
CUT: dict[type, Any] = {
    Communicate: lambda layer: Dense(*layer),
    Channel: lambda layer: Gru(layer.units),
}


class Task(NamedTuple):
    """A task and what learns it."""

    environment: str
    arguments: dict[str, Any]
    network: tuple[Any, ...]
    steps: int
    settings: dict[str, Any]


A3C: dict[str, Any] = {
    "method": "a3c", "actors": 8, "envs_per_batch": 8, "rollout_length": 20, "learning_rate": 2e-3,
    "entropy_schedule": "linear",
}  # fmt: skip
RIDDLE = A3C | {"discount": 1.0, "entropy_weight": 0.1, "normalise_rewards": False, "agent_index": False}
RIAL = RIDDLE | {"method": "n_step_q"}
TRAFFIC = A3C | {"entropy_weight": 0.2}
HEAVY = A3C | {"entropy_weight": 0.05}
TALK = (Dense(64), Communicate(64), Communicate(64))
TASKS = {
    "riddle-3": Task("nbrl/SwitchRiddle-v0", {"agents": 3}, (Dense(32), Channel(64, 1)), 1_500_000, RIDDLE),
    "riddle-4": Task("nbrl/SwitchRiddle-v0", {"agents": 4}, (Dense(32), Channel(64, 1)), 4_000_000, RIDDLE),
    # Messages as actions, by a method of values, as in the paper that has both.
    "rial-3": Task("nbrl/SwitchRiddle-v0", {"agents": 3, "messages": 2}, (Dense(32), Gru(64)), 1_500_000, RIAL),
    "rial-4": Task("nbrl/SwitchRiddle-v0", {"agents": 4, "messages": 2}, (Dense(32), Gru(64)), 4_000_000, RIAL),
    "lever": Task(
        "nbrl/Lever-v0", {}, TALK, 1_000_000,
        {
            "method": "ppo", "actors": 64, "envs_per_batch": 64, "rollout_length": 16, "epochs": 4, "minibatches": 4,
            "entropy_weight": 0.0, "normalise_rewards": False, "agent_index": False,
        },
    ),
    "easy": Task("nbrl/TrafficJunction-v0", {"level": "easy"}, TALK, 4_000_000, TRAFFIC),
    "medium": Task("nbrl/TrafficJunction-v0", {"level": "medium", "curriculum": 300_000}, TALK, 16_000_000, HEAVY),
    "hard": Task("nbrl/TrafficJunction-v0", {"level": "hard", "curriculum": 300_000}, TALK, 30_000_000, HEAVY),
}  # fmt: skip


def exact_riddle(agent: nbrl.Agent) -> tuple[float, dict[tuple[int, bool, int], np.ndarray]]:
    """The mean return of a greedy policy over all courses of days, each as likely, and its protocol.

    The protocol has, by the day, whether who is in the room has been there before and what it heard (-1, 1 or 0 for
    nothing), a count of courses, in how many of them it says 1, and in how many it tells.
    """
    n, last = agent.agents, days(agent.agents)
    channels = [layer for layer in agent.network.layers if isinstance(layer, Channel)]
    units = channels[0].units if channels else 0
    symbols = agent.environment_arguments.get("messages", 1)  # of which the first is "0", the second "1"
    size = 1 + (n - 1) * (symbols if symbols > 1 else 0)
    states = np.zeros((1, n, agent.network.state_size), np.float32)
    been, heard, before = np.zeros((1, n), bool), np.zeros(1), np.full(1, -1)
    total, protocol = 0.0, defaultdict(lambda: np.zeros(3))
    for day in range(1, last + 1):
        courses = len(states)
        states, been = states.repeat(n, axis=0), been.repeat(n, axis=0)
        heard, before, who = heard.repeat(n), before.repeat(n), np.tile(np.arange(n), courses)
        rows = np.arange(len(who))
        seen, alive = np.zeros((len(who), n, size), np.float32), np.full((len(who), n), ALIVE)
        mask = np.zeros((len(who), n, 2 * symbols), int)
        mask[:, :, 0], mask[rows, who], seen[rows, who, 0], alive[rows, who] = 1, 1, 1, PRESENT
        if symbols > 1:
            told = rows[(before >= 0) & (before != who)]
            place = (before[told] - who[told] - 1) % n
            seen[told, who[told], 1 + symbols * place + (heard[told] > 0)] = 1
        flat = np.ascontiguousarray(states.reshape(len(who) * n, -1))
        actions = agent.act(
            seen.reshape(-1, size), flat if agent.recurrent else None, action_mask=mask.reshape(-1, 2 * symbols),
            alive=alive.reshape(-1), greedy=True,
        )  # fmt: skip
        actions = np.reshape(actions, (-1, n))[rows, who]
        tells = actions // symbols == TELL
        states = flat.reshape(len(who), n, -1)
        said = states[rows, who, units] if channels else 2.0 * (actions % symbols) - 1 if symbols > 1 else 0.0 * who
        known = np.where(before == who, 0, heard)
        for was, bit, says, tell in zip(been[rows, who], known, said > 0, tells, strict=True):
            protocol[(day, bool(was), int(bit))] += 1, says, tell
        been[rows, who] = True
        total += np.where(been[tells].all(axis=1), 1.0, -1.0).sum() / n**day
        go_on = ~tells
        states, been, heard, before = states[go_on], been[go_on], said[go_on], who[go_on]
    return total, dict(protocol)


def traffic(agent: nbrl.Agent) -> dict[str, float]:
    """Of held-out episodes the share without a crash, the mean return and the cars that came through."""
    spec = envs.make(agent.environment, arguments=agent.environment_arguments).for_evaluation()
    safe, through, returns = 0, 0, 0.0
    with contextlib.closing(envs.EnvStepper(spec)) as player:
        for episode in range(EPISODES):
            seen, state, status = player.reset(SEED + episode), agent.initial_state(), 1
            while status == 1:
                actions = agent.act(seen, state if agent.recurrent else None, alive=player.alive, greedy=True)
                seen, reward, status = player.step(actions)
                returns += reward
            crashes, cars = crashes_and_cars_through(player.instance.save() or b"")
            safe, through = safe + (crashes == 0), through + cars
    return {"success": safe / EPISODES, "return": returns / EPISODES, "through": through / EPISODES}


def score(name: str, agent: nbrl.Agent) -> dict[str, float]:
    """A policy's figures."""
    if name.startswith(("riddle", "rial")):
        return {"return": exact_riddle(agent)[0]}
    if name == "lever":
        return {"return": nbrl.evaluate(agent, episodes=EPISODES, seed=SEED, greedy=True).mean_return}
    return traffic(agent)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Train and score: the row of the results."""
    task = TASKS[job["task"]]
    network = tuple(CUT.get(type(layer), lambda layer: layer)(layer) if job["cut"] else layer for layer in task.network)
    arguments = {key: value for key, value in task.arguments.items() if not (job["cut"] and key == "messages")}
    config = configure(
        task.environment, environment_arguments=arguments, network=network, steps=job["steps"], seed=job["seed"],
        threads=1, **task.settings,
    )  # fmt: skip
    trainer = Trainer(config)
    began = time.perf_counter()
    trainer.start(wait=True)
    seconds = time.perf_counter() - began
    agent = trainer.snapshot()
    agent.save(Path(job["folder"]) / f"{job['task']}{'-cut' if job['cut'] else ''}-{job['seed']}.safetensors")
    return (
        {key: job[key] for key in ("task", "cut", "steps", "seed")} | {"seconds": seconds} | score(job["task"], agent)
    )


def print_protocol(agent: nbrl.Agent) -> None:
    """The protocol as a table: what is usual, and how usual it is where it is not always so."""
    value, protocol = exact_riddle(agent)
    heard = {-1: "heard 0", 1: "heard 1", 0: "heard nothing"}
    print(f"mean return {value:.4f}")
    for (day, was, bit), (count, says, tells) in sorted(protocol.items()):
        does = "tells" if tells > count / 2 else f"says {int(says > count / 2)}"
        share = max(tells, count - tells) / count if tells > count / 2 else max(says, count - says) / count
        usual = "" if share > 0.995 else f" ({100 * share:.0f}%)"
        print(f"day {day:2}  {'been before' if was else 'new':11}  {heard[bit]:13}  {does}{usual}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--protocol", type=Path, metavar="POLICY")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="by default each task's own")
    parser.add_argument("--cut", action="store_true", help="without the channel")
    options = parser.parse_args()
    if options.protocol:
        print_protocol(nbrl.Agent.load(options.protocol))
        return
    if options.out is None:
        parser.error("give --out, or --protocol")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "agents.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    jobs = [
        {"task": task, "cut": options.cut, "steps": options.steps or TASKS[task].steps, "seed": 1 + seed}
        for task in options.tasks
        for seed in range(options.seeds)
    ]
    left = [job | {"folder": str(options.out)} for job in jobs if not any(job.items() <= row.items() for row in rows)]
    with multiprocessing.get_context("spawn").Pool(RUNS_AT_ONCE) as pool:
        for row in pool.imap_unordered(run, left):
            rows.append(row)
            path.write_text(json.dumps(rows, indent=1) + "\n")
            figures = ", ".join(f"{key} {row[key]:.4f}" for key in ("success", "through", "return") if key in row)
            cut = ", channel cut" if row["cut"] else ""
            print(f"{row['task']}{cut}, seed {row['seed']}: {figures} after {row['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
