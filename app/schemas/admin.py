"""What administrators send and get: keys, and the log of what was done."""

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.schemas.problems import refusal

Body = TypeVar("Body", bound=BaseModel)

EXAMPLE_INSTANT = "2027-01-31T00:00:00Z"
_MOST = 10**15


def _limit(what: str, example: int) -> Any:
    return Field(default=None, ge=1, le=_MOST, description=what, examples=[example])


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LimitsBody(_Strict):
    """How much a key may do; what is left out has no limit."""

    requests_per_minute: int | None = _limit("Requests per minute, of each server process.", 600)
    tokens_per_minute: int | None = _limit("Tokens per minute, in and out.", 100_000)
    concurrent_requests: int | None = _limit("Requests at the same time.", 8)
    daily_requests: int | None = _limit("Requests per day, in UTC.", 10_000)
    daily_tokens: int | None = _limit("Tokens per day, in and out.", 10_000_000)
    monthly_requests: int | None = _limit("Requests per month.", 100_000)
    monthly_tokens: int | None = _limit("Tokens per month.", 100_000_000)
    monthly_budget: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Money per month, at the catalog's prices.",
        examples=[25.0],
    )


class KeyBody(_Strict):
    """A key to make."""

    name: str = Field(
        min_length=1,
        max_length=64,
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"},
        description="Who or what will use it: A-Za-z0-9._-; never used again.",
        examples=["shop-frontend"],
    )
    scopes: list[str] | None = Field(
        default=None,
        description="`infer`, `jobs`, `models:read`, `models:write`, `metrics`, `admin`; "
        "the first three where it is left out.",
        examples=[["infer", "models:read"]],
    )
    models: list[str] | None = Field(
        default=None, description="Models it may ask; all where left out.", examples=[["sentiment"]]
    )
    max_priority: Literal["interactive", "normal", "batch"] = Field(
        default="interactive", description="No better class is given.", examples=["normal"]
    )
    expires_at: str | None = Field(
        default=None,
        max_length=40,
        description="RFC 3339; never where it is left out.",
        examples=[EXAMPLE_INSTANT],
    )
    limits: LimitsBody = Field(default=LimitsBody(), description="Limits.", examples=[{}])


def _without_defaults(schema: dict[str, Any]) -> None:
    """What is left out of a change stays; to show a default would say otherwise."""
    for shown in schema["properties"].values():
        shown.pop("default", None)


class LimitsChangeBody(LimitsBody):
    """Limits to change; null takes one away, what is left out stays."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)


class KeyChangeBody(_Strict):
    """What shall be otherwise about a key, at least one field; what is left out stays."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    name: str = Field(
        default="",
        min_length=1,
        max_length=64,
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"},
        description="The old one is kept for the key, and never given to another.",
        examples=["shop-backend"],
    )
    scopes: list[str] = Field(
        default=[], description="All that it shall have.", examples=[["infer", "jobs"]]
    )
    models: list[str] | None = Field(
        default=None, description="All that it may ask; null: any.", examples=[["sentiment"]]
    )
    max_priority: Literal["interactive", "normal", "batch"] = Field(
        default="interactive", description="No better class is given.", examples=["normal"]
    )
    expires_at: str | None = Field(
        default=None,
        max_length=40,
        description="RFC 3339; null: never.",
        examples=[EXAMPLE_INSTANT],
    )
    limits: LimitsChangeBody = Field(
        default=LimitsChangeBody(),
        description="Those that shall be otherwise; null: no limit.",
        examples=[{"daily_tokens": 5_000_000, "monthly_budget": None}],
    )


class RotateBody(_Strict):
    """How a key is rotated."""

    grace_s: float = Field(
        default=0.0,
        ge=0,
        le=2_592_000,
        description="Seconds for which the old secret is taken yet.",
        examples=[3600],
    )


class KeyShown(BaseModel):
    """A key, without its secret."""

    id: str = Field(description="Names the key for good.", examples=["key_8f14e45fceea167a"])
    name: str = Field(description="Its name.", examples=["shop-frontend"])
    key: str = Field(description="How it begins and ends.", examples=["sk-usr-...Xy3Z"])
    state: Literal["active", "expired", "revoked"] = Field(
        description="Only an active key opens anything.", examples=["active"]
    )
    scopes: list[str] = Field(description="What it may do.", examples=[["infer"]])
    models: list[str] | None = Field(description="null: all.", examples=[["sentiment"]])
    max_priority: str = Field(description="No better class is given.", examples=["normal"])
    limits: dict[str, float] = Field(
        description="Those that it has.", examples=[{"requests_per_minute": 600}]
    )
    created_at: str = Field(description="UTC.", examples=[EXAMPLE_INSTANT])
    expires_at: str | None = Field(description="UTC.", examples=[EXAMPLE_INSTANT])
    revoked_at: str | None = Field(description="UTC.", examples=[None])


class KeyMade(KeyShown):
    """A key with its secret, which is shown this once."""

    secret: str = Field(
        description="Keep it safe; nobody can show it again.", examples=["sk-usr-..."]
    )


class KeysShown(BaseModel):
    """All keys, the oldest first."""

    keys: list[KeyShown] = Field(description="Also those revoked or expired.", examples=[[]])


class ActShown(BaseModel):
    """Something that was done."""

    id: int = Field(description="Later acts have higher numbers.", examples=[17])
    at: str = Field(description="UTC.", examples=[EXAMPLE_INSTANT])
    actor: str = Field(description="A key's name, or a user.", examples=["key:boss"])
    act: str = Field(description="What was done.", examples=["key.create"])
    target: str = Field(description="To what.", examples=["shop-frontend"])
    details: dict[str, Any] = Field(description="How.", examples=[{"scopes": ["infer"]}])
    request_id: str = Field(description="Of the request; empty for others.", examples=["r-1"])


class AuditShown(BaseModel):
    """What administrators did, the latest first."""

    acts: list[ActShown] = Field(description="At most `limit`.", examples=[[]])


class UsageRow(BaseModel):
    """Sums of one group. Of `key`, `model`, `version` and `day` those are there that were asked
    for."""

    key: str | None = Field(default=None, description="A key's name.", examples=["shop-frontend"])
    model: str | None = Field(default=None, description="A model.", examples=["sentiment"])
    version: str | None = Field(default=None, description="Its version.", examples=["v1"])
    day: str | None = Field(default=None, description="In UTC.", examples=["2027-01-31"])
    requests: int = Field(description="Requests; of a batch one for each model.", examples=[1200])
    items: int = Field(description="Inputs.", examples=[4800])
    failures: int = Field(description="Inputs that were not answered.", examples=[3])
    cached_items: int = Field(description="Answered from the response cache.", examples=[40])
    input_tokens: int = Field(description="As the answers' `usage` said.", examples=[96000])
    output_tokens: int = Field(description="As the answers' `usage` said.", examples=[0])
    compute_ms: float = Field(description="Time that models ran.", examples=[51234.5])
    cost: float = Field(description="At the catalog's prices, in their currency.", examples=[0.12])


class UsageShown(BaseModel):
    """What was used in a period."""

    since: str = Field(alias="from", description="First day.", examples=["2027-01-01"])
    to: str = Field(description="Last day.", examples=["2027-01-31"])
    group_by: list[str] = Field(description="As asked.", examples=[["model"]])
    usage: list[UsageRow] = Field(description="A row per group.", examples=[[]])


def parse_admin(body: type[Body], value: Any) -> Body:
    """Raises InvalidRequest that names each wrong field."""
    try:
        return body.model_validate(value)
    except ValidationError as error:
        raise refusal(error) from None
