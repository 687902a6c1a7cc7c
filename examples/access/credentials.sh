#!/bin/sh
# Each credential that curl can show, at a proxy with prism.yaml. sh credentials.sh [https://localhost:50051]
set -eu
demo="${1:-https://localhost:50051}/v1/demo"

# curl reads the header from its standard input: its arguments are for all users of the machine to see.
with_bearer() {
    printf 'authorization: Bearer %s\n' "$(cat "$1")" |
        curl -sS --cacert ca.pem -H @- -d '{"key":"user:123"}' "$demo/get"; echo
}

# Without any: 401, and www-authenticate says what is missing.
curl -sS --cacert ca.pem -o /dev/null -w '%{http_code} %header{www-authenticate}\n' -d '{}' "$demo/get"

# An API key, then a JWT. An opaque token is shown in the same way.
with_bearer reports.key
with_bearer ada.token

# A client certificate with a SPIFFE id: web.pem has its key, too.
curl -sS --cacert ca.pem --cert web.pem -d '{"key":"user:123"}' "$demo/get"; echo

# Another one of the same authority, which no rule names: 403.
curl -sS --cacert ca.pem --cert db.pem -d '{"key":"user:123"}' "$demo/get"; echo
