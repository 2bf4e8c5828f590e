"""MLflow's pages from a server that can do nothing but show and edit runs."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from msseg_lightning.track.store import ARTIFACTS, quiet_mlflow, store_folder

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CLOSED = frozenset({"assistant", "gateway", "jobs", "mcp", "scorers", "webhooks", "ui-telemetry"})
"""Parts of MLflow's addresses that are not served. The assistant can run shell commands for
whoever reaches the port, which on a shared computer is every other user; jobs run code; gateway,
webhooks and telemetry talk to the internet."""

COLUMNS = {
    "attributes.`Run Name`": 290,
    "metrics.`result/lesion_f1`": 115,
    "metrics.`result/dice`": 90,
    "metrics.`result/false_lesions_per_case_without`": 270,
    "metrics.`result/lesion_sensitivity`": 160,
    "metrics.`result/lesion_precision`": 150,
    "tags.`folds`": 70,
    "runDateAndNestInfo": 140,
    "duration": 80,
    "tags.`data`": 90,
    "params.`size`": 90,
    "params.`seed`": 90,
}
"""What runs are compared by, with widths in pixels; MLflow's own choice is its data set, source and
model."""

VIEW = {
    "selectedColumns": [name for name in COLUMNS if name.startswith(("metrics", "tags", "params"))],
    "columnOrder": list(COLUMNS),
    "columnWidths": COLUMNS,
}
EXPERIMENTS = 20
"""The first so many of a store are shown like that; a user's own choice of columns stays."""

PREFERENCES_OF = "3.17"
"""The release of MLflow whose names in the browser's storage are known. No other release is given
preferences, since its pages might read them in another way."""

# MLflow 3 opens on its pages for language models, with the assistant's panel in front.
PREFERENCES = (
    "<script>for (const [name, value] of "
    + json.dumps(
        [
            ("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true"),
            ("mlflow.workflowType_v1", '"machine_learning"'),
            *(
                (
                    f'MLflowLocalStorage-1.1-ExperimentPage-["{number}"]-ReactComponentState',
                    json.dumps(VIEW),
                )
                for number in range(EXPERIMENTS)
            ),
        ]
    )
    + ") if (localStorage.getItem(name) === null) localStorage.setItem(name, value);</script>"
).encode()


class OnlyRuns:
    """Answers 404 to every address with a closed part, and passes the rest on.

    Args:
        application: MLflow's server.
        prefer: put ``PREFERENCES`` into its first page.
    """

    def __init__(self, application: Application, prefer: bool) -> None:
        self.application, self.prefer = application, prefer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "lifespan" or not is_closed(path):
            prefers = self.prefer and scope["type"] == "http" and path == "/"
            await self.application(scope, receive, Preferring(send) if prefers else send)
            return
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"detail": "not served"}'})


class Preferring:
    """Puts `PREFERENCES` into the head of the page that is being sent.

    Args:
        send: where the page goes.
    """

    def __init__(self, send: Send) -> None:
        self.send = send

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            # The length changes, and a browser's copy of the page without the addition is stale.
            kept = [
                (name, value)
                for name, value in message["headers"]
                if name.lower() not in (b"content-length", b"etag", b"last-modified")
            ]
            message = {**message, "headers": kept}
        elif message["type"] == "http.response.body":
            body = message.get("body", b"").replace(b"<head>", b"<head>" + PREFERENCES, 1)
            message = {**message, "body": body}
        await self.send(message)


def is_closed(path: str) -> bool:
    """Whether an address belongs to what is not served."""
    return any(part.lower() in CLOSED for part in path.split("/"))


def application(uri: str, port: int) -> Application:
    """MLflow's server for a local store, reduced.

    Only requests addressed to this computer by name are answered, which stops pages of other sites
    that make their name point here.

    Args:
        uri: from `store.ensure_store`.
        port: where it will listen.
    """
    quiet_mlflow()
    names = ("127.0.0.1", "localhost", "[::1]")
    os.environ.update(
        {
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(f"{name}:{port}" for name in names),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
            "_MLFLOW_SGI_NAME": "uvicorn",
        }
    )
    from mlflow.server import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR

    folder = store_folder(uri)
    assert folder is not None, "pages are shown of a local store only"
    os.environ[BACKEND_STORE_URI_ENV_VAR] = uri
    os.environ[ARTIFACT_ROOT_ENV_VAR] = (folder / ARTIFACTS).as_uri()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own use of deprecated parts
        from mlflow.server.fastapi_app import create_fastapi_app
        from mlflow.version import VERSION

    return OnlyRuns(create_fastapi_app(), prefer=VERSION.startswith(f"{PREFERENCES_OF}."))


def serve(uri: str, host: str, port: int) -> None:
    """Answer until interrupted: one process, no access log."""
    import uvicorn

    pages = application(uri, port)
    # A browser keeps its connection open; that must not hold up the end.
    uvicorn.run(pages, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)
