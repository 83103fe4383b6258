"""The control page: a daemon in a browser, and its data as JSON. Imported only if it is on."""
