"""The options of `zoo serve --ray`: how many replicas, and what each of them gets."""

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
        "--ray", help="Serve by Ray: deploy on the cluster that runs here and return, or start one and stay."
    ),
]
ReplicasOption = Annotated[
    str | None,
    typer.Option(
        metavar="N or MIN..MAX", help="With --ray: copies of the server, more under load; default: 1."
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(min=0, help="With --ray: of each replica; 0.5 puts two on one GPU; default: 0."),
]
CpusOption = Annotated[float | None, typer.Option(min=0.01, help="With --ray: of each replica; default: 1.")]


def cluster_of(
    replicas: str | None, gpus: float | None, cpus: float | None, address: tuple[str, int]
) -> Cluster:
    """Return what the options say.

    Args:
        replicas: `N` or `MIN..MAX`; None for one.
        gpus: of each replica.
        cpus: likewise.
        address: host and port.

    Raises:
        BadParameter: not such a range.
    """
    from zoo.serve.server.ray.options import Cluster

    found = RANGE.fullmatch(replicas or "1")
    if found is None or int(found[1]) > int(found[2] or found[1]):
        raise typer.BadParameter(
            f"got {replicas!r}, expected a number as 2 or a range as 1..4", param_hint="--replicas"
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
    """Raise if options that only one of the two ways to serve has are given to the other.

    Args:
        ray: whether `--ray` is given.
        options: by name, None if not given.

    Raises:
        BadParameter: naming the first.
    """
    only_ray = ("--replicas", "--gpus", "--cpus")
    wrong = [name for name, value in options.items() if value is not None and (name in only_ray) is not ray]
    if wrong:
        do = "leave it out: see --replicas" if ray else "add --ray"
        raise typer.BadParameter(f"got {wrong[0]} {'with' if ray else 'without'} --ray: {do}")
