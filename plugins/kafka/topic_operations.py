"""Topics, offsets, and groups."""

from confluent_kafka.admin import OffsetSpec

from prism.sdk import Call, PluginError, StatusCode, operation

from . import params as p
from .connection import Connection

EMPTY = ("empty", "dead")
"""States of a group without members."""


class TopicOperations(Connection):
    """What there is beside messages."""

    @operation(idempotent=True, access="read")
    async def topics(self, params: p.Topics, call: Call) -> p.TopicNames:
        """The topics whose names begin with a prefix."""
        return p.TopicNames(await self.cluster.names(params.prefix, self.time_to_answer_in(call)))

    @operation(access="admin")
    async def create_topic(self, params: p.CreateTopic, call: Call) -> dict[str, bool]:
        """Make a topic."""
        await self.cluster.create(params, self.time_to_answer_in(call))
        return {"created": True}

    @operation(access="admin")
    async def delete_topic(self, params: p.OneTopic, call: Call) -> dict[str, bool]:
        """Remove a topic and its messages."""
        return {"deleted": await self.cluster.delete(params.topic, self.time_to_answer_in(call))}

    @operation(idempotent=True, access="read")
    async def describe_topic(self, params: p.OneTopic, call: Call) -> p.TopicState:
        """A topic's partitions, and the settings that are its own."""
        return await self.cluster.describe(params.topic, self.time_to_answer_in(call))

    @operation(idempotent=True, access="read")
    async def offsets(self, params: p.Offsets, call: Call) -> p.OffsetRanges:
        """Where the partitions of a topic begin and end, and where they were at a time."""
        time_left = self.time_to_answer_in(call)
        topic = params.topic
        count = await self.cluster.partitions_of(topic, time_left)
        earliest, latest = [
            await self.cluster.offsets_of(topic, spec, time_left, count)
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
        ]
        ranges = [
            p.OffsetRange(number, first, last)
            for number, (first, last) in enumerate(zip(earliest, latest, strict=True))
        ]
        if params.timestamp is not None:
            spec = OffsetSpec.for_timestamp(params.timestamp)
            found = await self.cluster.offsets_of(topic, spec, time_left, count)
            for each, offset in zip(ranges, found, strict=True):
                each.at = None if offset < 0 else offset
        return p.OffsetRanges(ranges)

    @operation(idempotent=True, access="read")
    async def lag(self, params: p.Lag, call: Call) -> p.GroupLag:
        """How far a group is behind, where it has committed."""
        time_left = self.time_to_answer_in(call)
        group = self.group(params.group)
        state, members = await self.cluster.group_state(group, time_left)
        committed = await self.cluster.committed(group, time_left)
        ends = await self.cluster.list_offsets(sorted(committed), OffsetSpec.latest(), time_left)
        partitions = [
            p.PartitionLag(self.topics_of.short(full), number, offset, end, max(0, end - offset))
            for (full, number), offset in sorted(committed.items())
            if (end := ends.get((full, number))) is not None  # the topic may be gone
        ]
        return p.GroupLag(state, members, sum(each.lag for each in partitions), partitions)

    @operation(access="admin")
    async def seek(self, params: p.Seek, call: Call) -> p.Sought:
        """Set where a group goes on; it must have no members."""
        time_left = self.time_to_answer_in(call)
        topic, to = params.topic, params.to
        count = await self.cluster.partitions_of(topic, time_left)
        if params.partition is not None and params.partition >= count:
            raise PluginError(
                StatusCode.NOT_FOUND,
                f"topic {topic!r} has {count} partitions, from 0; not {params.partition}",
            )
        if isinstance(to, p.Place):
            if (to.offset is None) is (to.timestamp is None):
                raise _invalid("a place to seek has either an offset or a timestamp")
            if to.offset is not None and params.partition is None:
                raise _invalid("an offset is one of a partition: say which partition")
        group = self.group(params.group)
        state, members = await self.cluster.group_state(group, time_left)
        if state not in EMPTY:
            raise PluginError(
                StatusCode.FAILED_PRECONDITION,
                f"the group has {members} members (state {state!r}), which would go on from where "
                "they are: end their streams first",
            )
        offsets = await self._offsets_at(topic, to, count, time_left)
        chosen = {
            number: offset
            for number, offset in enumerate(offsets)
            if params.partition in (None, number)
        }
        await self.cluster.commit(group, topic, chosen, time_left)
        return p.Sought([p.SoughtPartition(*each) for each in chosen.items()])

    async def _offsets_at(
        self, topic: str, to: str | p.Place, count: int, time_left: float
    ) -> list[int]:
        """The offset of each partition, where a time that has not come yet is the end."""
        if isinstance(to, p.Place) and to.offset is not None:
            return [to.offset] * count
        ends = await self.cluster.offsets_of(topic, OffsetSpec.latest(), time_left, count)
        if to == "latest":
            return ends
        spec = OffsetSpec.earliest()
        if isinstance(to, p.Place):
            spec = OffsetSpec.for_timestamp(to.timestamp)
        found = await self.cluster.offsets_of(topic, spec, time_left, count)
        return [end if each < 0 else each for each, end in zip(found, ends, strict=True)]


def _invalid(detail: str) -> PluginError:
    return PluginError(StatusCode.INVALID_ARGUMENT, detail)
