"""In which order those who wait are served: by class, and inside a class fairly by caller.

Charter: whose turn it is, is decided here, for rows and for sequences alike; nothing here knows
what a turn is used for. The rules (docs/scheduling.md):

1. A better class goes first. A class whose oldest member has waited for `AGE_S` is due a share of
   what better classes are served, `AGED_SHARE` of their tokens, so that nobody starves; its turn
   comes whenever the share has grown to its next member's tokens.
2. Inside a class callers share tokens, not requests: start-time fair queueing. A caller's next
   member has a tag, the tokens he has been served, and the lowest tag goes first. Who comes anew
   starts at virtual time, the tag of whoever is being served, so he owes and is owed nothing; nor
   does who had nothing waiting and was served no more than `FORGIVEN` tokens ahead of it. Who asks
   for one text at a time is so not made to wait for having sent a long one.
   Virtual time also moves by half of everybody's share of what is served: else an endless row of
   new callers, all of whom start at the same time, would keep an old one waiting for ever.
3. A caller's own members go in order of arrival.
4. An item of several members is what a packet is to a network: its caller's tag moves when no more
   of it waits, or after `TURN_TOKENS`. If callers took turns by member, all items that wait would
   be in progress at once, and under overload half of what is computed would be of items that come
   too late as a whole.

Every operation costs the logarithm of the number of callers, whatever waits.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Generic, Protocol, TypeVar

from app.core.types import Priority

AGE_S = {Priority.NORMAL: 1.0, Priority.BATCH: 5.0}
AGED_SHARE = 0.1
FORGIVEN = 512.0  # tokens
MOST_CREDIT = 512.0  # tokens; an idle hour of a share is no right to a burst
TURN_TOKENS = 512  # of one item that are served before others have their turn, at most
WALK_TOKENS = 256  # so many of one caller in a row, when looking at who comes next
UNEVEN = 4  # members per caller; more means that somebody has sent much at once
FEW = 8  # times as many are there per caller
_SLACK = 64  # entries of those who left that a heap may hold before it is cleared of them


class Member(Protocol):
    """What waits. key: its own; item_id: of what it is part of; tokens: what it costs."""

    @property
    def key(self) -> Hashable: ...

    @property
    def item_id(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    @property
    def arrived(self) -> float: ...

    @property
    def caller(self) -> str: ...

    @property
    def priority(self) -> Priority: ...


M = TypeVar("M", bound=Member)


@dataclass(slots=True)
class _Flow(Generic[M]):
    """What waits of one caller. tag: of its first item. owed: served, and not yet in the tag."""

    caller: str
    tag: float
    members: OrderedDict[Hashable, M] = field(default_factory=OrderedDict)
    owed: float = 0.0

    def remove(self, member: M, tokens: float) -> None:
        """It leaves, served with so many tokens."""
        before = next(iter(self.members.values())).item_id
        del self.members[member.key]
        self.owed += tokens
        first = next(iter(self.members.values()), None)
        if first is None or first.item_id != before or self.owed >= TURN_TOKENS:
            self.tag += self.owed
            self.owed = 0.0


class _Rest(Generic[M]):
    """What a walk has not met of a flow. next: the first of it; tag: as far as it was met."""

    def __init__(self, flow: _Flow[M]) -> None:
        self.tag = flow.tag
        self._members = iter(flow.members.values())
        self.next = next(self._members, None)

    def turn(self) -> Iterator[M]:
        """As many as are looked at in a row, items as whole as they would be served."""
        item_id, looked = -1, 0
        while (member := self.next) is not None:
            if looked >= (TURN_TOKENS if member.item_id == item_id else WALK_TOKENS):
                break
            item_id, looked = member.item_id, looked + max(1, member.tokens)
            self.next = next(self._members, None)
            yield member
        self.tag += looked


class _Class(Generic[M]):
    """The callers of one class."""

    def __init__(self) -> None:
        self.members: OrderedDict[Hashable, M] = OrderedDict()  # in order of arrival
        self.credit = 0.0
        self._flows: dict[str, _Flow[M]] = {}
        # One entry per flow, too low where the flow was served since, and some of flows that left.
        self._heap: list[tuple[float, int, _Flow[M]]] = []
        self._serial = count()
        self._now = 0.0  # virtual time
        self._served_ahead: dict[str, float] = {}  # tags of callers of whom nothing waits
        self._prune_at = _SLACK

    def add(self, member: M) -> None:
        self.members[member.key] = member
        flow = self._flows.get(member.caller)
        if flow is None:
            ahead = self._served_ahead.pop(member.caller, 0.0) - FORGIVEN
            tag = max(self._now, ahead)
            flow = self._flows[member.caller] = _Flow(member.caller, tag)
            heappush(self._heap, (tag, next(self._serial), flow))
        flow.members[member.key] = member

    def remove(self, member: M, *, served: bool) -> None:
        del self.members[member.key]
        flow = self._flows[member.caller]
        tokens = max(1, member.tokens) if served else 0
        flow.remove(member, tokens)
        self._now += tokens / (2 * len(self._flows))
        if not flow.members:
            del self._flows[flow.caller]
            self._forget_or_remember(flow)

    @property
    def is_uneven(self) -> bool:
        return 1 < len(self._flows) < len(self.members) / UNEVEN

    def has_few(self, caller: str) -> bool:
        """Whether he is one of those beside whom somebody has much waiting."""
        mean = len(self.members) / len(self._flows)
        return len(self._flows[caller].members) * FEW < mean

    def note_turn(self) -> None:
        """Virtual time moves on to the tag of whoever is first now."""
        self._now = max(self._now, self.first_flow().tag)

    def is_ahead(self, caller: str, tokens: float) -> bool:
        """Whether that caller was served so many tokens more than his share."""
        flow = self._flows[caller]
        return flow.tag + flow.owed > self._now + tokens

    def first_flow(self) -> _Flow[M]:
        while True:
            tag, _, flow = self._heap[0]
            if not flow.members:
                heappop(self._heap)
            elif tag < flow.tag:
                heapreplace(self._heap, (flow.tag, next(self._serial), flow))
            else:
                return flow

    def walk(self) -> Iterator[M]:
        """Members about in the order of their turns; nothing may change meanwhile."""
        if not self.members:
            return
        first = self.first_flow()
        if len(self._flows) == 1:
            yield from first.members.values()
            return
        # Places in the heap still to be looked at, and flows with what is left of their members.
        ahead: list[tuple[float, int, int, _Rest[M] | None]] = [(0.0, 0, 0, None)]
        serial = count(1)
        while ahead:
            _, _, place, rest = heappop(ahead)
            if rest is None:
                _, _, flow = self._heap[place]
                for child in (2 * place + 1, 2 * place + 2):
                    if child < len(self._heap):
                        heappush(ahead, (self._heap[child][0], next(serial), child, None))
                if not flow.members:
                    continue
                rest = _Rest(flow)
                if ahead and rest.tag > ahead[0][0]:
                    heappush(ahead, (rest.tag, next(serial), 0, rest))
                    continue
            yield from rest.turn()
            if rest.next is not None:
                heappush(ahead, (rest.tag, next(serial), 0, rest))

    def _forget_or_remember(self, flow: _Flow[M]) -> None:
        if not self._flows:  # nobody is left to be fair to
            self._heap.clear()
            self._served_ahead.clear()
            self._now = 0.0
            return
        if flow.tag > self._now + FORGIVEN:
            self._served_ahead[flow.caller] = flow.tag
        if len(self._served_ahead) > self._prune_at:
            ahead = self._served_ahead.items()
            self._served_ahead = {
                caller: tag for caller, tag in ahead if tag > self._now + FORGIVEN
            }
            self._prune_at = 2 * len(self._served_ahead) + _SLACK
        if len(self._heap) - len(self._flows) > _SLACK + len(self._flows) // _SLACK:
            # Walks would pass through all of them again and again.
            self._heap = [(flow.tag, next(self._serial), flow) for flow in self._flows.values()]
            heapify(self._heap)


class FairOrder(Generic[M]):
    """Members by class and caller: `first`, `walk`, `remove`."""

    def __init__(self) -> None:
        self._classes: dict[Priority, _Class[M]] = {priority: _Class() for priority in Priority}

    def __len__(self) -> int:
        return sum(len(cls.members) for cls in self._classes.values())

    def add(self, member: M) -> None:
        self._classes[member.priority].add(member)

    def remove(self, member: M) -> None:
        """It left without being served."""
        self._classes[member.priority].remove(member, served=False)
        self._forfeit(member.priority)

    def first(self, now: float) -> M | None:
        """Whose turn it is."""
        turn: _Class[M] | None = None
        for priority, cls in self._classes.items():
            if not cls.members:
                continue
            if turn is None:
                turn = cls
                continue
            oldest = next(iter(cls.members.values()))
            if now - oldest.arrived >= AGE_S[priority] and cls.credit >= min(
                MOST_CREDIT, self._next_of(cls).tokens
            ):
                return self._next_of(cls)
        return None if turn is None else self._next_of(turn)

    def serve(self, members: list[M]) -> None:
        """They run now, out of turn or not: their callers are charged, and worse classes are
        credited."""
        tokens = dict.fromkeys((member.priority for member in members), 0)
        contested = {priority for priority in tokens if self._better_waits(priority)}
        for priority in tokens:
            self._classes[priority].note_turn()
        for member in members:
            tokens[member.priority] += max(1, member.tokens)
            self._classes[member.priority].remove(member, served=True)
        better = 0
        for priority, cls in self._classes.items():
            if priority in contested:
                cls.credit -= tokens[priority]
            cls.credit = min(MOST_CREDIT, cls.credit + AGED_SHARE * better)
            better += tokens.get(priority, 0)
            self._forfeit(priority)

    def walk(self, priority: Priority) -> Iterator[M]:
        """Members of a class about in the order of their turns."""
        return self._classes[priority].walk()

    def is_uneven(self, priority: Priority) -> bool:
        """Whether somebody in the class has much waiting beside others."""
        return self._classes[priority].is_uneven

    def is_of_few(self, member: M) -> bool:
        """Whether its caller has little waiting, and another in his class much."""
        return self._classes[member.priority].has_few(member.caller)

    def is_ahead(self, member: M, tokens: float) -> bool:
        """Whether its caller was served so many tokens more than his share."""
        return self._classes[member.priority].is_ahead(member.caller, tokens)

    def _better_waits(self, priority: Priority) -> bool:
        return any(cls.members for better, cls in self._classes.items() if better < priority)

    def _next_of(self, cls: _Class[M]) -> M:
        return next(iter(cls.first_flow().members.values()))

    def _forfeit(self, priority: Priority) -> None:
        if not self._classes[priority].members:
            self._classes[priority].credit = 0.0
