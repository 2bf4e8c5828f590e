import asyncio
import json
import types

import pytest

from msseg_lightning.track import pages
from msseg_lightning.track.pages import application, is_blocked


@pytest.mark.parametrize(
    "path",
    [
        "/ajax-api/3.0/mlflow/assistant/message",
        "/ajax-api/3.0/jobs",
        "/gateway/x/mlflow/invocations",
        "/ajax-api/3.0/mlflow/Assistant/config",
    ],
)
def test_what_runs_code_or_talks_to_the_internet_is_closed(path):
    assert is_blocked(path)


@pytest.mark.parametrize(
    "path", ["/", "/static-files/static/js/main.js", "/ajax-api/2.0/mlflow/runs/search", "/version"]
)
def test_runs_are_open(path):
    assert not is_blocked(path)


def ask(application, method, path, body=b"", host="127.0.0.1:5000"):
    """One request, without a network: status and body."""
    answer = []

    async def send(message):
        answer.append(message)

    async def exchange():
        asked = False

        async def receive():
            nonlocal asked
            if asked:
                await asyncio.sleep(60)  # the client stays connected
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [
                (b"host", host.encode()),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
            ],
            "client": ("127.0.0.1", 40000),
            "server": ("127.0.0.1", 5000),
        }
        await application(scope, receive, send)

    asyncio.run(exchange())
    return answer[0]["status"], b"".join(message.get("body", b"") for message in answer[1:])


def test_mlflow_answers_for_this_computer_and_not_for_its_assistant(store, monkeypatch):
    for name in ("MLFLOW_SERVER_ALLOWED_HOSTS", "_MLFLOW_SERVER_FILE_STORE"):
        monkeypatch.setenv(name, "restored afterwards")
    pages = application(store, 5000)
    assert ask(pages, "GET", "/version")[0] == 200
    status, body = ask(
        pages, "POST", "/ajax-api/2.0/mlflow/experiments/search", b'{"max_results": 5}'
    )
    assert status == 200 and json.loads(body)["experiments"][0]["name"] == "Default"
    status, page = ask(pages, "GET", "/")
    assert status == 200 and page.count(b"machine_learning") == 1 and b"</html>" in page
    assert ask(pages, "GET", "/ajax-api/3.0/mlflow/assistant/config")[0] == 404
    assert ask(pages, "GET", "/", host="evil.example")[0] == 403
    monkeypatch.setattr("mlflow.version.VERSION", "3.18.0")  # its storage is not known: no changes
    status, page = ask(application(store, 5000), "GET", "/")
    assert status == 200 and b"machine_learning" not in page and b"</html>" in page


def test_the_table_of_runs_is_opened_not_the_welcome_page(monkeypatch):
    known = {"msseg": types.SimpleNamespace(experiment_id="3")}
    client = types.SimpleNamespace(get_experiment_by_name=known.get)
    monkeypatch.setattr(pages, "open_client", lambda uri: client)
    assert pages.runs_address("sqlite:///a") == "#/experiments/3/runs"
    known.clear()
    assert pages.runs_address("sqlite:///a") == ""
