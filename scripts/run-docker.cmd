@echo off
rem Runs wasmdrop in a container; `run-docker.cmd -Serve` runs the daemon, -Help shows the options. See run-docker.ps1.
powershell -NoProfile -ExecutionPolicy Bypass -File "%~dp0run-docker.ps1" %*
exit /b %ERRORLEVEL%
