"""A broker as a site should run it: logins over TLS, a certificate of each client, ACLs. And what clients need to get in.

Certificates and passwords are made anew for each run; `openssl` makes the former.
"""

import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import Site, WorkerProcess, toml

from livejobs.streams import config as configuration
from livejobs.streams.config import Config
from livejobs.streams.kafka.broker import Broker, fetch_jars, find_java, free_port

SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
ADMIN = "admin"
"""May do anything."""
STRANGER = "stranger"
"""Has a password and a certificate, and no right."""
ROLES = ("publisher", "worker", "viewer", "verifier", "operator")
"""Users named after the role that `deploy/acls.sh` may give them."""


class Authority:
    """A certificate authority in a directory: `cafile` is what its clients trust."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            raise RuntimeError("no openssl in PATH: these tests make certificates with it")
        folder.mkdir(parents=True)
        self.folder = folder
        self.cafile, self._key = self._make("ca", "/CN=an authority of the tests", "basicConstraints=critical,CA:TRUE")

    def issue(self, name: str, *, alternatives: str = "") -> tuple[Path, Path]:
        """A certificate for CN=`name` and its key; a server's has its `alternatives`, such as IP:127.0.0.1."""
        extensions = ["basicConstraints=CA:FALSE", *([f"subjectAltName={alternatives}"] if alternatives else [])]
        return self._make(name, f"/CN={name}", *extensions, issuer=["-CA", str(self.cafile), "-CAkey", str(self._key)])

    def _make(self, name: str, subject: str, *extensions: str, issuer: Sequence[str] = ()) -> tuple[Path, Path]:
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", subject, "-keyout", str(key), "-out", str(certificate), *issuer]
        command += [part for extension in extensions for part in ("-addext", extension)]
        subprocess.run(command, check=True, capture_output=True)
        return certificate, key


class SecureBroker(Broker):
    """The tests' broker with two more doors, both on 127.0.0.1, both over TLS and asking for a certificate of `authority`'s.

    `sasl_port`: a user with a password (`passwords`). `tls_port`: the user is the certificate's CN. Whoever comes through
    them may do what an ACL says and no more, but for ADMIN. The plain door stays, for the node and for the tests
    themselves: who comes through it may do anything.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(free_port(), folder / "data")
        self.folder = folder
        self.authority, self.foreign = Authority(folder / "authority"), Authority(folder / "foreign")
        self.passwords = {user: secrets.token_urlsafe(12) for user in (ADMIN, STRANGER, *ROLES)}
        self.sasl_port, self.tls_port = free_port(), free_port()
        certificate, key = self.authority.issue("broker", alternatives="IP:127.0.0.1")
        self._keystore = folder / "broker-store.pem"
        self._keystore.write_text(key.read_text() + certificate.read_text())
        for user in self.passwords:
            self.authority.issue(user)
        self.foreign.issue(ADMIN)

    def login(self, user: str, mechanism: str | None = "SCRAM-SHA-512") -> dict[str, Any]:
        """The keys of `[kafka]` with which a user gets in; without a mechanism by the certificate alone."""
        folder = self.authority.folder
        tls = {"cafile": str(self.authority.cafile), "certfile": f"{folder}/{user}.pem", "keyfile": f"{folder}/{user}.key"}
        if mechanism is None:
            return {"brokers": f"127.0.0.1:{self.tls_port}", "protocol": "SSL", **tls}
        password = self.folder / f"{user}.password"
        password.write_text(self.passwords[user] + "\n")
        sasl = {"mechanism": mechanism, "username": user, "passwordfile": str(password)}
        return {"brokers": f"127.0.0.1:{self.sasl_port}", "protocol": "SASL_SSL", **sasl, **tls}

    def acls(self, *arguments: str) -> str:
        """What `deploy/acls.sh` prints; it runs Kafka's own tool, through the plain door."""
        program = self.folder / "kafka-acls"
        flags = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto"
        tool = f"'{find_java()}' {flags} -cp '{fetch_jars()}/*' org.apache.kafka.tools.AclCommand"
        program.write_text(f'#!/bin/sh\nexec {tool} "$@"\n')
        program.chmod(0o700)
        script = Path(__file__).resolve().parent.parent / "deploy" / "acls.sh"
        command = [str(script), "--bootstrap", self.bootstrap, *arguments]
        done = subprocess.run(command, env={"KAFKA_ACLS": str(program)}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _settings(self) -> dict[str, str]:
        own = super()._settings()
        doors = {"INNER": self.sasl_port, "OUTER": self.tls_port}
        listeners = [f"{name}://127.0.0.1:{port}" for name, port in doors.items()]
        tls = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.cafile),
            "ssl.client.auth": "required",
        }
        package = "org.apache.kafka.common.security"
        users = " ".join(f'user_{user}="{password}"' for user, password in self.passwords.items())
        logins = dict.fromkeys(SCRAM, f"{package}.scram.ScramLoginModule required;")
        logins["PLAIN"] = f"{package}.plain.PlainLoginModule required {users};"
        return {
            **own,
            **{f"listener.name.{door.lower()}.{key}": value for door in doors for key, value in tls.items()},
            **{f"listener.name.inner.{name.lower()}.sasl.jaas.config": login for name, login in logins.items()},
            "listeners": ",".join([own["listeners"], *listeners]),
            "advertised.listeners": ",".join([own["advertised.listeners"], *listeners]),
            "listener.security.protocol.map": own["listener.security.protocol.map"] + ",INNER:SASL_SSL,OUTER:SSL",
            "listener.name.inner.sasl.enabled.mechanisms": ",".join(logins),
            "listener.name.outer.ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            "super.users": f"User:ANONYMOUS;User:{ADMIN}",
        }

    def _format_options(self) -> list[str]:
        made = [f"{name}=[name={user},password={word}]" for name in SCRAM for user, word in self.passwords.items()]
        return [part for one in made for part in ("--add-scram", one)]


class SecureSite(Site):
    """A site whose workers and commands come in as users; its own reader and producer go through the plain door."""

    def __init__(self, broker: SecureBroker, folder: Path, sigs: dict[str, Any] | None = None) -> None:
        super().__init__(broker.bootstrap, folder, sigs, create=False)
        self._plain = self._sections["kafka"]

    def file(self, name: str, login: dict[str, Any]) -> Path:
        """A configuration file for who gets in with `login`."""
        path = self.folder / f"{name}.toml"
        path.write_text(toml({**self._sections, "kafka": {**self._plain, **login}}))
        return path

    def config_of(self, login: dict[str, Any]) -> Config:
        """The same, read."""
        return configuration.load(self.file("read", login), environ={})

    def start_as(self, login: dict[str, Any], name: str = "worker") -> WorkerProcess:
        """Start a worker that gets in with `login`."""
        self._sections["kafka"] = {**self._plain, **login}
        return self.start(name)
