"""The command `livejobs-tunnel`: the flags of `simscope-tunnel`, the work of `livejobs publish`."""

import sys

import click

from livejobs.streams.cli import CONFIG_FILE, CONFIG_VARIABLE, load, told


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help=f"The configuration (TOML). Default: ${CONFIG_VARIABLE}, else ./{CONFIG_FILE} if it is there.",
)
@click.option("--publish", "kind", metavar="TYPE", required=True, help="The message type, e.g. job-live.")
@click.option("--regression", metavar="NAME", required=True, help="The regression, e.g. myrun/123.")
@click.argument("files", metavar="[FILE]...", nargs=-1)
def command(config_file: str | None, kind: str, regression: str, files: tuple[str, ...]) -> None:
    """Publish messages of one type, one for each FILE. `-` or no FILE reads standard input.

    Takes the flags of simscope-tunnel. Exit codes: 0 done, 2 usage, 65 bad data, 69 broker away, 75 kept in the spool,
    78 bad configuration.
    """
    with told():
        config = load(config_file)
        from livejobs.streams.publisher import oneshot  # noqa: PLC0415  --help is fast

        sys.exit(oneshot.run(config, kind, regression, files))


def main() -> None:
    """Run `livejobs-tunnel`."""
    command.main(prog_name="livejobs-tunnel")


if __name__ == "__main__":
    main()
