"""The host of WebAssembly plugins: one module or component, many instances, no authority.

``python -m prism.hosts.wasm`` is a plugin as any other to the proxy. Its operations are those
that the module declares.
"""
