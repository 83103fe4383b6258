"""A job and an answer to it."""

from typing import Final

from wasmdrop.fleet.messages import Answer, Blob, JobMessage, Returned
from wasmdrop.protocol.limits import Limits
from wasmdrop.sandbox.wire import EngineOptions

MESSAGE: Final = JobMessage(
    daemon="d",
    job="job",
    attempt=1,
    generation=0,
    ticket="0123456789abcdef" * 2,
    module=Blob("ab" * 32, 100),
    options=EngineOptions(),
    limits=Limits(),
    call=b"",
    attempts=3,
)
ANSWER: Final = Answer("job", 1, 0, "w", Returned("the worker stops"))
