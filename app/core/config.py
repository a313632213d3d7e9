"""Settings: read once from the environment and `.env`, checked, frozen, handed down in slices.

Only `app/main.py` and `app/cli.py` build `Settings()`. Every further setting has its unit in its
name, a bound and a description; `.env.example` shows each one (a test compares the two).
"""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.errors import ConfigurationError

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cpus(quota_file: Path = CPU_QUOTA) -> int:
    """CPUs this process may run on, at most as many as a container's quota pays for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, _cpu_quota(quota_file) or allowed or 1))


def _cpu_quota(quota_file: Path) -> int | None:
    """Whole CPUs of a cgroup's quota, rounded up; None where there is none."""
    try:
        quota, period = quota_file.read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or `max`
        return None


def default_model_store() -> Path:
    """A folder below the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "ai-inference-backend"


def default_data_dir() -> Path:
    """A folder below the user's data folder."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(data) / "ai-inference-backend"


class Settings(BaseSettings):
    """All settings of the server. Environment variables have the fields' names in capitals."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", frozen=True, extra="ignore"
    )

    debug: bool = Field(default=False, description="Log at debug level.")
    host: str = Field(default="0.0.0.0", min_length=1, description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0: any free.")
    grpc_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port for the Open Inference Protocol over gRPC, without TLS; 0: any free; "
        "unset: none.",
    )
    default_model: str = Field(
        default="summarizer", min_length=1, description="Model of requests that name none."
    )
    max_batch_size: int = Field(
        default=8, ge=1, le=1024, description="Most rows that share one forward pass."
    )
    batch_timeout_ms: float = Field(
        default=100.0,
        ge=0,
        le=10_000,
        description="Longest that a row may be held back for company, and only where the measured "
        "cost model says that waiting pays.",
    )

    model_profile: Literal["embedded", "hub"] = Field(
        default="embedded",
        description="Which of the shipped catalogs to serve; hub needs `make hub` once.",
    )
    model_catalog: Path | None = Field(
        default=None, description="A catalog file of your own, in place of the profile's."
    )
    model_store: Path = Field(
        default_factory=default_model_store, description="Folder that holds the model files."
    )
    model_control: Literal["none", "explicit"] = Field(
        default="none",
        description="explicit: whoever can reach the server may load and unload models by the Open "
        "Inference Protocol's repository routes; none: nobody may.",
    )
    cpu_threads: int = Field(
        default_factory=usable_cpus,
        ge=1,
        le=1024,
        description="CPU threads that all models together may keep busy; default: all usable.",
    )

    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Folder for what must outlive the server: its database and large results.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="Where jobs, keys and usage are kept: `sqlite:///path` or "
        "`postgresql://user:password@host/database`; unset: a file in DATA_DIR.",
    )

    job_timeout_s: float = Field(
        default=86_400.0,
        gt=0,
        le=604_800,
        description="Time after which a job that has not ended expires, where its request names "
        "none, in seconds.",
    )
    job_keep_s: float = Field(
        default=259_200.0,
        ge=60,
        le=31_536_000,
        description="How long a job and its result are kept after its end, in seconds.",
    )
    job_max_attempts: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="Servers that may end while they run the same job before it has failed.",
    )
    job_lease_s: float = Field(
        default=15.0,
        ge=1,
        le=3600,
        description="Silence of a server after which others take over its jobs, in seconds.",
    )
    job_max_inputs: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Most inputs of jobs that are with the models at the same time.",
    )

    webhook_allow_private: bool = Field(
        default=False,
        description="Tell of the ends of jobs at private and link-local addresses, too.",
    )

    batch_max_inputs: int = Field(
        default=128,
        ge=1,
        le=4096,
        description="Most inputs of batches (`/v1/batches`) that are with the models at the same "
        "time.",
    )
    max_batch_lines: int = Field(
        default=50_000, ge=1, le=1_000_000, description="Most requests in the file of one batch."
    )
    max_file_bytes: int = Field(
        default=200 * 2**20,
        ge=1024,
        le=9_000_000_000,
        description="Largest file that may be uploaded, in bytes.",
    )
    file_keep_s: float = Field(
        default=2_592_000.0,
        ge=3600,
        le=31_536_000,
        description="How long files, and batches after their end, are kept where their requests "
        "say nothing, in seconds.",
    )

    response_cache_mb: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Memory for answers that are kept for equal requests, in MB, of versions whose "
        "catalog entry says `cache: true`; 0: none.",
    )
    max_queue_items: int = Field(
        default=512,
        ge=1,
        le=1_000_000,
        description="Most inputs inside one worker, waiting or run.",
    )
    max_request_items: int = Field(
        default=256, ge=1, le=100_000, description="Most entries in one batch request."
    )
    max_text_chars: int = Field(
        default=200_000, ge=1, le=100_000_000, description="Longest input text, in characters."
    )
    max_tensor_values: int = Field(
        default=200_000,
        ge=0,
        le=100_000_000,
        description="Most numbers in all tensors of one request body.",
    )
    max_body_bytes: int = Field(
        default=8 * 2**20, ge=1024, le=2**30, description="Largest request body, in bytes."
    )
    max_held_body_bytes: int = Field(
        default=256 * 2**20,
        ge=1024,
        le=9_000_000_000,
        description="Most bytes of request bodies that all requests together hold until answered.",
    )
    max_header_bytes: int = Field(
        default=32 * 2**10, ge=1024, le=2**20, description="Largest request header, in bytes."
    )
    header_timeout_s: float = Field(
        default=5.0, gt=0, le=600, description="Longest time to send a request header, in seconds."
    )
    body_timeout_s: float = Field(
        default=10.0, gt=0, le=600, description="Longest pause while sending a body, in seconds."
    )
    answer_timeout_s: float = Field(
        default=30.0, gt=0, le=3600, description="Longest pause while taking an answer, in seconds."
    )
    keep_alive_s: float = Field(
        default=30.0, gt=0, le=3600, description="Idle time of a connection, in seconds."
    )
    client_silence_s: float = Field(
        default=30.0,
        ge=4,
        le=7200,
        description="Silence after which a client is taken to be cut off from the network, in "
        "seconds.",
    )
    max_connections: int = Field(
        default=1000, ge=1, le=100_000, description="Most connections at the same time."
    )
    max_connections_per_client: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Most of them from one address, IPv6 /64 as one; 0: any, as behind a proxy.",
    )

    allowed_hosts: str = Field(
        default="*",
        min_length=1,
        description="Host names that requests may name, separated by commas; *: any.",
    )

    worker_start_timeout_s: float = Field(
        default=120.0, gt=0, le=3600, description="Longest time for a worker to load, in seconds."
    )
    worker_max_restarts: int = Field(
        default=5,
        ge=0,
        le=1000,
        description="Crashes in a row without an answer after which a version is failed.",
    )
    worker_stuck_after_s: float = Field(
        default=20.0,
        ge=2,
        le=3600,
        description="Time without a sign of life, or in one batch, after which a worker is killed "
        "and replaced, in seconds; a batch may take 20 times its predicted time, a worker that "
        "computes be silent 10 times as long.",
    )
    worker_memory_limit_mb: int = Field(
        default=0,
        ge=0,
        le=2**24,
        description="Most memory that one worker may hold, in MB, before it is killed and "
        "replaced; 0: any.",
    )
    worker_nice: int = Field(
        default=5,
        ge=0,
        le=19,
        description="How much of their priority workers leave to the server's own process, as for "
        "`nice`, so that requests are read and refused at once while all cores compute.",
    )
    shutdown_grace_s: float = Field(
        default=20.0, ge=0, le=3600, description="Time for running work to end at a stop, seconds."
    )

    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, JSON lines elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )

    @property
    def allowed_host_names(self) -> frozenset[str] | None:
        """Lower-case names; None where any is allowed."""
        names = frozenset(name.strip().lower() for name in self.allowed_hosts.split(","))
        return None if "*" in names else names

    @property
    def database_address(self) -> str:
        """For storage/engines.py; it may hold a password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir.expanduser() / 'server.db'}"

    @property
    def effective_log_level(self) -> str:
        return "debug" if self.debug else self.log_level

    @model_validator(mode="after")
    def _request_fits_the_queue(self) -> Self:
        if self.max_request_items > self.max_queue_items:
            raise ValueError(
                f"MAX_REQUEST_ITEMS ({self.max_request_items}) must not exceed MAX_QUEUE_ITEMS "
                f"({self.max_queue_items}): such a request could never be admitted"
            )
        return self

    @model_validator(mode="after")
    def _body_fits_what_is_held(self) -> Self:
        if self.max_body_bytes > self.max_held_body_bytes:
            raise ValueError(
                f"MAX_BODY_BYTES ({self.max_body_bytes}) must not exceed MAX_HELD_BODY_BYTES "
                f"({self.max_held_body_bytes}): such a body could never be taken"
            )
        return self


def load_settings() -> Settings:
    """Settings from the environment. Raises ConfigurationError naming each wrong variable."""
    try:
        return Settings()
    except ValidationError as wrong:
        problems = [
            f"{'.'.join(map(str, problem['loc'])).upper() or 'settings'}: {problem['msg']}"
            for problem in wrong.errors()
        ]
        raise ConfigurationError("; ".join(problems)) from None
