"""What machines exchange, all of them in this process. What Ray does is in test_cluster.py."""

import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbrl
from nbrl.cli import main
from nbrl.exchange import Exchange, HandedIn, Hub, TakenOver, hand_in, take_over
from nbrl.learner import Learner
from nbrl.methods import driver
from nbrl.methods.running_statistics import COUNT, ROWS, fill_total, merge

ROLLOUT = 16  # steps of one rollout of one actor


def numbers_only(steps=0):
    return steps, np.zeros((ROWS, 1))


def small(seed, **more):
    return nbrl.configure("Catch-v0", **{"method": "a3c", "threads": 1, "actors": 2, "seed": seed} | more)


class Machines:
    """Learners that exchange through one hub, each in turn."""

    def __init__(self, count, **more):
        self.learners = [Learner(small(1 + number, **more)) for number in range(count)]
        first, config = self.learners[0], self.learners[0].config
        self.hub = Hub(first.shared.flat, first.scales + 1, config.outer_learning_rate, config.outer_momentum)
        self.exchanges = [Exchange(number, self.hub.exchange, joins=number > 0) for number in range(count)]
        for learner, exchange in zip(self.learners, self.exchanges, strict=True):
            exchange.begin(learner)

    def exchange(self):
        for exchange in self.exchanges:
            exchange.exchange()


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(-8, 8)), max_size=30), min_size=1, max_size=4
    )
)
@settings(max_examples=50)
def test_every_change_reaches_every_machine_once(rounds):
    # Whole numbers, so that sums are exact in any order: machines change a weight at will and exchange at will.
    machines = [np.zeros(4, np.float32) for _ in range(3)]
    known, change = [np.zeros(4, np.float32) for _ in range(3)], np.zeros(4, np.float32)
    hub, total = Hub(np.zeros(4, np.float32), 1, 4.0, 0.0), np.zeros(4)  # of four machines: changes add up
    for machine in range(4):
        hub.exchange(machine, HandedIn(change, *numbers_only()))

    def exchange(machine):
        hand_in(machines[machine], known[machine], change)
        others = hub.exchange(machine, HandedIn(change, *numbers_only()))
        take_over(machines[machine], known[machine], others.theta, np.float32(1))

    for actions in rounds:
        for machine, exchanges, value in actions:
            machines[machine][abs(value) % 4] += value
            total[abs(value) % 4] += value
            if exchanges:
                exchange(machine)
    for _ in range(2):  # once to hand in, once to take over
        for machine in range(3):
            exchange(machine)
    for theta in (hub.theta, *machines):
        assert theta.tolist() == total.tolist()


def test_what_threads_do_meanwhile_is_kept():
    theta, known, change = np.array([1.0, 2.0], np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32)
    hand_in(theta, known, change)
    assert change.tolist() == [1, 2]
    theta += np.array([10, 20], np.float32)  # a thread's update, between handing in and taking over
    take_over(theta, known, np.array([1.5, 2.5], np.float32), np.float32(1))
    assert theta.tolist() == [11.5, 22.5]
    hand_in(theta, known, change)
    assert change.tolist() == [10, 20]


def test_a_part_of_the_others_change_is_taken_over():
    theta, known, change = np.zeros(1, np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32)
    take_over(theta, known, np.array([8], np.float32), np.float32(0.25))
    assert theta.tolist() == known.tolist() == [2]
    hand_in(theta, known, change)
    assert change.tolist() == [0]  # it is not handed back
    take_over(theta, known, np.array([8], np.float32), np.float32(0.25))
    assert theta.tolist() == [3.5]


def test_machines_move_by_the_mean_of_their_changes():
    hub = Hub(np.zeros(1, np.float32), 1, 1.0, 0.0)
    for machine in range(2):
        hub.exchange(machine, HandedIn(np.zeros(1, np.float32), *numbers_only()))
    hub.exchange(0, HandedIn(np.array([4], np.float32), *numbers_only()))
    hub.exchange(1, HandedIn(np.array([8], np.float32), *numbers_only()))
    assert hub.theta.tolist() == [6]
    hub.leave(1)
    assert hub.machines() == 1
    hub.exchange(0, HandedIn(np.array([4], np.float32), *numbers_only()))
    assert hub.theta.tolist() == [10]


def test_changes_are_added_with_nesterov_momentum():
    hub = Hub(np.zeros(1, np.float32), 1, 0.5, 0.5)
    # v = 0.5 v + d: 4, then 6; theta += 0.5 (d + 0.5 v): 0.5 (4 + 2) = 3, then 0.5 (4 + 3) = 3.5
    for expected in (3.0, 6.5):
        hub.exchange(0, HandedIn(np.array([4], np.float32), *numbers_only()))
        assert hub.theta.tolist() == [expected]


def test_the_momentum_is_of_the_mean():
    hub = Hub(np.zeros(1, np.float32), 1, 1.0, 0.5)
    for machine in range(2):
        hub.exchange(machine, HandedIn(np.zeros(1, np.float32), *numbers_only()))
    # d / n is 2. v = 0.5 v + 2: 2, then 3; theta += 2 + 0.5 v: 3, then 3.5
    for machine, expected in enumerate((3.0, 6.5)):
        hub.exchange(machine, HandedIn(np.array([4], np.float32), *numbers_only()))
        assert hub.theta.tolist() == [expected]


def test_who_joins_begins_where_the_others_are():
    machines = Machines(2, method="n_step_q")
    first, second = machines.learners
    assert np.array_equal(first.shared.flat, second.shared.flat)
    assert np.array_equal(second.shared.target, second.shared.theta)
    assert not np.array_equal(second.shared.flat, Learner(small(2, method="n_step_q")).shared.flat)


def test_steps_add_up_and_the_schedule_is_of_all():
    machines = Machines(3, steps=3000)
    for learner in machines.learners:
        learner.attach(0)
        assert learner.loop(0, 1) == driver.PAUSED
    own = [learner.own_steps for learner in machines.learners]
    assert all(steps > 0 for steps in own)
    for _ in range(2):
        machines.exchange()
    assert [learner.steps for learner in machines.learners] == [sum(own)] * 3
    assert [learner.own_steps for learner in machines.learners] == own
    rates = [learner.learning_rate for learner in machines.learners]
    assert rates == [machines.learners[0].config.learning_rate * (1 - sum(own) / 3000)] * 3
    machines.hub.exchange(3, HandedIn(np.zeros_like(machines.hub.theta), 3000, np.zeros((ROWS, 1))))
    machines.exchange()
    assert [learner.loop(0, 1) for learner in machines.learners] == [driver.FINISHED] * 3


def test_what_a_lost_machine_did_stays():
    hub = Hub(np.zeros(1, np.float32), 1, 1.0, 0.0)
    hub.exchange(0, HandedIn(np.ones(1, np.float32), *numbers_only(10)))
    hub.exchange(1, HandedIn(np.ones(1, np.float32), *numbers_only(20)))
    assert hub.exchange(0, HandedIn(np.zeros(1, np.float32), *numbers_only(10))).machines == 2
    hub.leave(1)
    later = hub.exchange(2, HandedIn(np.zeros(1, np.float32), *numbers_only(0)))
    assert (later.theta.tolist(), later.steps) == ([1.5], 30)  # 1, and half of 1
    assert hub.machines() == 2


def test_observations_are_normalised_by_what_all_saw():
    machines = Machines(2, normalise_observations=True, normalise_rewards=True)
    for learner in machines.learners:
        learner.attach(0)
        learner.loop(0, 5)
    for _ in range(2):
        machines.exchange()
    first, second = machines.learners
    expected, others = first.workers[0].statistics.own.copy(), np.zeros_like(first.workers[0].statistics.own)
    fill_total(second.shared, 0, 1, others)  # what it has published, at the start of its last rollout
    merge(expected, others)
    first.loop(0, 1)
    assert first.workers[0].statistics.total.tolist() == expected.tolist()
    assert expected[COUNT, 0] == 5 * ROLLOUT + 4 * ROLLOUT
    assert first.statistics()[COUNT, 0] == 6 * ROLLOUT + 4 * ROLLOUT


@pytest.mark.parametrize("updates", [None, 10])
def test_two_trainers_learn_one_run_together(updates):
    # Catch is solved by each of 20 seeds long before; a run that learnt nothing would return about -0.6.
    lock, made = threading.Lock(), []
    first = Learner(small(1))
    hub = Hub(first.shared.flat, first.scales + 1, 1.0, 0.0)

    def call(machine, handed_in):
        with lock:
            others = hub.exchange(machine, handed_in)
            return TakenOver(others.theta.copy(), *others[1:])

    for machine in range(2):
        exchange = Exchange(machine, call, joins=True, is_ready=lambda: hub.machines() == 2)
        config = small(1 + machine, steps=600_000, exchange_interval=0.02, exchange_updates=updates)
        made.append((nbrl.Trainer(config, callbacks=[exchange]), exchange))
    starting = [threading.Thread(target=trainer.start) for trainer, _ in made]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join()
    for trainer, exchange in made:
        assert trainer.join(120)
        assert trainer.steps >= 600_000
        assert exchange.exchanges > 1
        assert nbrl.evaluate(trainer.snapshot(), episodes=100, greedy=True).mean_return > 0.9
    assert sum(trainer._run.learner.own_steps for trainer, _ in made) < 1_200_000


def test_a_run_ends_with_what_an_exchange_met():
    def call(machine, handed_in):
        if handed_in.steps:
            raise ConnectionError("the hub is gone")
        return TakenOver(np.zeros_like(handed_in.change), 0, np.zeros_like(handed_in.statistics), 1, False)

    config = small(1, steps=10**9, exchange_interval=0.01, report_interval=0.05)
    trainer = nbrl.Trainer(config, callbacks=[Exchange(0, call)])
    with pytest.raises(ConnectionError, match="the hub is gone"):
        trainer.start(wait=True)


def test_a_machine_ends_when_the_run_is_over():
    learner = Learner(small(1))
    hub = Hub(learner.shared.flat, learner.scales + 1, 1.0, 0.0)
    config = small(1, steps=10**9, exchange_interval=0.01, report_interval=0.05)
    trainer = nbrl.Trainer(config, callbacks=[Exchange(0, hub.exchange)])
    trainer.start()
    time.sleep(0.2)
    assert trainer.running
    hub.end()
    assert trainer.join(60)


def test_one_that_waits_for_others_can_be_stopped():
    learner = Learner(small(1))
    hub = Hub(learner.shared.flat, learner.scales + 1, 1.0, 0.0)
    trainer = nbrl.Trainer(small(1, steps=10**9), callbacks=[Exchange(0, hub.exchange, is_ready=lambda: False)])
    starting = threading.Thread(target=trainer.start)
    starting.start()
    time.sleep(0.3)
    assert trainer.stop(60)
    starting.join(60)
    assert trainer.steps == 0


def test_without_ray_a_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(ValueError, match=r'several machines need Ray: pip install "nbrl\[ray\]"'):
        nbrl.Cluster()
    plan = {"environment": "Catch-v0", "seeds": 1, "settings": {"steps": 1000}}
    with pytest.raises(ValueError, match="several machines need Ray"):
        nbrl.study(plan, tmp_path / "study", ray="auto")
    assert main(["train", "Catch-v0", "--out", str(tmp_path / "run"), "--ray", "auto"]) == 2
    assert not (tmp_path / "run").exists()


def test_a_pruner_needs_runs_on_this_machine(tmp_path):
    plan = {
        "environment": "Catch-v0", "seeds": 1, "trials": 3, "sampler": "tpe", "pruner": "median",
        "settings": {"steps": 1000, "learning_rate": "loguniform(1e-4, 1e-2)"},
    }  # fmt: skip
    with pytest.raises(ValueError, match="a pruner needs runs on this machine"):
        nbrl.study(plan, tmp_path, ray="auto")


@pytest.mark.parametrize("machines", [0, 1.5, "all"])
def test_a_number_of_machines_that_cannot_be(machines):
    with pytest.raises(ValueError, match="machines is"):
        nbrl.Cluster("auto", machines)
