"""Logs hold every round once, whatever stopped the run; what they hold is what the study wrote."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from metabayfl import config, storage, study
from metabayfl.errors import ConfigError, DivergedError, StorageError
from metabayfl.tracking import Logged, tracked
from metabayfl.tracking.logged import due, settings
from tiny import full_disk, run, write_digits

EventAccumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, about MLflow

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def importing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the import of a module fail, as if it were not installed."""

    def refuse(missing: str) -> None:
        monkeypatch.setitem(sys.modules, missing, None)

    return refuse


def events_of(path: Path, out: Path, logs: tuple[str, ...], algorithms: tuple[str, ...] = ("meta_bayfl",)) -> Any:
    read = config.read(path)
    return tracked(study.compare(read, algorithms, (0,), out), Logged(read, algorithms, (0,), out), logs)


def board(out: Path, name: str = "meta_bayfl-seed0") -> Any:
    found = EventAccumulator(str(out / "tensorboard" / name))
    found.Reload()
    return found


def curve(out: Path, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in board(out).Scalars(name)]


def written(out: Path, name: str) -> list[tuple[int, Any]]:
    rows = [row for row in study.job.read_metrics(out / "runs" / "meta_bayfl-seed0" / "metrics.jsonl") if row[name] is not None]
    return [(int(str(row["round"])), pytest.approx(row[name])) for row in rows]


def test_tensorboard_has_the_curves_the_figures_the_settings_and_the_card(tmp_path: Path) -> None:
    out = tmp_path / "out"
    events = list(events_of(write_digits(tmp_path), out, ("tensorboard",)))
    assert [type(event).__name__ for event in events] == ["Trained"] * 3 + ["Scored"]
    assert curve(out, "training/loss") == written(out, "loss")
    assert curve(out, "training/validation") == written(out, "validation")
    figures = storage.read_json(out / "summary.json")["algorithms"]["meta_bayfl"]["mean"]
    assert curve(out, "heldout/nll") == [(3, pytest.approx(figures["nll"]))]
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(board(out).summary_metadata)
    assert board(out, "study").Tensors("model card/text_summary")[0].tensor_proto.string_val[0].decode() == (out / "model_card.md").read_text()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_run_that_was_stopped_has_no_point_twice(tmp_path: Path, lost: int) -> None:
    """With ``lost`` the checkpoint is older than the log, as after a kill."""
    path, out = write_digits(tmp_path), tmp_path / "out"
    events = events_of(path, out, ("tensorboard",))
    next(events)
    checkpoint = out / "runs" / "meta_bayfl-seed0" / "checkpoint.safetensors"
    next(events)
    events.close()
    if lost:
        checkpoint.unlink()
    assert [step for step, _ in curve(out, "training/loss")] == [1, 2]
    list(events_of(path, out, ("tensorboard",)))
    assert curve(out, "training/loss") == written(out, "loss")
    assert [step for step, _ in curve(out, "training/loss")] == [1, 2, 3]


def test_a_study_that_is_done_can_still_be_logged(digits_study: Path, tmp_path: Path) -> None:
    out = shutil.copytree(digits_study, tmp_path / "out")
    for _ in range(2):
        list(events_of(write_digits(tmp_path), out, ("tensorboard",), ("fedavg", "meta_bayfl")))
    assert curve(out, "training/loss") == written(out, "loss")
    assert len(curve(out, "heldout/nll")) == 1


def test_mlflow_has_every_round_once_and_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path, out = write_digits(tmp_path), tmp_path / "out"
    events = events_of(path, out, ("mlflow",))
    next(events)
    next(events)
    events.close()
    client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "tiny"]
    (stopped,) = client.search_runs([experiment.experiment_id])
    assert (stopped.info.run_name, stopped.info.status) == ("meta_bayfl-seed0", "KILLED")
    (out / "runs" / "meta_bayfl-seed0" / "checkpoint.safetensors").unlink()  # as after a kill: both rounds are done again
    for _ in range(2):
        list(events_of(path, out, ("mlflow",)))
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"

    def history(name: str) -> list[tuple[int, float]]:
        return sorted((point.step, point.value) for point in client.get_metric_history(found.info.run_id, name))

    assert history("training/loss") == written(out, "loss")
    figures = storage.read_json(out / "summary.json")["algorithms"]["meta_bayfl"]["mean"]
    assert history("heldout/nll") == [(3, pytest.approx(figures["nll"]))]
    assert (found.data.params["model.hidden"], found.data.params["train.rounds"], found.data.params["seed"]) == ("[16, 8]", "3", "0")
    assert {item.path for item in client.list_artifacts(found.info.run_id)} == {"strategy.safetensors", "report.html", "model_card.md"}
    kept = Path(client.download_artifacts(found.info.run_id, "strategy.safetensors", str(tmp_path)))
    assert kept.read_bytes() == (out / "strategy.safetensors").read_bytes()


def test_mlflow_goes_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow.tracking")
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    list(events_of(write_digits(tmp_path), out, ("mlflow",)))
    assert not (out / "mlflow.db").exists()
    assert storage.read_json(out / "runs" / "meta_bayfl-seed0" / "mlflow.json")["uri"] == uri
    assert mlflow.MlflowClient(uri).get_experiment_by_name("tiny") is not None


def test_a_server_that_does_not_answer_is_one_line_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hidden@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert run("train", write_digits(tmp_path), "--out", tmp_path / "out", "--log", "mlflow") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: could not log to http://127.0.0.1:9: ")
    assert err.count("\n") == 1
    assert "hidden" not in err
    assert not (tmp_path / "out" / "runs").exists()


def test_a_training_that_fails_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    read, out = config.read(write_digits(tmp_path)), tmp_path / "out"

    def diverging() -> Generator[study.Event, None, None]:
        yield next(study.compare(read, ("fedavg",), (0,), out))
        raise DivergedError("the training loss is nan")

    with pytest.raises(DivergedError):
        list(tracked(diverging(), Logged(read, ("fedavg",), (0,), out), ("mlflow",)))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'elsewhere.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert found.info.status == "FAILED"


def test_only_new_rounds_are_due(digits_study: Path, tmp_path: Path) -> None:
    logged = Logged(config.read(write_digits(tmp_path)), ("meta_bayfl",), (0,), digits_study)
    (scored,) = list(study.compare(logged.config, ("meta_bayfl",), (0,), shutil.copytree(digits_study, tmp_path / "out")))
    assert [row["round"] for row in due(logged, scored, 0)] == [1, 2, 3]
    assert [row["round"] for row in due(logged, scored, 2)] == [3]
    assert due(logged, scored, 3) == []
    assert settings(logged, scored)["algorithm.generator"] == "full"


def test_a_log_that_cannot_be_written_is_one_line_and_the_training_is_kept(tmp_path: Path, capsys: Capture) -> None:
    path, out = write_digits(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "tensorboard").write_text("")
    assert run("train", path, "--out", out, "--log", "tensorboard") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: could not log to ")
    assert "what was trained is kept: go on with --resume" in err
    assert err.count("\n") == 1
    assert run("train", path, "--out", out, "--resume") == 0


def test_a_full_disk_stops_the_log_with_one_line(tmp_path: Path) -> None:
    path, out = write_digits(tmp_path), tmp_path / "out"
    with full_disk(), pytest.raises(StorageError):
        list(events_of(path, out, ("tensorboard",)))


def test_an_unknown_log_is_refused_before_anything_is_trained(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="unknown log 'tensorbord': did you mean 'tensorboard'"):
        list(events_of(write_digits(tmp_path), out, ("tensorbord",)))
    assert run("train", tmp_path / "tiny.toml", "--out", out, "--log", "wandb") == 2
    assert "unknown log 'wandb': Known: mlflow, tensorboard." in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow.tracking"), ("mlflow", "alembic")])
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str, module: str, importing: Callable[[str], None]
) -> None:
    importing(module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert run("train", write_digits(tmp_path), "--out", tmp_path / "out", "--log", name) == 2
    assert "pip install 'metabayfl[tracking]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
