"""Subjects of jobs, which are read back."""

import pytest

from wasmdrop.fleet.names import job_of_subject, job_subject


def test_subject_of_a_job_names_its_id_attempt_and_generation() -> None:
    """The id has hyphens of its own."""
    subject = job_subject("p", "any", "d", "0198-ab-3", 2, 11)
    assert job_of_subject(subject) == ("0198-ab-3", 2, 11)


@pytest.mark.parametrize("subject", ["wd1.job.p.any.d.job", "wd1.job.p.any.d.job-1-x", "job-1", ""])
def test_subject_of_something_else_names_no_job(subject: str) -> None:
    """It is left alone."""
    assert job_of_subject(subject) is None
