"""Renders manifests like kustomize, with only the features that deploy/k8s uses; others are an error. Reads files.

It follows kustomize's documentation and sources. The digests at the end of generated names are the same as kustomize's:
a test compares them with values from its sources.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

_FIELDS = {
    "apiVersion", "kind", "namespace", "labels", "resources", "configMapGenerator", "images", "replicas", "patches",
}  # fmt: skip
_CLUSTER_WIDE = {"Namespace"}
_WORKLOADS = {"Deployment", "StatefulSet"}


class Unsupported(Exception):
    """The kustomization has a field or value that this renderer does not support."""


@dataclass
class Resource:
    document: Document
    generated: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.document["kind"], self.document["metadata"]["name"]


def build(directory: Path) -> list[Document]:
    """The documents that `kustomize build DIRECTORY` prints, in another order."""
    resources = _load(directory)
    renamed = {}
    for resource in resources:
        if resource.generated:
            name = resource.document["metadata"]["name"]
            renamed[name] = f"{name}-{digest(resource.document)}"
            resource.document["metadata"]["name"] = renamed[name]
    for resource in resources:
        for reference in config_map_references(resource.document):
            reference["name"] = renamed.get(reference["name"], reference["name"])
    return [resource.document for resource in resources]


def digest(config_map: Mapping[str, Any]) -> str:
    """The suffix of a generated ConfigMap's name: ten letters of the SHA-256 of its JSON."""
    content = {"data": config_map.get("data", ""), "kind": "ConfigMap", "name": config_map["metadata"].get("name", "")}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # Go's encoding/json escapes these three, so that JSON can be embedded in HTML.
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # kustomize replaces vowels, and digits that look like them, so that suffixes are not words.
    return hashlib.sha256(text.encode()).hexdigest()[:10].translate(str.maketrans("013ae", "ghkmt"))


def config_map_references(document: Document) -> Iterator[dict[str, Any]]:
    """Every reference to a ConfigMap in a document: the mapping whose `name` is the ConfigMap's."""
    for spec in pod_specs(document):
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            yield from (source["configMapRef"] for source in container.get("envFrom", []) if "configMapRef" in source)
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                yield volume["configMap"]
            for source in volume.get("projected", {}).get("sources", []):
                if "configMap" in source:
                    yield source["configMap"]


def pod_templates(document: Document) -> Iterator[Document]:
    spec = document.get("spec", {})
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    if document["kind"] == "RayCluster":
        yield spec["headGroupSpec"]["template"]
        yield from (group["template"] for group in spec["workerGroupSpecs"])
    if "template" in spec:
        yield spec["template"]


def pod_specs(document: Document) -> Iterator[Document]:
    yield from (template["spec"] for template in pod_templates(document))


def _load(directory: Path) -> list[Resource]:
    file = directory / "kustomization.yaml"
    kustomization = yaml.safe_load(file.read_text(encoding="utf-8"))
    if unknown := kustomization.keys() - _FIELDS:
        raise Unsupported(f"{file}: {', '.join(sorted(unknown))}")
    resources: list[Resource] = []
    for entry in kustomization.get("resources", []):
        path = directory / entry
        for resource in _load(path) if path.is_dir() else _read(path):
            if resource.key in {other.key for other in resources}:
                raise Unsupported(f"{path}: {resource.key} exists already")
            resources.append(resource)
    for generator in kustomization.get("configMapGenerator", []):
        _generate(generator, directory, resources)
    for patch in kustomization.get("patches", []):
        _patch(patch, resources)
    for resource in resources:
        if "namespace" in kustomization:
            _set_namespace(resource.document, kustomization["namespace"])
        for labels in kustomization.get("labels", []):
            _label(labels, resource.document)
        for image in kustomization.get("images", []):
            _tag(image, resource.document)
    for replicas in kustomization.get("replicas", []):
        _scale(replicas, resources)
    return resources


def _read(path: Path) -> list[Resource]:
    return [Resource(document) for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def _generate(generator: Mapping[str, Any], directory: Path, resources: list[Resource]) -> None:
    _check_fields(generator, {"name", "behavior", "literals", "files"}, "configMapGenerator")
    data = dict(literal.split("=", 1) for literal in generator.get("literals", []))
    data |= {Path(file).name: (directory / file).read_text(encoding="utf-8") for file in generator.get("files", [])}
    old = next((each for each in resources if each.key == ("ConfigMap", generator["name"])), None)
    behavior = generator.get("behavior", "create")
    if behavior == "create" and old is None:
        metadata = {"name": generator["name"]}
        resources.append(Resource({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}, True))
    elif behavior == "merge" and old is not None and old.generated:
        old.document["data"] |= data
    else:
        raise Unsupported(f"configMapGenerator {generator['name']}: {behavior}")


def _patch(patch: Mapping[str, Any], resources: list[Resource]) -> None:
    _check_fields(patch, {"target", "patch"}, "patches")
    target = patch["target"]
    _check_fields(target, {"kind", "name"}, "patches.target")
    matching = [
        each
        for each in resources
        if each.document["kind"] == target["kind"] and target.get("name") in (None, each.document["metadata"]["name"])
    ]
    if not matching:
        raise Unsupported(f"patches: no resource matches {dict(target)}")
    for resource in matching:
        for operation in yaml.safe_load(patch["patch"]):
            _apply_operation(operation, resource.document)


def _apply_operation(operation: Mapping[str, Any], document: Any) -> None:
    """Apply an RFC 6902 `replace` of an existing value."""
    _check_fields(operation, {"op", "path", "value"}, "patches.patch")
    if operation["op"] != "replace":
        raise Unsupported(f"patches: {operation['op']}")
    *parents, last = [int(part) if part.isdigit() else part for part in operation["path"].split("/")[1:]]
    for part in parents:
        document = document[part]
    if last not in (range(len(document)) if isinstance(document, list) else document):
        raise Unsupported(f"patches: nothing at {operation['path']}")
    document[last] = copy.deepcopy(operation["value"])


def _set_namespace(document: Document, namespace: str) -> None:
    if document["kind"] == "Namespace":
        document["metadata"]["name"] = namespace
    elif document["kind"] not in _CLUSTER_WIDE:
        document["metadata"]["namespace"] = namespace


def _label(labels: Mapping[str, Any], document: Document) -> None:
    _check_fields(labels, {"pairs", "includeTemplates"}, "labels")
    document["metadata"].setdefault("labels", {}).update(labels["pairs"])
    if labels.get("includeTemplates"):
        for template in pod_templates(document):
            template["metadata"].setdefault("labels", {}).update(labels["pairs"])


def _tag(image: Mapping[str, Any], document: Document) -> None:
    _check_fields(image, {"name", "newTag", "digest"}, "images")
    if "newTag" not in image:
        raise Unsupported(f"images: {image['name']} without a tag")
    digest = f"@{image['digest']}" if "digest" in image else ""
    for spec in pod_specs(document):
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            if container["image"].split(":")[0] == image["name"]:
                container["image"] = f"{image['name']}:{image['newTag']}{digest}"


def _scale(replicas: Mapping[str, Any], resources: list[Resource]) -> None:
    _check_fields(replicas, {"name", "count"}, "replicas")
    matching = [each.document for each in resources if each.key[0] in _WORKLOADS and each.key[1] == replicas["name"]]
    if not matching:
        raise Unsupported(f"replicas: nothing is named {replicas['name']}")
    for document in matching:
        document["spec"]["replicas"] = replicas["count"]


def _check_fields(mapping: Mapping[str, Any], supported: set[str], where: str) -> None:
    if unknown := mapping.keys() - supported:
        raise Unsupported(f"{where}: {', '.join(sorted(unknown))}")
