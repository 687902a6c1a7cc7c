"""Calls come no faster than they may.

A namespace has one rate limit or several, and a call must pass all that concern it. Without a
``limits_store`` this proxy counts by itself (``limits.gcra``); with one, it counts what it lets
through as well, and the store has the word (``limits.leases``, ``limits.store``): a call for which
nothing is held waits for one round trip, and is then decided as its limit's ``when_store_is_down``
says if the store does not answer.

What is certain to be refused costs a lookup and an exception, whatever the number of namespaces and
of principals. What a refused call would have used of other limits is not used, as far as this proxy
counts itself; of shared limits that were asked before, it is.
"""

import logging
from abc import ABC, abstractmethod
from functools import lru_cache
from ipaddress import ip_address
from math import ceil, inf
from typing import TYPE_CHECKING

from prism.calls.policies.policy import Measure, Policy
from prism.config.types import RateLimitConfig
from prism.contract.errors import CallError, InternalError, LimitsUnavailable, RateLimited
from prism.contract.messages import OperationDeclaration
from prism.limits.gcra import CROWDS, Bucket, Rate, Recent
from prism.limits.leases import Lease
from prism.limits.store import MAX_WAITING, LimitsStore
from prism.streams.outlet import turn_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prism.calls.call import Call
    from prism.calls.namespace import Namespace

log = logging.getLogger("prism.calls")

Header = tuple[bytes, bytes]

POLICY, STANDING = b"ratelimit-policy", b"ratelimit"
"""Headers: what the limits are, and what is left of them."""
LEASES_KEPT = 10.0
"""Seconds for which is known how much to ask the store for."""
NO_OPERATION = "_unknown"
"""Where an operation that the plugin does not offer is counted: clients may think of any name."""

LIMITED = Measure("prism_rate_limited", "counter", "Calls refused by a rate limit", ("limit",))
KEYS = Measure(
    "prism_rate_limit_keys",
    "gauge",
    "Principals, clients or operations that are counted",
    ("limit",),
)
UNSHARED = Measure(
    "prism_rate_limit_unshared",
    "counter",
    "Calls that were decided without the limits store, since it was down",
    ("limit",),
)


class Limit:
    """One rate limit of one namespace, and what is used of it. ``name`` is its name in headers and
    metrics: ``per``, and a number where there are several."""

    def __init__(self, namespace: str, name: str, config: RateLimitConfig) -> None:
        self.name = name
        self.namespace = namespace
        self.refused = 0
        self.unshared = 0
        self.rate = Rate(1.0, 1.0)
        self.buckets: Recent[Bucket] = Recent(0.0)
        self.leases: Recent[Lease] = Recent(LEASES_KEPT)
        self._crowds: dict[int, Bucket] = {}
        self._most = 0.0
        self._shown_of: Bucket | None = None
        self._shown_at = self._shown_level = 0.0
        self._shown: list[Header] = []
        self.configure(config)

    def configure(self, config: RateLimitConfig) -> None:
        """Limit otherwise from now on. What was used stays used."""
        self.config = config
        self.per = config.per
        self.costs = config.costs
        self.operations = frozenset(config.operations)
        self.burst = config.most_at_once
        self.calls_per_second = config.calls_per_second
        self.when_down = config.when_store_is_down or "local"
        # In place: buckets and leases that there are go by it.
        self.rate.per_second, self.rate.burst = config.calls_per_second, float(self.burst)
        self._most = max(self._most, self.rate.burst)
        self.buckets.keep = self._most / self.rate.per_second
        # Of every call it is certain, whatever its operation is, that it uses as much.
        self.least = (
            0 if self.operations or self.per == "operation" else min(1, *self.costs.values(), 1)
        )
        refill = self.rate.refill_seconds
        window, quota = (
            (ceil(refill), self.burst)
            if refill > 1
            else (1, max(self.burst, int(self.rate.per_second)))
        )
        self.header = f'"{self.name}";q={quota};w={window}'
        self._policy = (POLICY, self.header.encode("ascii"))
        self._shown_of = None

    def cost(self, operation: str, declared: OperationDeclaration | None) -> int:
        """What a call of ``operation`` uses; 0 if it is not limited."""
        if self.operations and operation not in self.operations:
            return 0
        cost = self.costs.get(operation)
        if cost is not None:
            return cost
        return 1 if declared is None or declared.cost < 1 else declared.cost

    def key(self, call: "Call", *, is_known: bool) -> str:
        """Whose budget ``call`` uses. ``is_known``: the plugin offers the operation."""
        if self.per == "principal":
            return call.principal
        if self.per == "client":
            return network_of(call.address())
        if self.per == "operation":
            return call.operation if is_known else NO_OPERATION
        return ""

    def bucket(self, key: str, now: float) -> Bucket:
        """What this proxy has counted of ``key``. Where there is no room for more keys, strangers
        share one."""
        bucket = self.buckets.get(key, now)
        if bucket is None:
            bucket = Bucket(now)
            if not self.buckets.put(key, bucket):
                bucket = self._crowds.setdefault(hash(key) % CROWDS, bucket)
        return bucket

    def lease(self, key: str, bucket: Bucket, now: float) -> Lease:
        """What this proxy has of ``key`` in the store; one that is not kept where there is no
        room."""
        if self._crowds and self._crowds.get(hash(key) % CROWDS) is bucket:
            bucket = Bucket(now)  # what strangers have used is no concern of the store
        lease = self.leases.get(key, now)
        if lease is None:
            lease = Lease(f"{self.namespace}:{self.name}:{key}", self.rate, bucket)
            self.leases.put(key, lease)
        else:
            lease.bucket = bucket
        return lease

    def refusal(self, cost: int, wait: float) -> RateLimited:
        """A call that uses ``cost`` is refused."""
        self.refused += 1
        return RateLimited(
            self.namespace,
            self.per,
            self.calls_per_second,
            self.burst,
            cost,
            wait,
            self.config.operations,
        )

    def shown(self, bucket: Bucket) -> list[Header]:
        """What a client is told where this limit is the only one, and is not shared. Of answers
        that leave in one turn, most have the same."""
        now = turn_time()
        if (
            bucket is not self._shown_of
            or now != self._shown_at
            or bucket.level != self._shown_level
        ):
            standing = self.standing(bucket, None, now).encode("ascii")
            self._shown = [self._policy, (STANDING, standing)]
            self._shown_of, self._shown_at, self._shown_level = bucket, now, bucket.level
        return self._shown

    def standing(self, bucket: Bucket, lease: Lease | None, now: float) -> str:
        """How ``bucket`` stands, as a member of the header ``RateLimit``."""
        left = self.rate.burst - bucket.level_at(self.rate, now)
        if lease is not None:
            left = min(left, lease.left_now(now) + lease.held)
        used = self.rate.burst - left
        full = ceil(used / self.rate.per_second) if used > 0 else 0
        return f'"{self.name}";r={max(0, int(left))};t={full}'


class Standing(ABC):
    """How the limits of one call stand: what its client is told of them with the answer."""

    __slots__ = ()

    @abstractmethod
    def headers(self) -> list[Header]:
        """As they stand now."""


class LimitUse(Standing):
    """Where one limit stands for one call: the key's ``bucket``, and ``cost``."""

    __slots__ = ("bucket", "cost", "key", "lease", "limit")

    def __init__(self, limit: Limit, key: str, bucket: Bucket, cost: int) -> None:
        self.limit = limit
        self.key = key
        self.bucket = bucket
        self.cost = cost
        self.lease: Lease | None = None

    def headers(self) -> list[Header]:
        return self.limit.shown(self.bucket)


class LimitUses(Standing):
    """Where several limits stand for one call, or shared ones. ``policy`` is what they are."""

    __slots__ = ("places", "policy")

    def __init__(self, policy: Header, places: list[LimitUse]) -> None:
        self.policy = policy
        self.places = places

    def headers(self) -> list[Header]:
        if not self.places:
            return [self.policy]
        now = turn_time()
        standings = [place.limit.standing(place.bucket, place.lease, now) for place in self.places]
        return [self.policy, (STANDING, ", ".join(standings).encode("ascii"))]


class StoreWait:
    """A call that waits for the store: the ``Waiter`` of a lease, and the ``Waiting`` of a call."""

    def __init__(
        self, policy: "RateLimit", call: "Call", places: list[LimitUse], number: int
    ) -> None:
        self.cost = places[number].cost
        self.is_gone = False
        self._policy = policy
        self._call = call
        self._places = places
        self._number = number

    def too_late(self) -> CallError:
        """What the call ends with if its time is up meanwhile."""
        return LimitsUnavailable("the limits store did not answer before the call's deadline")

    def cancel(self) -> None:
        """The call has ended."""
        if not self.is_gone:
            self.is_gone = True
            self._policy.waiting_ended()

    def granted(self) -> None:
        """It has its units."""
        self._go_on(0.0)

    def refused(self, wait: float) -> None:
        """There are none for ``wait`` seconds."""
        self._go_on(wait)

    def undecided(self) -> None:
        """The store cannot be asked."""
        self._go_on(inf)

    def _go_on(self, wait: float) -> None:
        self.is_gone = True
        self._policy.waiting_ended()
        self._policy.decided(self._call, self._places, self._number, wait)


class RateLimit(Policy):
    """Refuses the call that would be one too many. In the list only where there is a limit."""

    name = "rate"
    measures = (LIMITED, KEYS, UNSHARED)

    def __init__(self, namespace: "Namespace") -> None:
        self._limits: tuple[Limit, ...] = ()
        self._only: Limit | None = None
        self._header: Header = (POLICY, b"")
        self._looked_at: dict[str, OperationDeclaration] | None = None
        super().__init__(namespace)

    @classmethod
    def applies(cls, namespace: "Namespace") -> bool:
        return bool(namespace.limits.rates)

    def configure(self) -> None:
        known = {limit.name: limit for limit in self._limits}
        limits = []
        counts: dict[str, int] = {}
        for config in self.namespace.limits.rates:
            counts[config.per] = number = counts.get(config.per, 0) + 1
            name = config.per if number == 1 else f"{config.per}-{number}"
            limit = known.get(name)
            if limit is None:
                limit = Limit(self.namespace.name, name, config)
            elif limit.config != config:
                limit.configure(config)
            limits.append(limit)
        self._limits = tuple(limits)
        self._only = limits[0] if len(limits) == 1 else None
        self._header = (POLICY, ", ".join(limit.header for limit in limits).encode("ascii"))
        self._looked_at = None

    # -- a call -----------------------------------------------------------------------

    def enter(self, call: "Call") -> bool | None:
        now = turn_time()
        store = self.namespace.limits_store
        if self._only is not None and not store.is_shared:
            self._enter_only(self._only, call, now)
            return None
        places = self._places(call, now)
        if store.is_shared:
            for place in places:
                place.lease = place.limit.lease(place.key, place.bucket, now)
        self._check(call, places, store, now)
        if store.is_shared and self._ask(call, places, 0, now):
            return True
        self._use(call, places, now)
        return None

    def _enter_only(self, limit: Limit, call: "Call", now: float) -> None:
        """What ``enter`` comes to with one limit that is this proxy's own, as most are."""
        operations = self.namespace.slot.operations
        if operations is not self._looked_at:
            self._look_at(operations)
        operation = call.operation
        declared = operations.get(operation)
        cost = limit.cost(operation, declared)
        if not cost:
            call.standing = LimitUses(self._header, [])
            return
        key = limit.key(call, is_known=declared is not None)
        bucket = limit.bucket(key, now)
        call.standing = LimitUse(limit, key, bucket, cost)
        wait = inf if cost > limit.burst else bucket.take(limit.rate, cost, now)
        if wait > 0.0:
            raise limit.refusal(cost, wait)

    def precheck(self, call: "Call") -> None:
        """What is certain of any operation; over gRPC it is not known yet which one it is."""
        now = turn_time()
        places = (
            self._places(call, now)
            if call.operation
            else [
                LimitUse(limit, key, limit.bucket(key, now), limit.least)
                for limit in self._limits
                if limit.least
                for key in (limit.key(call, is_known=True),)
            ]
        )
        store = self.namespace.limits_store
        if store.is_shared:
            for place in places:
                place.lease = place.limit.leases.get(place.key, now)
        self._check(call, places, store, now)

    def _places(self, call: "Call", now: float) -> list[LimitUse]:
        """Where the limits that concern ``call`` stand."""
        operations = self.namespace.slot.operations
        if operations is not self._looked_at:
            self._look_at(operations)
        operation = call.operation
        declared = operations.get(operation)
        places = []
        for limit in self._limits:
            cost = limit.cost(operation, declared)
            if cost:
                key = limit.key(call, is_known=declared is not None)
                places.append(LimitUse(limit, key, limit.bucket(key, now), cost))
        return places

    def _check(self, call: "Call", places: list[LimitUse], store: LimitsStore, now: float) -> None:
        """Refuse what is certain to be refused; changes nothing.

        Raises:
            RateLimited: it is.
            LimitsUnavailable: the store is down, and a limit says that nothing passes then.
        """
        for place in places:
            limit, lease, cost = place.limit, place.lease, place.cost
            if cost > limit.burst:
                self._refuse(call, places, place, inf)
            elif not store.is_shared:
                wait = place.bucket.wait(limit.rate, cost, now)
                if wait > 0.0:
                    self._refuse(call, places, place, wait)
            elif store.down:
                self._check_without_store(call, places, place, now)
            elif lease is not None and lease.held < cost:
                wait = lease.wait(cost, now)
                if wait > 0.0:
                    self._refuse(call, places, place, wait)

    def _check_without_store(
        self, call: "Call", places: list[LimitUse], place: LimitUse, now: float
    ) -> None:
        limit = place.limit
        if limit.when_down == "deny":
            limit.unshared += 1
            raise LimitsUnavailable
        if limit.when_down == "local":
            wait = place.bucket.wait(limit.rate, place.cost, now)
            if wait > 0.0:
                limit.unshared += 1
                self._refuse(call, places, place, wait)

    def _refuse(self, call: "Call", places: list[LimitUse], place: LimitUse, wait: float) -> None:
        call.standing = LimitUses(self._header, places)
        raise place.limit.refusal(place.cost, wait)

    def _use(self, call: "Call", places: list[LimitUse], now: float) -> None:
        """The call passes."""
        for place in places:
            place.bucket.use(place.limit.rate, place.cost, now)
        call.standing = LimitUses(self._header, places)

    # -- with a store -------------------------------------------------------------------

    def _ask(self, call: "Call", places: list[LimitUse], first: int, now: float) -> bool:
        """Take what is held, or have the store asked, for the limits from number ``first`` on.
        Returns whether the call waits for that."""
        store = self.namespace.limits_store
        for number in range(first, len(places)):
            place = places[number]
            lease = place.lease
            if store.down or lease is None:
                place.limit.unshared += 1
            elif not lease.take(place.cost, now):
                if store.waiting >= MAX_WAITING:
                    raise LimitsUnavailable(f"{MAX_WAITING} wait for the limits store already")
                store.waiting += 1
                waiter = StoreWait(self, call, places, number)
                lease.waiting.append(waiter)
                call.wait_for(waiter)
                store.ask(lease)
                return True
        return False

    def waiting_ended(self) -> None:
        """A call waits no more."""
        self.namespace.limits_store.waiting -= 1

    def decided(self, call: "Call", places: list[LimitUse], number: int, wait: float) -> None:
        """The store has decided on limit ``number``: it passes at once (0), or after ``wait``
        seconds; infinite, where the store is down, or is there no more."""
        if call.done:
            return
        now = turn_time()
        try:
            if wait == inf:
                for place in places[number:]:  # nor is it asked for these
                    self._check_without_store(call, places, place, now)
                    place.limit.unshared += 1
            elif wait > 0.0:
                self._refuse(call, places, places[number], wait)
            elif self._ask(call, places, number + 1, now):
                return
            self._use(call, places, now)
        except CallError as error:
            call.end(error)
        except Exception:
            log.exception("request %s failed", call.request_id)
            call.end(InternalError())
        else:
            call.proceed()

    # -- for operators ------------------------------------------------------------------

    def _look_at(self, operations: dict[str, OperationDeclaration]) -> None:
        """Warn, once for each plugin, of names that its operations do not have, and of costs that
        it declares and that never pass."""
        before, self._looked_at = self._looked_at, operations
        if not operations or operations == before:
            return
        for limit in self._limits:
            for name, declared in operations.items():
                cost = limit.cost(name, declared)
                if cost > limit.burst:
                    log.warning(
                        "no call of %s can pass limits.rate of namespace %s: its plugin declares "
                        "that one uses %d, and no more than %d can be there at once; raise burst, "
                        "or say in costs what it uses",
                        name,
                        self.namespace.name,
                        cost,
                        limit.burst,
                    )
            named = {*limit.operations, *limit.costs}
            for operation in sorted(named - operations.keys()):
                log.warning(
                    "limits.rate of namespace %s names the operation %s, which its plugin does "
                    "not offer; it offers %s",
                    self.namespace.name,
                    operation,
                    ", ".join(sorted(operations)),
                )

    def state(self) -> dict[str, object]:
        store = self.namespace.limits_store
        shown: dict[str, object] = {
            limit.name: {
                "calls_per_second": limit.calls_per_second,
                "burst": limit.burst,
                "per": limit.per,
                "operations": limit.config.operations,
                "keys": len(limit.buckets),
                "refused": limit.refused,
            }
            for limit in self._limits
        }
        if store.is_shared:
            shown["store"] = f"down: {store.down}" if store.down else "up"
        return shown

    def measure(self) -> "Iterator[tuple[Measure, tuple[str, ...], float]]":
        for limit in self._limits:
            yield LIMITED, (limit.name,), limit.refused
            yield KEYS, (limit.name,), len(limit.buckets)
            yield UNSHARED, (limit.name,), limit.unshared


@lru_cache(4096)
def network_of(address: str) -> str:
    """Who counts as one client: an IPv4 address, or the 64 bits of an IPv6 address that name a
    network, since who has one address there has them all."""
    if ":" not in address:
        return address
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{ip_address(int(found) >> 64 << 64)}/64"
