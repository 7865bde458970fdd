"""Log of the server: one line per request, optionally as JSON; never images or keys."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.serve.server.core.timing import Trace

log = logging.getLogger("zoo.serve.access")


class JsonFormatter(logging.Formatter):
    """Log formatter that writes one line of JSON per record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_request(trace: Trace, route: str) -> None:
    """Log a finished request."""
    if not log.isEnabledFor(logging.INFO):
        return
    fields = {
        "id": trace.id,
        "route": route,
        "model": trace.model,
        "status": trace.status,
        "ms": round(trace.seconds * 1000, 2),
        "bytes_in": trace.bytes_in,
        "bytes_out": trace.bytes_out,
    }
    log.info("request", extra={"fields": fields})


def log_config(*, json_logs: bool) -> dict[str, Any]:
    """Return uvicorn's `log_config`: everything on stderr; without JSON, only warnings and errors.

    Args:
        json_logs: whether to log JSON, with one line per request.
    """
    formatter = (
        {"()": JsonFormatter} if json_logs else {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "loggers": {
            "zoo": {"handlers": ["stderr"], "level": "INFO" if json_logs else "WARNING", "propagate": False},
            "grpc": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
            "uvicorn.access": {"level": "CRITICAL", "propagate": False},  # replaced by our own line
        },
    }
