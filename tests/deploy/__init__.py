"""Deployments of wasmdrop: a host with systemd, a container, a pod."""
