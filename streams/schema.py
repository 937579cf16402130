"""JSON Schemas of all that goes in and out, an AsyncAPI document of the topics, an OpenAPI one: from the code's types.

`python -m livejobs.streams.schema [--check] [DIR]` writes them, or exits 1 when the files there are not what it would
write. JSON Schema draft 7, because that is what AsyncAPI's own schemas are; nothing is referred to, each file stands
alone. Inputs allow unknown fields (they are kept), outputs have no others.
"""

import argparse
import ast
import inspect
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from livejobs.streams.core import messages
from livejobs.streams.core.signature import BYTES_MAX as SIGNATURE_BYTES_MAX
from livejobs.streams.web import openapi
from livejobs.tables.jobs import STATE_HEADER, JobPrivate, JobRecord
from livejobs.tables.regressions import Ending, StatsPrivate, StatsRecord

Schema = dict[str, Any]

CONTRACT_VERSION = "1.0.0"
"""Of the messages, not of the program: the first number changes when a consumer would break."""
DRAFT = "http://json-schema.org/draft-07/schema#"
TIMES = frozenset({"first_seen", "updated", "heard", "first_start", "last_finish"})
"""Fields of outputs that hold a time, always written in the same way."""
SIGNED = frozenset({"remaining", "duration_ms"})
"""The only numbers of outputs that can be negative: more jobs than expected, a farm's clock that went back."""
TIME_PATTERN = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"
INPUTS: tuple[type, ...] = (messages.Job, messages.RegressionFields, messages.TankFields)
OUTPUTS: tuple[type, ...] = (JobRecord, JobPrivate, StatsRecord, StatsPrivate, Ending)
KEY_FIELDS = ("start_time", "category", "jobdir", "seed", "config")


# ---------------------------------------------------------------------------------------------------- from the types


def _descriptions(struct: type) -> dict[str, str]:
    """Field -> the text that stands below it in the source."""
    found: dict[str, str] = {}
    for kind in reversed(struct.__mro__):  # inherited fields, too
        if issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct:
            found |= _own_descriptions(kind)
    return found


def _own_descriptions(struct: type) -> dict[str, str]:
    """Those of the fields that the class itself adds."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    found: dict[str, str] = {}
    field = None
    for node in getattr(body, "body", ()):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            field = node.target.id
        elif field and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found[field], field = " ".join(str(node.value.value).split()), None
        else:
            field = None
    return found


def _types(*structs: type) -> dict[str, Schema]:
    """Each type's own schema, flat; only `Ending` is still referred to by name."""
    _, made = msgspec.json.schema_components(structs, ref_template="{name}")
    for struct in structs:
        schema = made[struct.__name__]
        texts = _descriptions(struct)
        del schema["title"]
        names = {info.encode_name: info.name for info in msgspec.structs.fields(struct)}
        optional = bool(struct.__struct_config__.omit_defaults)  # type: ignore[attr-defined]
        for name, field in schema["properties"].items():
            given = _simple(field, nullable=not (optional and "default" in field))
            if names[name] in texts:
                given["description"] = texts[names[name]]
            schema["properties"][name] = given
        if not schema["required"]:
            del schema["required"]
        schema["additionalProperties"] = struct in INPUTS
    return made


def _simple(field: Schema, *, nullable: bool) -> Schema:
    """A field's schema in fewer words: types in one list, draft 7's tuples, no default of null."""
    field = {name: value for name, value in field.items() if name != "default" or value is not None}
    options = [_simple(option, nullable=True) for option in field.pop("anyOf", ())]
    if not nullable:
        options = [option for option in options if option != {"type": "null"}]
    if options and all(set(option) == {"type"} for option in options):
        names = [option["type"] for option in options]
        field["type"] = names[0] if len(names) == 1 else names
    elif len(options) == 1:
        field |= options[0]
    elif options and options[-1] == {"type": "null"} and "type" in options[0]:
        field |= {**options[0], "type": [options[0]["type"], "null"]}
    elif options:
        field["anyOf"] = options
    if "prefixItems" in field:
        field["items"] = field.pop("prefixItems")
        field["additionalItems"] = False
    elif isinstance(field.get("items"), dict):
        field["items"] = _simple(field["items"], nullable=True)
    return field


def _output(schema: Schema, made: dict[str, Schema]) -> Schema:
    """What holds of all that we write: the form of times, the sign of numbers; `Ending` in place of its name."""
    for name, field in schema["properties"].items():
        kinds = field.get("type", ())
        if name in TIMES:
            field |= {"format": "date-time", "pattern": TIME_PATTERN}
        elif ("integer" in kinds or "number" in kinds) and name not in SIGNED:
            field["minimum"] = 0
        if field.get("$ref") == "Ending":
            del field["$ref"]
            field |= {**_output(made["Ending"], made), **field}
    return schema


def _numbers(schema: Schema) -> Schema:
    """The numbers of an input, as `messages` takes them: 3.0 is an integer to JSON Schema, too."""
    for field in schema["properties"].values():
        if field.get("type") == ["integer", "number", "null"]:
            field |= {"type": ["integer", "null"], "minimum": 0, "maximum": messages.NUMBER_MAX}
    return schema


# ---------------------------------------------------------------------------------------------------- the schemas


def schemas() -> dict[str, Schema]:
    """Name -> JSON Schema, without `$schema` and `$id`."""
    made = _types(*INPUTS, *OUTPUTS)
    job = _numbers(made["Job"])
    for name in ("start_time", "finish_time"):
        job["properties"][name]["format"] = "date-time"
    fields = _numbers(made["RegressionFields"])
    return {
        **_job_inputs(job),
        "job-events-key": _name("Key of a message: the regression's name, as UTF-8 text (not JSON)."),
        "regr-start": _body(fields, "Body of a regr-start; may be empty."),
        "regr-update": _body(fields, "Body of a regr-update; may be empty."),
        "regr-finish": _body(fields, "Body of a regr-finish; may be empty."),
        "regr-tank": _body(made["TankFields"], "Body of a regr-tank; empty: tank. `tank` false: untank."),
        "jobs-key": _jobs_key(),
        "jobs": _jobs(made, job),
        "jobs-state": _output(made["JobPrivate"], made),
        "regression-stats-key": _name("Key of a record: the regression's name, as UTF-8 text (not JSON)."),
        "regression-stats": _stats(made),
        "regression-stats-state": _output(made["StatsPrivate"], made),
        "job-rejects-headers": _reject_headers(),
    }


def _name(description: str) -> Schema:
    return {
        "description": f"{description} At most {messages.KEY_BYTES_MAX} bytes.",
        "type": "string",
        "minLength": 1,
        "maxLength": messages.KEY_BYTES_MAX,
    }


def _body(schema: Schema, description: str) -> Schema:
    limit = f"At most {messages.FIELDS_BYTES_MAX // 1024} KiB."
    return {**schema, "description": f"{description} {limit} Null is the same as absent.", "type": ["object", "null"]}


def _job_inputs(job: Schema) -> dict[str, Schema]:
    properties = job["properties"]
    given = {name: {"type": "string"} for name in ("start_time", "config")}
    named = {name: {"type": "string", "minLength": 1} for name in ("category", "jobdir")}
    identity = [
        {"properties": {"uniqueid": {"type": "string", "minLength": 1}}, "required": ["uniqueid"]},
        {"properties": {**given, **named, "seed": {"type": ["string", "number"]}}, "required": list(KEY_FIELDS)},
    ]
    nothing = {name: {**properties[name], "maximum": 0} for name in ("compute_ms", "runtime_ms", "cycles")}
    nothing["fail_message"] = {**properties["fail_message"], "maxLength": 0}
    size = f"At most {messages.JOB_BYTES_MAX // 1024} KiB; a non-empty `uniqueid` or all of {', '.join(KEY_FIELDS)}."
    result = properties["result"]

    def of(what: str, **changed: Schema) -> Schema:
        return {
            **job,
            "description": f"{what} {size} Unknown fields are kept.",
            "properties": {**properties, **changed},
            "required": ["result"],
            "anyOf": identity,
        }

    live = of(
        "Body of a job-live: the job started, or an update of it.",
        result={**result, "type": "string", "const": "live"},
        **nothing,
    )
    finish = of(
        "Body of a job-finish: the job ended.",
        result={**result, "type": "string", "enum": ["fail", "pass", "skip"]},
        bucket={**properties["bucket"], "maxLength": SIGNATURE_BYTES_MAX},
    )
    batch = f"Body of a batch-job-finish: bodies of job-finish. At most {messages.MESSAGE_BYTES_MAX // 1024} KiB."
    return {
        "job-live": live,
        "job-finish": finish,
        "batch-job-finish": {"description": batch, "type": "array", "items": finish},
    }


def _jobs_key() -> Schema:
    name, text, some = ({"type": "string", **more} for more in ({"minLength": 1}, {}, {"minLength": 1}))
    shapes = [[name, some], [name, text, some, some, text, text]]
    return {
        "description": "Key of a job's record, canonical JSON (UTF-8, no spaces, mandatory escapes only): regression "
        f"and uniqueid, or regression, {', '.join(KEY_FIELDS)}.",
        "type": "array",
        "oneOf": [{"items": shape, "minItems": len(shape), "maxItems": len(shape)} for shape in shapes],
    }


def _jobs(made: dict[str, Schema], job: Schema) -> Schema:
    schema = _output(made["JobRecord"], made)
    properties = schema["properties"]
    text = properties["job"].get("description", "")
    properties["job"] = {**job, "description": text}
    properties["signature"] |= {"minLength": 1, "maxLength": SIGNATURE_BYTES_MAX}
    return {
        **schema,
        "if": {"properties": {"result": {"const": "fail"}}},
        "then": {"required": ["signature"]},
        "else": {"properties": {"signature": False, "verdict": False}},
    }


def _stats(made: dict[str, Schema]) -> Schema:
    schema = _output(made["StatsRecord"], made)
    schema["properties"]["pass_rate"]["maximum"] = 1
    schema["properties"]["signatures"]["additionalProperties"] = {"type": "integer", "minimum": 1}
    schema["properties"]["fields"]["additionalProperties"] = True
    return schema


def _reject_headers() -> Schema:
    codes = [{"const": code, "description": text} for code, text in sorted(messages.REJECT_CODES.items())]
    number = {"type": "string", "pattern": "^[0-9]+$"}
    added: dict[str, Schema] = {
        "__streams.errors.exception": {"description": "Reject code.", "type": "string", "oneOf": codes},
        "__streams.errors.message": {"description": "One line that names the field.", "type": "string"},
        "__streams.errors.topic": {"description": "Topic that the message came from.", "type": "string"},
        "__streams.errors.partition": {"description": "Its partition there.", **number},
        "__streams.errors.offset": {"description": "Its offset there.", **number},
    }
    index = {"description": "Of one bad job in a batch-job-finish, whose bytes are the value: its place.", **number}
    return {
        "description": "Headers of a rejected message: those it had, and these, as UTF-8. Key and value: as received.",
        "type": "object",
        "properties": {**added, "livejobs.batch.index": index},
        "required": list(added),
        "additionalProperties": True,
    }


# ---------------------------------------------------------------------------------------------------- AsyncAPI


def asyncapi(found: dict[str, Schema]) -> Schema:
    """The AsyncAPI 3.0 document of the worker: it receives `job-events` and sends the other three."""
    types = sorted(messages.TYPES)
    state = {
        name: _message(f"A record of {name}", name, f"{name}-key", _state_header(name))
        for name in ("jobs", "regression-stats")
    }
    inputs = {kind: _message(kind, kind, "job-events-key", _type_header(kind)) for kind in types}
    reject = {
        "name": "reject",
        "title": "A rejected message",
        "headers": _ref("job-rejects-headers"),
        "payload": {"description": "The bytes as received."},
        "contentType": "application/octet-stream",
    }
    texts = {
        "job-events": (types, "What the farms publish; a regression's messages are on one partition, in order."),
        "jobs": (["jobs"], "Compacted: the current record of each job. A null value: it was pruned or dropped."),
        "regression-stats": (["regression-stats"], "Compacted: the current statistics. A null value: forgotten."),
        "job-rejects": (["reject"], "Messages that could not be taken, untouched."),
    }
    channels = {name: _channel(name, *text) for name, text in texts.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "livejobs",
            "version": CONTRACT_VERSION,
            "description": "The topics of the live-job tracker, by their default names; a configured prefix comes "
            "before each. Consumers read committed. Records are absolute: reading one twice gives the same answer.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {
            name: {
                "action": "receive" if name == "job-events" else "send",
                "channel": {"$ref": f"#/channels/{name}"},
            }
            for name in channels
        },
        "components": {"messages": {**inputs, **state, "reject": reject}, "schemas": found},
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _channel(address: str, names: Sequence[str], description: str) -> Schema:
    found = {name: {"$ref": f"#/components/messages/{name}"} for name in names}
    kafka = {"kafka": {"topic": address}}
    return {"address": address, "description": description, "messages": found, "bindings": kafka}


def _message(title: str, payload: str, key: str, headers: Schema) -> Schema:
    return {
        "name": payload,
        "title": title,
        "headers": headers,
        "payload": _ref(payload),
        "bindings": {"kafka": {"key": _ref(key)}},
    }


def _type_header(kind: str) -> Schema:
    return {"type": "object", "properties": {"type": {"type": "string", "const": kind}}, "required": ["type"]}


def _state_header(name: str) -> Schema:
    text = f"Private state, JSON text by the schema {name}-state. Consumers ignore it."
    return {"type": "object", "properties": {STATE_HEADER: {"type": "string", "description": text}}}


# ---------------------------------------------------------------------------------------------------- files


def files() -> dict[str, bytes]:
    """File name -> content; the same at every call."""
    found = schemas()
    documents = {f"{name}.json": {"$schema": DRAFT, "title": name, **schema} for name, schema in found.items()}
    documents["asyncapi.json"] = asyncapi(found)
    encode = msgspec.json.Encoder(order="sorted").encode
    texts = {name: msgspec.json.format(encode(document), indent=2) + b"\n" for name, document in documents.items()}
    return {**texts, "openapi.json": openapi.document()}


def differences(folder: Path) -> list[str]:
    """One line for each file in the folder that is not as it would be written."""
    wanted = files()
    there = {path.name: path.read_bytes() for path in folder.glob("*.json")} if folder.is_dir() else {}
    return [
        f"{folder / name}: {'missing' if name not in there else 'not known' if name not in wanted else 'out of date'}"
        for name in sorted(wanted.keys() | there.keys())
        if wanted.get(name) != there.get(name)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or check them; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m livejobs.streams.schema", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is not up to date")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, metavar="DIR", help="default: %(default)s")
    given = parser.parse_args(arguments)
    if given.check:
        lines = differences(given.folder)
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        return 1 if lines else 0
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (given.folder / name).write_bytes(content)
    return 0


FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "schema"
"""Where they are in the repository, and in an installed package."""

if __name__ == "__main__":
    sys.exit(main())
