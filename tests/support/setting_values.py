"""Values of every setting, right and wrong, and files of them."""

from pathlib import Path
from typing import Any

from wasmdrop.protocol.limits import Limits
from wasmdrop.settings import (
    AfterMode,
    FleetFallback,
    FleetSecurity,
    GuestMode,
    Loaded,
    LogFormat,
    SandboxMode,
    Switch,
    WatchMode,
)
from wasmdrop.system.job_user import JobUser

#: A value of every setting other than its default, as text and as it is read.
VALUES: dict[str, tuple[str, Any]] = {
    "wasm_path": ("/w/m.wasm", Path("/w/m.wasm")),
    "input_path": ("/i/in.json", Path("/i/in.json")),
    "output_path": ("/o/out.json", Path("/o/out.json")),
    "wasm_dir": ("/w", Path("/w")),
    "shared_dir": ("/s", Path("/s")),
    "state_dir": ("/st", Path("/st")),
    "entry": ("fib", "fib"),
    "args_json": ('[1, "a", null]', (1, "a", None)),
    "add_x": ("-9223372036854775808", -(2**63)),
    "add_y": ("18446744073709551615", 2**64 - 1),
    "timeout_sec": ("1.5", 1.5),
    "memory_mb": ("1", 1),
    "output_mb": ("0.25", 0.25),
    "disk_mb": ("2", 2),
    "fuel": ("18446744073709551615", 2**64 - 1),
    "workers": ("3", 3),
    "compile_sec": ("5", 5.0),
    "compile_memory_mb": ("512", 512),
    "cache_mb": ("64", 64),
    "max_input_mb": ("1", 1),
    "max_module_mb": ("4096", 4096),
    "watch": ("poll", WatchMode.POLL),
    "rescan_sec": ("604800", 604_800.0),
    "poll_sec": ("0.05", 0.05),
    "settle_sec": ("0.1", 0.1),
    "module_wait_sec": ("0.1", 0.1),
    "attempts": ("1", 1),
    "max_queued": ("10", 10),
    "directory_running": ("1", 1),
    "directory_queued": ("1000", 1000),
    "drain_sec": ("0", 0.0),
    "reserve_mb": ("0", 0),
    "let_go_sec": ("60", 60.0),
    "undelivered_jobs": ("5", 5),
    "undelivered_mb": ("64", 64),
    "keep_days": ("0.5", 0.5),
    "keep_results_days": ("30", 30.0),
    "after": ("archive", AfterMode.ARCHIVE),
    "on_finished": ("/bin/notify --to 'a b'", ("/bin/notify", "--to", "a b")),
    "on_finished_secret_file": ("/k/secret", Path("/k/secret")),
    "journal_mb": ("32", 32),
    "grants": ("lib=/lib", {"lib": Path("/lib")}),
    "sandbox": ("best-effort", SandboxMode.BEST_EFFORT),
    "guest": ("python", GuestMode.PYTHON),
    "job_user": ("1234:5678", JobUser(1234, 5678)),
    "signing_key": ("/k/key.pem", Path("/k/key.pem")),
    "fleet": (
        "nats://a:4222,tls://[::1]",
        ("nats://a:4222", "tls://[::1]"),
    ),
    "fleet_fallback": ("wait", FleetFallback.WAIT),
    "fleet_name": ("host-1_a", "host-1_a"),
    "fleet_pool": ("gpu", "gpu"),
    "fleet_window": ("1", 1),
    "fleet_key": ("/k.nk", Path("/k.nk")),
    "fleet_ca": ("/ca.pem", Path("/ca.pem")),
    "fleet_security": ("none", FleetSecurity.NONE),
    "http": ("[::1]:8080", "[::1]:8080"),
    "page": ("on", Switch.ON),
    "page_token_file": ("/k/token", Path("/k/token")),
    "log": ("console", LogFormat.CONSOLE),
    "ready_suffix": (".ready", ".ready"),
    "max_depth": ("0", 0),
}

#: Invalid values of settings.
BAD_VALUES = {
    "output_path": ("/o/out.bin", "/o/out", "/o/.txt", "/o/out.TXT"),
    "args_json": ("[1,]", "{}", "1", '[{"a":1,"a":2}]', "[NaN]"),
    "add_x": ("1.0", "x", "1_000", " 1", "٣", "18446744073709551616", "-9223372036854775809"),
    "timeout_sec": ("0", "-1", "nan", "inf", "1e3", "604801", "0.0", ".5", "5s"),
    "memory_mb": ("0", "1.5", "-1"),
    "output_mb": ("0", "8MB"),
    "disk_mb": ("0",),
    "fuel": ("0", "18446744073709551616", "None"),
    "workers": ("0", "many", "1025"),
    "compile_memory_mb": ("0",),
    "max_input_mb": ("0", "1025"),
    "max_module_mb": ("0", "4097"),
    "watch": ("Auto", "inotify"),
    "rescan_sec": ("0",),
    "poll_sec": ("0",),
    "settle_sec": ("0",),
    "module_wait_sec": ("0",),
    "drain_sec": ("-1", "604801"),
    "keep_days": ("-1", "36501", "7d"),
    "attempts": ("0",),
    "max_queued": ("0",),
    "directory_running": ("0", "off", "65537"),
    "directory_queued": ("0", "-1"),
    "keep_results_days": ("0", "-1", "36501", "for ever"),
    "after": ("delete",),
    "on_finished": (
        *("notify", "ftp://a/b", "https://", "https://u:p@a/", "http://a/b c", "http://a/#x"),
        *("http://a:65536/", "/bin/notify 'open"),
    ),
    "page": ("1", "true"),
    "grants": ("/lib", "lib", "lib=", "a b=/lib", "lib=/lib,"),
    "sandbox": ("best_effort", "off"),
    "guest": ("Native", "c"),
    "job_user": ("0", "root", "1:0", "-1", "no-such-user", "4294967295", "1:"),
    "fleet": ("a:4222", "http://a", "nats://", "nats://user:key@a", "nats://a:65536", "nats://a,"),
    "fleet_fallback": ("remote",),
    "fleet_name": ("a.b", "a*", "a b", "x" * 65),
    "fleet_pool": (">", "a.b"),
    "fleet_window": ("0", "65537", "many"),
    "fleet_security": ("off",),
    "http": ("localhost", "8080", "localhost:65536", "::1:80", "http://x:80", "a b:80"),
    "log": ("text",),
    "ready_suffix": ("/ready",),
    "max_depth": ("-1", "65"),
}


def value_of(loaded: Loaded, name: str) -> Any:
    """Return the value of one row of the table."""
    if name == "args_json":
        return loaded.settings.env_args
    holder = loaded.settings.limits if name in Limits.__struct_fields__ else loaded.settings
    return getattr(holder, name)


def write(path: Path, text: str) -> Path:
    """Write a file that only its owner can change, whatever the umask is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    return path
