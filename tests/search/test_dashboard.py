"""Studies as `optuna-dashboard` reads them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

from optuna.storages import RDBStorage
from optuna_dashboard._app import create_app

from hwsparse.search.bounds import Bounds
from hwsparse.search.study import SearchSettings
from tests.search import toy
from tests.search.test_study import search


def asked(app: Any, path: str, query: str = "") -> Any:
    """What the dashboard's server tells its page."""
    environ: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": query, "wsgi.input": io.BytesIO()}
    setup_testing_defaults(environ)
    said: list[str] = []
    body = b"".join(app(environ, lambda status, headers, *rest: said.append(status)))
    assert said[0].startswith("200"), body
    return json.loads(body)


def test_a_study_is_shown_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    found = search(path, SearchSettings(trials=12, seed=3, bounds=Bounds(max_latency_s=1.0)))
    storage = RDBStorage(f"sqlite:///{path}")
    try:
        app = create_app(storage)
        (summary,) = asked(app, "/api/studies")["study_summaries"]
        assert summary["directions"] == ["minimize", "maximize"]
        shown = asked(app, f"/api/studies/{summary['study_id']}", "after=0")
        assert shown["objective_names"] == ["latency_s", "quality"]
        assert len(shown["trials"]) == 12 and {trial["state"] for trial in shown["trials"]} == {"Complete"}
        told = {(trial["number"], *trial["values"]) for trial in shown["trials"]}
        assert {(each.trial, each.latency_s, each.quality) for each in found} <= told
        names = {layer.layer for layer in toy.toy_space().free}
        assert all({each["name"] for each in trial["params"]} == names for trial in shown["trials"])
        assert shown["best_trials"]
    finally:
        storage.remove_session()
        storage.engine.dispose()
