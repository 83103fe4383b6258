"""Errors of a fleet."""

from wasmdrop.protocol.errors import SettingsError


class FleetSettingsError(SettingsError):
    """Settings of a fleet that can't work. The text is one line and says what to do."""


class FleetUnavailableError(Exception):
    """The fleet can't do this now. The text is one line and gives the reason."""


class NoAnswerError(FleetUnavailableError):
    """A server that is connected did not answer in time."""


class FleetRefusedError(FleetUnavailableError):
    """A server that must not be used, or that refuses this user: waiting does not help."""


class FleetOutdatedError(FleetRefusedError):
    """The server's configuration lacks a right of this version, without which jobs still run."""


class FleetApiError(FleetRefusedError):
    """JetStream refused a request."""

    def __init__(self, status: int, number: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        """Like one of HTTP: 404 if a stream, consumer or message does not exist."""
        self.number = number
        """JetStream's own number of the error."""
