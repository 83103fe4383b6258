"""How many drops are taken at a time; the others stay where they are."""

import threading

__all__ = ["Backlog"]


class Backlog:
    """How many drops were taken and are not done, against the bound."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._count = 0
        self._lock = threading.Lock()
        self._left_some = False
        self._is_paused = False

    def __len__(self) -> int:
        return self._count

    def take(self) -> bool:
        """Count one more drop; False where there is no room, so that it stays where it is."""
        with self._lock:
            if self._count >= self._bound or self._is_paused:
                self._left_some = True
                return False
            self._count += 1
            return True

    def add(self) -> None:
        """Count one more job, of which nothing is left lying anywhere, whatever the bound."""
        with self._lock:
            self._count += 1

    def pause(self) -> None:
        """Let every drop stay where it is until :meth:`resume`."""
        self._is_paused = True

    def resume(self) -> None:
        """Take drops again; whoever calls looks for those that were left."""
        self._is_paused = False

    def done(self) -> bool:
        """Count one less; True when drops were left and it is time to look for them again."""
        with self._lock:
            self._count -= 1
            # Half empty, so that the scan that follows is worth its while.
            if self._left_some and self._count <= self._bound // 2:
                self._left_some = False
                return True
            return False
