"""What must hold of rendered manifests: each check gives its complaints, one line each, or nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import kubernetes_validate
from google.protobuf import text_format

from encoders.tfserving.v1.config_pb2 import BatchingParameters, ModelServerConfig, MonitoringConfig
from lookalike.limits import MAX_MESSAGE_BYTES
from pipeline.image_encoding import BATCH
from tests.unit.deploy.cluster import Cluster, Pod, port_number, ports, selects, size_bytes
from tests.unit.deploy.commands import understood
from tests.unit.deploy.containers import parse, targets
from tests.unit.deploy.kustomize import Document, config_map_references
from tests.unit.deploy.test_images import DOCKERFILE, USES

KUBERNETES = "1.37"
FOREIGN = {"tensorflow/serving", "redis", "alpine/kubectl"}
OWN = "lookalike/"
# Made by Kubernetes in every namespace.
GIVEN_CONFIG_MAPS = {"kube-root-ca.crt"}
WRITES = {"shard": {"/data/live"}, "update": {"/data/index", "/data/models/text"}, "export": {"/data/models"}}

Check = Callable[[Cluster], Iterator[str]]


def words_of(container: Document) -> list[str]:
    return [str(word) for word in container.get("args", [])]


def own_containers(cluster: Cluster) -> Iterator[tuple[Pod, Document]]:
    """Those that run the command line (others of our images run a script)."""
    for pod in cluster.pods():
        for container in pod.containers():
            if container["image"].startswith(OWN) and "command" not in container:
                yield pod, container


def known(cluster: Cluster, pod: Pod, container: Document) -> dict[str, Any]:
    """Settings or arguments of a container of ours; nothing where they are not understood (that is a check's own)."""
    found = understood(words_of(container), cluster.environment(pod, container))
    return found if isinstance(found, dict) else {}


def settings(cluster: Cluster, name: str) -> dict[str, str]:
    """The settings of the process in a pod, without the prefix, in lower case."""
    pod = cluster.pod(name)
    found = known(cluster, pod, pod.spec["containers"][0])
    prefix = "LOOKALIKE_" + name.upper().replace("-", "_") + "_"
    return {key.removeprefix(prefix).lower(): value for key, value in found.items()}


def schema(cluster: Cluster) -> Iterator[str]:
    for document in cluster.documents:
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(map(str, error.path))
            yield f"{document['kind']} {document['metadata']['name']}: {where}: {error.message}"


def commands(cluster: Cluster) -> Iterator[str]:
    """Every command is one of ours, takes its words and its settings; no LOOKALIKE_ variable is without effect."""
    for pod, container in own_containers(cluster):
        environment = cluster.environment(pod, container)
        words = words_of(container)
        found = understood(words, environment)
        if isinstance(found, str):
            yield f"{pod.name}: {' '.join(words)}: {found}"
            continue
        for variable in environment:
            if variable.startswith("LOOKALIKE_") and variable not in found:
                yield f"{pod.name}: {variable} is no setting of {' '.join(words)}"


def listening(cluster: Cluster) -> Iterator[str]:
    """The ports of a container are those that its process listens on, on every address."""
    for pod, container in own_containers(cluster):
        if not pod.serves():
            continue
        found = settings(cluster, pod.name)
        if found.get("host") != "0.0.0.0":  # noqa: S104  # within a pod
            yield f"{pod.name}: listens on {found.get('host')}"
        declared = {port["name"]: str(port["containerPort"]) for port in container.get("ports", [])}
        if declared != {"grpc": found.get("port"), "metrics": found.get("metrics_port")}:
            yield f"{pod.name}: declares {declared}, listens on {found.get('port')} and {found.get('metrics_port')}"
        scraped = cluster_annotations(pod).get("prometheus.io/port")
        if scraped != found.get("metrics_port"):
            yield f"{pod.name}: metrics are scraped from {scraped}"
    flags = model_server_flags(cluster)
    if ports(cluster.pod("model-server")) != {"grpc": int(flags["port"]), "http": int(flags["rest_api_port"])}:
        yield f"model-server: declares {ports(cluster.pod('model-server'))}, listens on {flags}"


def cluster_annotations(pod: Pod) -> dict[str, str]:
    found: dict[str, str] = pod.owner["spec"]["template"]["metadata"].get("annotations", {})
    return found


def model_server_flags(cluster: Cluster) -> dict[str, str]:
    (container,) = cluster.pod("model-server").spec["containers"]
    return dict(word.removeprefix("--").split("=", 1) for word in words_of(container))


def services(cluster: Cluster) -> Iterator[str]:
    for name, service in cluster.of("Service").items():
        chosen = [pod for pod in cluster.pods() if selects(service["spec"]["selector"], pod.labels)]
        if len(chosen) != 1:
            yield f"Service {name}: selects {[pod.name for pod in chosen]}"
        for pod in chosen:
            for port in service["spec"]["ports"]:
                if port_number(pod, port["targetPort"]) is None:
                    yield f"Service {name}: {pod.name} has no port {port['targetPort']}"


def calls(cluster: Cluster) -> Iterator[tuple[Pod, str]]:
    """Who calls which address."""
    gateway, found = cluster.pod("gateway"), settings(cluster, "gateway")
    for address in found.get("shards", "").split(","):
        yield gateway, address
    for name in ("model_server", "text_encoder"):
        yield gateway, found.get(name, "")
    (container, *_) = gateway.spec["containers"]
    redis = cluster.environment(gateway, container).get("LOOKALIKE_GATEWAY_REDIS", "")
    yield gateway, redis.removeprefix("redis://").partition("/")[0]
    update = cluster.pod("update")
    yield update, known(cluster, update, update.spec["initContainers"][0]).get("model_server", "")


def addresses(cluster: Cluster) -> Iterator[str]:
    """Every address that is called is a Service's, and the network policies let the call through."""
    for source, address in calls(cluster):
        destination = cluster.destination(address)
        if destination is None:
            yield f"{source.name} calls {address!r}, which nothing listens on"
        elif not cluster.allows(source, *destination):
            yield f"{source.name} may not call {address}"


def policies(cluster: Cluster) -> Iterator[str]:
    """Nobody may call what has nothing to be called for, and every policy is about some pod."""
    everything = {"spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}
    if not any(policy["spec"] == everything["spec"] for policy in cluster.of("NetworkPolicy").values()):
        yield "no policy refuses what no other lets through"
    meant = {(source.name, address.rpartition(".")[2]) for source, address in calls(cluster)}
    for source in cluster.pods():
        for name, service in cluster.of("Service").items():
            for port in service["spec"]["ports"]:
                target = cluster.destination(f"{name}:{port['port']}")
                if target is None or source.name == target[0].name:
                    continue
                if cluster.allows(source, *target) and (source.name, f"{name}:{port['port']}") not in meant:
                    yield f"{source.name} may call {name}:{port['port']}, and has no reason to"
    for name, policy in cluster.of("NetworkPolicy").items():
        for rule in policy["spec"].get("ingress", []):
            if not rule.get("from"):
                yield f"NetworkPolicy {name}: lets everybody in"
            for pod in cluster.pods():
                if selects(policy["spec"]["podSelector"].get("matchLabels", {}), pod.labels):
                    for port in rule["ports"]:
                        if port_number(pod, port["port"]) is None:
                            yield f"NetworkPolicy {name}: {pod.name} has no port {port['port']}"


def probes(cluster: Cluster) -> Iterator[str]:
    for pod in cluster.pods():
        if not pod.serves():
            continue
        for container in pod.spec["containers"]:
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = container.get(kind)
                if probe is None:
                    yield f"{pod.name}: no {kind}"
                    continue
                handler = probe.get("grpc") or probe.get("tcpSocket") or probe.get("httpGet")
                if handler and port_number(pod, handler["port"]) is None:
                    yield f"{pod.name}: {kind}: no port {handler['port']}"
                expected = "" if kind == "readinessProbe" else "grpc.health.v1.Health"
                if container["image"].startswith(OWN) and probe.get("grpc", {}).get("service", "") != expected:
                    yield f"{pod.name}: {kind}: does not ask {expected!r}"


def references(cluster: Cluster) -> Iterator[str]:
    maps = cluster.of("ConfigMap").keys() | GIVEN_CONFIG_MAPS
    for document in cluster.documents:
        for reference in config_map_references(document):
            if reference["name"] not in maps:
                yield f"{document['metadata']['name']}: no ConfigMap {reference['name']}"
    for pod in cluster.pods():
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        volumes |= {claim["metadata"]["name"]: {} for claim in pod.owner["spec"].get("volumeClaimTemplates", [])}
        mounted = {mount["name"] for each in pod.containers() for mount in each.get("volumeMounts", [])}
        if mounted != volumes.keys():
            yield f"{pod.name}: volumes {sorted(volumes)}, mounted {sorted(mounted)}"
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in cluster.of("PersistentVolumeClaim"):
                yield f"{pod.name}: no claim {claim}"
            if "secret" in volume:
                yield f"{pod.name}: no Secret is declared here"
        account = pod.spec.get("serviceAccountName", "default")
        if account != "default" and account not in cluster.of("ServiceAccount"):
            yield f"{pod.name}: no ServiceAccount {account}"


def selectors(cluster: Cluster) -> Iterator[str]:
    names = [pod.labels for pod in cluster.pods()]
    for pod in cluster.pods():
        if not pod.serves():
            continue
        if not selects(pod.owner["spec"]["selector"]["matchLabels"], pod.labels):
            yield f"{pod.name}: does not select its own pods"
        for spread in pod.spec.get("topologySpreadConstraints", []):
            if not selects(spread["labelSelector"]["matchLabels"], pod.labels):
                yield f"{pod.name}: is spread by the labels of others"
        budgets = cluster.of("PodDisruptionBudget").values()
        covered = any(selects(budget["spec"]["selector"]["matchLabels"], pod.labels) for budget in budgets)
        if pod.name != "redis" and not covered:
            yield f"{pod.name}: no PodDisruptionBudget"
    for kind, path in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for name, document in cluster.of(kind).items():
            wanted = document["spec"][path].get("matchLabels", {})
            if not any(selects(wanted, labels) for labels in names):
                yield f"{kind} {name}: selects nothing"


def images(cluster: Cluster) -> Iterator[str]:
    built = targets(parse(DOCKERFILE.read_text(encoding="utf-8")))
    for pod in cluster.pods():
        for container in pod.containers():
            name, _, tag = container["image"].partition(":")
            if not tag or tag == "latest":
                yield f"{pod.name}: {name} is not pinned"
            if name.startswith(OWN):
                target = name.removeprefix(OWN)
                if target not in built:
                    yield f"{pod.name}: {name} is no target of the Dockerfile"
                words = " ".join(words_of(container))
                uses = USES.get(target, [])
                if "command" not in container and not any(words.startswith(use) for use in uses):
                    yield f"{pod.name}: {words}: the image {name} is not for this"
            elif name not in FOREIGN:
                yield f"{pod.name}: {name}: whose is it?"


def shards(cluster: Cluster) -> Iterator[str]:
    """The gateway's addresses, the StatefulSet and the update are of one mind on how many shards there are."""
    pod = cluster.pod("shard")
    service = cluster.of("Service").get(pod.owner["spec"]["serviceName"])
    if service is None or service["spec"].get("clusterIP") != "None":
        yield f"shard: no headless Service {pod.owner['spec']['serviceName']}"
    port = settings(cluster, "shard").get("port")
    names = [f"{name}.{pod.owner['spec']['serviceName']}:{port}" for name in cluster.pod_names(pod)]
    told = settings(cluster, "gateway").get("shards", "").split(",")
    if told != names:
        yield f"gateway asks {told}, there are {names}"
    update = cluster.pod("update")
    built = known(cluster, update, update.spec["initContainers"][0]).get("shards")
    if built != len(names):
        yield f"update builds {built} shards, {len(names)} are served"


def security(cluster: Cluster) -> Iterator[str]:
    for pod in cluster.pods():
        context = pod.spec.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield f"{pod.name}: may run as root"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{pod.name}: no seccomp profile"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.name}: has a token of Kubernetes"
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod.name}: variables made of Service names would meet its settings"
        for container in pod.containers():
            own = container.get("securityContext", {})
            if own != {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }:
                yield f"{pod.name}: {container['name']}: {own}"
            resources = container.get("resources", {})
            if resources.get("requests", {}).keys() != {"cpu", "memory"} or "memory" not in resources.get("limits", {}):
                yield f"{pod.name}: {container['name']}: resources {resources}"


def endings(cluster: Cluster) -> Iterator[str]:
    """A pod is given the time that its process takes to drain."""
    for pod in cluster.pods():
        for container in pod.spec["containers"] if pod.serves() else ():
            wait_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            ours = container["image"].startswith(OWN)
            drain_s = float(settings(cluster, pod.name).get("drain_s", "inf")) if ours else 0.0
            if pod.spec["terminationGracePeriodSeconds"] <= wait_s + drain_s:
                yield f"{pod.name}: is killed before {wait_s} s + {drain_s} s are over"


def paths(cluster: Cluster) -> Iterator[str]:
    """Every path below /data that a container is told of is on a volume, which it can write where it must."""
    for pod in cluster.pods():
        for container in pod.containers():
            told = [
                *container.get("command", []),
                *container.get("args", []),
                *cluster.environment(pod, container).values(),
            ]
            mounts = {PurePosixPath(mount["mountPath"]): mount for mount in container.get("volumeMounts", [])}
            for text in told:
                for found in re.findall(r"/(?:data|etc)/[\w./-]+", str(text)):
                    under = [mount for path, mount in mounts.items() if PurePosixPath(found).is_relative_to(path)]
                    if not under:
                        yield f"{pod.name}: {found} is on no volume"
                    elif all(mount.get("readOnly") for mount in under) == (found in WRITES.get(pod.name, set())):
                        yield f"{pod.name}: {found}: read-only where it writes, or the other way round"


def memory(cluster: Cluster) -> Iterator[str]:
    """As many of the largest requests as a gateway lets in fit into its memory."""
    found = settings(cluster, "gateway")
    (container,) = cluster.pod("gateway").spec["containers"]
    limit = size_bytes(container["resources"]["limits"]["memory"])
    cache = 0 if found.get("redis") else int(found.get("cache_memory_bytes", 0))
    if int(found.get("max_inflight", 0)) * MAX_MESSAGE_BYTES + cache > limit:
        requests = f"{found.get('max_inflight')} requests of {MAX_MESSAGE_BYTES} bytes"
        yield f"gateway: {requests}, and a cache of {cache}: {limit}"


def model(cluster: Cluster) -> Iterator[str]:
    """TF-Serving has the model that the gateway asks for, and takes batches as large as it is sent."""
    flags, found = model_server_flags(cluster), settings(cluster, "gateway")
    pod = cluster.pod("model-server")
    reference = next(config_map_references(pod.owner))
    held = cluster.of("ConfigMap").get(reference["name"], {}).get("data", {})
    files = {}
    for flag in ("model_config_file", "batching_parameters_file", "monitoring_config_file"):
        files[flag] = held.get(PurePosixPath(flags.get(flag, "")).name, "")
        if not files[flag]:
            yield f"model-server: no {flag}"
    served = text_format.Parse(files["model_config_file"], ModelServerConfig()).model_config_list.config
    if {model.name: model.base_path for model in served} != {found.get("model"): f"/data/models/{found.get('model')}"}:
        yield f"model-server serves {served}, the gateway asks for {found.get('model')}"
    most = text_format.Parse(files["batching_parameters_file"], BatchingParameters()).max_batch_size.value
    for name, size in (("gateway", int(found.get("image_batch", 0))), ("update", BATCH)):
        if most < size:
            yield f"model-server refuses the batches of {name}: {size}"
    path = cluster_annotations(pod)["prometheus.io/path"]
    if text_format.Parse(files["monitoring_config_file"], MonitoringConfig()).prometheus_config.path != path:
        yield f"model-server: no metrics at {path}"


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        schema, commands, listening, services, addresses, policies, probes, references, selectors, images, shards,
        security, endings, paths, memory, model,
    )
}  # fmt: skip
