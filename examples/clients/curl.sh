#!/bin/sh
# Each way in that curl can take. sh examples/clients/curl.sh [http://127.0.0.1:50051]
set -eu
demo="${1:-http://127.0.0.1:50051}/v1/demo"

# A call.
curl -sS -d '{"key":"user:123","value":{"name":"Ada"}}' "$demo/set"; echo
curl -sS -d '{"key":"user:123"}' "$demo/get"; echo

# A stream as lines of JSON.
curl -sSN -H 'accept: application/x-ndjson' -d '{"prefix":"user:"}' "$demo/scan"

# The client's messages are lines, too. With --http2-prior-knowledge and `-X POST -T .` in
# place of --data-binary, both directions run at the same time.
printf '%s\n' '{"prefix":"user:"}' | curl -sSN -H 'accept: application/x-ndjson' \
    -H 'content-type: application/x-ndjson' --data-binary @- "$demo/scan"

# Server-sent events, as a browser asks for them; after two seconds we have seen enough.
curl -sSN --max-time 2 -H 'accept: text/event-stream' -G \
    --data-urlencode 'params={"prefix":"user:","existing":true}' "$demo/watch" || [ $? = 28 ]
