"""The kustomize renderer that the tests of the manifests use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.deploy.kustomize import Unsupported, build, digest

POD = {"containers": [{"name": "a", "image": "own/a", "envFrom": [{"configMapRef": {"name": "settings"}}]}]}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "a"},
    "spec": {"replicas": 1, "template": {"metadata": {"labels": {"app": "a"}}, "spec": POD}},
}
BASE = {
    "namespace": "space",
    "resources": ["a.yaml"],
    "labels": [{"pairs": {"part": "x"}, "includeTemplates": True}],
    "configMapGenerator": [{"name": "settings", "literals": ["A=1=2", "B=2"]}],
    "images": [{"name": "own/a", "newTag": "1"}],
}
OVERLAY: dict[str, Any] = {"resources": ["../base"]}


def write_overlay(tmp_path: Path, overlay: dict[str, Any]) -> Path:
    for name, kustomization in {"base": BASE, "overlay": overlay}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    (tmp_path / "base" / "a.yaml").write_text(yaml.safe_dump(DEPLOYMENT))
    return tmp_path / "overlay"


def render(tmp_path: Path, overlay: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    documents = {document["kind"]: document for document in build(write_overlay(tmp_path, OVERLAY | overlay))}
    return documents["Deployment"], documents["ConfigMap"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, "6ct58987ht"),
        ({"data": {"one": ""}}, "9g67k2htb6"),
        ({"data": {"two": 2, "one": "", "three": 3}}, "7757f9kkct"),
    ],
)
def test_digests_are_those_of_kustomize(data: dict[str, Any], expected: str) -> None:
    assert digest({"kind": "ConfigMap", "metadata": {}, **data}) == expected  # api/hasher/hasher_test.go


def test_a_base_gets_labels_a_namespace_image_tags_and_references_to_generated_names(tmp_path: Path) -> None:
    deployment, settings = render(tmp_path, {})
    assert settings["data"] == {"A": "1=2", "B": "2"}
    assert settings["metadata"]["name"].startswith("settings-")
    assert settings["metadata"]["namespace"] == deployment["metadata"]["namespace"] == "space"
    template = deployment["spec"]["template"]
    assert template["metadata"]["labels"] == {"app": "a", "part": "x"}
    (container,) = template["spec"]["containers"]
    assert container["image"] == "own/a:1"
    assert container["envFrom"][0]["configMapRef"]["name"] == settings["metadata"]["name"]


def test_an_overlay_merges_settings_scales_and_patches(tmp_path: Path) -> None:
    deployment, settings = render(
        tmp_path,
        {
            "configMapGenerator": [{"name": "settings", "behavior": "merge", "literals": ["B=3"]}],
            "replicas": [{"name": "a", "count": 5}],
            "patches": [
                {
                    "target": {"kind": "Deployment"},
                    "patch": "[{op: replace, path: /spec/template/spec/containers/0/name, value: b}]",
                }
            ],
        },
    )
    assert settings["data"] == {"A": "1=2", "B": "3"}
    assert deployment["spec"]["replicas"] == 5
    assert deployment["spec"]["template"]["spec"]["containers"][0]["name"] == "b"


@pytest.mark.parametrize(
    "overlay",
    [
        {"namePrefix": "x-"},
        {"patches": [{"path": "p.yaml"}]},
        {"patches": [{"target": {"kind": "Deployment"}, "patch": "[{op: add, path: /spec/a, value: 1}]"}]},
        {"patches": [{"target": {"kind": "Deployment"}, "patch": "[{op: replace, path: /spec/a, value: 1}]"}]},
        {"patches": [{"target": {"kind": "Nothing"}, "patch": "[]"}]},
        {"replicas": [{"name": "b", "count": 1}]},
        {"configMapGenerator": [{"name": "settings", "literals": ["A=1"]}]},
        {"configMapGenerator": [{"name": "other", "behavior": "merge", "literals": ["A=1"]}]},
        {"configMapGenerator": [{"name": "other", "envs": ["a.env"]}]},
        {"labels": [{"pairs": {"a": "b"}, "includeSelectors": True}]},
        {"images": [{"name": "own/a", "digest": "sha256:0"}]},
        {"resources": ["../base", "../base"]},
    ],
)
def test_unsupported_features_are_refused(tmp_path: Path, overlay: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        render(tmp_path, overlay)
