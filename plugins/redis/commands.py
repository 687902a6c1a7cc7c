"""Commands that clients write themselves: which there are, and where their keys stand."""

from collections.abc import Callable

DATA_COMMANDS = (
    # strings and bits
    "APPEND", "BITCOUNT", "BITFIELD", "BITFIELD_RO", "BITOP", "BITPOS", "DECR", "DECRBY", "GET",
    "GETBIT", "GETDEL", "GETEX", "GETRANGE", "GETSET", "INCR", "INCRBY", "INCRBYFLOAT", "MGET",
    "MSET", "MSETNX", "PSETEX", "SET", "SETBIT", "SETEX", "SETNX", "SETRANGE", "STRLEN",
    # keys
    "DEL", "EXISTS", "EXPIRE", "EXPIREAT", "EXPIRETIME", "PERSIST", "PEXPIRE",
    "PEXPIREAT", "PTTL", "RENAME", "RENAMENX", "TOUCH", "TTL", "TYPE", "UNLINK",
    # hashes
    "HDEL", "HEXISTS", "HGET", "HGETALL", "HINCRBY", "HINCRBYFLOAT", "HKEYS", "HLEN", "HMGET",
    "HMSET", "HRANDFIELD", "HSCAN", "HSET", "HSETNX", "HSTRLEN", "HVALS",
    # lists
    "LINDEX", "LINSERT", "LLEN", "LMOVE", "LPOP", "LPOS", "LPUSH", "LPUSHX", "LRANGE", "LREM",
    "LSET", "LTRIM", "RPOP", "RPOPLPUSH", "RPUSH", "RPUSHX",
    # sets
    "SADD", "SCARD", "SDIFF", "SDIFFSTORE", "SINTER", "SINTERSTORE", "SISMEMBER", "SMEMBERS",
    "SMISMEMBER", "SMOVE", "SPOP", "SRANDMEMBER", "SREM", "SSCAN", "SUNION", "SUNIONSTORE",
    # sorted sets
    "ZADD", "ZCARD", "ZCOUNT", "ZINCRBY", "ZLEXCOUNT", "ZMSCORE", "ZPOPMAX", "ZPOPMIN",
    "ZRANDMEMBER", "ZRANGE", "ZRANGEBYLEX", "ZRANGEBYSCORE", "ZRANGESTORE", "ZRANK", "ZREM",
    "ZREMRANGEBYLEX", "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE", "ZREVRANGE", "ZREVRANGEBYLEX",
    "ZREVRANGEBYSCORE", "ZREVRANK", "ZSCAN", "ZSCORE",
    # places and estimates
    "GEOADD", "GEODIST", "GEOHASH", "GEOPOS", "GEOSEARCH", "GEOSEARCHSTORE", "PFADD", "PFCOUNT",
    "PFMERGE",
    # streams
    "XADD", "XDEL", "XLEN", "XRANGE", "XREVRANGE", "XTRIM",
)  # fmt: skip
"""All name their keys, none waits, none looks beyond its keys."""

_LAST = frozenset({"DEL", "EXISTS", "MGET", "PFCOUNT", "PFMERGE", "SDIFF", "SDIFFSTORE", "SINTER",
                   "SINTERSTORE", "SUNION", "SUNIONSTORE", "TOUCH", "UNLINK"})  # fmt: skip
_EVERY_SECOND = frozenset({"MSET", "MSETNX"})
_FIRST_TWO = frozenset({"GEOSEARCHSTORE", "LMOVE", "RENAME", "RENAMENX", "RPOPLPUSH",
                        "SMOVE", "ZRANGESTORE"})  # fmt: skip


def key_places(name: str, count: int) -> range:
    """Which of a command's ``count`` arguments are keys."""
    if name in _LAST:
        return range(count)
    if name in _EVERY_SECOND:
        return range(0, count, 2)
    if name in _FIRST_TWO:
        return range(min(2, count))
    if name == "BITOP":
        return range(1, count)
    return range(min(1, count))


def prefix_keys(name: str, arguments: list[bytes], prefix: Callable[[bytes], bytes]) -> list[bytes]:
    """The arguments, with ``prefix`` applied to those that are keys."""
    for place in key_places(name, len(arguments)):
        arguments[place] = prefix(arguments[place])
    return arguments
