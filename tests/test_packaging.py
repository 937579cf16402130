"""What a farm host gets: a wheel, two commands, no stream engine, and its own PyTables untouched."""

import configparser
import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from livejobs.streams.kafka.broker import KAFKA_VERSION

TOP = Path(__file__).resolve().parent.parent
FOREIGN = "MARKER = 'PyTables, not ours'\n"


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without the network from a copy: building leaves things behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, source)
    for name in ("deploy", "streams", "tables"):
        shutil.copytree(TOP / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", out, source)
    (found,) = out.glob("livejobs-*.whl")
    return found


@pytest.fixture(scope="module")
def host(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, where PyTables was before; it sees our dependencies, but not our checkout."""
    place = tmp_path_factory.mktemp("host")
    venv.create(place, with_pip=False)
    packages = next(place.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (packages / "tables").mkdir()
    (packages / "tables" / "__init__.py").write_text(FOREIGN, encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--python", place / "bin" / "python")
    run(*pip, "install", "--no-deps", "--no-index", "--ignore-installed", wheel)
    return place


def python(host: Path, code: str) -> str:
    """What the code prints, run where no checkout is in the path."""
    return run(host / "bin" / "python", "-I", "-c", code)


def test_the_wheel_holds_one_top_level_name_and_its_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"livejobs", "livejobs-0.1.0.dist-info"}
    data = (
        "acls.sh",
        "topics.toml",
        "compose.yaml",
        "Dockerfile",
        "livejobs-tunnel.service",
        "livejobs-worker.service",
        "broker/pom.xml",
        "broker/log4j2.xml",
    )
    assert {f"livejobs/deploy/{name}" for name in data} <= set(names)
    assert {"livejobs/streams/py.typed", "livejobs/tables/py.typed"} <= set(names)
    page = (
        "index.html",
        "app.js",
        "style.css",
        "vendor/preact.js",
        "vendor/htm.js",
        "vendor/uPlot.js",
        "vendor/uPlot.css",
    )
    assert {f"livejobs/streams/static/{name}" for name in page} <= set(names)
    assert any(name.endswith("LICENSE") for name in names)


@pytest.mark.parametrize("command", ["livejobs", "livejobs-tunnel"])
def test_both_commands_help(host: Path, command: str) -> None:
    assert "--help" in run(host / "bin" / command, "--help")


def test_the_host_s_own_tables_package_is_untouched(host: Path) -> None:
    (foreign,) = host.glob("lib/python*/site-packages/tables")
    assert [path.name for path in foreign.iterdir() if path.name != "__pycache__"] == ["__init__.py"]
    assert (foreign / "__init__.py").read_text(encoding="utf-8") == FOREIGN
    printed = python(host, "import tables, livejobs.tables.keys as o; print(tables.MARKER, o.__name__, o.__file__)")
    assert printed.startswith("PyTables, not ours livejobs.tables.keys")
    assert str(host) in printed


@pytest.mark.parametrize("module", ["publisher.publish", "cli", "tunnel.cli", "publisher.oneshot"])
def test_the_publisher_imports_no_stream_engine(host: Path, module: str) -> None:
    loaded = set(python(host, f"import sys, livejobs.streams.{module}; print(*sys.modules)").split())
    assert not {"aiohttp", "faust", "mode", "rocksdict", "uvloop", "structlog", "prometheus_client"} & loaded
    assert ("aiokafka" in loaded) == (module == "publisher.publish")  # a call through the tunnel does without it


def test_data_is_found_where_it_is_installed(host: Path) -> None:
    code = "from livejobs.streams import config; from livejobs.streams.kafka import topics; print(topics.wanted(config.load(environ={}))[0].name)"
    assert python(host, code) == "job-events\n"


def test_the_page_s_libraries_are_pinned_by_content_and_no_address() -> None:
    lock = json.loads((TOP / "deploy" / "page" / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert set(packages) == {f"node_modules/{name}" for name in ("axe-core", "htm", "preact", "uplot")}
    assert all(
        package["integrity"].startswith("sha512-") and "resolved" not in package for package in packages.values()
    )


def test_without_npm_livejobs_is_built_all_the_same_and_says_what_is_missing(tmp_path: Path) -> None:
    shutil.copytree(TOP / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    backend = tmp_path / "deploy" / "build_backend.py"
    done = subprocess.run([sys.executable, backend], env={"PATH": ""}, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("livejobs works, but its web page will not: no npm: install Node.js")
    assert not (tmp_path / "streams").exists()


def test_the_broker_is_of_one_version_everywhere() -> None:
    pom = ET.parse(TOP / "deploy" / "broker" / "pom.xml")  # noqa: S314  our own file
    versions = {node.text for node in pom.findall(".//{*}dependency[{*}groupId='org.apache.kafka']/{*}version")}
    compose = yaml.safe_load((TOP / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
    assert versions == {KAFKA_VERSION}
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert set(compose["services"]) == {"kafka", "topics", "web", "worker"}


@pytest.mark.parametrize("command", ["tunnel", "web", "worker"])
def test_the_services_restart_and_do_not_insist_on_a_bad_configuration(command: str) -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.read(TOP / "deploy" / f"livejobs-{command}.service", encoding="utf-8")
    service = unit["Service"]
    assert service["ExecStart"].endswith(f"livejobs {command} --config /etc/livejobs/livejobs.toml")
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "78")
    assert (service["ProtectSystem"], service["NoNewPrivileges"]) == ("strict", "yes")
