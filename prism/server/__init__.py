"""The HTTP server: from a listening socket to front ends (`exchange.FrontEnd`).

`serve` accepts and drains > `connection` fences one connection in > `http1` and `http2`
read and write > `exchange` is one request and its response.
"""
