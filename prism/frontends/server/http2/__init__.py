"""HTTP/2: `connection` reads, writes and counts; `stream` is one request; `codec` is the
wire format, kept behind a small door; `limits` knows a flood when it sees one."""
