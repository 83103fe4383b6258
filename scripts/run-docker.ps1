<#
.SYNOPSIS
Runs wasmdrop in a container: one job, whose result it prints, or the daemon.

.DESCRIPTION
The same as scripts/run-docker.sh, for Windows and PowerShell anywhere; that file lists the
environment variables. The last line is the raw value, or the JSON line where OUTPUT_PATH ends in
.json; exit statuses are those of `wasmdrop run`.

.PARAMETER Serve
Run the daemon on host/wasm and host/shared until Ctrl-C.

.PARAMETER Help
Show this text.

.PARAMETER SkipBuild
Use the image as it is (as SKIP_BUILD=1 does).

.PARAMETER Scenario
add, fib or affine: first copy that example's input, and its module if it was built.
#>
param(
    [switch]$Serve,
    [switch]$SkipBuild,
    [switch]$Help,
    [ValidateSet('', 'add', 'fib', 'affine')]
    [string]$Scenario = $env:SCENARIO
)
$ErrorActionPreference = 'Stop'

if ($Help) {
    Get-Help -Full $PSCommandPath
    exit 0
}

function Get-Setting([string]$Name, [string]$Default) {
    $value = [Environment]::GetEnvironmentVariable($Name)
    if ([string]::IsNullOrEmpty($value)) { return $Default }
    return $value
}

$root = Split-Path -Parent $PSScriptRoot
$image = Get-Setting 'IMAGE' 'wasmdrop'
$wasm = Get-Setting 'WASM_HOST_DIR' (Join-Path $root 'host/wasm')
$shared = Get-Setting 'SHARED_HOST_DIR' (Join-Path $root 'host/shared')
$wasm = (New-Item -ItemType Directory -Force -Path $wasm).FullName
$shared = (New-Item -ItemType Directory -Force -Path $shared).FullName

if ($Scenario) {
    Copy-Item "$root/examples/$Scenario/input.json" "$shared/.input.json"
    Move-Item -Force "$shared/.input.json" "$shared/input.json"
    foreach ($language in 'wat', 'c', 'ts', 'go') {
        $built = "$root/examples/build/$Scenario-$language.wasm"
        if (Test-Path $built) {
            Copy-Item $built "$wasm/.$Scenario.wasm"
            Move-Item -Force "$wasm/.$Scenario.wasm" "$wasm/$Scenario.wasm"
            $env:WASM_PATH = "/mnt/wasm/$Scenario.wasm"
            break
        }
    }
}

if (-not $Serve -and -not $env:WASM_PATH -and -not (Test-Path "$wasm/module.wasm")) {
    [Console]::Error.WriteLine("no module: put one at $wasm/module.wasm; or build the examples and set SCENARIO")
    exit 2
}

if (-not $SkipBuild -and $env:SKIP_BUILD -ne '1') {
    docker build --quiet --tag $image $root | Out-Null
    if ($LASTEXITCODE -ne 0) { exit 3 }
}

# Root starts the container, to become the owner of the shared folder: see scripts/as-owner.sh.
$options = @(
    '--rm', '--init', '--read-only', '--cap-drop', 'ALL', '--cap-add', 'CHOWN', '--cap-add', 'KILL',
    '--cap-add', 'SETGID', '--cap-add', 'SETPCAP', '--cap-add', 'SETUID',
    '--security-opt', 'no-new-privileges',
    '--pids-limit', '1024', '--memory', (Get-Setting 'MEMORY' '4g'),
    '--user', '0:0', '--env', 'AS_OWNER_OF=/mnt/shared',
    '--volume', "${wasm}:/mnt/wasm:ro,z", '--volume', "${shared}:/mnt/shared:z",
    '--tmpfs', '/tmp:mode=1777'
)
$names = '^(ENTRY|ARGS_JSON|ADD_X|ADD_Y|TIMEOUT_SEC|WASM_PATH|INPUT_PATH|OUTPUT_PATH|ARG_[0-9]+|WASMDROP_[A-Z_]+)$'
foreach ($variable in Get-ChildItem Env: | Where-Object { $_.Name -cmatch $names }) {
    $options += '--env', $variable.Name
}

if ($Serve) {
    docker run @options --publish 127.0.0.1:9464:9464 `
        --health-cmd 'python -I -S /opt/wasmdrop/healthcheck.py' --health-interval 10s `
        --health-timeout 5s --health-start-period 10s --health-retries 3 `
        --volume wasmdrop-state-65532:/var/lib/wasmdrop $image serve
} else {
    docker run @options --network none --env WASMDROP_STATE_DIR=/tmp/wasmdrop $image run
}
exit $LASTEXITCODE
