"""`zoo serve`: models over HTTP and gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoo.api.serve import GRPC_NEEDED, check_extra, model_sources, server_settings
from zoo.api_key import check_key
from zoo.commands.arguments import DeviceOption, OverlapOption, tiling_of
from zoo.commands.console import AsJson, emit, remarks
from zoo.commands.replicas import CpusOption, GpusOption, OnRay, ReplicasOption, check_replicas, cluster_of
from zoo.predictors.backends import BACKENDS
from zoo.predictors.limits import OVERLAP, SMALLEST

if TYPE_CHECKING:
    from zoo.serve.server.processes.job import Certificate, Job, Served
    from zoo.serve.server.ray.options import Cluster


def _origins(texts: list[str] | None) -> list[str]:
    from zoo.serve.server.core.settings import check_origin

    try:
        return [check_origin(text) for text in texts or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _root_path(text: str) -> str:
    from zoo.serve.server.core.settings import check_root_path

    try:
        return check_root_path(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[NAME=]MODEL]...",
            help="Runs, bundles, .onnx or .engine files, or names in a registry; a request that names none "
            "gets the first; default: the newest run under runs/.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 8000,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Also serve the Open Inference Protocol over gRPC, on this port; 0: any free port.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; default: one per GPU, else one.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"{', '.join(BACKENDS.built_in)} or a plugin's; fastest: measured on this "
            "CPU at the first load; default: the fastest available.",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"] | None,
        typer.Option(help="Precision of the exported file; default: fp32, or that of the newest engine."),
    ] = None,
    device: DeviceOption = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="CPU threads of each model in each worker; default: all cores, divided among workers."
        ),
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Maximum images per batch; default: 8 on a GPU, 1 on the CPU.")
    ] = None,
    max_wait_ms: Annotated[
        float | None,
        typer.Option(min=0, max=60_000, help="Time that an image waits for others, in ms; default: 2."),
    ] = None,
    queue: Annotated[
        int | None, typer.Option(min=1, help="Maximum waiting images; more get status 503; default: 64.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.001, max=86_400, help="Time limit of a request, in seconds; default: 30."),
    ] = None,
    max_body_mb: Annotated[
        float | None, typer.Option(min=0.001, max=2147, help="Maximum request body, in MB; default: 32.")
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, max=178_956_970, help="Maximum image size, height x width; default: 40000000."),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=SMALLEST,
            metavar="PIXELS",
            help="Predict images at their original size, larger ones in tiles of this height and width.",
        ),
    ] = None,
    overlap: OverlapOption = OVERLAP,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="ZOO_API_KEY", help="Key that requests must send; safer in the environment than here."
        ),
    ] = None,
    ssl_certfile: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="TLS certificate; enables HTTPS.")
    ] = None,
    ssl_keyfile: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Key of the certificate, if it is in another file."),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            callback=_origins,
            help="Origin whose web pages may use the server, e.g. https://maps.example.com; repeatable; "
            "'*' for any.",
        ),
    ] = None,
    root_path: Annotated[
        str,
        typer.Option(
            metavar="/PREFIX",
            callback=_root_path,
            help="Path prefix of a proxy that leaves it on requests; one that strips it needs no option.",
        ),
    ] = "",
    json_logs: Annotated[
        bool, typer.Option("--json-logs", help="Log one JSON object per line, and every request.")
    ] = False,
    ray: OnRay = False,
    replicas: ReplicasOption = None,
    gpus: GpusOption = None,
    cpus: CpusOption = None,
    as_json: AsJson = False,
) -> None:
    """Serve models over HTTP until Ctrl-C.

    Prints "ready" once every model has passed a real inference. Workers that die or hang are replaced.
    """
    check_extra()
    _check_grpc(grpc_port, ray=ray)
    tiling_of(tile, overlap)
    _check_key(api_key, host, cors or [])
    certificate = _certificate(ssl_certfile, ssl_keyfile)
    check_replicas(ray, {"--workers": workers, "--replicas": replicas, "--gpus": gpus, "--cpus": cpus})

    from zoo.machine import cores, gpu_count
    from zoo.serve.server.core.settings import is_loopback
    from zoo.serve.server.processes.job import Job
    from zoo.serve.server.processes.port import Port
    from zoo.serve.server.processes.supervisor import Supervisor

    present = 0 if device == "cpu" else gpu_count()
    count = workers or present or 1
    if threads is None and count > 1 and not ray:
        threads = max(1, cores() // count)
    sources = model_sources(models or [None], backend, precision, device, threads)
    settings = server_settings(
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        queue=queue,
        timeout=timeout,
        max_body_mb=max_body_mb,
        max_pixels=max_pixels,
        tile=tile,
        overlap=overlap,
        api_key=api_key,
        remote=not is_loopback(host),
        cors=tuple(cors or ()),
        root_path=root_path,
        json_logs=json_logs,
    )
    job = Job(sources, settings, certificate)
    scheme = "http" if certificate is None else "https"
    if ray:
        Port(host, 0).close()  # Ray would wait for a proxy that cannot start
        _serve_on_ray(job, cluster_of(replicas, gpus, cpus, (host, port)), scheme, as_json=as_json)
        return
    opened = Port(host, port, count)
    if grpc_port is not None:
        for_grpc = Port(host, grpc_port, option="--grpc-port", bound_by_workers=True)  # held until the end
        job = job._replace(grpc=for_grpc.address)
    url = f"{scheme}://{_bracketed(host)}:{opened.number}"
    supervisor = Supervisor(job, count, opened, present)
    supervisor.run(lambda served: _say_ready(served, url, supervisor.pids, grpc=job.grpc, as_json=as_json))


def _serve_on_ray(job: Job, cluster: Cluster, scheme: str, *, as_json: bool) -> None:
    from zoo.serve.server.ray.deploy import serve_on_ray

    url = f"{scheme}://{_bracketed(cluster.host)}:{cluster.port}"
    serve_on_ray(job, cluster, lambda served: _say_ready(served, url, [], as_json=as_json))


def _certificate(certfile: Path | None, keyfile: Path | None) -> Certificate | None:
    from zoo.serve.server.processes.job import Certificate

    if certfile is not None:
        return Certificate(certfile, keyfile)
    if keyfile is not None:
        raise typer.BadParameter("got --ssl-keyfile alone, expected --ssl-certfile too")
    return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check_grpc(port: int | None, *, ray: bool) -> None:
    if port is None:
        return
    if ray:
        raise typer.BadParameter("got --grpc-port with --ray, which serves HTTP only: leave one of them out")
    check_extra("grpc", GRPC_NEEDED)


def _check_key(api_key: str | None, host: str, cors: list[str]) -> None:
    from zoo.serve.server.core.settings import ANY_ORIGIN, is_loopback

    if api_key is not None:
        try:
            check_key(api_key)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--api-key") from error
    if api_key is None and not is_loopback(host):
        remarks.print(
            f"warning: anyone who can reach {host} can use this server: set a key with ZOO_API_KEY or "
            "--api-key"
        )
    elif api_key is None and ANY_ORIGIN in cors:
        remarks.print(
            "warning: every web page opened in a browser on this machine can use this server: name the "
            "origins, or set a key with ZOO_API_KEY or --api-key"
        )


def _say_ready(
    served: tuple[Served, ...], url: str, pids: list[int], *, grpc: str | None = None, as_json: bool
) -> None:
    lines = [f"{model.name}: {model.description} ({model.reason}), {model.path}" for model in served]
    value = {"url": url, "grpc": grpc, "workers": pids, "models": [model._asdict() for model in served]}
    if grpc is not None:
        lines.append(f"gRPC at {grpc}")
    emit(value, *lines, f"ready at {url}", as_json=as_json)
