"""Classes, members and functions have MXNet 1.9.1's names and take its arguments, in its order, with its defaults."""

from __future__ import annotations

from typing import Any

import pytest
from recorded_cases import recorded, recorder

import bucketmod as mx

RECORDED = recorded("signatures")
RECORDER = recorder("signatures")
THINGS = [(place, name) for place, things in RECORDED.items() for name in things]

# Ours take more: by keyword, or in places where MXNet's would fail.
_OPTIONAL_HERE = {"rnn.BucketSentenceIter.__init__(batch_size)"}  # tokens= instead


def problems(where: str, wanted: Any, found: Any) -> list[str]:
    """Arguments that ours lack, name, order or fill otherwise; further ones of ours at the end are fine."""
    if wanted is None or wanted == "property":
        return [] if found == wanted or wanted is None else [f"{where} is no property"]
    if not isinstance(found, list):
        return [f"{where}: {found}"]
    if found and found[-1][1] == "VAR_KEYWORD":  # what ours take by keyword comes before the others' keywords
        wanted = [argument for argument in wanted if argument[1] != "VAR_KEYWORD"]
    wrong = []
    names = [argument[0] for argument in found]
    for place, (name, kind, default) in enumerate(wanted):
        if place >= len(found) or names[place] != name:
            wrong.append(f"{where}: argument {place} is {names[place : place + 1]}, expected {name}")
        elif f"{where}({name})" not in _OPTIONAL_HERE and found[place][1:] != [kind, default]:
            wrong.append(f"{where}({name}): {found[place][1:]}, expected {[kind, default]}")
    extra = [argument for argument in found[len(wanted) :] if argument[2] is None and not argument[1].startswith("VAR")]
    return wrong + [f"{where}: {argument[0]} has no default" for argument in extra]


@pytest.mark.parametrize("place, name", THINGS)
def test_as_in_mxnet(place: str, name: str) -> None:
    wanted = RECORDED[place][name]
    thing = getattr(getattr(mx, place), name)
    if not isinstance(wanted, dict):
        assert problems(f"{place}.{name}", wanted, RECORDER.arguments(thing)) == []
        return
    own = RECORDER.members(thing) if isinstance(thing, type) else {}
    found = []
    for member, arguments in wanted.items():
        assert hasattr(thing, member), f"{place}.{name}.{member} is missing"
        if member in ("__str__", "__iter__", "__next__"):
            continue
        found += problems(f"{place}.{name}.{member}", arguments, own.get(member, RECORDER.arguments(thing)))
    assert found == []
