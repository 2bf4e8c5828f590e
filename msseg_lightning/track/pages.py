"""MLflow server reduced to showing and editing runs."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from msseg_lightning.track.store import ARTIFACTS, RUNS, open_client, quiet_mlflow, store_folder

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BLOCKED = frozenset({"assistant", "gateway", "jobs", "mcp", "scorers", "webhooks", "ui-telemetry"})
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
"""Columns of the table of runs, with widths in pixels; MLflow's defaults are data set, source and
model."""

VIEW = {
    "selectedColumns": [name for name in COLUMNS if name.startswith(("metrics", "tags", "params"))],
    "columnOrder": list(COLUMNS),
    "columnWidths": COLUMNS,
}
EXPERIMENTS = 20
"""Number of experiments of a store that get these columns; a user's own choice is kept."""

PREFERENCES_OF = "3.17"
"""Release of MLflow whose names in the browser's storage are known. Other releases get no
preferences, since their pages might read them differently."""

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


class RunsOnlyApplication:
    """ASGI application that answers blocked addresses with 404 and forwards all others.

    Args:
        application: MLflow's server.
        prefer: insert ``PREFERENCES`` into its first page.
    """

    def __init__(self, application: Application, prefer: bool) -> None:
        self.application, self.prefer = application, prefer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "lifespan" or not is_blocked(path):
            prefers = self.prefer and scope["type"] == "http" and path == "/"
            await self.application(scope, receive, PreferencesSender(send) if prefers else send)
            return
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"detail": "not served"}'})


class PreferencesSender:
    """ASGI ``send`` that inserts `PREFERENCES` into the head of a page.

    Args:
        send: receives the changed page.
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


def is_blocked(path: str) -> bool:
    """Whether a path of the server has a part in ``BLOCKED``."""
    return any(part.lower() in BLOCKED for part in path.split("/"))


def application(uri: str, port: int) -> Application:
    """MLflow's server for a local store, without the parts in ``BLOCKED``.

    Only requests with a host name of this computer are answered, which prevents DNS rebinding by
    pages of other sites.

    Args:
        uri: from `store.ensure_store`.
        port: port that the server will listen on.
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

    return RunsOnlyApplication(
        create_fastapi_app(), prefer=VERSION.startswith(f"{PREFERENCES_OF}.")
    )


def runs_address(uri: str) -> str:
    """The address of the table of runs below that of the server; empty without any run."""
    found = open_client(uri).get_experiment_by_name(RUNS)
    return "" if found is None else f"#/experiments/{found.experiment_id}/runs"


def serve(uri: str, host: str, port: int) -> None:
    """Serve the pages until interrupted, in one process and without an access log."""
    import uvicorn

    pages = application(uri, port)
    # A browser keeps its connection open; that must not delay the shutdown.
    uvicorn.run(pages, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)
