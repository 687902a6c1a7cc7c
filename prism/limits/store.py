"""The Redis, or Valkey, that counts for several proxies.

Theory of operation. One task has the connection. It takes all leases that have something to ask,
asks for them with one script in one round trip, hands out what was granted, and takes what has
come meanwhile. So the store is asked no more often than it answers, and as a key gets more calls,
more of them share a round trip.

The store is *up* or *down*. It is down when it cannot be reached, refuses, or has not answered
within ``timeout_seconds``: the calls that wait are then decided without it, at once, and so is
every one that comes, until the store has answered again. One task tries that, with pauses; no call
waits for it. Going down and coming back are told once each, and another reason once, too. That it
is gone is noticed by a PING now and then where nobody asks.

A store that was not tried yet, at a start or after a change of the configuration, is neither: a
proxy that starts waits for it (``first_try``), and so do calls, for ``CONNECT_SECONDS``, since
``timeout_seconds`` is too short for a connection. What loading the client library takes is not in
that.

The script keeps a level and a time for each key, as ``gcra.Bucket``, on the store's own clock, so
that the clocks of proxies do not matter. Where that clock was set back, nothing flows off until
the next ask, and no longer; where it was set forward, as if that time had passed. A key that is
idle is forgotten by the store. So is everything by one that restarts empty, which must not make
new budgets of those that were used up. It shows in the key of the *epoch*, whose id this proxy
knows: since there is another, what has no key is taken to have been used up when that was noticed.
"""

import logging
import secrets
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple, NoReturn, Self

import trio

from prism.config.types import LimitsStoreConfig, SecretsConfig
from prism.contract.errors import PrismError
from prism.contract.redaction import Redaction
from prism.limits.leases import HOLD_SECONDS, Ask, Lease
from prism.secrets import Secrets
from prism.streams.addresses import StoreURL, parse_store_url
from prism.streams.outlet import begin_turn, end_turn
from prism.streams.tls import TLSFiles, load_client_context

MAX_ASKS = 128
"""Keys in one round trip: the store does nothing else meanwhile."""
MAX_WAITING = 10_000
"""Calls that wait for the store at a time; one more is refused."""
FIRST_PAUSE = 0.1
LAST_PAUSE = 5.0
"""Seconds between two tries to reach a store that is down, which double from one to the other."""
STEADY_SECONDS = 10.0
"""After which a store that was up counts as sound, so that pauses are short again."""
CONNECT_SECONDS = 2.0
"""For a connection, with TLS and login, where ``timeout_seconds`` is less. Calls wait for the first
one, and no longer than that."""
PING_SECONDS = 2.0
"""After which a store that nobody asked is asked whether it is there."""
REASONS_TOLD = 5
"""Why it is down may change so often until it is told no more."""
PREFIX = "prism:rate:"

SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local found = redis.call('HMGET', KEYS[1], 'id', 'lost')
local id, lost = found[1], tonumber(found[2] or '')
if not id or (ARGV[2] ~= '' and ARGV[2] ~= id and not lost) or (lost and lost > now) then
  if not id then id = ARGV[1] end
  if ARGV[2] ~= '' or lost then lost = now end
  redis.call('HSET', KEYS[1], 'id', id)
  if lost then redis.call('HSET', KEYS[1], 'lost', string.format('%.0f', lost)) end
end
local hold = tonumber(ARGV[3])
local answer = {id}
for number = 2, #KEYS do
  local first = 4 + (number - 2) * 6
  local rate, burst = tonumber(ARGV[first]), tonumber(ARGV[first + 1])
  local demand, least = tonumber(ARGV[first + 2]), tonumber(ARGV[first + 3])
  local extra, level = tonumber(ARGV[first + 4]), tonumber(ARGV[first + 5])
  local kept = redis.call('GET', KEYS[number])
  local before, at = nil, nil
  if kept then
    before, at = string.match(kept, '^(%S+) (%S+)$')
    before, at = tonumber(before), tonumber(at)
  elseif lost then
    before, at = burst, lost
  end
  if before then
    level = math.max(level, before - math.max(0, now - at) / 1000000 * rate)
  end
  level = math.min(level, burst)
  local granted = math.min(demand, math.floor(burst - level))
  if granted < least then granted = 0 end
  level = level + granted
  local ahead = math.max(level, hold * rate)
  local held = math.max(0, math.min(extra, math.floor(burst - ahead)))
  if held > 0 then level = ahead + held end
  redis.call('SET', KEYS[number], string.format('%.17g %.0f', level, now),
             'PX', string.format('%.0f', math.ceil(level / rate * 1000) + 1000))
  answer[#answer + 1] = granted
  answer[#answer + 1] = held
  answer[#answer + 1] = string.format('%.17g', burst - level)
end
return answer
"""
"""KEYS: the epoch's, then each limit's. ARGV: an id for a new epoch; the one that is known, or
nothing; for how long units may be held; then rate, burst, demand, least, extra and level for each.
The answer: the epoch's id; granted, held and left for each. Numbers are doubles: times are in whole
microseconds, and written out in full."""

log = logging.getLogger("prism.limits")


class StoreFailed(PrismError):
    """The store cannot be asked; says why, without any password."""


class _Login(NamedTuple):
    """What a connection takes."""

    url: StoreURL
    username: str | None
    password: str | None
    context: ssl.SSLContext | None
    redaction: Redaction


class LimitsStore:
    """What limits are shared by, if ``config`` has anything (``is_shared``: each limited call
    asks that); ``run`` must run for that.

    ``down`` is why it cannot be asked, empty while it can, or may be in a moment. ``on_change``
    is told, once, that it went down, and why, if that is another reason later, and that it came
    back (""). ``asked`` counts round trips,
    ``failures`` how often it went down.
    """

    def __init__(self, found_in: Secrets | None = None) -> None:
        self.config: LimitsStoreConfig | None = None
        self.is_shared = False
        self.down = ""
        self.asked = 0
        self.failures = 0
        self.waiting = 0
        self.on_change: Callable[[str], None] = lambda _: None
        self._secrets = found_in or Secrets()
        self._secrets_config = SecretsConfig()
        self._pending: deque[Lease] = deque()
        self._woken = trio.Event()
        self._changed = trio.Event()
        self._asks: list[Ask] = []  # that are under way
        self._epoch = ""
        self._up_since = inf
        self._loaded = trio.Event()  # the client library, or it cannot be
        self._tried = trio.Event()  # this store has answered, or is down
        self._missed = False  # one of before was down, and nothing has told that it is over
        self._reasons: set[str] = set()  # told of this time that it is down

    @classmethod
    def from_config(
        cls, config: LimitsStoreConfig | None, secrets_config: SecretsConfig, found_in: Secrets
    ) -> Self:
        """The store of ``config``, with its password ``found_in`` there."""
        store = cls(found_in)
        store.configure(config, secrets_config)
        return store

    @property
    def address(self) -> str:
        """Where it is."""
        return "" if self.config is None else self.config.url

    def configure(self, config: LimitsStoreConfig | None, secrets_config: SecretsConfig) -> None:
        """Use another store, or none, from now on."""
        self._secrets_config = secrets_config
        if config != self.config:
            self.config = config
            self.is_shared = config is not None
            self._missed = (self._missed or bool(self.down)) and config is not None
            self.down = ""
            self._tried = trio.Event()
            self._epoch = ""
            self._changed.set()
            self._changed = trio.Event()

    def ask(self, lease: Lease) -> None:
        """Have what waits for ``lease`` decided soon."""
        if not lease.is_asked:
            lease.is_asked = True
            self._pending.append(lease)
            self._woken.set()

    async def first_try(self) -> None:
        """Wait until the store of the configuration, if there is one, has answered for the first
        time or is known to be down, for ``CONNECT_SECONDS`` at most."""
        if self.config is not None:
            await self._loaded.wait()
            with trio.move_on_after(max(CONNECT_SECONDS, self.config.timeout_seconds)):
                await self._tried.wait()

    # -- the connection -------------------------------------------------------------

    async def run(self) -> None:
        """Ask what there is to ask, until cancelled. A change of the configuration begins anew."""
        while True:
            changed = self._changed
            async with trio.open_nursery() as nursery:
                if self.config is not None:
                    nursery.start_soon(self._follow, self.config)
                await changed.wait()
                nursery.cancel_scope.cancel()
            self._decide_without()

    async def _follow(self, config: LimitsStoreConfig) -> None:
        """Keep a connection to the store of ``config``; never returns."""
        pause = FIRST_PAUSE
        while True:
            self._up_since = inf
            redaction = Redaction()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._end_waiting, config.timeout_seconds)
                    coredis = await self._load()
                    login = await self._login(config)
                    redaction = login.redaction
                    await self._use(config, login, coredis)
            except* Exception as error:  # not all of it, where it is cancelled in this moment
                self._went_down(redaction.text(_reason(error)))
            if trio.current_time() - self._up_since > STEADY_SECONDS:
                pause = FIRST_PAUSE
            await trio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    async def _load(self) -> Any:
        """The client library."""
        try:
            return await trio.to_thread.run_sync(_library, abandon_on_cancel=True)
        finally:
            self._loaded.set()

    async def _login(self, config: LimitsStoreConfig) -> _Login:
        """Read what a connection takes anew: the password may be another by now.

        Raises:
            ConfigError: the secret cannot be had.
            TLSFilesError: the authorities cannot be read.
        """
        texts = {} if config.password is None else {"password": config.password}
        password = (await self._secrets.credentials(texts, self._secrets_config)()).get("password")
        url = parse_store_url(config.url)
        context = None
        if url.secure:
            files = TLSFiles(config.ca_cert)
            context = await trio.to_thread.run_sync(
                load_client_context, files, abandon_on_cancel=True
            )
        redaction = Redaction({"password": password} if password else {})
        return _Login(url, config.username, password, context, redaction)

    async def _use(self, config: LimitsStoreConfig, login: _Login, coredis: Any) -> NoReturn:
        """Connect, and ask what there is to ask, until something fails, which is raised."""
        client = coredis.Redis(
            login.url.host,
            login.url.port,
            login.url.database,
            username=login.username,
            password=login.password,
            ssl_context=login.context,
            max_connections=1,
            retry_policy=coredis.retry.NoRetryPolicy(),
            verify_version=False,
        )
        patience = max(CONNECT_SECONDS, config.timeout_seconds)
        async with client, trio.open_nursery() as nursery:
            with trio.fail_after(patience):
                await self._ask_store(client, [])
            self._came_up()
            nursery.start_soon(self._watch, client, patience)
            while True:
                await self._woken.wait()
                await self._ask_pending(client, config.timeout_seconds)
        raise AssertionError  # the loop has no end

    async def _watch(self, client: Any, patience: float) -> None:
        """Raise what fails if the store is gone while nobody asks it."""
        while True:
            asked = self.asked
            await trio.sleep(PING_SECONDS)
            if self.asked == asked:
                with trio.fail_after(patience):
                    await client.ping()

    async def _end_waiting(self, seconds: float) -> None:
        """No call waits longer than that for a connection that is being made, if it is not the
        first."""
        await self._woken.wait()
        if not self._tried.is_set():
            seconds = max(CONNECT_SECONDS, seconds)
        await trio.sleep(seconds)
        if self._up_since == inf:
            self._went_down(f"it did not answer within {seconds:g} s")

    # -- asking ---------------------------------------------------------------------

    async def _ask_pending(self, client: Any, seconds: float) -> None:
        """One round trip, for as many leases as it may have.

        Raises:
            StoreFailed: it has not answered in time.
        """
        now = trio.current_time()
        while self._pending and len(self._asks) < MAX_ASKS:
            lease = self._pending.popleft()
            ask = Ask(lease, now)
            if ask.demand:
                self._asks.append(ask)
            else:
                lease.is_asked = False
        if not self._pending:
            self._woken = trio.Event()
        if not self._asks:
            return
        with trio.move_on_after(seconds) as in_time:
            answer = await self._ask_store(client, self._asks)
        if in_time.cancelled_caught:
            raise StoreFailed(f"it did not answer within {seconds:g} s")
        asks, self._asks = self._asks, []
        is_turn = begin_turn()
        try:
            for number, ask in enumerate(asks):
                lease = ask.lease
                lease.is_asked = False
                granted, held, left = answer[3 * number + 1 : 3 * number + 4]
                lease.answered(ask, int(granted), int(held), float(left), now)
                if lease.waiting:
                    self.ask(lease)
        finally:
            if is_turn:
                end_turn()

    async def _ask_store(self, client: Any, asks: Sequence[Ask]) -> list[Any]:
        """Have the store count ``asks``."""
        keys = [f"{PREFIX}epoch", *(f"{PREFIX}{ask.lease.key}" for ask in asks)]
        arguments: list[str | float | int] = [secrets.token_hex(8), self._epoch, HOLD_SECONDS]
        for ask in asks:
            rate = ask.lease.rate
            arguments += (rate.per_second, rate.burst, ask.demand, ask.least, ask.extra, ask.level)
        self.asked += 1
        answer: list[Any] = await client.eval(SCRIPT, keys, arguments)
        self._epoch = answer[0].decode()
        return answer

    # -- up and down ----------------------------------------------------------------

    def _came_up(self) -> None:
        self._up_since = trio.current_time()
        was_down, self.down = self.down, ""
        self._tried.set()
        if was_down or self._missed:
            log.warning("the limits store at %s answers again: limits are shared", self.address)
            self.on_change("")
        self._missed = False

    def _went_down(self, reason: str) -> None:
        was_down, self.down = self.down, reason
        self._tried.set()
        if not was_down:
            self.failures += 1
            self._reasons = {reason}
            log.warning(
                "the limits store at %s is down, so that limits go by when_store_is_down: %s",
                self.address,
                reason,
            )
            self.on_change(reason)
        elif reason not in self._reasons and len(self._reasons) < REASONS_TOLD:
            self._reasons.add(reason)
            log.warning("the limits store at %s is down still: %s", self.address, reason)
            self.on_change(reason)
        self._decide_without()

    def _decide_without(self) -> None:
        """Tell the calls that wait."""
        asks, self._asks = self._asks, []
        pending, self._pending = self._pending, deque()
        self._woken = trio.Event()
        is_turn = begin_turn()
        try:
            for ask in asks:
                ask.lease.is_asked = False
                ask.lease.undecided(ask)
            for lease in pending:
                lease.is_asked = False
                lease.undecided()
        finally:
            if is_turn:
                end_turn()


def _library() -> Any:
    """coredis, which is an extra. To load it takes long.

    Raises:
        StoreFailed: it is not installed.
    """
    try:
        import coredis
        import coredis.retry
    except ImportError:
        raise StoreFailed(
            "it needs coredis, which the extra 'limits' brings; docs/install.md, 'Drivers of "
            "plugins', says how to install it"
        ) from None
    # It logs every connection that fails, with a traceback; here that is told once.
    logging.getLogger("coredis").setLevel(logging.CRITICAL + 1)
    return coredis


def _reason(error: BaseException) -> str:
    """Why it failed, in a sentence: of groups and chains what is at the bottom."""
    while isinstance(error, BaseExceptionGroup) or error.__cause__ is not None:
        below = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        if below is None or not str(below):
            break
        error = below
    if isinstance(error, trio.TooSlowError):
        return "it could not be reached in time"
    if type(error).__name__ == "AuthenticationRequiredError":  # of coredis, which may not be there
        return "it wants a password: set limits_store.password"
    return str(error) or type(error).__name__
