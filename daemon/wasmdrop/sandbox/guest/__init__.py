"""The processes of the sandbox, which a guest may own: the only code that imports wasmtime."""
