"""Checks of the rendered manifests. Each yields one line for every problem that it finds. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
from google.protobuf import text_format

from encoders.tfserving.v1.config_pb2 import BatchingParameters, ModelServerConfig, MonitoringConfig
from lookalike.limits import MAX_MESSAGE_BYTES
from pipeline.image_encoding import BATCH
from tests.conftest import REPOSITORY
from tests.unit.deploy.cluster import Cluster, Pod, port_number, ports, selects, size_bytes
from tests.unit.deploy.commands import parse_command
from tests.unit.deploy.containers import locked_packages, parse, targets
from tests.unit.deploy.kustomize import Document, config_map_references, pod_templates
from tests.unit.deploy.test_images import DOCKERFILE, USES

KUBERNETES = "1.37"
FOREIGN = {"tensorflow/serving", "redis"}
OWN = "lookalike/"
# The paths below /data that a pod writes, or one of its containers.
WRITABLE_PATHS: dict[str, set[str]] = {
    "shard": {"/data/live"},
    "update": {"/data/index"},
    "reencode": set(),
    "export": {"/data/models"},
    "worker": {"/data/features"},
    "stream": {"/data"},
}

Check = Callable[[Cluster], Iterator[str]]


def arguments_of(container: Document) -> list[str]:
    return [str(argument) for argument in container.get("args", [])]


def own_containers(cluster: Cluster) -> Iterator[tuple[Pod, Document]]:
    """The containers that run a `lookalike` command (others of our images run a script)."""
    for pod in cluster.pods():
        for container in pod.containers():
            if container["image"].startswith(OWN) and "command" not in container and not pod.runs_ray():
                yield pod, container


def options_of(cluster: Cluster, pod: Pod, container: Document) -> dict[str, Any]:
    """The options or settings of a `lookalike` command; empty if it refuses them (see `commands`)."""
    options = parse_command(arguments_of(container), cluster.environment(pod, container))
    return options if isinstance(options, dict) else {}


def settings(cluster: Cluster, name: str) -> dict[str, str]:
    """The settings of the process in a pod, without the prefix, in lower case."""
    pod = cluster.pod(name)
    variables = options_of(cluster, pod, pod.spec["containers"][0])
    prefix = "LOOKALIKE_" + name.upper().replace("-", "_") + "_"
    return {key.removeprefix(prefix).lower(): value for key, value in variables.items()}


def schema(cluster: Cluster) -> Iterator[str]:
    """Every document is valid by the schema of its kind."""
    for document in _kubernetes_documents(cluster):
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(map(str, error.path))
            yield f"{document['kind']} {document['metadata']['name']}: {where}: {error.message}"


def _kubernetes_documents(cluster: Cluster) -> Iterator[Document]:
    """The documents of Kubernetes' own kinds, and the pods that others are made of."""
    for document in cluster.documents:
        if not document["apiVersion"].startswith("ray.io/"):
            yield document
            continue
        for number, template in enumerate(pod_templates(document)):
            metadata = {"name": f"{document['metadata']['name']}-{number}", **template["metadata"]}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def commands(cluster: Cluster) -> Iterator[str]:
    """Every command exists and accepts its arguments and settings; every LOOKALIKE_ variable is one of its settings."""
    for pod, container in own_containers(cluster):
        environment = cluster.environment(pod, container)
        arguments = arguments_of(container)
        options = parse_command(arguments, environment)
        if isinstance(options, str):
            yield f"{pod.name}: {' '.join(arguments)}: {options}"
            continue
        for variable in environment:
            if variable.startswith("LOOKALIKE_") and variable not in options:
                yield f"{pod.name}: {variable} is no setting of {' '.join(arguments)}"


def listening(cluster: Cluster) -> Iterator[str]:
    """A container declares the ports that its process listens on, and the process listens on all addresses."""
    for pod, container in own_containers(cluster):
        if not pod.serves():
            continue
        values = settings(cluster, pod.name)
        if values.get("host") != "0.0.0.0":  # noqa: S104  # within a pod
            yield f"{pod.name}: listens on {values.get('host')}"
        declared = {port["name"]: str(port["containerPort"]) for port in container.get("ports", [])}
        listens = {name: values.get(f"{name}_port") for name in ("metrics", "health")} | {"grpc": values.get("port")}
        if declared != listens:
            yield f"{pod.name}: declares {declared}, listens on {listens}"
        scraped = annotations_of(pod)
        if scraped.get("prometheus.io/port") != values.get("metrics_port"):
            yield f"{pod.name}: metrics are scraped from {scraped}"
        if (scraped.get("prometheus.io/scheme") == "https") != bool(values.get("tls_cert")):
            yield f"{pod.name}: metrics are scraped by another scheme than they have"
    flags = model_server_flags(cluster)
    if ports(cluster.pod("model-server")) != {"grpc": int(flags["port"]), "http": int(flags["rest_api_port"])}:
        yield f"model-server: declares {ports(cluster.pod('model-server'))}, listens on {flags}"


def annotations_of(pod: Pod) -> dict[str, str]:
    annotations: dict[str, str] = pod.owner["spec"]["template"]["metadata"].get("annotations", {})
    return annotations


def model_server_flags(cluster: Cluster) -> dict[str, str]:
    (container,) = cluster.pod("model-server").spec["containers"]
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments_of(container))


def services(cluster: Cluster) -> Iterator[str]:
    """Every Service selects the pods of one workload, and its ports are ports of those pods."""
    for name, service in cluster.of_kind("Service").items():
        selected = [pod for pod in cluster.pods() if selects(service["spec"]["selector"], pod.labels)]
        if len(selected) != 1:
            yield f"Service {name}: selects {[pod.name for pod in selected]}"
        for pod in selected:
            for port in service["spec"]["ports"]:
                if port_number(pod, port["targetPort"]) is None:
                    yield f"Service {name}: {pod.name} has no port {port['targetPort']}"


def calls(cluster: Cluster) -> Iterator[tuple[Pod, str]]:
    """Every pod that calls others, with each address that it calls."""
    gateway, values = cluster.pod("gateway"), settings(cluster, "gateway")
    for address in re.split("[,+]", values.get("shards", "")):  # A comma between shards, a plus between replicas.
        yield gateway, address
    shard = cluster.pod("shard")
    for address in filter(None, settings(cluster, "shard").get("peers", "").split(",")):
        yield shard, address
    for name in ("model_server", "text_encoder"):
        yield gateway, values.get(name, "")
    for variable in ("LOOKALIKE_GATEWAY_REDIS", "LOOKALIKE_GATEWAY_STREAM"):
        yield gateway, _redis_of(cluster, gateway, variable)
    worker, values = cluster.pod("worker"), settings(cluster, "worker")
    for name in ("gateway", "model_server"):
        yield worker, values.get(name, "")
    yield worker, _redis_of(cluster, worker, "LOOKALIKE_WORKER_STREAM")
    update = cluster.pod("update")
    options = options_of(cluster, update, update.spec["containers"][0])
    yield update, options.get("model_server", "")
    for address in options.get("gateway", []):
        yield update, address
    for url in options.get("gateway_metrics", []):
        yield update, urlsplit(url).netloc
    if ray_address := options.get("ray_address"):
        yield update, ray_address.removeprefix("ray://")
    for pod in cluster.pods():
        if pod.runs_ray():
            yield pod, options.get("model_server", "")


def _redis_of(cluster: Cluster, pod: Pod, variable: str) -> str:
    """The address in the URL of a Redis, which the settings mask."""
    (container, *_) = pod.spec["containers"]
    return cluster.environment(pod, container).get(variable, "").partition("://")[2].partition("/")[0]


def addresses(cluster: Cluster) -> Iterator[str]:
    """Every address that is called is a Service's, and the network policies allow the call."""
    for source, address in calls(cluster):
        destination = cluster.destination(address)
        if destination is None:
            yield f"{source.name} calls {address!r}, which nothing listens on"
        elif not cluster.allows(source, *destination):
            yield f"{source.name} may not call {address}"


def policies(cluster: Cluster) -> Iterator[str]:
    """The network policies deny by default, and allow only the calls that are made."""
    everything = {"spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}
    if not any(policy["spec"] == everything["spec"] for policy in cluster.of_kind("NetworkPolicy").values()):
        yield "no network policy denies by default"
    made = {(source.name, address.rpartition(".")[2]) for source, address in calls(cluster)}
    for source in cluster.pods():
        for name, service in cluster.of_kind("Service").items():
            for port in service["spec"]["ports"]:
                target = cluster.destination(f"{name}:{port['port']}")
                if target is None or source.name == target[0].name:
                    continue
                if cluster.allows(source, *target) and (source.name, f"{name}:{port['port']}") not in made:
                    yield f"{source.name} may call {name}:{port['port']}, but never does"
    for name, policy in cluster.of_kind("NetworkPolicy").items():
        for rule in policy["spec"].get("ingress", []):
            if not rule.get("from"):
                yield f"NetworkPolicy {name}: allows calls from everywhere"
            for pod in cluster.pods():
                if selects(policy["spec"]["podSelector"].get("matchLabels", {}), pod.labels):
                    for port in rule.get("ports", ()):
                        if port_number(pod, port["port"]) is None:
                            yield f"NetworkPolicy {name}: {pod.name} has no port {port['port']}"


def probes(cluster: Cluster) -> Iterator[str]:
    """Every server has all three probes: readiness checks the whole process, the others only that it is alive."""
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
                    yield f"{pod.name}: {kind}: does not check the service {expected!r}"


def references(cluster: Cluster) -> Iterator[str]:
    """Every ConfigMap, volume, claim and service account that is referred to exists."""
    maps = cluster.of_kind("ConfigMap").keys()
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
            if claim and claim not in cluster.of_kind("PersistentVolumeClaim"):
                yield f"{pod.name}: no claim {claim}"
            # Certificates, of the pod's own role: `lookalike certs dev`, or cert-manager.
            role = "update" if pod.runs_ray() else pod.name
            if "secret" in volume and volume["secret"] != {"secretName": f"{role}-tls"}:
                yield f"{pod.name}: a Secret of something else: {volume['secret']}"
        account = pod.spec.get("serviceAccountName", "default")
        if account != "default" and account not in cluster.of_kind("ServiceAccount"):
            yield f"{pod.name}: no ServiceAccount {account}"


def selectors(cluster: Cluster) -> Iterator[str]:
    """Every selector selects the pods that it is meant for."""
    all_labels = [pod.labels for pod in cluster.pods()]
    for pod in cluster.pods():
        if not pod.serves():
            continue
        if not selects(pod.owner["spec"]["selector"]["matchLabels"], pod.labels):
            yield f"{pod.name}: does not select its own pods"
        for spread in pod.spec.get("topologySpreadConstraints", []):
            if not selects(spread["labelSelector"]["matchLabels"], pod.labels):
                yield f"{pod.name}: its topology spread does not select its own pods"
        budgets = cluster.of_kind("PodDisruptionBudget").values()
        covered = any(selects(budget["spec"]["selector"]["matchLabels"], pod.labels) for budget in budgets)
        if pod.name not in {"redis", "stream"} and not covered:  # Of one pod a budget would keep its node for ever.
            yield f"{pod.name}: no PodDisruptionBudget"
    for kind, path in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for name, document in cluster.of_kind(kind).items():
            selector = document["spec"][path].get("matchLabels", {})
            if not any(selects(selector, labels) for labels in all_labels):
                yield f"{kind} {name}: selects nothing"


def images(cluster: Cluster) -> Iterator[str]:
    """Every image is pinned, and is a target of the Dockerfile for this command, or a known foreign image."""
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
                command = " ".join(arguments_of(container))
                uses = USES.get(target, [])
                if (
                    "command" not in container
                    and not pod.runs_ray()
                    and not any(command.startswith(use) for use in uses)
                ):
                    yield f"{pod.name}: {command}: the image {name} is not for this command"
            elif name not in FOREIGN:
                yield f"{pod.name}: {name}: unknown image"


def shards(cluster: Cluster) -> Iterator[str]:
    """The gateway's addresses, the StatefulSet and the update agree on the number of shards, and of their replicas."""
    pod = cluster.pod("shard")
    service = cluster.of_kind("Service").get(pod.owner["spec"]["serviceName"])
    if service is None or service["spec"].get("clusterIP") != "None":
        yield f"shard: no headless Service {pod.owner['spec']['serviceName']}"
    port = settings(cluster, "shard").get("port")
    names = [f"{name}.{pod.owner['spec']['serviceName']}:{port}" for name in cluster.pod_names(pod)]
    count = int(settings(cluster, "shard").get("shards", 0)) or len(names)
    if len(names) % count:
        yield f"{len(names)} pods, which is no multiple of {count} shards"
    groups = ["+".join(names[number::count]) for number in range(count)]
    called = settings(cluster, "gateway").get("shards", "").split(",")
    if called != groups:
        yield f"gateway calls {called}, the shards are {groups}"
    peers = settings(cluster, "shard").get("peers", "")
    if len(names) > count and peers != f"{pod.owner['spec']['serviceName']}:{port}":
        yield f"the replicas of a shard do not find each other at {peers!r}"
    update = cluster.pod("update")
    built = options_of(cluster, update, update.spec["containers"][0]).get("shards")
    if built != count:
        yield f"update builds {built} shards, {count} are served"


def encoders(cluster: Cluster) -> Iterator[str]:
    """Text encoders follow the index that shards do, and a gateway finds each of them."""
    location = settings(cluster, "text-encoder").get("location")
    if location != settings(cluster, "shard").get("location"):
        yield f"text-encoder follows {location}, not the index of the shards"
    name = settings(cluster, "gateway").get("text_encoder", "").partition(":")[0]
    if cluster.of_kind("Service").get(name, {}).get("spec", {}).get("clusterIP") != "None":
        yield f"text-encoder: no headless Service {name}"


def security(cluster: Cluster) -> Iterator[str]:
    """Every container runs with the least privileges, and with bounded memory."""
    for pod in cluster.pods():
        context = pod.spec.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield f"{pod.name}: may run as root"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{pod.name}: no seccomp profile"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.name}: mounts a service account token"
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod.name}: variables that Kubernetes makes of Service names may collide with its settings"
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


def tls(cluster: Cluster) -> Iterator[str]:
    """Everything has TLS and asks its callers for certificates, or nothing has, as the overlay `insecure`."""
    insecure = settings(cluster, "gateway").get("insecure") == "true"
    for name in ("gateway", "shard", "text-encoder", "worker"):
        values = settings(cluster, name)
        if (values.get("insecure") == "true") != insecure or bool(values.get("tls_client_ca")) == insecure:
            yield f"{name}: asks for {values.get('tls_client_ca')!r}, insecure: {values.get('insecure')}"
        if name in ("gateway", "worker") and bool(values.get("tls_ca")) == insecure:
            yield f"{name}: calls others by {values.get('tls_ca')!r}"
    for name in ("shard", "text-encoder"):
        if bool(settings(cluster, name).get("tls_allowed_names")) == insecure:
            yield f"{name}: any certificate of the CA may call"
    for name in ("redis", "stream"):
        (container,) = cluster.pod(name).spec["containers"]
        if ("--tls-port" in arguments_of(container)) == insecure:
            yield f"{name}: {arguments_of(container)}"
    for name, variable in (("gateway", "REDIS"), ("gateway", "STREAM"), ("worker", "STREAM")):
        pod = cluster.pod(name)
        url = cluster.environment(pod, pod.spec["containers"][0]).get(f"LOOKALIKE_{name.upper()}_{variable}", "")
        if url.startswith("rediss://") == insecure:
            yield f"{name}: calls {url}"
    if ("ssl_config_file" in model_server_flags(cluster)) == insecure:
        yield "model-server: with TLS and without"
    update = cluster.pod("update")
    options = options_of(cluster, update, update.spec["containers"][0])
    if bool(options.get("tls_ca")) == insecure:
        yield f"update: calls others by {options.get('tls_ca')!r}"


def grace_periods(cluster: Cluster) -> Iterator[str]:
    """The termination grace period of a pod is longer than its process takes to drain."""
    for pod in cluster.pods():
        for container in pod.spec["containers"] if pod.serves() else ():
            wait_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            ours = container["image"].startswith(OWN)
            drain_s = float(settings(cluster, pod.name).get("drain_s", "inf")) if ours else 0.0
            if pod.spec["terminationGracePeriodSeconds"] <= wait_s + drain_s:
                yield f"{pod.name}: is killed before {wait_s} s + {drain_s} s are over"


def paths(cluster: Cluster) -> Iterator[str]:
    """Every path that a container uses is on a volume, which is writable if and only if the container writes there."""
    for pod in cluster.pods():
        for container in pod.containers():
            texts = [
                *container.get("command", []),
                *container.get("args", []),
                *cluster.environment(pod, container).values(),
            ]
            mounts = {PurePosixPath(mount["mountPath"]): mount for mount in container.get("volumeMounts", [])}
            for text in texts:
                for used in re.findall(r"/(?:data|etc)/[\w./-]+", str(text)):
                    covering = [mount for path, mount in mounts.items() if PurePosixPath(used).is_relative_to(path)]
                    writes = used in WRITABLE_PATHS.get(container["name"], WRITABLE_PATHS.get(pod.name, set()))
                    if not covering:
                        yield f"{pod.name}: {used} is on no volume"
                    elif all(mount.get("readOnly") for mount in covering) == writes:
                        yield f"{pod.name}: {used} is read-only and written to, or writable and only read"


def memory(cluster: Cluster) -> Iterator[str]:
    """The gateway's memory holds `max_inflight` requests of the largest size, and its cache."""
    values = settings(cluster, "gateway")
    (container,) = cluster.pod("gateway").spec["containers"]
    limit = size_bytes(container["resources"]["limits"]["memory"])
    cache = 0 if values.get("redis") else int(values.get("cache_memory_bytes", 0))
    if int(values.get("max_inflight", 0)) * MAX_MESSAGE_BYTES + cache > limit:
        requests = f"{values.get('max_inflight')} requests of {MAX_MESSAGE_BYTES} bytes"
        yield f"gateway: {requests} and a cache of {cache} bytes exceed the memory limit, {limit} bytes"


def model(cluster: Cluster) -> Iterator[str]:
    """TF-Serving serves the model that the others name, and accepts batches as large as its clients send."""
    flags, values = model_server_flags(cluster), settings(cluster, "gateway")
    pod = cluster.pod("model-server")
    reference = next(config_map_references(pod.owner))
    config_files = cluster.of_kind("ConfigMap").get(reference["name"], {}).get("data", {})
    files = {}
    for flag in ("model_config_file", "batching_parameters_file", "monitoring_config_file"):
        files[flag] = config_files.get(PurePosixPath(flags.get(flag, "")).name, "")
        if not files[flag]:
            yield f"model-server: no {flag}"
    served = text_format.Parse(files["model_config_file"], ModelServerConfig()).model_config_list.config
    if {model.name: model.base_path for model in served} != {
        values.get("model"): f"/data/models/{values.get('model')}"
    }:
        yield f"model-server serves {served}, the gateway names {values.get('model')}"
    for name in ("update", "export"):
        writer = cluster.pod(name)
        container = (writer.spec.get("initContainers") or writer.spec["containers"])[0]
        if (named := options_of(cluster, writer, container).get("model")) != values.get("model"):
            yield f"{name} names the model {named}, the gateway {values.get('model')}"
    ready_path = pod.spec["containers"][0]["readinessProbe"]["httpGet"]["path"]
    if ready_path != f"/v1/models/{values.get('model')}/metadata":
        yield f"model-server is ready by {ready_path}, the gateway names {values.get('model')}"
    max_batch = text_format.Parse(files["batching_parameters_file"], BatchingParameters()).max_batch_size.value
    for name, size in (("gateway", int(values.get("image_batch", 0))), ("update", BATCH)):
        if max_batch < size:
            yield f"model-server refuses the batches of {name}: {size}"
    path = annotations_of(pod)["prometheus.io/path"]
    if text_format.Parse(files["monitoring_config_file"], MonitoringConfig()).prometheus_config.path != path:
        yield f"model-server: no metrics at {path}"


def ray(cluster: Cluster) -> Iterator[str]:
    """A Ray cluster runs the update's image, with probes of its own; its workers see what the update sees."""
    update = cluster.pod("update")
    container = update.spec["containers"][0]
    clusters = cluster.of_kind("RayCluster")
    if (options_of(cluster, update, container).get("engine") == "ray") != bool(clusters):
        yield "update and Ray cluster: there is one without the other"
    shared = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    for name, document in clusters.items():
        if document["spec"].keys() != {"rayVersion", "headGroupSpec", "workerGroupSpecs"}:
            yield f"{name}: {sorted(document['spec'])}"
            continue
        installed = locked_packages(REPOSITORY / "requirements" / "pipeline.lock").get("ray")
        if document["spec"]["rayVersion"] != installed:
            yield f"{name}: rayVersion {document['spec']['rayVersion']}, the image has {installed}"
        if document["spec"]["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
            yield f"{name}: the head, which mounts nothing, runs tasks"
        for number, template in enumerate(pod_templates(document)):
            (node,) = template["spec"]["containers"]
            if node["image"] != container["image"]:
                yield f"{name}: a node runs {node['image']}, the update {container['image']}"
            if not {"livenessProbe", "readinessProbe"} <= node.keys():
                yield f"{name}: KubeRay adds probes that need wget"
            if number and {mount["name"]: mount["mountPath"] for mount in node["volumeMounts"]} != shared:
                yield f"{name}: workers do not mount what the update does"


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        schema, commands, listening, services, addresses, policies, probes, references, selectors, images, shards,
        encoders, security, tls, grace_periods, paths, memory, model, ray,
    )
}  # fmt: skip
