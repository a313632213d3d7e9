"""Settings of jobs and batches: a part of `Settings`, see config.py."""

from pydantic import Field
from pydantic_settings import BaseSettings


class JobSettings(BaseSettings):
    """Of jobs, batches and files: how long they may take, how much at a time, how long they are
    kept."""

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
    max_caller_files_bytes: int = Field(
        default=5 * 2**30,
        ge=1024,
        le=9_000_000_000_000,
        description="Most bytes of files that are kept for one caller, outputs of batches "
        "included.",
    )
    file_keep_s: float = Field(
        default=2_592_000.0,
        ge=3600,
        le=31_536_000,
        description="How long files, and batches after their end, are kept where their requests "
        "say nothing, in seconds.",
    )
