"""The JSON Schema of the reports that diff, gate, verify and a dry remap write: `ckptdoctor schema report`."""

from __future__ import annotations

from typing import Any

from ckptdoctor.reports.data import SCHEMA

_TEXT, _COUNT, _FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_TEXTS = {"type": "array", "items": _TEXT}
_SHAPE = {"type": ["array", "null"], "items": _COUNT}
_RULE = {
    "type": ["object", "null"],
    "properties": {"file": _TEXT, "line": _COUNT},
    "required": ["file", "line"],
}
_STATUSES = ["loaded", "renamed", "computed", "tied", "fresh", "missing", "mismatched", "unexpected", "dropped"]


def _object(properties: dict[str, Any], *, null: bool = False) -> dict[str, Any]:
    return {
        "type": ["object", "null"] if null else "object",
        "properties": properties,
        "required": list(properties),
    }


_MANIFEST = {"tensors": _COUNT, "parameters": _COUNT, "fingerprint": _TEXT}
_SOURCE = _object(
    {
        **{"path": _TEXT, "format": _TEXT, **_MANIFEST, "bytes": {"type": ["integer", "null"], "minimum": 0}},
        **{"files": _COUNT, "selected": _TEXT_OR_NULL, "stripped": _TEXTS},
    }
)
_TARGET = _object({"reference": _TEXT, "kind": _TEXT, **_MANIFEST}, null=True)
_PARAMETERS = (
    "parameters_total",
    "parameters_loaded",
    "parameters_random",
    "parameters_fresh",
    "parameters_unexpected",
)
_SUMMARY = _object(
    {
        **dict.fromkeys(_PARAMETERS, _COUNT),
        "random_share": {"type": "number", "minimum": 0, "maximum": 1},
        **dict.fromkeys((*_STATUSES, "buffers_random"), _COUNT),
    }
)
_KEY = _object(
    {
        **{"status": {"enum": _STATUSES}, "target": _TEXT_OR_NULL, "sources": _TEXTS, "shape": _SHAPE},
        **{"source_shape": _SHAPE, "dtype": _TEXT_OR_NULL, "source_dtype": _TEXT_OR_NULL, "kind": _TEXT},
        **{"parameters": _COUNT, "rule": _RULE, "allowed": _FLAG, "why": _TEXT_OR_NULL, "init": _TEXT_OR_NULL},
    }
)
_CHECK = _object(
    {
        **{"id": _TEXT, "limit": _TEXT, "found": _COUNT, "unit": _TEXT, "passed": _FLAG},
        **{"keys": _TEXTS, "where": _RULE},
    }
)


def report_schema() -> dict[str, Any]:
    """JSON Schema (draft 7). Fields may be added in later versions, so unknown ones are allowed."""
    report = _object(
        {
            **{"schema": {"const": SCHEMA}, "tool": _TEXT, "command": _TEXT, "source": _SOURCE, "target": _TARGET},
            "maps": {"type": "array", "items": _object({"path": _TEXT, "sha256": _TEXT})},
            "reverse": _FLAG,
            "summary": _SUMMARY,
            "keys": {"type": "array", "items": _KEY},
            "checks": {"type": "array", "items": _CHECK},
            "warnings": _TEXTS,
            "passed": {"type": ["boolean", "null"]},
            "exit_status": {"enum": [0, 1]},
        }
    )
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "ckptdoctor report", **report}
