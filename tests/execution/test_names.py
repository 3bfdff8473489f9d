"""Names of artifacts: the hash of a canonical text, computed once for a job."""

import hashlib
from dataclasses import dataclass, field

import pytest

from modeconn.execution.names import job_name, spec_hash


@dataclass(frozen=True)
class Job:
    asked: list[int] = field(default_factory=list)
    kind = "state"

    def spec(self):
        self.asked.append(1)
        return {"b": [1, 2.5, None], "a": {"d": "é", "c": True}}


class Slotted:
    __slots__ = ()
    kind = "path"

    def spec(self):
        return {"b": [1, 2.5, None], "a": {"d": "é", "c": True}}


TEXT = r'{"a":{"c":true,"d":"\u00e9"},"b":[1,2.5,null],"schema":1}'


def test_a_name_is_the_kind_and_the_hash_of_the_canonical_text():
    expected = hashlib.sha256(TEXT.encode()).hexdigest()
    assert spec_hash(Job().spec()) == expected
    assert job_name(Job()) == f"state-{expected[:16]}"
    assert job_name(Slotted()) == f"path-{expected[:16]}"


def test_the_name_of_a_job_is_computed_once_and_stays_with_it():
    job = Job()
    assert job_name(job) == job_name(job)
    assert job.asked == [1]


def test_a_spec_with_numbers_that_json_has_not_is_no_name():
    with pytest.raises(ValueError, match="JSON"):
        spec_hash({"rate": float("nan")})
