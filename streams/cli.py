"""The command `livejobs`. What a command needs is imported when it runs: a farm starts a publisher for every job."""

# ruff: noqa: PLC0415  imports inside commands are what makes this fast
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from livejobs.streams.config import Config

DIFFERENT, USAGE, BAD_DATA, AWAY, KEPT, BAD_CONFIG = 1, 2, 65, 69, 75, 78
CONFIG_FILE = "livejobs.toml"
CONFIG_VARIABLE = "LIVEJOBS_CONFIG"
EXTRAS = {"aiohttp": "tunnel", "sse_starlette": "web", "starlette": "web", "uvicorn": "web"}
"""Which extra brings a package; others come with `worker`."""

F = TypeVar("F", bound=Callable[..., Any])


class Failed(click.ClickException):
    """An expected error: one line on standard error, and an exit code."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.exit_code = code

    def show(self, file: Any = None) -> None:
        """Tell it."""
        click.echo(f"livejobs: {self.message}", file=file or sys.stderr)


def with_config(command: F) -> F:
    """Give a command `--config` and `--set`."""
    command = click.option(
        "--set",
        "settings",
        metavar="SECTION.KEY=VALUE",
        multiple=True,
        help="Set one key of the configuration; beats the environment and the file. May be given several times.",
    )(command)
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        help=f"The configuration (TOML). Default: ${CONFIG_VARIABLE}, else ./{CONFIG_FILE} if it is there.",
    )(command)


def load(config_file: str | None, settings: tuple[str, ...] = ()) -> "Config":
    """The configuration that a command line asks for. Raises ConfigError, click.UsageError.

    Options before the command's name count too; those behind it beat them.
    """
    from livejobs.streams import config

    before = click.get_current_context().find_root().params
    settings = (*before.get("settings", ()), *settings)
    path = (
        config_file
        or before["config_file"]
        or os.environ.get(CONFIG_VARIABLE)
        or (CONFIG_FILE if Path(CONFIG_FILE).exists() else None)
    )
    flags: dict[str, object] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or "." not in name:
            raise click.UsageError(f"--set needs SECTION.KEY=VALUE, not {name!r}")
        if name == "kafka.password":
            raise config.ConfigError("[kafka] password can't be set by a flag: all users of this machine see it")
        flags[name] = value
    return config.load(path, flags)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn expected errors into one line and an exit code; what is not expected keeps its traceback."""
    try:
        yield
    except click.ClickException:
        raise
    except Exception as error:
        code = _code_of(error)
        if code is None:
            raise
        raise Failed(" ".join(str(error).split()) or type(error).__name__, code) from error


def _code_of(error: Exception) -> int | None:
    # By name: the classes live in modules that not every command, and not every installation, can import.
    names = {kind.__name__ for kind in type(error).__mro__}
    if "ConfigError" in names:
        return BAD_CONFIG
    if "BrokerAwayError" in names or "KafkaError" in names:
        return AWAY
    if names & {"BrokerError", "DemoError", "TopicsError", "TunnelError", "VerifyError", "WebAwayError"}:
        return AWAY
    if "RefusedError" in names:
        return BAD_DATA
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("livejobs"):
        extra = EXTRAS.get((error.name or "").partition(".")[0], "worker")
        error.args = (f"{error.name} is not installed: this command needs `pip install livejobs[{extra}]`",)
        return AWAY
    return None


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@with_config
def group(config_file: str | None, settings: tuple[str, ...]) -> None:
    """Tracks the live jobs of simulation and build farms, over Kafka.

    Farms publish job messages; a worker turns them into the live table and into each regression's statistics.
    `livejobs demo` shows all of it on this machine.

    Exit codes: 0 done, 1 differences found, 2 usage, 65 bad data, 69 broker away, 75 kept in the spool, 78 bad
    configuration.
    """


@group.command(short_help="Show all of it on this machine, with a simulated farm.")
@with_config
def demo(config_file: str | None, settings: tuple[str, ...]) -> None:
    """Everything on this machine: broker, topics, worker, and a simulated farm. Ends on Ctrl-C."""
    with told():
        config = load(config_file, settings)
        from livejobs.streams.demo import run as demo_module

        sys.exit(demo_module.run(config))


@group.command(short_help="Run only the local single-node Kafka.")
@with_config
@click.option("--port", type=click.IntRange(1, 65535), help="Default: the port of the first of [kafka] brokers.")
@click.option(
    "--datadir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("broker-data"),
    show_default=True,
    help="Where it keeps its topics; start again on the same one and all is still there.",
)
def broker(config_file: str | None, settings: tuple[str, ...], port: int | None, datadir: Path) -> None:
    """Only the local single-node Kafka, for development and tests. Needs Java 17; ends on Ctrl-C."""
    with told():
        config = load(config_file, settings)
        from livejobs.streams.kafka import broker as broker_module

        broker_module.run(config, port, datadir)


@group.group()
def topics() -> None:
    """Make the topics, or compare them with what they must be."""


@topics.command()
@with_config
def create(config_file: str | None, settings: tuple[str, ...]) -> None:
    """Make the topics that are missing; never alters one. Lists what differs in those that were there."""
    with told():
        config = load(config_file, settings)
        import asyncio

        from livejobs.streams.kafka import topics as topics_module

        for line in asyncio.run(topics_module.create(config, lambda name: click.echo(f"created {name}", err=True))):
            click.echo(line)


@topics.command()
@with_config
def check(config_file: str | None, settings: tuple[str, ...]) -> None:
    """List how the topics differ from what they must be, exit code 1 when they do. Changes nothing."""
    with told():
        config = load(config_file, settings)
        import asyncio

        from livejobs.streams.kafka import topics as topics_module

        lines = asyncio.run(topics_module.differences(config))
        for line in lines:
            click.echo(line)
        if lines:
            sys.exit(DIFFERENT)
        click.echo("the topics are as they must be", err=True)


@group.command(short_help="Run one worker; as many as wanted share the partitions.")
@with_config
def worker(config_file: str | None, settings: tuple[str, ...]) -> None:
    """One worker. Start as many as you like: they share the partitions. Ends on Ctrl-C or SIGTERM."""
    with told():
        config = load(config_file, settings)
        from livejobs.streams.worker import worker as worker_module

        sys.exit(worker_module.run(config))


@group.command(short_help="Serve the page and the API.")
@with_config
def web(config_file: str | None, settings: tuple[str, ...]) -> None:
    """The page and the API, from a view of the topics; needs no worker. Ends on Ctrl-C or SIGTERM.

    The view in [web] datadir can be thrown away: it is made anew from the topics.
    """
    with told():
        config = load(config_file, settings)
        from livejobs.streams.web import service

        sys.exit(service.run(config))


_regression = click.option("--regression", metavar="NAME", required=True, help="The regression, e.g. myrun/123.")
_json = click.option(
    "--json", "as_json", is_flag=True, help="Say what happened on standard output, as one JSON object."
)


@group.command(short_help="Publish messages from files or standard input.")
@with_config
@click.argument("kind", metavar="TYPE")
@_regression
@click.argument("files", metavar="[FILE]...", nargs=-1)
@click.option("--ndjson", is_flag=True, help="Each line of the input is the body of one message.")
@_json
def publish(  # noqa: PLR0913  its options
    config_file: str | None,
    settings: tuple[str, ...],
    kind: str,
    regression: str,
    files: tuple[str, ...],
    *,
    ndjson: bool,
    as_json: bool,
) -> None:
    """Publish messages of one TYPE, one for each FILE. `-` or no FILE reads standard input.

    TYPE is regr-start, regr-update, regr-finish, regr-tank, job-live, job-finish or batch-job-finish; a body is JSON.
    Returns when the broker has acknowledged. The good messages are sent, each bad one is named, and the exit code is
    that of the worst: 65 bad data, 69 not delivered, 75 kept in the spool for the next call.
    """
    with told():
        config = load(config_file, settings)
        from livejobs.streams.publisher import oneshot

        sys.exit(oneshot.run(config, kind, regression, files, ndjson=ndjson, as_json=as_json))


@group.command(short_help="Run a farm's long-lived publisher.")
@with_config
def tunnel(config_file: str | None, settings: tuple[str, ...]) -> None:
    """A long-lived publisher for a farm's head node. Ends on Ctrl-C or SIGTERM, when all that it took is safe.

    Takes messages from the processes of this machine on the Unix socket [tunnel] socket, and over HTTP where [tunnel]
    bind is set. `livejobs publish` and livejobs-tunnel go through it when it answers. What the broker can't take it
    keeps in [tunnel] spool, and sends it later.
    """
    with told():
        config = load(config_file, settings)
        from livejobs.streams.tunnel import daemon as tunnel_module

        sys.exit(tunnel_module.run(config))


@group.command(short_help="Kill or hide a regression.")
@with_config
@click.argument("name")
@click.option("--reason", metavar="TEXT", help="Why; it goes with the message.")
@_json
def tank(config_file: str | None, settings: tuple[str, ...], name: str, reason: str | None, *, as_json: bool) -> None:
    """Kill or hide the regression NAME: it shows as TANKED, its live jobs end."""
    _publish_tank(load_told(config_file, settings), name, {"tank": True, "reason": reason}, as_json=as_json)


@group.command(short_help="Take back the tank of a regression.")
@with_config
@click.argument("name")
@_json
def untank(config_file: str | None, settings: tuple[str, ...], name: str, *, as_json: bool) -> None:
    """Take back the tank of the regression NAME."""
    _publish_tank(load_told(config_file, settings), name, {"tank": False}, as_json=as_json)


def load_told(config_file: str | None, settings: tuple[str, ...] = ()) -> "Config":
    """As `load`, with its errors told."""
    with told():
        return load(config_file, settings)


def _publish_tank(config: "Config", name: str, fields: dict[str, object], *, as_json: bool) -> None:
    with told():
        import json

        from livejobs.streams.publisher import oneshot

        body = json.dumps({key: value for key, value in fields.items() if value is not None}).encode()
        sys.exit(oneshot.run_body(config, "regr-tank", name, body, as_json=as_json))


@group.command(short_help="Prove that the output topics are right.")
@with_config
@_json
def verify(config_file: str | None, settings: tuple[str, ...], *, as_json: bool) -> None:
    """Prove the output topics right: statistics = fold over job rows = fold over job-events.

    Reads the topics up to the committed offsets. Exit code 1 with the differences. What is sealed or whose first
    message is gone can't be checked, and is counted.
    """
    with told():
        config = load(config_file, settings)
        from livejobs.streams import verify as verify_module

        report = verify_module.run(config, _show_progress)
        if sys.stderr.isatty():
            click.echo("", err=True)
        if as_json:
            import dataclasses
            import json

            click.echo(json.dumps({**dataclasses.asdict(report), "not_checked": report.not_checked, "ok": report.ok}))
        else:
            from livejobs.streams.terminal.printable import printable

            click.echo("\n".join(map(printable, str(report).splitlines())))
        sys.exit(0 if report.ok else DIFFERENT)


def _from_api(command: F) -> F:
    """Give a command what finds the API, and `--json`."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="The API's own JSON on standard output."),
        click.option("--tokenfile", metavar="FILE", help="Its first line is the token. Default: [web] tokenfile."),
        click.option("--url", metavar="URL", help="Of the web service. Default: http:// and [web] bind."),
    ):
        command = option(command)
    return with_config(command)


@group.command(short_help="List regressions, or the jobs of one.")
@_from_api
@click.argument("regression", required=False)
@click.option("--status", help="LIVE, COMPLETE, ABORTED, TANKED; several with commas.")
@click.option("--project", help="Only this project's regressions.")
@click.option("--group", help="Only this group's regressions.")
@click.option("--user", help="Only this user's.")
@click.option("--hidden", is_flag=True, help="Tanked regressions, too.")
@click.option("--result", help="Of jobs: live, pass, fail, skip; several with commas. Default: live.")
@click.option("--host", help="Of jobs: only those on this host; without REGRESSION, of all live jobs.")
@click.option("-q", "--search", "q", metavar="WORDS", help="Only what has these words.")
@click.option("--jobs", is_flag=True, help="Without REGRESSION: jobs of all regressions, not regressions.")
@click.option("--sort", help="As in the API: a column's name, a - before it for the greatest first.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many rows.")
def ls(  # noqa: PLR0913, PLR0917  its options
    config_file: str | None,
    settings: tuple[str, ...],
    url: str | None,
    tokenfile: str | None,
    regression: str | None,
    limit: int,
    *,
    jobs: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """List regressions, the newest first; or the live jobs of REGRESSION, the longest running first.

    REGRESSION may be SERIES/$, the latest of a series. Needs a running `livejobs web`.
    """
    of_jobs = regression is not None or jobs or filters["host"] is not None or filters["result"] is not None
    foreign = ("status", "project", "group", "hidden") if of_jobs else ()
    for name in foreign:
        if filters[name]:
            raise click.UsageError(f"--{name} is for regressions, not for jobs")
    with told():
        config = load(config_file, settings)
        from livejobs.streams.terminal import shown
        from livejobs.streams.terminal.client import Client

        parameters = {**filters, **({"regression": regression} if of_jobs else {})}
        shown.ls(Client(config, url, tokenfile), parameters, limit, as_json=as_json)


@group.command(short_help="Show one regression, or one job.")
@_from_api
@click.argument("name")
@click.option("--job", is_flag=True, help="NAME is the id of a job, as `livejobs ls --json` has it.")
def show(  # noqa: PLR0913  its options
    config_file: str | None,
    settings: tuple[str, ...],
    url: str | None,
    tokenfile: str | None,
    name: str,
    *,
    job: bool,
    as_json: bool,
) -> None:
    """Show the regression NAME with its live jobs; SERIES/$ is the latest of a series. Or one job."""
    with told():
        config = load(config_file, settings)
        from livejobs.streams.terminal import shown
        from livejobs.streams.terminal.client import Client

        shown.show(Client(config, url, tokenfile), name, job=job, as_json=as_json)


@group.command(short_help="Follow what is live.")
@_from_api
@click.argument("regression", required=False)
@click.option("--user", help="Only this user's.")
@click.option("-q", "--search", "q", metavar="WORDS", help="Only what has these words.")
def top(  # noqa: PLR0913, PLR0917  its options
    config_file: str | None,
    settings: tuple[str, ...],
    url: str | None,
    tokenfile: str | None,
    regression: str | None,
    user: str | None,
    q: str | None,
    *,
    as_json: bool,
) -> None:
    """Follow the live regressions, or the live jobs of REGRESSION, as they change. Ends on Ctrl-C.

    With --json, one line for each change: the state of the view, and all rows.
    """
    with told(), contextlib.suppress(KeyboardInterrupt):
        config = load(config_file, settings)
        from livejobs.streams.terminal import shown
        from livejobs.streams.terminal.client import Client

        which: dict[str, object] = {"regression": regression} if regression is not None else {"status": "LIVE"}
        shown.top(Client(config, url, tokenfile), {**which, "user": user, "q": q}, as_json=as_json)


def _show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done:,} of {total:,} messages read ", err=True, nl=False)


def main() -> None:
    """Run `livejobs`."""
    group.main(prog_name="livejobs")


if __name__ == "__main__":
    main()
