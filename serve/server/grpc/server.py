"""gRPC server on the event loop, the models and the limits of the HTTP server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from zoo.errors import ZooError
from zoo.serve.server.grpc.service import Service

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.serve.server.core.context import Context


class GrpcServer:
    """Server of the Open Inference Protocol; create it on the event loop of the models.

    Args:
        context: context of the HTTP server.
        address: `host:port` to listen on.
        certfile: TLS certificate; None for no TLS.
        keyfile: key of the certificate; None if it is in the same file.

    Raises:
        ZooError: it cannot listen there.
    """

    def __init__(
        self, context: Context, address: str, certfile: Path | None = None, keyfile: Path | None = None
    ) -> None:
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", context.settings.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 1),  # each worker listens on the same port
            )
        )
        self._server.add_generic_rpc_handlers((Service(context),))
        try:
            if certfile is None:
                self.port = self._server.add_insecure_port(address)
            else:
                pair = (keyfile or certfile).read_bytes(), certfile.read_bytes()
                self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except RuntimeError as error:
            raise ZooError(
                f"cannot listen on {address} for gRPC ({error}), expected a free port of this machine: "
                f"choose another with --grpc-port"
            ) from error

    async def start(self) -> None:
        """Accept calls."""
        await self._server.start()

    async def stop(self, timeout_s: float) -> None:
        """Accept no more calls, and finish those in flight.

        Args:
            timeout_s: maximum time to wait; calls that take longer are canceled.
        """
        await self._server.stop(timeout_s)
