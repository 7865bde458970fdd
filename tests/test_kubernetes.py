"""The manifests in docs/kubernetes: by the schemas of Kubernetes, of Ray Serve, and of this command line.

The schemas of KubeRay and KServe are in no package that is installed here: what they hold beside pods is
checked against the fields that their documentation requires.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from typer.main import get_group

from zoo.cli import app
from zoo.commands.replicas import cluster_of
from zoo.serve.server.ray.options import RayArguments

if TYPE_CHECKING:
    from collections.abc import Iterator

    Manifest = dict[str, Any]

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "kubernetes"
VERSION = "1.37"
BUILT_IN = ("deployment.yaml", "triton.yaml")


def manifests(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def of_kind(name: str, kind: str) -> Manifest:
    (found,) = (each for each in manifests(name) if each["kind"] == kind)
    return found


def validate(manifest: Manifest) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)


def pod_specs(value: Any) -> Iterator[Manifest]:
    """Yield whatever in a manifest has containers."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from pod_specs(part)


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def all_pods() -> list[tuple[str, Manifest]]:
    return [
        (path.name, pod) for path in sorted(FOLDER.glob("*.yaml")) for pod in pod_specs(manifests(path.name))
    ]


@pytest.mark.parametrize("name", BUILT_IN)
def test_manifests_are_right_by_the_schemas_of_kubernetes(name: str) -> None:
    for manifest in manifests(name):
        validate(manifest)


def test_a_field_that_kubernetes_does_not_know_would_be_found() -> None:
    service = of_kind("deployment.yaml", "Service")
    service["spec"]["selektor"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="selektor"):
        validate(service)


@pytest.mark.parametrize(
    ("name", "pod"), [each for each in all_pods() if each[0] not in (*BUILT_IN, "gpu-patch.yaml")]
)
def test_pods_of_custom_resources_are_right_by_the_schemas_of_kubernetes(name: str, pod: Manifest) -> None:
    known = {key: value for key, value in pod.items() if key not in ("minReplicas", "maxReplicas", "timeout")}
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name.partition(".")[0]}, "spec": known})


def test_the_patch_gives_a_gpu_to_the_container_of_the_deployment() -> None:
    (patch,) = manifests("gpu-patch.yaml")
    deployment = of_kind("deployment.yaml", "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (change,) = patch["spec"]["template"]["spec"]["containers"]
    assert change.pop("name") == container["name"]
    container["resources"]["limits"] |= change["resources"]["limits"]
    validate(deployment)
    assert container["resources"]["limits"] == {"memory": "2Gi", "nvidia.com/gpu": "1"}


def test_nothing_runs_as_root_or_may_gain_rights() -> None:
    pods = [pod for name, pod in all_pods() if name != "gpu-patch.yaml"]
    assert len(pods) == 5
    for pod in pods:
        for container in containers(pod):
            rights = pod.get("securityContext", {}) | container["securityContext"]
            assert rights["runAsNonRoot"] is True
            assert rights["runAsUser"] > 0
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", ["deployment.yaml", "kserve.yaml", "triton.yaml"])
def test_the_root_file_system_is_read_only_and_tmp_is_not(name: str) -> None:
    for pod in pod_specs(manifests(name)):
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_the_command_line_takes_the_arguments_of_the_containers() -> None:
    commands = get_group(app).commands
    used = [
        container["args"]
        for name, pod in all_pods()
        if name in ("deployment.yaml", "kserve.yaml")
        for container in containers(pod)
    ]
    assert [arguments[0] for arguments in used] == ["pull", "serve", "serve"]
    for name, *arguments in used:
        assert commands[name].make_context(name, arguments).command is commands[name]


def test_probes_ask_for_what_the_server_has() -> None:
    (container,) = of_kind("deployment.yaml", "Deployment")["spec"]["template"]["spec"]["containers"]
    assert (
        container["readinessProbe"]["httpGet"]["path"]
        == container["startupProbe"]["httpGet"]["path"]
        == "/readyz"
    )
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_requests_in_flight_are_finished_before_a_pod_is_killed() -> None:
    pod = of_kind("deployment.yaml", "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    timeout = int(container["args"][container["args"].index("--timeout") + 1])
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > timeout + pause


def test_selectors_meet_the_labels_of_pods_and_scaling_the_deployment() -> None:
    for name in BUILT_IN:
        deployment = of_kind(name, "Deployment")
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert (
            labels
            == deployment["spec"]["selector"]["matchLabels"]
            == of_kind(name, "Service")["spec"]["selector"]
        )
    scaler = of_kind("deployment.yaml", "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "zoo"}


def test_the_ray_service_has_what_kuberay_requires() -> None:
    (service,) = manifests("kuberay.yaml")
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    cluster = service["spec"]["rayClusterConfig"]
    (worker,) = cluster["workerGroupSpecs"]
    assert {"rayStartParams", "template"} <= set(cluster["headGroupSpec"])
    assert {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"} <= set(
        worker
    )
    assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]


def test_ray_serve_and_our_builder_take_the_configuration_of_the_ray_service() -> None:
    schema = pytest.importorskip("ray.serve.schema")
    (service,) = manifests("kuberay.yaml")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    schema.ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(pytest.importorskip(module), name))
    arguments = RayArguments.model_validate(application["args"])
    assert arguments.cluster.max_replicas == 4
    assert arguments.settings.timeout < config["http_options"]["request_timeout_s"]
    assert cluster_of("1..4", 0.5, 2, (arguments.cluster.host, arguments.cluster.port)) == arguments.cluster


def test_ray_workers_have_room_for_the_replicas_of_one_gpu() -> None:
    (service,) = manifests("kuberay.yaml")
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    cluster = RayArguments.model_validate(application["args"]).cluster
    (worker,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = worker["template"]["spec"]["containers"]
    on_one_gpu = 1 / cluster.gpus
    assert float(container["resources"]["requests"]["cpu"]) > on_one_gpu * cluster.cpus


def test_inference_services_speak_the_open_inference_protocol() -> None:
    triton, own = manifests("kserve.yaml")
    for service in (triton, own):
        assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = triton["spec"]["predictor"]["model"]
    assert model["modelFormat"]["name"] == "triton"
    assert model["protocolVersion"] == "v2"
    assert model["storageUri"].startswith("pvc://")
    (container,) = own["spec"]["predictor"]["containers"]
    assert container["name"] == "kserve-container"  # KServe mounts models into the container of this name
    assert "model=/mnt/models" in container["args"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_images_are_placeholders(path: Path) -> None:
    images = {
        container["image"]
        for pod in pod_specs(manifests(path.name))
        for container in containers(pod)
        if "image" in container
    }
    assert images <= {"IMAGE", "TRITON_IMAGE"}
