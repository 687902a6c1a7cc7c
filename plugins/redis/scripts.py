"""What runs on the server, in Lua: each declares its keys, and is one moment for everybody."""

import hashlib


class Script:
    """One script; ``sha`` is what the server calls it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


COMPARE_AND_SET = Script(
    """
local value = redis.call('GET', KEYS[1])
if value ~= ARGV[1] then return value end
if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""
)
"""Sets (new value, milliseconds or '') where the key has the old one; else what it has, or nil."""

COMPARE_AND_DELETE = Script(
    """
local value = redis.call('GET', KEYS[1])
if value ~= ARGV[1] then return value end
redis.call('UNLINK', KEYS[1])
return 1
"""
)
"""Deletes where the key has the value; else what it has, or nil."""

VERSION_DIGITS = 24
"""Of a hash's 40: what 96 bits have in common is the same value."""

SET_IF_VERSION = Script(
    """
local value = redis.call('GET', KEYS[1])
if not value or string.sub(redis.sha1hex(value), 1, 24) ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""
)
"""Sets (new value, milliseconds or '') where the value has the version."""

DELETE_IF_VERSION = Script(
    """
local value = redis.call('GET', KEYS[1])
if not value or string.sub(redis.sha1hex(value), 1, 24) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[1])
return 1
"""
)
"""Deletes where the value has the version."""


def version_of(value: bytes) -> str:
    """What the scripts above compare."""
    return hashlib.sha1(value, usedforsecurity=False).hexdigest()[:VERSION_DIGITS]


INCREMENT = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('INCRBY', KEYS[1], ARGV[1])
  return redis.call('GET', KEYS[1])
end
if ARGV[2] == '' then return redis.error_reply('ERR increment or decrement would overflow') end
if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return ARGV[2]
"""
)
"""Adds, or sets what a missing key begins with (the sum, or '' where it does not fit; and
milliseconds or ''). The result is text: Lua's numbers lose digits over 2^53."""

GET_WITHIN = Script(
    """
local most, total, values = tonumber(ARGV[1]), 0, {}
for place, key in ipairs(KEYS) do
  local value = redis.pcall('GET', key)
  if type(value) ~= 'string' then value = false end
  total = total + (value and #value or 0) + #key
  if total > most and place > 1 then return values end
  values[place] = value
end
return values
"""
)
"""The values of the first keys, as many as have so many bytes together, and one at least."""
