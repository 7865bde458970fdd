"""Parameters of calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

if TYPE_CHECKING:
    from tests.serve.server.conftest import ServeApp

INFER = "/inference.GRPCInferenceService/ModelInfer"


def test_parameters_without_a_value_are_none_and_misspelled_ones_are_refused(serve_app: ServeApp) -> None:
    tensor = {"name": "image", "datatype": "UINT8", "shape": (1, 1, 2, 3)}
    request = pb.ModelInferRequest(model_name="stand-in", inputs=[tensor], raw_input_contents=[bytes(6)])
    for name in ("unknown_below", "sequence_id"):
        request.parameters[name].Clear()
    with grpc.insecure_channel(f"127.0.0.1:{serve_app(grpc=True).grpc_port}") as channel:
        infer = channel.unary_unary(INFER)
        answer = pb.ModelInferResponse.FromString(infer(request.SerializeToString(), timeout=20))
        assert list(answer.outputs[0].shape) == [1, 1, 2]
        request.parameters["unknown_bellow"].double_param = 0.5
        with pytest.raises(grpc.RpcError, match="expected 'unknown_below'"):
            infer(request.SerializeToString(), timeout=20)
