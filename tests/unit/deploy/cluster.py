"""A model of the rendered manifests: pods, their environments, and which pod a call to an address reaches. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.unit.deploy.kustomize import Document, pod_templates

MULTIPLES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@dataclass(frozen=True)
class Pod:
    """The pods of one workload."""

    owner: Document  # The workload: a Deployment, a StatefulSet, a CronJob or a RayCluster.
    labels: Mapping[str, str]
    spec: Document

    @property
    def name(self) -> str:
        return str(self.owner["metadata"]["name"])

    def containers(self) -> Iterator[Document]:
        yield from self.spec.get("initContainers", [])
        yield from self.spec["containers"]

    def serves(self) -> bool:
        """Whether it is a server of ours."""
        return self.owner["kind"] not in ("CronJob", "RayCluster")

    def runs_ray(self) -> bool:
        """Whether it is a node of a Ray cluster: KubeRay gives its containers their command."""
        return bool(self.owner["kind"] == "RayCluster")


class Cluster:
    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents

    def of_kind(self, kind: str) -> dict[str, Document]:
        """All documents of a kind, by name."""
        return {each["metadata"]["name"]: each for each in self.documents if each["kind"] == kind}

    def pods(self) -> list[Pod]:
        return [
            Pod(document, template["metadata"]["labels"], template["spec"])
            for document in self.documents
            for template in pod_templates(document)
        ]

    def pod(self, name: str) -> Pod:
        (pod,) = [pod for pod in self.pods() if pod.name == name]
        return pod

    def environment(self, pod: Pod, container: Document) -> dict[str, str]:
        """The environment variables of the container; one that is the pod's name has that of the first pod.

        Those of a Secret, which has to be optional, are not there.
        """
        variables: dict[str, str] = {}
        for source in container.get("envFrom", []):
            if "secretRef" in source:
                assert source["secretRef"]["optional"], source
                continue
            variables |= self.of_kind("ConfigMap").get(source["configMapRef"]["name"], {}).get("data", {})
        for variable in container.get("env", []):
            if "value" in variable:
                variables[variable["name"]] = variable["value"]
            else:
                assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}, variable
                variables[variable["name"]] = f"{pod.name}-0"
        return variables

    def destination(self, address: str) -> tuple[Pod, int] | None:
        """The pod and port that a call to `service:port` or `pod.service:port` reaches; None if there is none."""
        host, _, port = address.rpartition(":")
        pod_name, _, service_name = host.rpartition(".")
        service = self.of_kind("Service").get(service_name)
        if service is None:
            return None
        for pod in self.pods():
            if not selects(service["spec"]["selector"], pod.labels):
                continue
            if pod_name and pod_name not in self.pod_names(pod):
                continue
            for service_port in service["spec"]["ports"]:
                if str(service_port["port"]) == port:
                    number = port_number(pod, service_port["targetPort"])
                    # A headless Service maps no ports: the pod must listen on the very port that is called.
                    if number is not None and (service["spec"].get("clusterIP") != "None" or str(number) == port):
                        return pod, number
        return None

    def pod_names(self, pod: Pod) -> list[str]:
        """The DNS names of a StatefulSet's pods; the pods of other workloads have none."""
        if pod.owner["kind"] != "StatefulSet":
            return []
        return [f"{pod.name}-{i}" for i in range(pod.owner["spec"]["replicas"])]

    def allows(self, source: Pod, target: Pod, port: int) -> bool:
        """Whether the network policies let `source` call `target` on `port`."""
        return self._permits("Egress", source, target, port, target) and self._permits(
            "Ingress", target, source, port, target
        )

    def _permits(self, direction: str, subject: Pod, peer: Pod, port: int, listener: Pod) -> bool:
        side, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
        policies = [
            policy["spec"]
            for policy in self.of_kind("NetworkPolicy").values()
            if direction in policy["spec"]["policyTypes"]
            and selects(policy["spec"]["podSelector"].get("matchLabels", {}), subject.labels)
        ]
        return not policies or any(
            _peer_fits(rule.get(peers), peer) and _port_fits(rule.get("ports"), port, listener)
            for policy in policies
            for rule in policy.get(side, [])
        )


def _peer_fits(peers: Sequence[Document] | None, pod: Pod) -> bool:
    if peers is None:
        return True
    return any("podSelector" in each and selects(each["podSelector"]["matchLabels"], pod.labels) for each in peers)


def _port_fits(ports: Sequence[Document] | None, port: int, listener: Pod) -> bool:
    return ports is None or any(port_number(listener, each["port"]) == port for each in ports)


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()


def ports(pod: Pod) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"] for container in pod.containers() for port in container.get("ports", [])
    }


def port_number(pod: Pod, port: Any) -> int | None:
    """The number of a port, from its name or number; None if the pod has no such port."""
    if isinstance(port, str):
        return ports(pod).get(port)
    return port if port in ports(pod).values() else None


def size_bytes(text: str) -> int:
    """`512Mi` as bytes."""
    return int(text[:-2]) * MULTIPLES[text[-2:]]
