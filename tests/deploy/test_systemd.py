"""The service of a host: hardened, installed by the Makefile, and run by systemd."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import drop, wait_until
from tests.support.deploy.base import ROOT
from tests.support.deploy.machine import Machine, booted
from tests.support.fib import FIB
from tests.support.fleet.server import NATS_SERVER
from tests.support.require import require_tools
from wasmdrop import settings
from wasmdrop.settings.example_file import example_file

UNITS: Final = ROOT / "systemd"
SPOOL: Final = "var/spool/wasmdrop"
SLOW: Final = '(module (func (export "run") (loop br 0)))'


# --- The files of the unit


def score(unit: Path) -> float:
    """Return systemd's exposure score of a unit: 0 is best, 10 is worst."""
    require_tools("systemd-analyze")
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    return float(found[1])


@pytest.mark.parametrize("name", ["wasmdrop.service", "wasmdrop@x.service"])
@pytest.mark.parametrize("serves_http", [False, True])
def test_unit_is_hardened(tmp_path: Path, name: str, serves_http: bool) -> None:
    """As far as possible for a compiler of machine code, with and without HTTP."""
    text = (UNITS / name.replace("x", "")).read_text()
    if serves_http:
        text = text.replace("[Install]", (UNITS / "http.conf").read_text() + "\n[Install]")
    (tmp_path / name).write_text(text)
    assert score(tmp_path / name) < 1.5


def test_unit_with_a_fleet_is_hardened(tmp_path: Path) -> None:
    """The drop-in gives the daemon a network, and nothing else."""
    text = (UNITS / "wasmdrop.service").read_text()
    unit = tmp_path / "wasmdrop.service"
    unit.write_text(text.replace("[Install]", (UNITS / "fleet.conf").read_text() + "\n[Install]"))
    assert score(unit) < 1.5


@pytest.mark.parametrize("name", ["wasmdrop-worker@x.service", "nats-server.service"])
def test_unit_of_the_fleet_is_hardened(tmp_path: Path, name: str) -> None:
    """Workers and servers need a network, and have no other right."""
    (tmp_path / name).write_text((UNITS / name.replace("x", "")).read_text())
    assert score(tmp_path / name) < 1.5


#: Lines of the daemon's unit that the unit of a worker lacks: directories, delivery, user, and
#: having no network.
ONLY_OF_THE_DAEMON: Final = re.compile(
    r"Description=|After=|RequiresMountsFor=|User=|Group=|Environment|ExecStart=|StateDirectory=|"
    r"UMask=|RestartSec=|RestartPreventExitStatus=|ReadWritePaths=|ReadOnlyPaths=|SystemCallFilter=io_setup|PrivateNetwork=|"
    r"RestrictAddressFamilies=|IPAddressDeny="
)


def test_unit_of_a_worker_is_confined_like_the_daemon() -> None:
    """Every other line of the daemon's unit is in that of the worker."""
    lines = (UNITS / "wasmdrop.service").read_text().splitlines()
    wanted = {line for line in lines if not line.startswith("#")}
    wanted -= {line for line in wanted if ONLY_OF_THE_DAEMON.match(line)}
    assert len(wanted) > 40
    assert wanted <= set((UNITS / "wasmdrop-worker@.service").read_text().splitlines())


def test_unit_template_differs_from_the_unit_in_names_alone() -> None:
    """User, folders, state and settings of its own; all else is the same, so one is tested."""
    unit = (UNITS / "wasmdrop.service").read_text().splitlines()[2:]
    template = (UNITS / "wasmdrop@.service").read_text().splitlines()[2:]
    expected = [
        re.sub(
            r"(spool/|lib/|User=|Group=|StateDirectory=)wasmdrop",
            r"\1wasmdrop-%i",
            re.sub("/etc/wasmdrop/(wasmdrop|config)", "/etc/wasmdrop/%i", line),
        )
        for line in unit
    ]
    assert template == [
        f"{line} (%i)" if line.startswith("Description=") else line for line in expected
    ]


def test_settings_file_shows_every_setting_with_its_default(tmp_path: Path) -> None:
    """Commented out, so that it changes nothing; uncommented, it changes nothing either."""
    lines = (UNITS / "wasmdrop.env").read_text().splitlines()
    assert all(line.startswith("#") for line in lines if line)
    shown = dict(line[1:].split("=", 1) for line in lines if re.match(r"#[A-Z_0-9]+=", line))
    assert shown.pop("ARG_0") == ""
    assert list(shown) == [setting.variable for setting in settings.SETTINGS]
    folders = {"wasm_dir": f"/{SPOOL}/wasm", "shared_dir": f"/{SPOOL}/shared"}
    config = tmp_path / "config.toml"
    config.write_text(example_file({**folders, "state_dir": "/var/lib/wasmdrop"}))
    config.chmod(0o644)
    plain = settings.load({"WASMDROP_CONFIG": str(config)}, {})
    given = settings.load({**shown, "WASMDROP_CONFIG": str(config)}, {})
    # An entry that is named is required, even if it is the default.
    assert given.settings == plain.settings.__replace__(entry_is_set=True)


def test_unit_gives_running_jobs_time_to_drain() -> None:
    """A shorter timeout of systemd would cut the drain short."""
    for name in ("wasmdrop.service", "wasmdrop-worker@.service"):
        text = (UNITS / name).read_text()
        found = re.search(r"TimeoutStopSec=(\d+)", text)
        assert found
        assert int(found[1]) > settings.load({"HOME": "/"}, {}).settings.drain_sec
        assert "KillMode=mixed" in text


# --- On a machine


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Give a booted machine with the service installed, running, and ``fib`` dropped."""
    with booted(tmp_path_factory.mktemp("machine")) as it:
        it.make("install-systemd")
        it.run("systemctl", "enable", "--now", "wasmdrop")
        drop_module(it, FIB)
        yield it


def drop_module(machine: Machine, text: str, name: str = "module.wasm") -> None:
    """Drop a module."""
    path = machine.root / SPOOL / "wasm" / name
    drop(path, bytes(wat2wasm(text)))


def marker(machine: Machine, name: str, spool: str = SPOOL) -> dict[str, Any] | None:
    """Return the marker ``shared/NAME``, if it exists."""
    try:
        found = json.loads((machine.root / spool / "shared" / name).read_text())
    except FileNotFoundError:
        return None
    assert isinstance(found, dict)
    return found


def main_pid(machine: Machine) -> str:
    """Return the daemon's process id in the machine, after its start."""
    wait_until(
        lambda: machine.property_of("wasmdrop", "ActiveState") == "active" or None, "the service"
    )
    return machine.property_of("wasmdrop", "MainPID")


def signal_daemon(machine: Machine, name: str) -> None:
    """Send the daemon's own process a signal."""
    machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={name}", "wasmdrop")


def test_group_member_can_drop_and_read_and_others_can_not(machine: Machine) -> None:
    """With any umask of the producer, also in a directory that it makes for a slot."""
    machine.run("useradd", "--groups=wasmdrop", "alice")
    machine.run("useradd", "mallory")
    script = (
        f"umask 077; mkdir -p /{SPOOL}/shared/hers; cd /{SPOOL}/shared/hers;"
        """ printf '{"entry":"fib","args":[12]}' >.input.json; mv .input.json input.json"""
    )
    machine.run("runuser", "-u", "alice", "--", "sh", "-c", script)
    wait_until(lambda: marker(machine, "hers/result.done"), "the result")
    text = machine.run("runuser", "-u", "alice", "--", "cat", f"/{SPOOL}/shared/hers/result.txt")
    assert text.splitlines()[-1] == "144"
    submit = "wasmdrop submit --entry fib --args '[13]' --wait"  # finds the folders itself
    line = machine.run("runuser", "-u", "alice", "--", "sh", "-c", submit)
    assert json.loads(line)["results"] == [233]
    listed = machine.run("wasmdrop", "jobs", "--slot", "hers/input.json", "--json")
    assert json.loads(listed)["code"] == "ok"
    for forbidden in (
        f"ls /{SPOOL}/shared",
        "ls /var/lib/wasmdrop",
        "cat /etc/wasmdrop/wasmdrop.env",
    ):
        machine.run("runuser", "-u", "mallory", "--", "sh", "-c", f"! {forbidden} 2>/dev/null")
    machine.run("runuser", "-u", "alice", "--", "sh", "-c", "! ls /var/lib/wasmdrop 2>/dev/null")


def test_jobs_are_strictly_confined_under_the_confinement_of_the_unit(machine: Machine) -> None:
    """The service runs unprivileged with the default, strict sandbox; nothing is missing."""
    pid = main_pid(machine)
    status = machine.run("cat", f"/proc/{pid}/status")
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert not re.search(r"^Uid:\t0\t", status, re.MULTILINE)
    log = machine.run("journalctl", "--unit=wasmdrop", "--no-pager")
    assert "sandbox-incomplete" not in log
    assert '"event":"ready"' in log
    assert '"guest":"native"' in log
    # A process that uses asynchronous fsync has this mapping; others sync files in turn.
    delivery_workers = machine.run("sh", "-c", r"grep -l '\[aio\]' /proc/[0-9]*/maps").splitlines()
    assert len(delivery_workers) == 1


def test_service_that_is_killed_is_restarted_and_loses_nothing(machine: Machine) -> None:
    """SIGKILL among two hundred jobs; systemd starts it again, which finishes them."""
    before = main_pid(machine)
    shared = machine.root / SPOOL / "shared"
    for number in range(200):
        drop(shared / f"input-kill{number}.json", {"entry": "fib", "args": [10]})
    wait_until(lambda: marker(machine, "result-kill10.done"), "some of them")
    signal_daemon(machine, "KILL")
    for number in range(200):
        name = f"result-kill{number}.done"
        found = wait_until(lambda name=name: marker(machine, name), name)  # type: ignore[misc]
        assert found["status"] == "succeeded"
    assert main_pid(machine) != before


def test_service_that_hangs_is_restarted_by_the_watchdog(machine: Machine) -> None:
    """SIGSTOP; systemd kills it, starts it again, and the next drop is served."""
    machine.run("mkdir", "-p", "/run/systemd/system/wasmdrop.service.d")
    override = machine.root / "run/systemd/system/wasmdrop.service.d/watchdog.conf"
    machine.run(
        "sh", "-c", f"printf '[Service]\\nWatchdogSec=3\\n' >/{override.relative_to(machine.root)}"
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "wasmdrop")
    before = main_pid(machine)
    signal_daemon(machine, "STOP")
    drop(machine.root / SPOOL / "shared" / "input-hang.json", {"entry": "fib", "args": [9]})
    found = wait_until(lambda: marker(machine, "result-hang.done"), "the job")
    assert found["status"] == "succeeded"
    assert main_pid(machine) != before
    assert "Watchdog timeout" in machine.run("journalctl", "--unit=wasmdrop", "--no-pager")
    machine.run("rm", f"/{override.relative_to(machine.root)}")
    machine.run("systemctl", "daemon-reload")


def test_service_that_stops_drains(machine: Machine) -> None:
    """The running job ends by its own limit, its result exists, and the service ended well."""
    drop_module(machine, SLOW, "slow.wasm")
    shared = machine.root / SPOOL / "shared"
    drop(shared / "input-slow.json", {"entry": "run", "module": "slow", "timeout_sec": 3})
    log = ("journalctl", "--unit=wasmdrop", "--no-pager", "--since=-60")
    wait_until(lambda: machine.run(*log).count("module-compiled") or None, "the job to begin")
    machine.run("systemctl", "stop", "wasmdrop")
    found = marker(machine, "result-slow.done")
    assert found is not None
    assert found["code"] == "timeout"
    assert machine.property_of("wasmdrop", "Result") == "success"
    assert machine.property_of("wasmdrop", "ExecMainStatus") == "0"
    machine.run("systemctl", "start", "wasmdrop")


def test_journal_has_a_priority_for_each_event(machine: Machine) -> None:
    """``journalctl --priority`` shows failed jobs, each a JSON object and nothing else."""
    path = machine.root / SPOOL / "shared" / "input-wrong.json"
    drop(path, {"entry": "nothing of that name"})
    wait_until(lambda: marker(machine, "result-wrong.done"), "the result")
    command = ("journalctl", "--unit=wasmdrop", "--no-pager", "--output=cat", "-p", "warning")

    def found() -> dict[str, Any] | None:
        lines = [line for line in machine.run(*command).splitlines() if "input-wrong" in line]
        return dict(json.loads(lines[0])) if lines else None

    line = wait_until(found, "the line")
    assert line["code"] == "entry-not-found"
    assert 'it exports "fib"' in line["reason"]
    assert '"event":"ready"' not in machine.run(*command)


def use_drop_in(machine: Machine, name: str, unit: str = "wasmdrop", edit: str = "") -> str:
    """Install a drop-in as the page says, changed by sed, restart the unit; return its path."""
    path = f"/etc/systemd/system/{unit}.service.d/{name}.conf"
    machine.run("install", "-D", "-m", "644", f"/usr/local/share/wasmdrop/{name}.conf", path)
    machine.run("sed", "-i", edit, path)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", unit)
    return path


def log_of(machine: Machine) -> str:
    """Return the log of the daemon."""
    return machine.run("journalctl", "--unit=wasmdrop", "--no-pager", "--output=cat")


def test_reload_changes_settings_and_the_status_tells_the_work(machine: Machine) -> None:
    """A wrong file changes nothing, and the unit stays active in both cases."""
    pid = main_pid(machine)
    file = machine.root / "etc/wasmdrop/config.toml"
    before = file.read_text()
    file.write_text(f"attempts = 7\nworkers = 5\n{before}")
    machine.run("systemctl", "reload", "wasmdrop")
    wait_until(lambda: '"after":{"attempts":"7"}' in log_of(machine), "the reload")
    assert '"settings":["workers"]' in log_of(machine)
    file.write_text('attempts = "many"')
    machine.run("systemctl", "reload", "wasmdrop")
    wait_until(lambda: '"event":"reload-refused"' in log_of(machine), "the refusal")
    file.write_text(before)
    machine.run("systemctl", "reload", "wasmdrop")
    wait_until(lambda: '"after":{"attempts":"3"}' in log_of(machine), "the second reload")
    assert main_pid(machine) == pid
    wait_until(
        lambda: machine.property_of("wasmdrop", "StatusText") == "0 jobs waiting, 0 running",
        "the status",
    )


OTHER_FOLDERS: Final = """[Unit]
RequiresMountsFor=/srv/jobs

[Service]
ReadWritePaths=/srv/jobs/shared
ReadOnlyPaths=/srv/jobs/wasm
"""


def test_other_folders_work_with_a_drop_in_and_the_configuration_file(machine: Machine) -> None:
    """As the page says."""
    assert OTHER_FOLDERS in (ROOT / "docs/deploy/systemd.md").read_text()
    drop_in = machine.root / "etc/systemd/system/wasmdrop.service.d/override.conf"
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text(OTHER_FOLDERS)
    file = machine.root / "etc/wasmdrop/config.toml"
    before = file.read_text()
    machine.run(
        *("sh", "-euxc"),
        "sed s,/var/spool/wasmdrop,/srv/jobs, /usr/local/lib/tmpfiles.d/wasmdrop.conf"
        " >/etc/tmpfiles.d/wasmdrop-jobs.conf;"
        " systemd-tmpfiles --create wasmdrop-jobs.conf",
    )
    file.write_text(before.replace("/var/spool/wasmdrop", "/srv/jobs"))
    machine.run("sh", "-euxc", "systemctl daemon-reload; systemctl restart wasmdrop")
    drop(machine.root / "srv/jobs/wasm/module.wasm", bytes(wat2wasm(FIB)))
    drop(machine.root / "srv/jobs/shared/input.json", {"entry": "fib", "args": [12]})
    found = wait_until(lambda: marker(machine, "result.done", "srv/jobs"), "the result")
    assert found["code"] == "ok"
    file.write_text(before)
    drop_in.unlink()
    machine.run("sh", "-euxc", "systemctl daemon-reload; systemctl restart wasmdrop")


RECEIVER: Final = """
import http.server, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with open("/root/received", "ab") as file:
            file.write(self.headers["webhook-signature"].encode() + b" " + body)
        self.send_response(204)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 8443), Handler)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("/etc/wasmdrop/receiver.pem", "/root/receiver-key.pem")
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def test_webhook_gets_signed_requests_over_tls_with_the_drop_in(machine: Machine) -> None:
    """The secret is root's alone on disk, and the receiver's certificate is checked."""
    (machine.root / "root/receiver.py").write_text(RECEIVER)
    machine.run(
        *("sh", "-euxc"),
        "umask 077; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        " -subj /CN=receiver -addext subjectAltName=IP:127.0.0.1 -keyout /root/receiver-key.pem"
        " -out /etc/wasmdrop/receiver.pem; chmod 644 /etc/wasmdrop/receiver.pem;"
        " (printf whsec_; openssl rand -base64 32) >/etc/wasmdrop/hook-secret;"
        " systemd-run --unit=receiver python3 /root/receiver.py;"
        " { echo WASMDROP_ON_FINISHED=https://127.0.0.1:8443/jobs;"
        " echo SSL_CERT_FILE=/etc/wasmdrop/receiver.pem; } >>/etc/wasmdrop/wasmdrop.env",
    )
    drop_in = use_drop_in(machine, "webhook")
    drop(machine.root / SPOOL / "shared/input-hooked.json", {"entry": "fib", "args": [12]})
    received = machine.root / "root/received"
    wait_until(lambda: received.exists() and received.read_text(), "the request")
    signature, _, body = received.read_text().partition(" ")
    assert signature.startswith("v1,")
    assert json.loads(body)["slot"] == "input-hooked.json"
    machine.run(
        *("sh", "-euxc"),
        f"systemctl stop receiver; rm {drop_in};"
        " rm /etc/wasmdrop/hook-secret /etc/wasmdrop/receiver.pem;"
        " sed -i '/^WASMDROP_ON_FINISHED=/d;/^SSL_CERT_FILE=/d' /etc/wasmdrop/wasmdrop.env;"
        " systemctl daemon-reload; systemctl restart wasmdrop",
    )


def test_health_and_metrics_are_served_with_the_drop_in(machine: Machine) -> None:
    """The network is otherwise taken away."""
    use_drop_in(machine, "http")
    code = (
        "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/{}').read().decode())"
    )
    assert '"ok": true' in machine.run("/usr/bin/python3", "-c", code.format("readyz"))
    assert "wasmdrop_jobs_total" in machine.run("/usr/bin/python3", "-c", code.format("metrics"))


def test_receipts_are_signed_with_a_credential(machine: Machine) -> None:
    """With the drop-in: the file is root's alone, and systemd hands the daemon a copy."""
    machine.run("wasmdrop", "key", "new", "/etc/wasmdrop/signing-key.pem")
    assert machine.run("stat", "--format=%U %a", "/etc/wasmdrop/signing-key.pem") == "root 600\n"
    public = machine.run("wasmdrop", "key", "show", "/etc/wasmdrop/signing-key.pem")
    drop_in = use_drop_in(machine, "signing-key")
    shared = machine.root / SPOOL / "shared"
    drop(shared / "input-signed.json", {"entry": "fib", "args": [12], "deterministic": True})
    found = wait_until(lambda: marker(machine, "result-signed.done"), "the result")
    assert "result-signed.receipt" in found["files"]
    (signature,) = json.loads((shared / "result-signed.receipt").read_text())["signatures"]
    assert signature["keyid"] in public
    machine.run("rm", drop_in, "/etc/wasmdrop/signing-key.pem")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "wasmdrop")


@pytest.fixture
def fleet(machine: Machine) -> Iterator[None]:
    """Run a server and a worker ``b1`` in the machine, and point the daemon at them."""
    shutil.copy(NATS_SERVER, machine.root / "usr/local/bin/nats-server")
    script = (
        "umask 077; mkdir -p /etc/nats-server /etc/systemd/system/wasmdrop.service.d; cd /root;"
        " openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost"
        " -addext subjectAltName=IP:127.0.0.1 -addext keyUsage=digitalSignature,keyCertSign"
        " -keyout /etc/nats-server/server-key.pem -out /etc/wasmdrop/fleet-ca.pem;"
        " wasmdrop fleet config --keys keys --daemon a --pool default --listen 127.0.0.1:4222"
        " --store /var/lib/nats-server --tls-cert /etc/wasmdrop/fleet-ca.pem"
        " --tls-key /run/credentials/nats-server.service/server-key.pem"
        " >/etc/nats-server/nats-server.conf;"
        " install -m 644 /src/systemd/nats-server.service /etc/systemd/system/;"
        " install -m 600 keys/daemon-a.nk /etc/wasmdrop/fleet.nk;"
        " install -m 600 keys/pool-default.nk /etc/wasmdrop/worker-b1.nk;"
        " chmod 644 /etc/wasmdrop/fleet-ca.pem;"
        " install -m 644 /usr/local/share/wasmdrop/fleet.conf"
        " /etc/systemd/system/wasmdrop.service.d/;"
        " echo WASMDROP_FLEET=tls://127.0.0.1:4222 >/etc/wasmdrop/worker-b1.env;"
        " echo WASMDROP_FLEET_CA=/etc/wasmdrop/fleet-ca.pem >>/etc/wasmdrop/worker-b1.env;"
        " cat /etc/wasmdrop/worker-b1.env >>/etc/wasmdrop/wasmdrop.env;"
        " echo WASMDROP_FLEET_NAME=a >>/etc/wasmdrop/wasmdrop.env;"
        " mkdir -p /run/systemd/system/wasmdrop-worker@.service.d;"
        " printf '[Service]\\nWatchdogSec=3\\n'"
        " >/run/systemd/system/wasmdrop-worker@.service.d/watchdog.conf;"
        " systemctl daemon-reload; systemctl start nats-server;"
        " set -a; . /etc/wasmdrop/worker-b1.env;"
        " WASMDROP_FLEET_KEY=/root/keys/admin.nk wasmdrop fleet init --daemon a --pool default;"
        " systemctl start wasmdrop-worker@b1; systemctl restart wasmdrop"
    )
    machine.run("sh", "-euxc", script)
    wait_until(lambda: "ready" in log_of_worker(machine), "the worker")
    yield
    machine.run(
        *("sh", "-euxc"),
        "systemctl stop wasmdrop-worker@b1 nats-server;"
        " rm /etc/systemd/system/wasmdrop.service.d/fleet.conf;"
        " rm /etc/wasmdrop/fleet-ca.pem /etc/wasmdrop/*.nk;"
        " sed -i /^WASMDROP_FLEET/d /etc/wasmdrop/wasmdrop.env;"
        " systemctl daemon-reload; systemctl restart wasmdrop",
    )


def log_of_worker(machine: Machine) -> str:
    """Return the log of the worker since it was started last."""
    return machine.run("journalctl", "--unit=wasmdrop-worker@b1", "--no-pager")


def has_other_process(machine: Machine, unit: str, last: str) -> bool:
    """Return whether a unit has a main process, and another one than before."""
    return machine.property_of(unit, "MainPID") not in {last, "0"}


def worker_of(machine: Machine, name: str) -> str | None:
    """Drop a job and return the worker that ran it."""
    drop(machine.root / SPOOL / "shared" / f"input-{name}.json", {"entry": "fib", "args": [9]})
    found = wait_until(lambda: marker(machine, f"result-{name}.done"), name)
    assert found["status"] == "succeeded"
    worker = found["worker"]
    assert worker is None or isinstance(worker, str)
    return worker


@pytest.mark.usefixtures("fleet")
def test_worker_runs_the_daemons_jobs_and_is_restarted_if_it_hangs_or_is_killed(
    machine: Machine,
) -> None:
    """With a user that exists only while it runs, and a key that only root can read on disk."""
    unit = "wasmdrop-worker@b1"
    assert worker_of(machine, "remote") == "b1"
    pid = machine.property_of(unit, "MainPID")
    status = machine.run("cat", f"/proc/{pid}/status")
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert not re.search(r"^Uid:\t0\t", status, re.MULTILINE)
    assert "sandbox-incomplete" not in log_of_worker(machine)
    assert '"guest":"native"' in log_of_worker(machine)
    for signal in ("KILL", "STOP"):
        last = machine.property_of(unit, "MainPID")
        machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={signal}", unit)
        wait_until(partial(has_other_process, machine, unit, last), f"a restart after {signal}")
        assert worker_of(machine, f"after-{signal}") == "b1"
    machine.run("systemctl", "stop", unit)
    assert machine.property_of(unit, "Result") == "success"
    assert machine.property_of(unit, "ExecMainStatus") == "0"


def test_instance_has_its_own_user_folders_and_settings(machine: Machine) -> None:
    """Beside the plain service."""
    machine.make("install-systemd", "INSTANCE=green")
    settings_file = machine.root / "etc/wasmdrop/green.env"
    settings_file.write_text("ENTRY=fib\nARG_0=7\n")
    spool, config = "var/spool/wasmdrop-green", machine.root / "etc/wasmdrop/green.toml"
    assert config.stat().st_mode & 0o777 == 0o644
    machine.run("systemctl", "start", "wasmdrop@green")
    assert machine.property_of("wasmdrop@green", "User") == "wasmdrop-green"
    drop_in = use_drop_in(machine, "http", "wasmdrop@green", "s,9464,9465,")
    drop(machine.root / spool / "wasm/module.wasm", bytes(wat2wasm(FIB)))
    wait_until(lambda: marker(machine, "result.done", spool), "the result")
    code = "import urllib.request as u; u.urlopen('http://127.0.0.1:9465/readyz')"
    machine.run("/usr/bin/python3", "-c", code)
    machine.run("rm", drop_in)
    assert (machine.root / spool / "shared/result.txt").read_text().splitlines()[-1] == "13"
    listed = machine.run("wasmdrop", "jobs", "--config", "/etc/wasmdrop/green.toml", "--json")
    assert json.loads(listed)["code"] == "ok"
    machine.make("uninstall-systemd", "INSTANCE=green", "PURGE=1")
    assert not (machine.root / spool).exists()
    assert not settings_file.exists()
    assert not config.exists()
    assert main_pid(machine)


def test_install_below_another_root_changes_nothing_else(machine: Machine) -> None:
    """``DESTDIR``, for packagers."""
    machine.make("install-systemd", "DESTDIR=/package")
    package = machine.root / "package"
    assert (package / "usr/local/lib/systemd/system/wasmdrop@.service").is_file()
    assert (package / "usr/local/share/man/man1/wasmdrop-submit.1").is_file()
    assert (package / "opt/wasmdrop/bin/wasmdrop").read_text().startswith("#!/opt/wasmdrop/bin/")
    assert not (package / "var").exists()
    machine.make("uninstall-systemd", "DESTDIR=/package")
    assert not [
        path for path in package.rglob("*wasmdrop*") if path.is_file() and "etc" not in str(path)
    ]


def test_uninstall_keeps_the_data_unless_told_otherwise(machine: Machine) -> None:
    """The last test of the machine: units, program and command are gone."""
    machine.make("uninstall-systemd")
    kept = [machine.root / name for name in (SPOOL, "var/lib/wasmdrop", "etc/wasmdrop")]
    assert all(path.exists() for path in kept)
    gone = ("opt/wasmdrop", "usr/local/bin/wasmdrop", "usr/local/lib/tmpfiles.d/wasmdrop.conf")
    assert not any((machine.root / name).exists() for name in gone)
    assert machine.property_of("wasmdrop", "LoadState") in {"not-found", "masked"}
    machine.make("uninstall-systemd", "PURGE=1")
    assert not any(path.exists() for path in kept)
    assert not list((machine.root / "var/lib").rglob("wasmdrop*"))
