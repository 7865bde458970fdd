"""Options of `zoo serve --ray`: replicas and their resources."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from zoo.serve.server.ray.options import Cluster

RANGE = re.compile(r"([1-9]\d*)(?:\.\.([1-9]\d*))?")

OnRay = Annotated[
    bool,
    typer.Option(
        "--ray", help="Serve with Ray: deploy to this machine's cluster and return, or start one and stay."
    ),
]
ReplicasOption = Annotated[
    str | None,
    typer.Option(
        metavar="N or MIN..MAX", help="With --ray: replicas of the server, scaled with the load; default: 1."
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(min=0, help="With --ray: GPUs per replica; 0.5 places two on one GPU; default: 0."),
]
CpusOption = Annotated[
    float | None, typer.Option(min=0.01, help="With --ray: CPU cores per replica; default: 1.")
]


def cluster_of(
    replicas: str | None, gpus: float | None, cpus: float | None, address: tuple[str, int]
) -> Cluster:
    """Return the cluster that the options describe.

    Args:
        replicas: `N` or `MIN..MAX`; None for one.
        gpus: GPUs per replica.
        cpus: CPU cores per replica.
        address: host and port to listen on.

    Raises:
        BadParameter: `replicas` is not a number or a range.
    """
    from zoo.serve.server.ray.options import Cluster

    found = RANGE.fullmatch(replicas or "1")
    if found is None or int(found[1]) > int(found[2] or found[1]):
        raise typer.BadParameter(
            f"got {replicas!r}, expected a number such as 2 or a range such as 1..4", param_hint="--replicas"
        )
    given = {"gpus": gpus, "cpus": cpus}
    return Cluster(
        min_replicas=int(found[1]),
        max_replicas=int(found[2] or found[1]),
        host=address[0],
        port=address[1],
        **{name: value for name, value in given.items() if value is not None},
    )


def check_replicas(ray: bool, options: dict[str, object]) -> None:
    """Check that no option of serving with Ray is given without it, nor the reverse.

    Args:
        ray: whether `--ray` is given.
        options: values by option name, None if not given.

    Raises:
        BadParameter: an option does not apply; names the first.
    """
    only_ray = ("--replicas", "--gpus", "--cpus")
    wrong = [name for name, value in options.items() if value is not None and (name in only_ray) is not ray]
    if wrong:
        do = "leave it out: see --replicas" if ray else "add --ray"
        raise typer.BadParameter(f"got {wrong[0]} {'with' if ray else 'without'} --ray: {do}")
