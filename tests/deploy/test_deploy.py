"""The files of `deploy/`, as far as they can be checked without an engine: syntax, schemas, names of what there is."""

import ast
import inspect
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml
from packaging.requirements import Requirement

from embedgate import config
from embedgate.core import errors
from embedgate.core.types import CacheStats, TierStats
from embedgate.observe import metrics
from embedgate.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DEFAULTS = Settings()
OF_PROMETHEUS = {"up": {"job", "instance"}}
"""Metrics that Prometheus makes itself."""
ADDED = {"job", "instance"}
"""Labels that it adds to every metric."""


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def exported() -> dict[str, set[str]]:
    """The labels of every metric that a gateway exports, by the name of its samples."""
    tier = TierStats()
    found: dict[str, set[str]] = {}
    for family in metrics.families(CacheStats(tier, tier, 0, 0, 0, 0)):
        labels: set[str] = set(getattr(family, "_labelnames"))  # noqa: B009 - the library has no public name for it
        if family.type == "histogram":
            found |= {f"{family.name}_bucket": {*labels, "le"}}
            found |= {f"{family.name}_{end}": labels for end in ("sum", "count")}
        else:
            found[family.name + ("_total" if family.type == "counter" else "")] = labels
    return found


def alerts() -> list[dict[str, Any]]:
    return [rule for group in load("prometheus/alerts.yaml")["groups"] for rule in group["rules"]]


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana" / "dashboards" / "embedgate.json").read_text(encoding="utf-8"))


def targets() -> Iterator[dict[str, str]]:
    for panel in dashboard()["panels"]:
        yield from panel.get("targets", ())


def selectors(node: Any) -> Iterator[Any]:
    """Every selector of an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, str):
            yield from selectors(child)
    for child in getattr(node, "args", ()) or ():
        yield from selectors(child)


def check(expression: str, said: str) -> None:
    """The expression is one, and its metrics, their labels, those it sums by and those in the text are exported."""
    known = exported() | OF_PROMETHEUS
    parsed = promql_parser.parse(expression.replace("$__rate_interval", "5m"))
    labels = set(ADDED)
    found = list(selectors(parsed))
    assert len(found) == len(re.findall(r"\b(?:embedgate_\w+|up)\b", expression)), expression
    for selector in found:
        assert selector.name in known, f"no metric {selector.name}: {expression}"
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= known[selector.name] | ADDED, expression
        labels |= known[selector.name]
    for listed in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {name.strip() for name in listed.split(",")} <= labels, expression
    assert set(re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", said)) <= labels, said


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_is_exported(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "description"}
    check(rule["expr"], " ".join(rule["annotations"].values()))


def test_alerts_name_outcomes_that_there_are() -> None:
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.GatewayError)]
    (outcomes,) = (found for rule in alerts() for found in re.findall(r'outcome=~"([^"]*)"', rule["expr"]))
    assert set(outcomes.split("|")) <= {kind.code for kind in kinds}


def test_the_dashboard_asks_for_what_is_exported() -> None:
    asked = list(targets())
    assert len(asked) > 20
    for target in asked:
        check(target["expr"], target["legendFormat"])
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
    (source,) = load("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert {target["datasource"]["uid"] for panel in dashboard()["panels"] for target in panel.get("targets", ())} == {
        source["uid"]
    }


def test_wrong_names_would_be_found() -> None:
    for expression, said in (
        ("embedgate_nothing == 0", ""),
        ('embedgate_requests_total{model="x"}', ""),
        ("sum by (provider) (embedgate_requests_total)", ""),
        ("embedgate_requests_total", "{{provider}}"),
    ):
        with pytest.raises(AssertionError):
            check(expression, said)
    with pytest.raises(ValueError, match="."):
        promql_parser.parse("sum by (")


@pytest.mark.parametrize("name", ["configmap", "secret.example", "service", "statefulset"])
def test_manifests_are_of_the_schema_of_kubernetes(name: str) -> None:
    kubernetes_validate.validate(load(f"kubernetes/{name}.yaml"), "1.34", strict=True)


def container() -> Any:
    (found,) = load("kubernetes/statefulset.yaml")["spec"]["template"]["spec"]["containers"]
    return found


def test_manifests_agree_with_each_other_and_with_the_settings() -> None:
    stateful, service = load("kubernetes/statefulset.yaml"), load("kubernetes/service.yaml")
    pod = stateful["spec"]["template"]
    assert stateful["spec"]["replicas"] == 1
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert stateful["spec"]["serviceName"] == service["metadata"]["name"]
    (port,) = container()["ports"]
    assert port["containerPort"] == service["spec"]["ports"][0]["port"] == DEFAULTS.server.port
    assert {container()[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")} == {"http"}
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    claims = {claim["metadata"]["name"] for claim in stateful["spec"]["volumeClaimTemplates"]}
    assert {mount["name"] for mount in container()["volumeMounts"]} == volumes | claims
    listed = load("kubernetes/kustomization.yaml")["resources"]
    assert sorted(listed) == sorted(
        path.name
        for path in (DEPLOY / "kubernetes").glob("*.yaml")
        if path.name not in ("kustomization.yaml", "secret.example.yaml")
    )


def test_the_settings_of_the_manifest_are_settings(tmp_path: Path) -> None:
    file = tmp_path / "embedgate.toml"
    file.write_text(load("kubernetes/configmap.yaml")["data"]["embedgate.toml"], encoding="utf-8")
    assert config.load(file, environment={}).settings.log.format == "json"


def service_lines() -> list[tuple[str, str]]:
    lines = (DEPLOY / "systemd" / "embedgate.service").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return [(name, value) for name, _, value in pairs]


def test_whoever_stops_the_gateway_lets_it_drain() -> None:
    drain_s = DEFAULTS.server.drain_timeout_s
    assert float(dict(service_lines())["TimeoutStopSec"]) > drain_s
    assert load("kubernetes/statefulset.yaml")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain_s
    assert float(load("compose.yaml")["services"]["gateway"]["stop_grace_period"].removesuffix("s")) > drain_s


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze, which checks units, is not here")
def test_the_unit_is_one_of_systemd(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "embedgate.service").read_text(encoding="utf-8")
    for said, there in (("/opt/embedgate/bin/embedgate", "/bin/true"), ("User=embedgate", ""), ("Group=embedgate", "")):
        assert said in text
        text = text.replace(said, there)
    (tmp_path / "embedgate.service").write_text(text, encoding="utf-8")
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "embedgate.service")], capture_output=True, text=True
    )
    assert (found.returncode, found.stderr) == (0, "")


def variables() -> set[str]:
    """Every variable of the gateway that is set somewhere in `deploy/`."""
    files = [path for path in DEPLOY.rglob("*") if path.is_file()]
    return {name for path in files for name in re.findall(r"EMBEDGATE_\w+", path.read_text(encoding="utf-8"))}


def test_variables_are_those_of_settings() -> None:
    found = variables()
    assert {"EMBEDGATE_DATA_DIR", "EMBEDGATE_SERVER__HOST"} <= found
    for name in found - {"EMBEDGATE_DATA_DIR", "EMBEDGATE_CONFIG"}:
        section: Any = DEFAULTS
        for part in name.removeprefix("EMBEDGATE_").lower().split("__"):
            section = getattr(section, part)


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [
        (word, rest.strip()) for line in lines if line and line[0] != "#" for word, _, rest in [line.partition(" ")]
    ]


def test_the_image_is_built_from_what_is_there_and_runs_without_rights() -> None:
    found = instructions()
    for word, rest in found:
        command = rest.partition("CMD ")[2] if word == "HEALTHCHECK" else rest
        if word in ("RUN", "CMD", "ENTRYPOINT", "HEALTHCHECK"):  # the exec form: a shell would not pass signals on
            assert all(isinstance(part, str) for part in ast.literal_eval(command)), command
        if word == "COPY" and "--from" not in rest:
            *sources, _ = rest.split()
            assert [source for source in sources if not (ROOT / source).exists()] == []
    last = max(n for n, (word, _) in enumerate(found) if word == "FROM")
    final = dict(found[last:])
    assert final["USER"] == "10001:10001"
    assert final["STOPSIGNAL"] == "SIGTERM"
    assert final["EXPOSE"] == str(DEFAULTS.server.port)
    allowed = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    assert {"pyproject.toml", "README.md", "LICENSE", "src", "deploy/*.lock"} == set(allowed)


def pinned(file: Path) -> dict[str, set[str]]:
    """The hashes of each pinned version of a lock file."""
    found: dict[str, set[str]] = {}
    name = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([\w.-]+==[^ ;]+)", line):
            name = match[1]
        found.setdefault(name, set()).update(re.findall(r"--hash=(\S+)", line))
    return found


def test_the_image_has_the_versions_that_are_tested() -> None:
    """The lock files of the image are parts of that of the tests, with all that the package asks for."""
    tested = pinned(ROOT / "requirements.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(part for name in ("local", "minilm", "tokens", "bedrock")
                                         for part in project["optional-dependencies"][name])]  # fmt: skip
    for name in ("requirements.lock", "build.lock"):
        found = pinned(DEPLOY / name)
        assert found
        assert {pin: hashes for pin, hashes in found.items() if tested.get(pin) != hashes} == {}
    names = {pin.partition("==")[0] for pin in pinned(DEPLOY / "requirements.lock")}
    assert {Requirement(each).name for each in asked} - names == {"embedgate"}
    assert "hatchling" in {pin.partition("==")[0] for pin in pinned(DEPLOY / "build.lock")}


def test_the_compose_file_mounts_what_is_there() -> None:
    compose = load("compose.yaml")
    gateway = compose["services"]["gateway"]
    assert gateway["read_only"] is True
    assert (ROOT / gateway["build"]["dockerfile"]).is_file()
    for service in compose["services"].values():
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert (DEPLOY / source).is_dir() if source.startswith("./") else source in compose["volumes"]
    (scrape,) = load("prometheus/prometheus.yaml")["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [f"gateway:{DEFAULTS.server.port}"]}]
    assert load("prometheus/prometheus.yaml")["rule_files"] == ["alerts.yaml"]
