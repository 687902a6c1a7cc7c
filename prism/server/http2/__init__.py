"""HTTP/2: `connection` reads and decides how it ends, `writer` writes, `stream` is one
request; `codec` is the wire format behind a small interface; `limits` knows a flood."""
