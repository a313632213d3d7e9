"""What the container files promise, since no engine runs where the tests do."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from app.core.config import Settings

ROOT = Path(__file__).parents[2]
VARIABLES = {name.upper() for name in Settings.model_fields}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
BACKEND = COMPOSE["services"]["ai-inference-backend"]
BALANCER = COMPOSE["services"]["load-balancer"]
HAPROXY = (ROOT / "docker/haproxy.cfg").read_text(encoding="utf-8")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

HUB_CLIENT = {"HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"}  # read by the hub's own client
Step = tuple[str, str]


def stages() -> list[list[Step]]:
    """Each stage of the Dockerfile as (instruction, the rest in one line)."""
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[Step]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, rest))
    return found


BUILD, FINAL = stages()


def the(instruction: str, stage: list[Step] = FINAL) -> str:
    (only,) = (rest for name, rest in stage if name == instruction)
    return only


def environment(stage: list[Step] = FINAL) -> dict[str, str]:
    pairs = (pair for name, rest in stage if name == "ENV" for pair in shlex.split(rest))
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


def seconds(text: str) -> float:
    """A Compose duration; for `${NAME:-30s}` its default."""
    matched = re.fullmatch(r"(?:\$\{\w+:-)?(\d+)([sm])\}?", text)
    assert matched, text
    amount, unit = matched.groups()
    return int(amount) * {"s": 1, "m": 60}[unit]


class TestDockerfile:
    def test_both_stages_stand_on_the_same_slim_python_by_tag(self):
        images = {the("FROM", stage).split()[0] for stage in (BUILD, FINAL)}
        assert len(images) == 1
        assert re.fullmatch(r"python:3\.11[\d.]*-slim-\w+", images.pop())

    def test_it_runs_as_a_number_that_is_not_root(self):
        assert the("USER") == "10001:10001"

    def test_nothing_is_done_as_root_after_the_user_is_set(self):
        names = [name for name, _ in FINAL]
        assert not {"RUN", "COPY", "ADD"} & set(names[names.index("USER") :])

    def test_the_server_gets_the_signals_itself(self):
        assert the("CMD") == '["python", "-m", "app.main"]'
        assert the("STOPSIGNAL") == "SIGTERM"

    def test_all_that_is_written_goes_to_tmp_or_a_volume(self):
        told = environment()
        assert f"{told['MODEL_STORE']} {told['DATA_DIR']}" == the("VOLUME") == "/models /data"
        assert (told["HOME"], told["XDG_CACHE_HOME"]) == ("/tmp", "/tmp/cache")
        assert told["PYTHONDONTWRITEBYTECODE"] == "1"

    def test_the_store_belongs_to_the_running_user(self):
        copies = [rest for name, rest in FINAL if name == "COPY" and rest.endswith("/models")]
        assert copies == ["--from=build --chown=10001:10001 /models /models"]

    def test_health_is_asked_where_the_server_listens(self):
        options, _, command = the("HEALTHCHECK").partition("CMD ")
        assert "--start-period" in options
        assert command.startswith('["python", "-c", ')
        assert "os.environ['PORT'] + '/health/ready'" in command
        assert environment()["PORT"] == the("EXPOSE") == "8000"

    def test_the_health_command_is_python(self):
        command = yaml.safe_load(the("HEALTHCHECK").partition("CMD ")[2])
        compile(command[2], "HEALTHCHECK", "exec")

    def test_only_the_servers_own_requirements_go_in(self):
        installs = [rest for name, rest in BUILD if name == "RUN" and "pip install" in rest]
        assert len(installs) == 1
        always, _, on_request = installs[0].partition('&& if [ "$WITH_HUB" = 1 ]; then')
        assert always.rstrip().endswith("-r /build/requirements-serve.txt")
        assert "requirements-hub.txt" not in always.partition("pip install")[2]
        assert "--no-deps -r /build/requirements-hub-exporter.txt" in on_request

    def test_models_are_baked_in_only_when_asked(self):
        assert {"WITH_MODELS=0", "WITH_HUB=0"} <= {r for name, r in BUILD if name == "ARG"}
        (pull,) = (rest for name, rest in BUILD if name == "RUN" and "app.cli pull" in rest)
        assert 'if [ "$WITH_MODELS" = 1 ]' in pull

    def test_it_names_what_it_is(self):
        label = the("LABEL")
        for key in ("title", "description", "licenses", "version", "revision"):
            assert f"org.opencontainers.image.{key}=" in label

    @pytest.mark.parametrize("stage", [BUILD, FINAL], ids=["build", "final"])
    def test_what_it_copies_is_there_and_let_through(self, stage):
        for name, rest in stage:
            if name == "COPY" and not rest.startswith("--from"):
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists(), source
                    assert f"!{source}" in IGNORED, source


class TestDockerignore:
    def test_everything_stays_out_but_what_is_named(self):
        rules = [line for line in IGNORED if line and not line.startswith("#")]
        assert rules[0] == "*"
        allowed = {rule for rule in rules if rule.startswith("!")}
        requirements = ("serve", "hub", "hub-exporter")
        assert allowed == {
            "!app",
            "!LICENSE",
            *(f"!requirements-{name}.txt" for name in requirements),
        }


class TestCompose:
    def test_replicas_can_be_scaled(self):
        """A host port or a container name can be had once only."""
        assert not {"ports", "container_name", "network_mode"} & set(BACKEND)
        assert BACKEND["expose"] == ["8000"]

    def test_the_load_balancer_owns_the_port(self):
        assert BALANCER["ports"] == ["${BIND_ADDRESS:-0.0.0.0}:${PORT:-8000}:8000"]
        assert "bind :8000" in HAPROXY

    def test_the_backend_is_built_from_the_dockerfile(self):
        assert BACKEND["build"]["context"] == "."
        assert (ROOT / BACKEND["build"]["dockerfile"]).exists()
        assert set(BACKEND["build"]["args"]) == {"WITH_MODELS", "WITH_HUB", "MODEL_PROFILE"}

    @pytest.mark.parametrize("service", [BACKEND, BALANCER], ids=["backend", "balancer"])
    def test_a_container_may_do_no_more_than_it_must(self, service):
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        assert isinstance(service["pids_limit"], int), "docker-compose 1.29 takes no string here"
        assert not service.get("privileged")

    def test_the_backend_writes_to_tmp_and_the_shared_volumes(self):
        assert [mount.partition(":")[0] for mount in BACKEND["tmpfs"]] == ["/tmp"]
        assert BACKEND["volumes"] == ["models:/models", "data:/data"]
        assert set(COMPOSE["volumes"]) == {"models", "data"}

    def test_every_setting_reaches_the_container_and_nothing_else(self):
        assert set(BACKEND["environment"]) == VARIABLES | HUB_CLIENT

    def test_a_setting_that_is_not_given_keeps_the_servers_default(self):
        """`NAME: ${NAME:-}` would hand the server an empty string."""
        given = {name: value for name, value in BACKEND["environment"].items() if value is not None}
        own = {"HOST": "0.0.0.0", "PORT": "8000", "MODEL_STORE": "/models", "DATA_DIR": "/data"}
        assert given == own

    def test_no_env_file_is_needed(self):
        """`env_file` stops docker-compose when the file is missing; `.env` itself is optional."""
        assert "env_file" not in BACKEND

    def test_running_work_may_end_before_a_replica_is_killed(self):
        grace = Settings.model_fields["shutdown_grace_s"].default
        assert seconds(BACKEND["stop_grace_period"]) > grace

    def test_replicas_come_back_after_a_crash(self):
        assert BACKEND["restart"] == BALANCER["restart"] == "unless-stopped"

    def test_both_services_tell_their_health(self):
        assert "test" not in BACKEND["healthcheck"], "how to ask is written in the Dockerfile"
        assert BALANCER["healthcheck"]["test"][-1] == "http://127.0.0.1:8404/health"

    def test_no_image_floats(self):
        assert re.fullmatch(r"haproxy:\d+\.\d+[\d.]*-alpine", BALANCER["image"])


class TestLoadBalancer:
    def test_it_finds_replicas_by_the_services_name(self):
        assert HAPROXY.count("server-template replica- 16 ai-inference-backend:8000 check") == 2
        assert "nameserver embedded 127.0.0.11:53" in HAPROXY

    def test_it_asks_each_replica_whether_it_is_ready(self):
        assert "http-check send meth GET uri /health/ready" in HAPROXY

    def test_a_single_replica_that_lost_one_worker_is_still_asked_for_the_other_models(self):
        assert "use_backend ready if { nbsrv(ready) gt 0 }" in HAPROXY
        assert "default_backend alive" in HAPROXY
        assert "http-check send meth GET uri /health/live" in HAPROXY

    def test_it_never_sends_work_twice(self):
        assert re.findall(r"^ *retry-on (.*)$", HAPROXY, re.MULTILINE) == ["conn-failure"]

    def test_it_is_told_the_limits_of_the_replicas(self):
        used = set(re.findall(r"\$\{(\w+)\}", HAPROXY))
        assert used == set(BALANCER["environment"])
        for variable in used:
            default = Settings.model_fields[variable.lower()].default
            assert BALANCER["environment"][variable] == f"${{{variable}:-{default}}}"

    def test_it_lets_heads_through_that_the_server_takes(self):
        (buffer,) = re.findall(r"tune\.bufsize (\d+)", HAPROXY)
        assert int(buffer) > Settings.model_fields["max_header_bytes"].default

    def test_its_own_status_page_is_not_published(self):
        assert "bind :8404" in HAPROXY
        assert not any("8404" in port for port in BALANCER["ports"])
