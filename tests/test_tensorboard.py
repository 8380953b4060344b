"""Event files, read back by TensorBoard itself."""

import pytest

import nbrl
from nbrl import Trainer
from nbrl.metrics import read_metrics
from nbrl.tensorboard import EventFile, checksum

reading = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is in the extra dev"
)


@pytest.mark.parametrize(
    ("data", "crc"),
    # The masked CRC-32C of RFC 3720, B.4: ((crc >> 15 | crc << 17) + 0xa282ead8) of these.
    [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)],
)
def test_checksums(data, crc):
    assert checksum(data) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def scalars(folder):
    found = reading.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_tensorboard_reads_every_number_of_every_report(tmp_path):
    class More(nbrl.Callback):
        def on_report(self, trainer, report):
            return {"own/π": report.steps / 3}

    nbrl.train(
        "Catch-v0", directory=tmp_path, steps=3000, seed=1, report_interval=0.02, tensorboard=True, callbacks=[More()]
    )
    expected = {}
    for report in read_metrics(tmp_path / "metrics.jsonl"):
        for name, value in report.to_dict().items():
            if value is not None:
                expected.setdefault(name, []).append((report.steps, pytest.approx(value, rel=1e-6)))
    assert "own/π" in expected
    assert scalars(tmp_path) == expected


def test_a_run_that_goes_on_has_one_course(tmp_path, make_report):
    """What was written beyond the checkpoint that a run goes on from is forgotten."""
    first = EventFile(tmp_path, 0)
    for steps in (100, 200, 300):
        first.append(make_report(steps=steps))
    first.close()
    second = EventFile(tmp_path, 200)
    for steps in (250, 350):
        second.append(make_report(steps=steps))
    second.close()
    assert [step for step, _ in scalars(tmp_path)["charts/SPS"]] == [100, 200, 250, 350]


def test_it_is_off_by_default_and_resumed_with_the_run(tmp_path):
    nbrl.train("Catch-v0", directory=tmp_path / "without", steps=500)
    assert not list((tmp_path / "without").glob("events*"))
    nbrl.train("Catch-v0", directory=tmp_path / "with", rollout_length=5, steps=500, tensorboard=True)
    Trainer.from_run(tmp_path / "with", steps=1000).start(wait=True)
    assert len(list((tmp_path / "with").glob("events*"))) == 2
    reports = read_metrics(tmp_path / "with" / "metrics.jsonl")
    assert [step for step, _ in scalars(tmp_path / "with")["charts/SPS"]] == [report.steps for report in reports]


def test_numbers_beyond_float32_do_not_end_a_run(tmp_path):
    class Huge(nbrl.Callback):
        def on_report(self, trainer, report):
            return {"own/huge": 1e39}

    nbrl.train("Catch-v0", directory=tmp_path, method="a3c", steps=300, tensorboard=True, callbacks=[Huge()])
    assert scalars(tmp_path)["own/huge"][0][1] == pytest.approx(3.4e38)
    assert read_metrics(tmp_path / "metrics.jsonl")[0].metrics == {"own/huge": 1e39}
