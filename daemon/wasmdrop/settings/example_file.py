"""An example of the configuration file: every setting, commented out."""

import json
from collections.abc import Mapping
from typing import Any, Final

from wasmdrop.settings.table import SETTINGS, Option

#: Names of settings by subject, as on the page of the configuration.
GROUPS: Final = {
    "Paths": ("wasm_path", "input_path", "output_path", "wasm_dir", "shared_dir", "state_dir"),
    "What a job calls by default": ("entry", "args_json", "add_x", "add_y"),
    "Limits of a job": ("timeout_sec", "memory_mb", "output_mb", "disk_mb", "fuel"),
    "Modules and compilation": (
        *("compile_sec", "compile_memory_mb", "cache_mb", "max_module_mb", "module_wait_sec"),
    ),
    "Finding drops": (
        *("watch", "rescan_sec", "poll_sec", "settle_sec", "ready_suffix", "max_depth"),
        "max_input_mb",
    ),
    "Queue, attempts, shutdown": (
        *("workers", "attempts", "max_queued", "directory_running", "directory_queued"),
        "drain_sec",
    ),
    "Storage and retention": (
        *("reserve_mb", "let_go_sec", "undelivered_jobs", "undelivered_mb", "keep_results_days"),
        *("after", "keep_days", "journal_mb"),
    ),
    "Completion hook": ("on_finished", "on_finished_secret_file"),
    "Sandbox": ("grants", "sandbox", "guest", "job_user"),
    "Receipts": ("signing_key",),
    "Fleet": (
        *("fleet", "fleet_fallback", "fleet_name", "fleet_pool", "fleet_window", "fleet_key"),
        *("fleet_ca", "fleet_security"),
    ),
    "Health and log": ("page", "page_token_file", "http", "log"),
}

#: Values of TOML for settings without a default that can be written.
EXAMPLES: Final = {
    "wasm_path": '"wasm/module.wasm"',
    "input_path": '"shared/input.json"',
    "output_path": '"shared/result.txt"',
    "wasm_dir": '"wasm"',
    "shared_dir": '"shared"',
    "state_dir": '"state"',
    "args_json": "[5, 7]",
    "fuel": "1_000_000_000",
    "ready_suffix": '".ready"',
    "workers": "4",
    "directory_running": "2",
    "directory_queued": "1000",
    "keep_results_days": "30",
    "on_finished": '["/usr/local/bin/notify", "--quiet"]',
    "on_finished_secret_file": '"/etc/wasmdrop/hook-secret"',
    "grants": '{ data = "/srv/data" }',
    "signing_key": '"/etc/wasmdrop/signing-key.pem"',
    "fleet": '["tls://a.example.org:4222", "tls://b.example.org:4222"]',
    "fleet_name": '"a"',
    "fleet_key": '"/etc/wasmdrop/fleet.nk"',
    "fleet_ca": '"/etc/wasmdrop/fleet-ca.pem"',
    "page_token_file": '"/etc/wasmdrop/page-token"',
    "http": '"127.0.0.1:9464"',
    "log": '"json"',
}

_HEAD: Final = """\
# Settings of wasmdrop. Each line shows the default or, if its comment has one, an example.
# To change a setting, remove the '#'. Flags and environment variables win over this file.
# Relative paths are relative to it. `wasmdrop config` shows every value and its origin.
"""


def example_file(given: Mapping[str, str]) -> str:
    """Return a file of comments, except for the settings that are ``given`` as texts."""
    options = {setting.name: setting for setting in SETTINGS}
    lines = [_HEAD]
    for title, names in GROUPS.items():
        lines.append(f"\n# --- {title}\n")
        for name in names:
            lines.append(f"\n# {_sentence(options[name])}\n")
            if name in given:
                lines.append(f"{name} = {_literal(given[name])}\n")
            else:
                lines.append(f"#{name} = {_value(options[name])}\n")
    return "".join(lines)


def _sentence(setting: Option) -> str:
    return f"{setting.meaning[0].upper()}{setting.meaning[1:]}."


def _value(setting: Option) -> str:
    if setting.name in EXAMPLES:
        return EXAMPLES[setting.name]
    is_number = isinstance(setting.default, int | float)
    return setting.text(setting.default) if is_number else _literal(setting.default)


def _literal(text: Any) -> str:
    """Return a string of TOML: that of JSON, with DEL escaped and without surrogates."""
    return json.dumps(str(text), ensure_ascii=False).replace("\x7f", "\\u007f")
