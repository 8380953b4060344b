"""What hosts are told as a run goes on, by callbacks."""

import gc
import json
import threading
import time

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toys import LONG, Walk, in_time, tiny, wait_until

import nbrl
from nbrl import Agent, Callback, Trainer
from nbrl.checkpoint import newest
from nbrl.metrics import read_metrics


class Notes(Callback):
    """Writes all down: (event, what, the thread's name)."""

    def __init__(self):
        self.notes = []

    def note(self, event, *what):
        self.notes.append((event, what, threading.current_thread().name))

    def of(self, event):
        return [what for name, what, _ in self.notes if name == event]

    def on_start(self, trainer):
        self.note("start", trainer.steps)

    def on_episode(self, trainer, episode):
        self.note("episode", episode)

    def on_report(self, trainer, report):
        self.note("report", report)
        return {"own/reports": len(self.of("report"))}

    def on_checkpoint(self, trainer, path):
        self.note("checkpoint", path, path.exists())

    def on_evaluation(self, trainer, evaluation, agent):
        self.note("evaluation", evaluation, agent)

    def on_end(self, trainer):
        written = self.of("checkpoint")
        self.note("end", trainer.steps, newest(written[-1][0].parent) if written else None)


def test_every_event_in_its_order_and_thread(tmp_path):
    notes, more = Notes(), Notes()
    config = tiny(steps=LONG, report_interval=0.02, checkpoint_interval=0.1, eval_interval=0.05, eval_episodes=3)
    trainer = Trainer(config, directory=tmp_path / "run", callbacks=[notes, more])
    trainer.start()
    wait_until(lambda: notes.of("evaluation") and notes.of("checkpoint") and notes.of("episode"))
    trainer.stop()
    events = [event for event, _, _ in notes.notes]
    assert events[0] == "start"
    assert events[-1] == "end"
    assert set(events) == {"start", "episode", "report", "checkpoint", "evaluation", "end"}
    assert {thread for _, _, thread in notes.notes} == {"nbrl watcher"}
    assert all(there for _, there in notes.of("checkpoint"))
    assert notes.of("end") == [(trainer.steps, notes.of("checkpoint")[-1][0])]
    reports = [report for (report,) in notes.of("report")]
    assert sum(report.episodes for report in reports) == len(notes.of("episode"))
    for evaluation, agent in notes.of("evaluation"):
        assert len(evaluation.returns) == 3
        assert isinstance(agent, Agent)
    means = [report.evaluation_return for report in reports if report.evaluation_return is not None]
    assert means == [evaluation.mean_return for evaluation, _ in notes.of("evaluation")]
    assert [event for event, _, _ in more.notes] == events  # both, in turn


def test_numbers_that_a_callback_returns_are_kept_with_the_report(tmp_path):
    notes = Notes()
    nbrl.train(
        "Catch-v0", directory=tmp_path / "run", callbacks=[notes], method="a3c", steps=2000, report_interval=0.01
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["own/reports"] for line in lines] == list(range(1, len(lines) + 1))
    assert [report.metrics for report in read_metrics(tmp_path / "run" / "metrics.jsonl")][-1] == {
        "own/reports": len(lines)
    }


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"steps": 1}, "the name 'steps': it must be a text that no report has already"),
        ({3: 1}, "the name 3: it must be a text"),
        ({"own": "many"}, "gave 'many' for the metric 'own': it must be a number"),
        ({"own": True}, "gave True for the metric 'own': it must be a number"),
    ],
)
def test_numbers_that_no_report_can_hold(tmp_path, metrics, words):
    class Wrong(Callback):
        def on_report(self, trainer, report):
            return metrics

    with pytest.raises(ValueError, match=words):
        nbrl.train("Catch-v0", steps=200, callbacks=[Wrong()], directory=tmp_path / "run")
    [report] = read_metrics(tmp_path / "run" / "metrics.jsonl")  # the report itself is kept
    assert report.steps >= 200


@pytest.mark.parametrize("event", ["on_start", "on_episode", "on_report", "on_checkpoint", "on_evaluation"])
@pytest.mark.parametrize("no", [False, np.bool_(False)], ids=["bool", "numpy"])
def test_false_ends_the_run(tmp_path, event, no):
    stopping = type("Stopping", (Callback,), {event: lambda self, trainer, *what: no})()
    config = tiny(steps=LONG, report_interval=0.02, checkpoint_interval=0.05, eval_interval=0.05, eval_episodes=1)
    trainer = Trainer(config, directory=tmp_path / "run", callbacks=[stopping])
    trainer.start()
    assert in_time(trainer.join)
    assert trainer.error is None
    assert Agent.load(tmp_path / "run")


@pytest.mark.parametrize("event", ["on_start", "on_episode", "on_report", "on_checkpoint", "on_evaluation", "on_end"])
def test_an_exception_is_the_end_and_the_others_are_told(tmp_path, event):
    calls = []

    def fail(self, trainer, *what):
        calls.append(what)
        raise LookupError("of the callback")

    failing, notes = type("Failing", (Callback,), {event: fail})(), Notes()
    ends = 2000 if event == "on_end" else LONG
    config = tiny(steps=ends, report_interval=0.02, checkpoint_interval=0.05, eval_interval=0.05, eval_episodes=1)
    trainer = Trainer(config, directory=tmp_path / "run", callbacks=[notes, failing])
    with pytest.raises(LookupError, match="of the callback"):
        in_time(lambda: trainer.start(wait=True))
    assert len(calls) == 1
    assert notes.of("end")
    assert Agent.load(tmp_path / "run")


def test_a_disk_error_of_a_callback_is_not_taken_for_one_of_a_checkpoint(tmp_path):
    class Copies(Callback):
        def on_checkpoint(self, trainer, path):
            raise PermissionError("the other disk is read-only")

    config = tiny(steps=LONG, checkpoint_interval=0.05)
    trainer = Trainer(config, directory=tmp_path / "run", callbacks=[Copies()])
    trainer.start()
    with pytest.raises(PermissionError, match="read-only"):
        in_time(trainer.join)


def test_what_is_no_callback():
    for given in ([Callback], Callback(), print):
        with pytest.raises(ValueError, match=r"must be a list of objects of classes made from nbrl\.Callback"):
            Trainer(tiny(), callbacks=given)


def test_a_callback_may_pause_stop_and_take_snapshots():
    class Best(Callback):
        agent = None

        def on_report(self, trainer, report):
            if report.steps > 1000:
                self.agent = trainer.snapshot()
                trainer.pause()
                trainer.resume()
                trainer.stop()

    best = Best()
    trainer = Trainer(tiny(steps=LONG, report_interval=0.01), callbacks=[best])
    trainer.start()
    assert in_time(trainer.join)
    assert isinstance(best.agent, Agent)


def test_a_run_whose_trainer_is_dropped_ends_and_calls_nobody_any_more():
    notes = Notes()
    trainer = Trainer(tiny(steps=LONG, report_interval=0.01), callbacks=[notes])
    trainer.start()
    wait_until(lambda: notes.of("report"))
    run = trainer._run
    del trainer
    gc.collect()
    wait_until(lambda: run.state == "ended")
    assert not notes.of("end")


# Episodes


class Told(Walk):
    """Its last info names the episode: how many there were, and its length."""

    count = 0

    def reset(self, *, seed=None, options=None):
        seen, info = super().reset(seed=seed)
        self.count, self.lasted = self.count + 1, 0
        return seen, info

    def step(self, action):
        seen, reward, terminated, truncated, _ = super().step(action)
        self.lasted += 1
        return seen, reward, terminated, truncated, {"episode": self.count, "lasted": self.lasted}


def test_an_episode_comes_with_its_last_info():
    notes = Notes()
    trainer = Trainer(tiny(Told, steps=2000, actors=3, report_interval=0.01), Told, callbacks=[notes])
    trainer.start(wait=True)
    found = [episode for (episode,) in notes.of("episode")]
    assert len(found) > 20
    for actor in range(3):
        own = [episode for episode in found if episode.actor == actor]
        assert [episode.info["episode"] for episode in own] == list(range(1, len(own) + 1))
        assert all(episode.info["lasted"] == episode.length for episode in own)


def test_episodes_that_the_engine_cuts_have_theirs_too():
    class Endless(Told):
        def step(self, action):
            seen, reward, _, _, info = super().step(action)
            return seen, reward, False, False, info

    notes = Notes()
    config = tiny(Endless, steps=500, max_episode_steps=7)
    Trainer(config, Endless, callbacks=[notes]).start(wait=True)
    assert notes.of("episode")
    assert all(episode.length == episode.info["lasted"] == 7 for (episode,) in notes.of("episode"))


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_the_episodes_of_a_vector_environment(mode):
    def several():
        return SyncVectorEnv([Told] * 3, autoreset_mode=mode)

    notes = Notes()
    trainer = Trainer(tiny(several, actors=3, envs_per_batch=3, steps=900), several, callbacks=[notes])
    trainer.start(wait=True)
    found = [episode for (episode,) in notes.of("episode")]
    assert {episode.actor for episode in found} == {0, 1, 2}
    for actor in range(3):
        own = [episode for episode in found if episode.actor == actor]
        assert [episode.info["episode"] for episode in own] == list(range(1, len(own) + 1))
        assert all(episode.info["lasted"] == episode.length for episode in own)


def test_compiled_environments_tell_nothing():
    notes = Notes()
    nbrl.train("CartPole-v1", steps=2000, seed=1, callbacks=[notes])
    assert {len(episode.info) for (episode,) in notes.of("episode")} == {0}


def test_infos_are_kept_only_for_who_asks():
    class Silent(Callback):
        def on_report(self, trainer, report):
            self.kept = [instance._python.infos for instance in trainer._run.learner.instances[0]]

    silent = Silent()
    Trainer(tiny(Told, steps=300), Told, callbacks=[silent]).start(wait=True)
    assert silent.kept == [None]


def test_going_on_with_a_run_takes_callbacks(tmp_path):
    nbrl.train("Catch-v0", directory=tmp_path / "run", rollout_length=5, steps=500)
    notes = Notes()
    trainer = Trainer.from_run(tmp_path / "run", steps=1000, callbacks=[notes])
    trainer.start(wait=True)
    [(began,)] = notes.of("start")
    assert 500 <= began < 1000
    assert notes.of("end")


def test_callbacks_do_not_hold_training_up():
    """What is slow here is slow in the watcher alone: the workers go on."""

    class Slow(Callback):
        def on_start(self, trainer):
            self.reports = []

        def on_report(self, trainer, report):
            self.reports.append(report.steps)
            time.sleep(0.3)
            self.reports.append(trainer.steps)
            return len(self.reports) < 4

    slow = Slow()
    nbrl.train("CartPole-v1", steps=LONG, seed=1, report_interval=0.01, callbacks=[slow])
    before, after, *_ = slow.reports
    assert after > before


def test_gymnasium_s_own_records_of_episodes():
    def build():
        return gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("CartPole-v1"))

    notes = Notes()
    nbrl.train(build, steps=2000, seed=1, callbacks=[notes])
    for (episode,) in notes.of("episode"):
        assert (episode.info["episode"]["r"], episode.info["episode"]["l"]) == (episode.total_return, episode.length)


def test_all_are_told_of_an_event_although_one_raises():
    class Fails(Callback):
        def on_end(self, trainer):
            raise LookupError("of the first")

    notes = Notes()
    with pytest.raises(LookupError, match="of the first"):
        nbrl.train("Catch-v0", steps=200, callbacks=[Fails(), notes])
    assert notes.of("end")


def test_a_pause_in_a_callback_stands_still():
    class Pauses(Callback):
        moved = None

        def on_report(self, trainer, report):
            trainer.pause()
            before = trainer.steps, trainer.snapshot().parameters
            time.sleep(0.1)
            self.moved = trainer.steps != before[0] or bool((trainer.snapshot().parameters != before[1]).any())
            trainer.resume()
            return report.steps < 3000

    pauses = Pauses()
    nbrl.train("CartPole-v1", steps=LONG, seed=1, report_interval=0.01, callbacks=[pauses])
    assert pauses.moved is False


def test_methods_may_be_set_on_an_object():
    callback, episodes = Callback(), []
    callback.on_episode = lambda trainer, episode: episodes.append(episode)
    nbrl.train("Catch-v0", steps=500, callbacks=[callback])
    assert episodes


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP], ids=lambda mode: mode.name)
def test_what_wrappers_around_a_vector_environment_add_is_told(mode):
    def several():
        inner = gymnasium.make_vec(
            "CartPole-v1", num_envs=2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
        )
        return gymnasium.wrappers.vector.RecordEpisodeStatistics(inner)

    notes = Notes()
    nbrl.train(several, steps=1000, seed=1, callbacks=[notes])
    for (episode,) in notes.of("episode"):
        assert (episode.info["episode"]["r"], episode.info["episode"]["l"]) == (episode.total_return, episode.length)
