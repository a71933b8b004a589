"""The manifests of deploy/k8s are valid and fit the programs that they run; mutations show that each check can fail."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.unit.deploy.checks import CHECKS
from tests.unit.deploy.cluster import Cluster
from tests.unit.deploy.kustomize import build

K8S = REPOSITORY / "deploy" / "k8s"
VARIANTS = ["base", *(f"overlays/{folder.name}" for folder in sorted((K8S / "overlays").iterdir()))]


@functools.cache
def cluster(variant: str) -> Cluster:
    return Cluster(build(K8S / variant))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("check", CHECKS)
def test_the_manifests_pass_every_check(variant: str, check: str) -> None:
    assert list(CHECKS[check](cluster(variant))) == []


def test_every_manifest_is_part_of_the_base() -> None:
    read = {str(path.relative_to(K8S / "base")) for path in (K8S / "base").rglob("*") if path.is_file()}
    text = (K8S / "base" / "kustomization.yaml").read_text(encoding="utf-8")
    assert {name for name in read if name not in text} == {"kustomization.yaml"}


ELSEWHERE = {"a": "b"}
NOBODY = {"matchLabels": ELSEWHERE}
SMALL_BATCHES = {"batching.config": "max_batch_size { value: 8 }"}
NO_PATH = {"monitoring.config": "prometheus_config {}"}
OTHER_MODEL = {"httpGet": {"path": "/v1/models/resnet/metadata", "port": "http"}}


class MutableBase:
    """A copy of a variant that a mutation breaks."""

    def __init__(self, variant: str = "base") -> None:
        self.cluster = Cluster(copy.deepcopy(list(cluster(variant).documents)))

    def of(self, kind: str, name: str) -> Any:
        documents = self.cluster.of_kind(kind)
        return next(document for key, document in documents.items() if key == name or key.rpartition("-")[0] == name)

    def pod(self, name: str) -> Any:
        return self.cluster.pod(name).spec

    def container(self, name: str) -> Any:
        return self.pod(name)["containers"][0]

    def policy(self, name: str) -> Any:
        return self.of("NetworkPolicy", name)["spec"]

    def volume(self, name: str) -> Any:
        return next(volume for volume in self.pod(name)["volumes"] if "persistentVolumeClaim" in volume)

    def update(self) -> Any:
        return self.pod("update")["containers"][0]

    def ray(self) -> Any:
        return self.of("RayCluster", "ray")["spec"]

    def ray_node(self) -> Any:
        return self.ray()["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]

    def settings(self, name: str) -> Any:
        return self.of("ConfigMap", name)["data"]


def setting(role: str, name: str, value: str) -> Callable[[MutableBase], None]:
    """A mutation that changes one setting."""
    variable = f"LOOKALIKE_{role.upper().replace('-', '_')}_{name}"
    return lambda base: base.settings(role).__setitem__(variable, value)


# The check that must fail, what is wrong, and the mutation.
MUTATIONS: list[tuple[str, str, Callable[[MutableBase], Any]]] = [
    ("schema", "a misspelt field", lambda c: c.container("gateway").update(imagePolicy="Always")),
    ("schema", "a number instead of a string", lambda c: c.settings("gateway").update(LOOKALIKE_GATEWAY_PORT=50051)),
    ("commands", "a misspelt setting", setting("gateway", "SHARD", "x:1")),
    ("commands", "a setting of another role", lambda c: c.settings("gateway").update(LOOKALIKE_SHARD_PORT="1")),
    ("commands", "a malformed value", setting("gateway", "MAX_INFLIGHT", "many")),
    ("commands", "a value out of bounds", setting("shard", "DRAIN_S", "-1")),
    ("commands", "no such command", lambda c: c.container("gateway").update(args=["serve", "gatewya"])),
    ("commands", "no such flag", lambda c: c.container("shard")["args"].append("--shrads=2")),
    ("commands", "no such flag of update", lambda c: c.update()["args"].append("--fast")),
    ("listening", "another port", setting("shard", "PORT", "50052")),
    ("listening", "another metrics port", setting("gateway", "METRICS_PORT", "9091")),
    ("listening", "loopback only", setting("gateway", "HOST", "127.0.0.1")),
    ("listening", "TF-Serving elsewhere", lambda c: c.container("model-server")["args"].__setitem__(0, "--port=8600")),
    ("services", "no such port", lambda c: c.of("Service", "gateway")["spec"]["ports"][0].update(targetPort="http")),
    ("services", "selects no pod", lambda c: c.of("Service", "redis")["spec"].update(selector=ELSEWHERE)),
    ("addresses", "a Service that is not there", setting("gateway", "TEXT_ENCODER", "encoder:50051")),
    ("addresses", "a port that is not there", setting("gateway", "MODEL_SERVER", "model-server:8501x")),
    ("addresses", "another Redis", setting("gateway", "REDIS", "redis://cache:6379")),
    ("addresses", "ingress not allowed", lambda c: c.policy("shard").update(ingress=[])),
    ("addresses", "egress not allowed", lambda c: c.policy("gateway")["egress"].pop()),
    ("addresses", "egress of the update not allowed", lambda c: c.policy("update")["egress"].pop(0)),
    ("policies", "ingress from everywhere", lambda c: c.policy("redis")["ingress"][0].pop("from")),
    ("policies", "no deny by default", lambda c: c.policy("default-deny").update(policyTypes=["Ingress"])),
    ("policies", "no such port", lambda c: c.policy("shard")["ingress"][0].update(ports=[{"port": "rpc"}])),
    ("probes", "no liveness probe", lambda c: c.container("redis").pop("livenessProbe")),
    ("probes", "no such port", lambda c: c.container("shard")["readinessProbe"].update(grpc={"port": 50053})),
    ("probes", "liveness by readiness", lambda c: c.container("gateway")["livenessProbe"]["grpc"].pop("service")),
    ("references", "no such settings", lambda c: c.container("shard")["envFrom"][0]["configMapRef"].update(name="x")),
    ("references", "no such claim", lambda c: c.volume("shard")["persistentVolumeClaim"].update(claimName="x")),
    ("references", "no such volume", lambda c: c.pod("shard").update(volumes=[])),
    ("references", "no such account", lambda c: c.pod("gateway").update(serviceAccountName="admin")),
    ("selectors", "another label", lambda c: c.of("Deployment", "gateway")["spec"].update(selector=NOBODY)),
    ("selectors", "a useless budget", lambda c: c.of("PodDisruptionBudget", "shard")["spec"].update(selector=NOBODY)),
    ("images", "no such target", lambda c: c.container("gateway").update(image="lookalike/gatewya:1")),
    ("images", "no tag", lambda c: c.container("gateway").update(image="lookalike/gateway")),
    ("images", "the tag latest", lambda c: c.container("redis").update(image="redis:latest")),
    ("images", "the image of another role", lambda c: c.container("gateway").update(image="lookalike/shard:1")),
    ("images", "an unknown image", lambda c: c.container("redis").update(image="redys:8")),
    ("shards", "one shard more", lambda c: c.of("StatefulSet", "shard")["spec"].update(replicas=3)),
    ("shards", "the wrong order", setting("gateway", "SHARDS", "shard-1.shard:50051,shard-0.shard:50051")),
    ("shards", "another number built", lambda c: c.update()["args"].append("--shards=3")),
    ("shards", "no headless Service", lambda c: c.of("Service", "shard")["spec"].pop("clusterIP")),
    ("encoders", "another index", setting("text-encoder", "LOCATION", "/data/index/old")),
    ("encoders", "no headless Service", lambda c: c.of("Service", "text-encoder")["spec"].pop("clusterIP")),
    ("security", "may run as root", lambda c: c.pod("redis")["securityContext"].pop("runAsNonRoot")),
    ("security", "a writable root", lambda c: c.container("redis")["securityContext"].pop("readOnlyRootFilesystem")),
    ("security", "a service account token", lambda c: c.pod("gateway").pop("automountServiceAccountToken")),
    ("security", "service links", lambda c: c.pod("gateway").pop("enableServiceLinks")),
    ("security", "no seccomp", lambda c: c.pod("shard")["securityContext"].pop("seccompProfile")),
    ("security", "no bound on memory", lambda c: c.container("shard")["resources"].pop("limits")),
    ("tls", "callers that prove nothing", setting("gateway", "TLS_CLIENT_CA", "")),
    ("tls", "plain calls of others", setting("worker", "TLS_CA", "")),
    ("tls", "any certificate", setting("shard", "TLS_ALLOWED_NAMES", "")),
    ("tls", "a plain Redis", setting("gateway", "REDIS", "redis://redis:6379/0")),
    ("tls", "a model server without it", lambda c: c.container("model-server")["args"].pop()),
    ("tls", "an update without it", lambda c: c.update()["args"].remove("--tls-ca=/etc/lookalike/tls/ca.crt")),
    ("references", "another certificate", lambda c: c.pod("shard")["volumes"][0]["secret"].update(secretName="x")),
    ("grace_periods", "a longer drain", setting("gateway", "DRAIN_S", "35")),
    ("paths", "an index elsewhere", setting("shard", "LOCATION", "/data/indices")),
    ("paths", "a read-only mount for the update", lambda c: c.update()["volumeMounts"][1].update(readOnly=True)),
    ("paths", "a writable mount for a shard", lambda c: c.container("shard")["volumeMounts"][0].pop("readOnly")),
    ("memory", "more requests", setting("gateway", "MAX_INFLIGHT", "512")),
    ("model", "another model", setting("gateway", "MODEL", "resnet")),
    ("model", "another model for the update", lambda c: c.update()["args"].append("--model=resnet")),
    ("model", "ready by another model", lambda c: c.container("model-server")["readinessProbe"].update(OTHER_MODEL)),
    ("model", "no model", lambda c: c.settings("model-server").update({"models.config": "model_config_list {}"})),
    ("model", "smaller batches", lambda c: c.settings("model-server").update(SMALL_BATCHES)),
    ("model", "no batching file", lambda c: c.settings("model-server").pop("batching.config")),
    ("model", "metrics elsewhere", lambda c: c.settings("model-server").update(NO_PATH)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "problem", "mutate"), MUTATIONS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_each_check_can_fail(check: str, problem: str, mutate: Callable[[MutableBase], Any]) -> None:
    base = MutableBase()
    mutate(base)
    assert list(CHECKS[check](base.cluster)) != []


RAY_MUTATIONS: list[tuple[str, str, Callable[[MutableBase], Any]]] = [
    ("schema", "a misspelt field of a node", lambda c: c.ray_node().update(imagePolicy="Always")),
    ("ray", "a misspelt field of the cluster", lambda c: c.ray().update(rayversion=c.ray().pop("rayVersion"))),
    ("ray", "another version", lambda c: c.ray().update(rayVersion="2.59.0")),
    ("ray", "a head that runs tasks", lambda c: c.ray()["headGroupSpec"].update(rayStartParams={})),
    ("ray", "the image of another role", lambda c: c.ray_node().update(image="lookalike/shard:0.1.0")),
    ("ray", "no probe of its own", lambda c: c.ray_node().pop("readinessProbe")),
    ("ray", "the index elsewhere", lambda c: c.ray_node()["volumeMounts"][1].update(mountPath="/index")),
    ("ray", "an update that does not use it", lambda c: c.update()["args"].remove("--engine=ray")),
    ("addresses", "another address", lambda c: c.update()["args"].append("--ray-address=ray://head:10001")),
    ("addresses", "ingress not allowed", lambda c: c.policy("ray-head").update(ingress=[])),
    ("addresses", "no way to the model server", lambda c: c.policy("ray")["egress"].pop()),
    ("security", "a writable root", lambda c: c.ray_node()["securityContext"].pop("readOnlyRootFilesystem")),
]


@pytest.mark.parametrize(
    ("check", "problem", "mutate"), RAY_MUTATIONS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_checks_of_a_ray_cluster_can_fail(check: str, problem: str, mutate: Callable[[MutableBase], Any]) -> None:
    variant = MutableBase("overlays/ray")
    mutate(variant)
    assert list(CHECKS[check](variant.cluster)) != []


REPLICA_MUTATIONS: list[tuple[str, str, Callable[[MutableBase], Any]]] = [
    ("shards", "a pod too few", lambda c: c.of("StatefulSet", "shard")["spec"].update(replicas=3)),
    ("shards", "a replica that no gateway calls", lambda c: c.of("StatefulSet", "shard")["spec"].update(replicas=6)),
    ("shards", "the replicas of another shard", setting("shard", "SHARDS", "4")),
    ("shards", "no peers", setting("shard", "PEERS", "")),
    ("addresses", "peers elsewhere", setting("shard", "PEERS", "peers:50051")),
    ("addresses", "peers may not be called", lambda c: c.policy("shard-peers").update(egress=[])),
    ("addresses", "peers may not call", lambda c: c.policy("shard-peers").update(ingress=[])),
    ("commands", "a malformed number of shards", setting("shard", "SHARDS", "two")),
]


@pytest.mark.parametrize(
    ("check", "problem", "mutate"), REPLICA_MUTATIONS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_checks_of_replicas_can_fail(check: str, problem: str, mutate: Callable[[MutableBase], Any]) -> None:
    variant = MutableBase("overlays/replicas")
    mutate(variant)
    assert list(CHECKS[check](variant.cluster)) != []


def test_every_check_has_a_mutation() -> None:
    assert {check for check, *_ in MUTATIONS + RAY_MUTATIONS} == set(CHECKS)
