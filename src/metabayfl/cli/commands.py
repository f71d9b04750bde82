"""Every command: read the arguments, call the library, show the result.

What needs PyTorch is imported by the command that uses it, so that help, refusals and small commands are there at once.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from metabayfl.cli import exporting, federate, serving, watching
from metabayfl.cli.watching import Open, Port, Watch
from metabayfl.engine.allocator import keep_freed_memory
from metabayfl.errors import ConfigError
from metabayfl.watch.options import PORT, Options

if TYPE_CHECKING:
    from metabayfl.config import Config

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Personalised probabilistic federated learning.")

app.add_typer(federate.app, name="federate")
app.add_typer(serving.app, name="token")
app.command("serve")(serving.serve)
app.command()(exporting.export)
app.command()(exporting.bench)

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="A TOML file, or the name of a ready config such as digits.")]
Out = Annotated[Path, typer.Option("--out", help="Directory for everything that is written.")]
Log = Annotated[str | None, typer.Option("--log", help="Also log to tensorboard or mlflow, or both with a comma between.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the study that the directory holds.")]
StrategyPath = Annotated[Path, typer.Argument(metavar="STRATEGY", help="A strategy file, strategy.safetensors.")]
DataPath = Annotated[Path, typer.Argument(metavar="DATA", help="One client's samples: csv, parquet or npz.")]


@app.callback()
def _start() -> None:
    keep_freed_memory()


@app.command()
def demo(out: Out = Path("runs/demo")) -> None:
    """Train and compare six algorithms on handwritten digits of people that never took part."""
    from metabayfl import config as configs
    from metabayfl import study

    config = configs.read("digits")
    for directory in study.run_directories(config.algorithms, config.seeds, out):  # anew each time; nothing else in there is ours
        shutil.rmtree(directory, ignore_errors=True)
    _compare(config, None, None, out, None)


@app.command()
def compare(
    config: ConfigPath,
    out: Out,
    algorithms: Annotated[str | None, typer.Option(help="Names with commas between; the config's own if none.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Whole numbers with commas between; the config's own if none.")] = None,
    resume: Resume = False,
    log: Log = None,
    watch: Watch = False,
    port: Port = PORT,
    open_browser: Open = False,
) -> None:
    """Train and judge several algorithms over several seeds; write summary, strategy and report."""
    _check_free(out, resume)
    from metabayfl import config as configs

    read, chosen, numbers = configs.read(config), _names(algorithms), _numbers(seeds)
    with watching.beside(out, port, _say, wanted=watch, open_browser=open_browser):
        _compare(read, chosen, numbers, out, _names(log))


@app.command()
def train(
    config: ConfigPath,
    out: Out,
    algorithm: Annotated[str, typer.Option(help="Which algorithm to train.")] = "meta_bayfl",
    seed: Annotated[int, typer.Option(min=0, help="Decides the split, the start and all noise.")] = 0,
    resume: Resume = False,
    log: Log = None,
    watch: Watch = False,
    port: Port = PORT,
    open_browser: Open = False,
) -> None:
    """Train one algorithm and write its strategy."""
    _check_free(out, resume)
    from metabayfl import config as configs

    read = configs.read(config)
    with watching.beside(out, port, _say, wanted=watch, open_browser=open_browser):
        _compare(read, (algorithm,), (seed,), out, _names(log))


@app.command()
def watch(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What train or compare writes to, in this process or another.")],
    port: Port = PORT,
    open_browser: Open = False,
) -> None:
    """Show a training in the browser until Ctrl-C: curves, rounds done, time left, bytes sent, privacy spent."""
    from metabayfl.watch.server import watch as show

    show(directory, Options(port, open_browser), _say)


@app.command()
def attack(
    config: ConfigPath,
    out: Out,
    attack: Annotated[str, typer.Option(help="What hostile clients do: names with commas between, or all.")],
    defence: Annotated[str, typer.Option(help="Names with commas between; none is the run's own mean.")] = "none,recommended",
    share: Annotated[float, typer.Option(help="Share of the training clients that are hostile.")] = 0.2,
    strength: Annotated[float, typer.Option(help="In each attack's own measure; 0 for its default.")] = 0.0,
    target: Annotated[int, typer.Option(min=0, help="The class that a backdoor wants.")] = 0,
    algorithm: Annotated[str, typer.Option(help="Which algorithm to train.")] = "meta_bayfl",
    seed: Annotated[int, typer.Option(min=0, help="Decides the split, the start, all noise and who is hostile.")] = 0,
    resume: Resume = False,
) -> None:
    """Train with and without hostile clients, under each defence, and show the figures side by side."""
    _check_free(out, resume)
    from metabayfl import config as configs
    from metabayfl import trials
    from metabayfl.attacks import ATTACKS, AttackOptions
    from metabayfl.cli import display

    names = tuple(ATTACKS) if attack == "all" else _names(attack) or ()
    attacks = [AttackOptions(name, share, strength, target) for name in names]
    defences = _names(defence) or ()
    events = trials.run_trials(configs.read(config), algorithm, seed, attacks, defences, out)
    display.follow(events, Console(stderr=True), len(trials.trials(attacks, defences)))
    rows = trials.table(json.loads((out / "attack.json").read_text(encoding="utf-8")))
    display.show_trials(rows, f"{algorithm}, seed {seed}, {100 * share:g} % of the training clients hostile, on held-out clients", display.output())
    _say(f"figures {out / 'attack.json'}")


@app.command()
def privacy(
    config: ConfigPath,
    algorithm: Annotated[str, typer.Option(help="Whose training it is.")] = "meta_bayfl",
) -> None:
    """Print what a private training will cost, before it runs."""
    from metabayfl import config as configs
    from metabayfl import study
    from metabayfl.cli import display, forecast

    forecast.show(study.privacy_forecast(configs.read(config), algorithm), algorithm, display.output())


@app.command()
def evaluate(
    strategy: StrategyPath,
    config: Annotated[str, typer.Option(help="The config whose held-out clients are asked.")],
    out: Out,
    support: Annotated[str | None, typer.Option(help="Support sizes with commas between, such as 5,10,20,50; all samples if none.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The client split; the strategy's own if none.")] = None,
) -> None:
    """Judge a strategy on the held-out clients of a config, at one or more support sizes."""
    from metabayfl import config as configs
    from metabayfl import study
    from metabayfl.cli import display

    figures = study.evaluate_strategy(strategy, configs.read(config), _numbers(support), seed, out)
    display.show_support_sizes(figures, display.output())


@app.command()
def personalize(
    strategy: StrategyPath,
    data: DataPath,
    out: Out,
    refer_share: Annotated[float, typer.Option(help="Share of cases like the known ones to refer to a person.")] = 0.2,
    refer_error: Annotated[
        float | None, typer.Option(help="In its place: share of all cases that may be answered without a person and wrong.")
    ] = None,
) -> None:
    """Build one client's own model from its labelled samples."""
    from metabayfl import personal
    from metabayfl.cli import tables

    model = personal.load(strategy)
    x, y = tables.labelled(data, model.schema)
    path = out / "posterior.safetensors"
    model.personalize(x, y, refer_share=refer_share, refer_error=refer_error).save(path)
    _say(f"{path}: a posterior from {len(y)} samples, {path.stat().st_size / 1000:.1f} KB")


@app.command()
def predict(
    posterior: Annotated[Path, typer.Argument(metavar="POSTERIOR")],
    data: DataPath,
    out: Out,
    coverage: Annotated[float, typer.Option(help="Probability with which the truth shall be in its set or interval.")] = 0.9,
) -> None:
    """Predict with a personal model: probabilities, sets or intervals, uncertainty in its parts, and which cases to refer."""
    from metabayfl import personal
    from metabayfl.cli import tables

    prediction = personal.load_personal(posterior).predict(tables.unlabelled(data), coverage=coverage)
    rows = tables.write_predictions(out / "predictions.csv", prediction)
    _say(f"{out / 'predictions.csv'}: {rows} predictions, {prediction.referred} of them to refer")


@app.command()
def report(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="What compare or train wrote; several are compared.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; beside the study, or here for several, if none.")] = None,
) -> None:
    """Write the report and the model card of a finished study again, or compare several studies."""
    from metabayfl.cli import display
    from metabayfl.report import write_comparison, write_report

    if len(directories) == 1:
        for path in write_report(directories[0], out):
            _say(str(path))
        return
    page, found = write_comparison(directories, out or Path())
    display.show_comparison(found.study.summary, display.output())
    for line in (*found.notes, str(page)):
        _say(line)


def _compare(config: Config, algorithms: tuple[str, ...] | None, seeds: tuple[int, ...] | None, out: Path, logs: tuple[str, ...] | None) -> None:
    from metabayfl import study
    from metabayfl.cli import display
    from metabayfl.tracking import Logged, tracked

    chosen, numbers = algorithms or config.algorithms, seeds or config.seeds
    events = study.compare(config, chosen, numbers, out)
    if logs:
        events = tracked(events, Logged(config, chosen, numbers, out), logs)
    display.follow(events, Console(stderr=True), len(chosen) * len(numbers))
    display.show_comparison(json.loads((out / "summary.json").read_text(encoding="utf-8")), display.output())
    size = (out / "strategy.safetensors").stat().st_size / 1000
    _say(f"strategy {out / 'strategy.safetensors'} ({size:.1f} KB) · report {out / 'report.html'} · model card {out / 'model_card.md'}")


def _say(text: str) -> None:
    """One line as it is: a path may have brackets, and a line that was broken could not be copied."""
    Console(soft_wrap=True, markup=False, highlight=False).print(text)


def _check_free(out: Path, resume: bool) -> None:
    if not resume and (out / "runs").exists():
        raise ConfigError(f"{out} already holds a study: add --resume to go on with it, or choose another --out")


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip())) if text else None


def _numbers(text: str | None) -> tuple[int, ...] | None:
    words = [word.strip() for word in text.split(",")] if text else []
    if not all(word.isdecimal() for word in words):
        raise ConfigError(f"{text!r} is no list of whole numbers: write them with commas between, such as 0,1,2")
    return tuple(dict.fromkeys(int(word) for word in words)) or None
