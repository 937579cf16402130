"""The OpenAPI document holds for a real service: schemathesis asks it whatever the document allows, and what it does not."""

import json
from collections.abc import Iterator

import pytest
import schemathesis
from harness import Site
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from web import TOKEN, Web, tokenfile

from livejobs.streams.kafka.broker import Broker
from livejobs.streams.web import openapi

EXAMPLES = 40
schema = schemathesis.openapi.from_dict(json.loads(openapi.document())).exclude(path="/api/v1/events")


@pytest.fixture(scope="module")
def web(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with Site(broker.bootstrap, tmp_path_factory.mktemp("openapi")) as site:
        site.start().ready()
        site.send("regr-start", "series/1", {"submitted": 2, "project": "p"})
        site.send("job-live", "series/1", {"uniqueid": "1", "result": "live", "host": "h", "seed": "1"})
        site.stats("series/1", site.send("job-finish", "series/1", {"uniqueid": "2", "result": "fail", "runtime_ms": 5, "cycles": 7}))
        with Web(site, tokenfile=tokenfile(site)) as running:
            yield running.with_token().ready()


@pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")  # schemathesis does
@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
def test_what_the_document_says_holds(case: schemathesis.Case, web: Web) -> None:
    response = case.call(base_url=f"http://127.0.0.1:{web.port}", headers={"Authorization": f"Bearer {TOKEN}"})
    # A cursor, or what fits which list, is more than a schema can say.
    case.validate_response(response, excluded_checks=[positive_data_acceptance])
