"""The README says what the code does: its diagrams, keys, defaults, commands, codes and examples."""

import json
import re
import tomllib
from pathlib import Path

import click
import msgspec
import pytest

from livejobs.streams import config as configuration
from livejobs.streams.cli import group
from livejobs.streams.core import messages, signature
from livejobs.streams.core.transition import JOB, REGRESSION, Phase, diagram
from livejobs.streams.publisher import oneshot, publish
from livejobs.streams.tunnel import cli as tunnel_cli
from livejobs.streams.worker.worker import EXIT_FAILED
from livejobs.tables import regressions
from livejobs.tables.jobs import JobRecord
from livejobs.tables.states import JobState

TOP = Path(__file__).resolve().parent.parent
README = (TOP / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text of one chapter."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def example(name: str) -> bytes:
    """The JSON block behind a marker."""
    found = re.search(rf"<!-- example: {re.escape(name)} -->\n```json\n(.*?)```", README, re.DOTALL)
    assert found, name
    return found[1].encode()


def commands(at: click.Command, name: str) -> set[str]:
    """All commands below a group, by the words that call them."""
    if not isinstance(at, click.Group):
        return {name}
    return {found for word, inner in at.commands.items() for found in commands(inner, f"{name} {word}")}


@pytest.mark.parametrize(
    ("name", "drawn"),
    [("job", diagram(JOB, JobState.ABSENT)), ("regression", diagram(REGRESSION, Phase.UNKNOWN))],
)
def test_the_diagrams_are_those_of_the_tables(name: str, drawn: str) -> None:
    found = re.search(rf"<!-- states: {name} -->\n(.*?)<!-- /states -->", README, re.DOTALL)
    assert found
    assert found[1] == f"```mermaid\n{drawn}\n```\n"


@pytest.mark.parametrize("name", configuration.SECTIONS)
def test_each_key_is_in_its_table_with_its_default(name: str) -> None:
    found = re.search(rf"^\*\*`\[{name}\]`\*\*.*?\n\n(\|.*?)\n\n", section("Configuration"), re.DOTALL | re.MULTILINE)
    assert found
    rows = [[cell.strip(" `") for cell in line.split("|")[1:3]] for line in found[1].splitlines()[2:]]
    shown = {key: json.loads(default) if default else None for key, default in rows}
    assert shown == msgspec.structs.asdict(configuration.SECTIONS[name]())


def test_each_command_is_listed_and_there_are_no_others() -> None:
    listed = set(re.findall(r"^\| `(livejobs[^`]*)` \|", section("Commands"), re.MULTILINE))
    assert listed == commands(group, "livejobs") | {"livejobs-tunnel"}


def test_each_command_that_is_mentioned_exists() -> None:
    code = re.findall(r"```sh\n(.*?)```", README, re.DOTALL) + re.findall(r"`([^`\n]+)`", README)
    called = {words for text in code for words in re.findall(r"\blivejobs (?=[a-z])(topics [a-z]+|[a-z]+)", text)}
    assert called
    assert {f"livejobs {words}" for words in called} <= commands(group, "livejobs")


def test_each_flag_that_is_mentioned_exists() -> None:
    known = {flag for inner in (*group.commands.values(), tunnel_cli.command) for p in inner.params for flag in p.opts}
    code = re.findall(r"livejobs\S* .*", "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)))
    used = {flag for line in [*code, *re.findall(r"`(--[^`]+)`", README)] for flag in re.findall(r"--[a-z]+", line)}
    assert used
    assert used <= known | {"--help"}


def test_each_make_target_that_is_mentioned_exists() -> None:
    makefile = (TOP / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert {"demo", "test"} <= set(re.findall(r"\bmake ([a-z]+)", "\n".join(re.findall(r"`[^`]+`", README)))) <= targets


def test_each_exit_code_is_listed() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", section("Commands"), re.MULTILINE)}
    told = re.search(r"Exit codes:(.*?)\.\n", (group.help or "") + "\n", re.DOTALL)
    assert told
    assert listed == {int(code) for code in re.findall(r"\d+", told[1])} | {EXIT_FAILED}
    assert listed >= set(oneshot.SEVERITY)


def test_message_types_and_reject_codes_are_complete() -> None:
    assert set(re.findall(r"^\| `([a-z-]+)` \|", section("Messages"), re.MULTILINE)) == messages.TYPES
    codes = re.search(r"The code is one of (.*?);", section("What comes out"), re.DOTALL)
    assert codes
    assert set(re.findall(r"`([a-z-]+)`", codes[1])) == set(messages.REJECT_CODES)


def test_the_configuration_shown_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "livejobs.toml"
    path.write_text(text, encoding="utf-8")
    loaded = configuration.load(path, environ={})
    for name, values in tomllib.loads(text).items():
        assert values.items() <= msgspec.structs.asdict(getattr(loaded, name)).items()


@pytest.mark.parametrize("kind", ["job-live", "job-finish"])
def test_the_messages_shown_are_taken(kind: str) -> None:
    publish.checked(kind, "nightly/core_17", example(kind))


def test_the_records_shown_are_what_the_messages_give() -> None:
    finish = json.loads(example("job-finish"))
    record = json.loads(example("jobs"))
    msgspec.json.decode(example("jobs"), type=JobRecord)
    assert record["job"] == finish
    assert record["signature"] == signature.reduce(finish["fail_message"])
    assert json.loads(b"[" + messages.finish(example("job-finish")).key) == json.loads(example("jobs-key"))[1:]
    stats = json.loads(example("regression-stats"))
    regressions.decode(example("regression-stats"))
    assert list(stats) == [field.encode_name for field in msgspec.structs.fields(regressions.StatsRecord)]
    assert stats["signatures"] == {record["signature"]: 1}
    reject = json.loads(example("job-rejects-headers"))
    with pytest.raises(messages.Reject) as refused:
        messages.live(json.dumps(json.loads(example("job-live")) | {"cycles": 5}).encode())
    assert reject["__streams.errors.exception"] == refused.value.code
    assert reject["__streams.errors.message"] == refused.value.message


def test_each_file_that_is_linked_exists() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (TOP / link).exists(), link
