"""A token issuer for trying things out: python issue_token.py NAME [GROUP...]

Signs a token with a key of its own, which it makes the first time, and writes the public half to
public/keys.json. A real issuer (Keycloak, Entra ID, Okta, Dex) gives both out by itself.
"""

import json
import sys
import time
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import RSAKey

if len(sys.argv) < 2:
    sys.exit("usage: python issue_token.py NAME [GROUP...]")

private, public = Path("issuer-key.json"), Path("public", "keys.json")
if not private.exists():
    private.touch(mode=0o600)
    private.write_text(json.dumps(RSAKey.generate_key(2048, {"kid": "1"}).as_dict(private=True)))
key = RSAKey.import_key(json.loads(private.read_text()))
public.parent.mkdir(exist_ok=True)
public.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))

name, *groups = sys.argv[1:]
claims = {"iss": "local", "aud": "prism", "sub": name, "groups": groups}
times = {"iat": int(time.time()), "exp": int(time.time()) + 3600}
print(jwt.encode({"alg": "RS256", "kid": "1"}, {**claims, **times}, key))
