"""Files of weights: every form that is published, and no code run; and a hub, which is one on this machine."""

from __future__ import annotations

import contextlib
import http.server
import json
import pickle
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rsvlm.errors import ModelError
from rsvlm.model.others import reading

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2), "steps": torch.tensor(3)}


def same(found: dict) -> bool:
    return set(found) == set(STATE) and all(torch.equal(found[key], value) for key, value in STATE.items())


def test_every_form_in_which_weights_are_published(tmp_path):
    save_file(STATE, tmp_path / "plain.safetensors")
    torch.save(STATE, tmp_path / "bare.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in STATE.items()}}, tmp_path / "training.pt")
    torch.save({"model": {"module": STATE}}, tmp_path / "nested.bin")
    torch.save(
        {key: value.half() if value.is_floating_point() else value for key, value in STATE.items()}, tmp_path / "half.pth"
    )
    save_file({"a.weight": STATE["a.weight"]}, tmp_path / "x-1.safetensors")
    save_file({key: STATE[key] for key in ("a.bias", "steps")}, tmp_path / "x-2.safetensors")
    shards = {"weight_map": {"a.weight": "x-1.safetensors", "a.bias": "x-2.safetensors", "steps": "x-2.safetensors"}}
    (tmp_path / "x.safetensors.index.json").write_text(json.dumps(shards))
    for name in ("plain.safetensors", "bare.pt", "training.pt", "nested.bin", "half.pth", "x.safetensors.index.json"):
        found = reading.read_state(tmp_path / name)
        assert same(found) and found["a.weight"].dtype == torch.float32, name


class Payload:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_what_is_no_file_of_weights_is_refused_and_nothing_is_run(tmp_path):
    save_file(STATE, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-5])
    torch.save({"a": Payload(tmp_path / "ran")}, tmp_path / "code.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"a": Payload(tmp_path / "ran")}))
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pt")
    outside = {"weight_map": {"a.weight": "../whole.safetensors"}}
    (tmp_path / "out.safetensors.index.json").write_text(json.dumps(outside))
    lacks = {"weight_map": {"a.weight": "whole.safetensors", "b": "whole.safetensors"}}
    (tmp_path / "lacks.safetensors.index.json").write_text(json.dumps(lacks))
    (tmp_path / "not.safetensors.index.json").write_text("[]")
    for name, says in {
        "cut.safetensors": "cannot be read as safetensors",
        "code.pt": "more than tensors",
        "old.pt": "more than tensors",
        "empty.pt": "is it whole",
        "list.pt": "no tensors by name",
        "nowhere.pt": "no file of weights",
        "out.safetensors.index.json": "not beside it",
        "lacks.safetensors.index.json": "lack 1 tensors, first b",
        "not.safetensors.index.json": "no index of safetensors",
    }.items():
        with pytest.raises(ModelError, match=says):
            reading.read_state(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_model_are_listed_and_change_nothing():
    model = nn.Linear(3, 2)
    before = model.weight.clone()
    with pytest.raises(ModelError, match=r"missing: bias; extra: more; of another shape: weight \(5, 3\) for \(2, 3\)"):
        reading.fill(model, {"weight": torch.zeros(5, 3), "more": torch.zeros(1)}, "x.pt")
    assert torch.equal(model.weight, before)
    reading.fill(model, {"weight": torch.zeros(2, 3), "bias": torch.ones(2), "head.x": torch.zeros(1)}, "x.pt", ["head."])
    assert not model.weight.any() and model.bias.all()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine with one model, and a gated one: its folder, and the requests that it got."""
    import huggingface_hub.constants as constants

    content = {"config.json": b'{"model_type": "clip"}', "model.safetensors": b"abc"}
    asked: list[tuple[str, str]] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def answer(self, status: int, body: bytes = b"", **headers):
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self):
            asked.append((self.command, self.path))
            path = self.path.split("?")[0]
            if "gated" in path and "/api/" not in path:
                return self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="ask first")
            if path.startswith("/api/models/"):
                if "org/" not in path:
                    return self.answer(404, X_Error_Code="RepoNotFound")
                if "/tree/" in path:
                    files = [
                        {"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in content.items()
                    ]
                    return self.answer(200, json.dumps(files).encode(), Content_Type="application/json")
                name = path.removeprefix("/api/models/").split("/revision/")[0]
                siblings = [{"rfilename": file} for file in content]
                facts = {
                    "id": name,
                    "modelId": name,
                    "sha": COMMIT,
                    "siblings": siblings,
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                }
                return self.answer(200, json.dumps(facts).encode(), Content_Type="application/json")
            if (data := content.get(path.rsplit("/", 1)[1])) is None:
                return self.answer(404, X_Error_Code="EntryNotFound")
            return self.answer(200, data, X_Repo_Commit=COMMIT, ETag=f'"{hash(data)}"')

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret_token")
    yield asked
    server.shutdown()


def test_a_model_of_a_hub_comes_with_its_revision_and_then_from_the_cache(hub, monkeypatch):
    folder, revision = reading.from_hub("org/name")
    assert revision == COMMIT and (folder / "model.safetensors").read_bytes() == b"abc"
    assert hub
    hub.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert reading.from_hub("org/name") == (folder, COMMIT) and not hub, "nothing is asked when it is offline"
    with pytest.raises(ModelError, match="not in the cache"):
        reading.from_hub("org/other")


def test_a_hub_that_says_no_is_understood_and_no_token_is_told(hub):
    for name, says in {"org/gated": "is gated: accept its terms", "nobody/none": "the hub has no nobody/none"}.items():
        with pytest.raises(ModelError, match=says) as failure:
            reading.from_hub(name)
        assert "hf_secret" not in str(failure.value) and failure.value.__suppress_context__


def test_no_network_with_a_hub_name_says_what_to_do(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with contextlib.suppress(AttributeError):
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", "http://127.0.0.1:9", raising=False)
    with pytest.raises(ModelError, match="hf download org/name"):
        reading.from_hub("org/name")
