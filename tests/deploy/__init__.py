"""Where wasmdrop is used: a host with systemd, a container, a pod."""
