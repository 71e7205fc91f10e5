"""The cost of a request can be asked for the moment its answer is there, over a real socket."""

import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

from running import RunningGateway
from upstream import Upstream
from wire import call

MODEL = "openai/text-embedding-3-small"


def test_every_answered_request_is_told_without_a_wait(served: RunningGateway, openai_host: Upstream) -> None:
    headers = {"authorization": f"Bearer {served.key}"}

    def cost_of(number: int) -> tuple[str, str]:
        answer = call(served.url, "/v1/embeddings", {"model": MODEL, "input": f"cost of text {number}"}, headers)
        assert answer.status == 200
        request_id = answer.headers["x-request-id"]
        told = call(served.url, f"/api/v1/generation?id={request_id}", None, headers)
        assert told.status == 200, told.body
        found = json.loads(told.body, parse_float=Decimal)
        assert (found["generationId"], found["provider"], found["outcome"]) == (request_id, "openai", "ok")
        assert found["nativeTokens"]["prompt_tokens"] == answer.json["usage"]["prompt_tokens"]
        return answer.headers["x-embedgate-cost-usd"], f"{found['usage']:f}"

    with ThreadPoolExecutor(8) as callers:
        costs = list(callers.map(cost_of, range(64)))
    assert all(header == told != "0.0" for header, told in costs)


def test_an_administrator_is_told_of_anybodys_requests_a_user_of_its_own(served: RunningGateway) -> None:
    admin, user = ({"authorization": f"Bearer {key}"} for key in (served.admin_key, served.key))
    wish = {"model": "local/all-minilm-l6-v2", "input": "whose is it?"}
    of_admin, of_user = (call(served.url, "/v1/embeddings", wish, key).headers["x-request-id"] for key in (admin, user))
    asked = [(of_user, admin), (of_user, user), (of_admin, user)]
    statuses = [call(served.url, f"/v1/generation?id={each}", None, key).status for each, key in asked]
    assert statuses == [200, 200, 404]
