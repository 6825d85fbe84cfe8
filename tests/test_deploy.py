"""The deployment templates fit the code that they deploy."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from asof.cli import COMMANDS
from asof.serving.limits import PREFIX, Limits

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def _objects() -> dict[str, Any]:
    documents = [d for path in MANIFESTS for d in yaml.safe_load_all(path.read_text())]
    return {d["kind"]: d for d in documents}


def _container() -> Any:
    return _objects()["Deployment"]["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.yaml")), ids=lambda p: p.name)
def test_templates_are_yaml(path: Path) -> None:
    """Every template is a sequence of YAML mappings."""
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(path.read_text()))


def test_kustomization_names_every_manifest() -> None:
    """``kubectl apply -k`` applies all manifests that there are."""
    named = _objects()["Kustomization"]["resources"]

    assert sorted([*named, "kustomization.yaml"]) == [p.name for p in MANIFESTS]


def test_manifests_agree_on_names() -> None:
    """Selectors, labels, ports, volumes and claims refer to things that exist."""
    objects = _objects()
    pod = objects["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v]

    assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert claims == [objects["PersistentVolumeClaim"]["metadata"]["name"]]
    assert {m["name"] for m in _container()["volumeMounts"]} == {v["name"] for v in pod["spec"]["volumes"]}
    assert objects["Service"]["spec"]["ports"][0]["targetPort"] == _container()["ports"][0]["name"]


def test_probes_ask_the_right_questions() -> None:
    """Readiness asks for Redis and contract, liveness and startup only whether the process works."""
    paths = {
        name: _container()[name]["httpGet"]["path"] for name in ("readinessProbe", "livenessProbe", "startupProbe")
    }

    assert paths == {"readinessProbe": "/readyz", "livenessProbe": "/livez", "startupProbe": "/livez"}
    assert {"requests", "limits"} <= set(_container()["resources"])


def test_limits_in_the_manifest_exist() -> None:
    """Every ``ASOF_SERVE_*`` variable is a limit that the service knows, and pods outlive their draining."""
    given = {e["name"]: e.get("value") for e in _container()["env"]}
    known = {PREFIX + f.name.upper() for f in fields(Limits)}
    grace = _objects()["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]

    assert {name for name in given if name.startswith(PREFIX)} <= known
    assert grace > float(given["ASOF_SERVE_DRAIN"]) + Limits().shutdown


def test_secrets_are_not_written_down() -> None:
    """The address of Redis comes from a secret."""
    redis = next(e for e in _container()["env"] if e["name"] == "ASOF_REDIS")

    assert set(redis) == {"name", "valueFrom"}


def test_image_copies_what_exists() -> None:
    """Every path that the Containerfile copies is in the project, but for the exported Bento."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    sources = {source for line in lines for source in line.split()}

    assert {s for s in sources if not (ROOT / s).exists()} <= {"deploy/bento"}


def test_image_runs_without_rights() -> None:
    """The image's user and the pod's are the same, and not root."""
    user = re.search(r"^USER (\d+)$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    context = _objects()["Deployment"]["spec"]["template"]["spec"]["securityContext"]

    assert user is not None
    assert int(user.group(1)) == context["runAsUser"] > 0
    assert context["runAsNonRoot"] is True


def test_pipeline_uses_verbs_that_exist() -> None:
    """The CI template runs verbs of the command line."""
    named = re.findall(r"asof (\w+)", (DEPLOY / "ci" / "github-actions.yaml").read_text())

    assert named
    assert set(named) <= set(COMMANDS)
