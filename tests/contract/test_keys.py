"""Keys on both databases: made once, found by their secrets, ended everywhere at once."""

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.core.errors import InvalidRequest, KeyNotFound, NameTaken, Overloaded, StorageUnavailable
from app.core.types import Priority
from app.keys import keyring as keyrings
from app.keys import store
from app.keys.audit import Actor
from app.keys.change import Change
from app.keys.key import KeyLimits, Scope, Terms
from app.keys.keyring import KNOWN_S, UNKNOWN_S, Keyring
from app.keys.secret import digest_of, new_secret
from app.keys.service import KeyService
from app.keys.tables import METADATA
from app.storage.database import READERS, Database
from app.storage.engines import open_engines

ME = Actor("cli:me", "request-1")
ALL = Terms(
    "batch.jobs-1",
    frozenset({Scope.JOBS, Scope.MODELS_READ}),
    frozenset({"sentiment", "generator"}),
    KeyLimits(600, 100_000, 4, 10_000, 10**9, 10**5, 10**10, 2_500_000_000),
    Priority.BATCH,
    expires_at=4e9,
)


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Reads:
    """A database that counts who asks it, and can be gone."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.count = 0
        self.is_gone = False

    async def read(self, work):
        self.count += 1
        if self.is_gone:
            raise StorageUnavailable
        return await self._database.read(work)


class Bench:
    def __init__(self, database: Database) -> None:
        self.reads = Reads(database)
        self.time = Time()
        self.keyring = Keyring(self.reads, 0, now=self.time)  # type: ignore[arg-type]
        self.service = KeyService(database, self.keyring)

    async def find(self, secret: str):
        return await self.keyring.find(digest_of(secret))


@pytest.fixture
def bench(database):
    return Bench(database)


@pytest.fixture
def elsewhere(database):
    """Another server, or the command line."""
    return Bench(database).service


def test_the_tables_are_those_that_the_migrations_make(engines):
    ours = set(METADATA.tables)
    with engines.reader.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_object": lambda thing, name, kind, *_: kind != "table" or name in ours,
                "compare_type": True,
            },
        )
        assert compare_metadata(context, METADATA) == []


async def test_a_key_is_found_by_its_secret_with_all_its_terms(bench):
    key, secret = await bench.service.create(ME, ALL)
    found = await bench.find(secret)
    assert found.terms == ALL and found.id == key.id and found.valid_until == 4e9
    assert await bench.find(new_secret("usr")) is None
    assert await bench.service.list() == [key]


async def test_the_secret_is_kept_nowhere(bench, engines):
    _, secret = await bench.service.create(ME, ALL)
    with engines.reader.connect() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM api_keys").all()
        rows += connection.exec_driver_sql("SELECT * FROM audit_log").all()
    assert secret not in str(rows) and secret[7:-4] not in str(rows)


async def test_a_name_is_taken_once(bench):
    await bench.service.create(ME, Terms("app"))
    with pytest.raises(NameTaken, match="'app'"):
        await bench.service.create(ME, Terms("app"))
    await bench.service.revoke(ME, "app")
    with pytest.raises(NameTaken):
        await bench.service.create(ME, Terms("app"))
    assert len(await bench.service.list()) == 1


@pytest.mark.parametrize("named", ["name", "id"])
async def test_a_revoked_key_opens_nothing_any_more(bench, named):
    key, secret = await bench.service.create(ME, Terms("app"))
    assert await bench.find(secret)
    revoked = await bench.service.revoke(ME, key.name if named == "name" else key.id)
    assert revoked.revoked_at is not None
    assert await bench.find(secret) is None
    again = await bench.service.revoke(ME, "app")
    assert again.revoked_at == revoked.revoked_at
    with pytest.raises(KeyNotFound):
        await bench.service.rotate(ME, "app", 0.0)


async def test_an_id_means_its_key_though_another_is_named_so(bench):
    keys = [await bench.service.create(ME, Terms(f"app-{n}")) for n in range(4)]
    for (key, _), (other, _) in pairwise(keys):
        await bench.service.update(ME, other.name, Change({"name": key.id}, {}))
    for key, secret in keys[:3]:
        assert (await bench.service.revoke(ME, key.id)).id == key.id
        assert await bench.find(secret) is None


async def test_a_rotated_key_has_a_new_secret_and_the_old_one_ends(bench):
    key, old = await bench.service.create(ME, Terms("app"))
    _, new = await bench.service.rotate(ME, "app", grace_s=0.0)
    assert (await bench.find(new)).id == key.id
    assert await bench.find(old) is None


async def test_the_old_secret_may_live_on_for_a_while(bench, database):
    key, old = await bench.service.create(ME, Terms("app"))
    _, new = await bench.service.rotate(ME, "app", grace_s=3600.0)
    found = await bench.find(old)
    assert found.id == key.id and found.valid_until < 4e9
    late = found.valid_until + 1
    assert await database.read(lambda c: store.find(c, digest_of(old), late)) is None
    assert await database.read(lambda c: store.find(c, digest_of(new), late))


async def test_an_expired_key_opens_nothing(bench, database):
    _, secret = await bench.service.create(ME, Terms("app", expires_at=4e9))
    assert await database.read(lambda c: store.find(c, digest_of(secret), 4e9)) is None


async def test_who_is_known_costs_no_database(bench):
    _, secret = await bench.service.create(ME, Terms("app"))
    before = bench.reads.count
    for _ in range(3):
        assert await bench.find(secret)
    assert bench.reads.count == before + 1
    bench.time.now += KNOWN_S
    await bench.find(secret)
    assert bench.reads.count == before + 2


async def test_who_is_unknown_is_known_to_be_so_for_a_shorter_while(bench):
    guess = new_secret("usr")
    for _ in range(3):
        assert await bench.find(guess) is None
    assert bench.reads.count == 1
    bench.time.now += UNKNOWN_S
    await bench.find(guess)
    assert bench.reads.count == 2


async def test_many_who_ask_at_once_are_one_question(bench):
    _, secret = await bench.service.create(ME, Terms("app"))
    before = bench.reads.count
    found = await asyncio.gather(*(bench.find(secret) for _ in range(100)))
    assert all(found) and bench.reads.count == before + 1


async def test_a_flood_of_guesses_does_not_fill_the_database(bench):
    guesses = (new_secret("usr") for _ in range(keyrings.MOST_LOOKUPS + 1))
    found = await asyncio.gather(*map(bench.find, guesses), return_exceptions=True)
    assert [type(each) for each in found if each] == [Overloaded]


async def test_what_is_remembered_is_bounded_and_guesses_drive_out_no_key(bench, monkeypatch):
    monkeypatch.setattr(keyrings, "MOST_KNOWN", 3)
    _, secret = await bench.service.create(ME, Terms("app"))
    await bench.find(secret)
    for _ in range(5):
        await bench.find(new_secret("usr"))
    before = bench.reads.count
    assert await bench.find(secret) and bench.reads.count == before
    assert len(bench.keyring._unknown) == 3


async def test_a_change_elsewhere_is_seen_by_its_number(bench, elsewhere):
    _, secret = await bench.service.create(ME, Terms("app"))
    assert await bench.find(secret)
    await elsewhere.revoke(ME, "app")
    assert await bench.find(secret), "it is known until the number is read"
    await bench.keyring.refresh()
    assert await bench.find(secret) is None


async def test_a_change_is_in_force_at_once_and_leaves_the_rest(bench):
    key, secret = await bench.service.create(ME, ALL)
    assert await bench.find(secret)
    limits = {"daily_requests": 5, "monthly_budget_nanos": None}
    change = Change({"models": None, "max_priority": Priority.NORMAL}, limits)
    changed = await bench.service.update(ME, key.id, change)
    expected = replace(
        ALL,
        models=None,
        max_priority=Priority.NORMAL,
        limits=replace(ALL.limits, daily_requests=5, monthly_budget_nanos=None),
    )
    assert changed == replace(key, terms=expected)
    assert (await bench.find(secret)).terms == expected
    assert await bench.service.get(key.name) == changed


async def test_a_change_elsewhere_is_in_force_when_its_number_is_read(bench, elsewhere):
    _, secret = await bench.service.create(ME, Terms("app"))
    await bench.keyring.refresh()
    assert (await bench.find(secret)).terms.scopes == Terms("app").scopes
    await elsewhere.update(ME, "app", Change({"scopes": frozenset({Scope.METRICS})}))
    await bench.keyring.refresh()
    assert (await bench.find(secret)).terms.scopes == {Scope.METRICS}


async def test_a_change_is_in_the_log_with_what_was_and_what_is(bench):
    key, _ = await bench.service.create(ME, ALL)
    change = Change({"name": "jobs-2", "models": None}, {"daily_requests": None})
    await bench.service.update(ME, ALL.name, change)
    (_, act), _ = await bench.service.audited(10, None)
    assert (act.actor, act.act, act.target) == ("cli:me", "key.update", ALL.name)
    assert act.request_id == "request-1" and act.details == {
        "key_id": key.id,
        "changed": {
            "name": {"was": ALL.name, "is": "jobs-2"},
            "models": {"was": ["generator", "sentiment"], "is": None},
            "limits.daily_requests": {"was": 10_000, "is": None},
        },
    }


async def test_what_changes_nothing_is_no_act(bench, database):
    await bench.service.create(ME, ALL)
    before = await database.read(store.generation)
    await bench.service.update(ME, ALL.name, Change({"name": ALL.name}, {"daily_requests": 10_000}))
    assert await database.read(store.generation) == before
    assert len(await bench.service.audited(10, None)) == 1


async def test_a_name_that_was_given_up_is_its_keys_own_for_ever(bench):
    key, _ = await bench.service.create(ME, Terms("old"))
    other, _ = await bench.service.create(ME, Terms("other"))
    await bench.service.update(ME, "old", Change({"name": "new"}))
    with pytest.raises(NameTaken, match="'old'"):
        await bench.service.create(ME, Terms("old"))
    for taken in ("old", "new"):
        with pytest.raises(NameTaken, match=f"'{taken}'"):
            await bench.service.update(ME, "other", Change({"name": taken}))
    for again in ("old", "new", "old"):
        assert (await bench.service.update(ME, key.id, Change({"name": again}))).name == again
    assert [each.name for each in await bench.service.list()] == ["old", "other"]
    assert await bench.service.get("other") == other


async def test_a_wrong_change_changes_nothing(bench):
    key, secret = await bench.service.create(ME, ALL)
    for change, named in (
        (Change({"name": "a b"}), "name"),
        (Change({"scopes": frozenset()}), "scopes"),
        (Change({"models": frozenset({"a/b"})}), "models"),
        (Change({"expires_at": 1.0}), "expires_at"),
        (Change({"max_priority": Priority.NORMAL}, {"daily_tokens": 0}), "daily_tokens"),
    ):
        with pytest.raises(InvalidRequest, match=named):
            await bench.service.update(ME, ALL.name, change)
    assert await bench.service.get(ALL.name) == key
    assert (await bench.find(secret)).terms == ALL
    with pytest.raises(KeyNotFound):
        await bench.service.update(ME, "nobody", Change({"name": "x"}))
    await bench.service.revoke(ME, ALL.name)
    with pytest.raises(KeyNotFound, match="revoked"):
        await bench.service.update(ME, ALL.name, Change({"name": "x"}))


async def test_an_expired_key_can_be_renamed_and_opened_again(bench, database):
    _, secret = await bench.service.create(ME, Terms("app", expires_at=4e9))
    late = KeyService(database, bench.keyring, wall=lambda: 5e9)
    await late.update(ME, "app", Change({"name": "late"}))
    with pytest.raises(InvalidRequest, match="expires_at"):
        await late.update(ME, "late", Change({"expires_at": 4.5e9}))
    await late.update(ME, "late", Change({"expires_at": None}))
    assert await database.read(lambda c: store.find(c, digest_of(secret), 6e9))


async def test_changes_of_two_servers_to_one_key_are_both_kept(bench, database_url, engines):
    await bench.service.create(ME, Terms("app"))
    servers = [Database(open_engines(database_url, READERS)) for _ in range(2)]
    for count in range(1, 11):
        changes = (Change(limits={"daily_requests": count}), Change(limits={"daily_tokens": count}))
        await asyncio.gather(
            *(
                Bench(server).service.update(ME, "app", change)
                for server, change in zip(servers, changes, strict=True)
            )
        )
        limits = (await bench.service.get("app")).terms.limits
        assert (limits.daily_requests, limits.daily_tokens) == (count, count)
    for server in servers:
        await server.close()


async def test_the_first_key_of_all_is_noticed(bench, elsewhere):
    assert bench.keyring.is_empty
    await elsewhere.create(ME, Terms("app"))
    await bench.keyring.refresh()
    assert not bench.keyring.is_empty
    await elsewhere.revoke(ME, "app")
    await bench.keyring.refresh()
    assert not bench.keyring.is_empty, "a server whose keys are all revoked is not open"


async def test_what_was_read_before_a_change_is_not_remembered_after_it(bench):
    _, secret = await bench.service.create(ME, Terms("app"))
    asked = asyncio.create_task(bench.find(secret))
    before = bench.reads.count
    while bench.reads.count == before:
        await asyncio.sleep(0)
    bench.keyring.changed()
    assert await asked
    before = bench.reads.count
    assert await bench.find(secret)
    assert bench.reads.count == before + 1


async def test_known_keys_outlive_the_database_for_their_time(bench):
    _, secret = await bench.service.create(ME, Terms("app"))
    await bench.find(secret)
    bench.reads.is_gone = True
    assert await bench.find(secret)
    bench.time.now += KNOWN_S
    with pytest.raises(StorageUnavailable):
        await bench.find(secret)
    bench.reads.is_gone = False
    assert await bench.find(secret)


@pytest.mark.parametrize(
    "secret", ["' OR '1'='1", 'x"; DROP TABLE api_keys; --', "\0", "ключ", "x" * 2**20]
)
async def test_no_text_is_more_than_a_text_to_the_database(bench, secret):
    await bench.service.create(ME, Terms("app"))
    assert await bench.find(secret) is None
    with pytest.raises(KeyNotFound):
        await bench.service.get(secret.replace("\0", "0"))
    assert len(await bench.service.list()) == 1


async def test_every_act_is_in_the_log_with_whoever_did_it(bench):
    await bench.service.create(ME, Terms("app"))
    await bench.service.rotate(ME, "app", grace_s=60.0)
    await bench.service.revoke(Actor("key:boss"), "app")
    with pytest.raises(NameTaken):
        await bench.service.create(ME, Terms("app"))
    entries = await bench.service.audited(10, None)
    assert [(act.actor, act.act, act.target) for _, act in entries] == [
        ("key:boss", "key.revoke", "app"),
        ("cli:me", "key.rotate", "app"),
        ("cli:me", "key.create", "app"),
    ]
    assert entries[1][1].details == {"grace_s": 60.0} and entries[1][1].request_id == "request-1"
    assert await bench.service.audited(10, before=entries[0][0]) == entries[1:]


async def test_two_servers_that_make_the_same_name_make_one_key(database_url, engines):
    servers = [Database(open_engines(database_url, READERS)) for _ in range(2)]
    made = await asyncio.gather(
        *(Bench(server).service.create(ME, Terms("app")) for server in servers),
        return_exceptions=True,
    )
    for server in servers:
        await server.close()
    assert sorted(type(each).__name__ for each in made) == ["NameTaken", "tuple"]


async def test_terms_are_checked_before_anything_is_stored(bench):
    with pytest.raises(InvalidRequest, match="name"):
        await bench.service.create(ME, Terms("=cmd|' /C calc'!A0"))
    assert await bench.service.list() == []
