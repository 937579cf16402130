"""What is installed is what the locks pin, with hashes; they hold all that pyproject.toml wants, and no more. Offline."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
WANTED = {
    "requirements.lock": [*PROJECT["project"]["dependencies"], *(line for lines in EXTRAS.values() for line in lines)],
    "worker.lock": [*PROJECT["project"]["dependencies"], *EXTRAS["worker"]],
    "bench.lock": [*PROJECT["project"]["dependencies"], *EXTRAS["worker"], *PROJECT["dependency-groups"]["bench"]],
}
"""What each lock is resolved from."""
ENTRY = re.compile(r"([a-z0-9-]+)==([^ ;\\]+)(?: ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


def pins(name: str) -> dict[str, str]:
    """Package -> version. Each line of the lock is one with hashes, or a comment."""
    text = (TOP / "deploy" / name).read_text(encoding="utf-8")
    left = ENTRY.sub("", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    assert left == ""
    found = ENTRY.findall(text)
    assert found
    return {package: version for package, version, _ in found}


def closure(wanted: Iterable[str], *, here: bool) -> Iterator[Requirement]:
    """All that is needed, as the packages that are installed say; `here`: on this machine, else on any one."""
    queue = [(Requirement(line), "") for line in wanted]
    seen = set()
    while queue:
        requirement, extra = queue.pop()
        if here and requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        yield requirement
        for extra in ("", *requirement.extras):
            name = canonicalize_name(requirement.name)
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                lines = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue  # not for this machine, or only in another lock
            inner = map(Requirement, lines)
            # A requirement of an extra says so in its marker, which no other place may fulfil.
            queue += [(one, extra) for one in inner if extra or "extra ==" not in str(one.marker)]


@pytest.mark.parametrize("name", sorted(WANTED))
def test_a_lock_holds_all_that_is_wanted_with_hashes(name: str) -> None:
    locked = pins(name)
    for requirement in closure(WANTED[name], here=True):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, str(requirement)


def test_a_lock_holds_nothing_else() -> None:
    assert set(pins("requirements.lock")) <= {
        canonicalize_name(one.name) for one in closure(WANTED["requirements.lock"], here=False)
    }


@pytest.mark.parametrize("name", sorted(WANTED))
def test_the_locks_agree(name: str) -> None:
    all_of_them = pins("requirements.lock")
    bench = {Requirement(line).name for line in PROJECT["dependency-groups"]["bench"]}
    for package, version in pins(name).items():
        assert package in bench or all_of_them[package] == version


def test_this_environment_is_the_locked_one() -> None:
    locked = pins("requirements.lock")
    for requirement in closure(WANTED["requirements.lock"], here=True):
        name = canonicalize_name(requirement.name)
        assert metadata.version(name) == locked[name]


def test_what_builds_it_is_locked() -> None:
    locked = pins("requirements.lock")
    for requirement in map(Requirement, PROJECT["build-system"]["requires"]):
        assert locked[requirement.name] in requirement.specifier


@pytest.mark.parametrize("name", ["Makefile", "deploy/Dockerfile", ".ci/run"])
def test_nothing_is_installed_without_hashes(name: str) -> None:
    """But for livejobs itself, which brings nothing with it."""
    text = (TOP / name).read_text(encoding="utf-8").replace("\\\n", "")
    installs = re.findall(r"pip (?:install|wheel|download)\b[^&;|\n]*", text)
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs), installs
    assert len(installs) == text.count("pip install") + text.count("pip wheel") + text.count("pip download")
    fetched = re.findall(r"\b(?:npm (?:install|ci|exec)|npx|curl|wget|uv (?:add|sync|tool)|pip3|easy_install)\b[^&;|\n]*", text)
    assert all(line.startswith("npm install --package-lock-only ") for line in fetched), fetched


@pytest.mark.parametrize("name", sorted(WANTED))
def test_no_lock_names_an_address(name: str) -> None:
    assert "://" not in (TOP / "deploy" / name).read_text(encoding="utf-8")
