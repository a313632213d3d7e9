"""What the real models answer, and how requests are refused that they cannot answer."""

import asyncio
import threading

import httpx
import numpy as np
import pytest

from tests.processes import until

TEXTS = [
    "I love this! It works perfectly.",
    "The package arrived broken and nobody answers my mails.",
    "The meeting starts at nine.",
    "An absolute waste of money, the worst purchase that I have made in years, and to make matters "
    "worse the seller blames me for it, which I find hard to believe after so many mails.",
    "Great value.",
    "Terrible.",
    "He opened the door and looked outside for a while, then went back to his desk.",
    "Brilliant acting, a moving story and music that stays with you long after the last scene.",
]
ARTICLE = (
    "The city opened its new library on Monday. Visitors waited in line for two hours. The "
    "building holds three hundred thousand books and a small theatre. Its roof is covered with "
    "solar panels. The mayor said that reading is the cheapest way to travel. Rain fell all day. "
    "The library will be open every day of the week until midnight."
)


def error_of(response, status, code):
    assert response.status_code == status, response.text
    answer = response.json()
    assert answer["success"] is False
    assert answer["error"]["code"] == code
    assert answer["request_id"] == response.headers["x-request-id"]
    return answer["error"]["message"]


def result(response):
    assert response.status_code == 200, response.text
    return response.json()["result"]


def test_model_and_version_have_defaults(server):
    answer = server.client.post("/infer", json={"text": ARTICLE}).json()
    assert answer["model_used"] == "summarizer:v1"


def test_summary_is_as_short_as_asked_and_in_the_order_of_the_text(server):
    short = result(server.infer("summarizer", ARTICLE, max_length=40))
    sentences = [s for s in ARTICLE.replace(". ", ".\n").split("\n") if s in short]
    assert " ".join(sentences) == short
    assert len(short) < len(ARTICLE) / 2


def test_unknown_model_is_404_and_lists_those_there_are(server):
    message = error_of(server.infer("translator", "Hallo"), 404, "model_not_found")
    for model in ("'translator'", "summarizer", "sentiment", "generator", "embedder"):
        assert model in message


def test_unknown_version_is_404_and_lists_those_there_are(server):
    body = {"text": "Hello", "model": "sentiment", "version": "v9"}
    message = error_of(server.client.post("/infer", json=body), 404, "model_not_found")
    assert "'v9'" in message and "v1" in message


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"temperature": 2.5}, "parameters.temperature must be at most 2, not 2.5"),
        ({"num_return_sequences": 0}, "parameters.num_return_sequences must be at least 1"),
        ({"max_length": "ten"}, "parameters.max_length must be an integer, not str"),
        ({"beams": 4}, "parameters.beams is unknown; this version takes: do_sample, "),
        ({"max_length": 2}, "parameters.max_length is 2, but text alone has"),
    ],
    ids=["above", "below", "type", "unknown", "too-small-for-the-text"],
)
def test_parameter_out_of_bounds_is_422_and_named_with_its_bound(server, parameters, words):
    response = server.infer("generator", "Once upon a time", **parameters)
    assert words in error_of(response, 422, "invalid_request")


def test_input_too_long_is_413_with_both_counts_unless_it_may_be_cut(server):
    text = "word " * 400
    message = error_of(server.infer("sentiment", text), 413, "input_too_long")
    assert "402 tokens" in message and "256" in message and "truncate" in message
    cut = server.infer("sentiment", text, truncate=True).json()
    assert cut["metadata"]["truncated"] is True
    assert cut["metadata"]["usage"]["input_tokens"] == 256


def test_tiny_deadline_is_504(server):
    headers = {"X-Request-Timeout-Ms": "1"}
    response = server.infer("generator", "Once", headers=headers, max_new_tokens=200)
    error_of(response, 504, "deadline_exceeded")
    until(lambda: server.unanswered("generator") == 0, "the end of the work", 10)


def test_batch_entry_that_is_wrong_fails_alone(server):
    entries = [
        {"text": TEXTS[0], "model": "sentiment"},
        {"text": "Hello", "model": "nobody"},
        {"text": "", "model": "sentiment"},
        {"text": TEXTS[1], "model": "sentiment"},
        {"text": "Hello", "model": "embedder", "parameters": {"colour": 1}},
    ]
    response = server.client.post("/infer/batch", json={"requests": entries})
    assert response.status_code == 200
    answer = response.json()
    assert [entry["success"] for entry in answer["results"]] == [True, False, False, True, False]
    codes = [e["error"]["code"] for e in answer["results"] if not e["success"]]
    assert codes == ["model_not_found", "invalid_request", "invalid_request"]
    assert answer["results"][0]["result"] == "positive"
    assert answer["results"][3]["result"] == "negative"
    assert answer["summary"] == {"total": 5, "succeeded": 2, "failed": 3}


def test_several_sequences_are_a_list(server):
    response = server.infer("generator", "My favourite dish is", num_return_sequences=3, seed=5)
    texts = result(response)
    assert len(texts) == 3 and len(set(texts)) > 1 and all(texts)
    assert len(response.json()["metadata"]["finish_reason"]) == 3


def test_same_seed_gives_the_same_text_and_another_seed_another(server):
    first, again, other = (
        result(server.infer("generator", "The old man", seed=seed, max_new_tokens=15))
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_temperature_zero_gives_the_same_text_each_time(server):
    first, again = (
        result(server.infer("generator", "The capital of France is", temperature=0))
        for _ in range(2)
    )
    assert first == again
    assert "Paris" in first


def test_stop_string_ends_the_text_and_is_not_part_of_it(server):
    whole = result(server.infer("generator", "The capital of France is", temperature=0))
    for stop in (whole.split()[0], whole.split()[4]):
        response = server.infer(
            "generator", "The capital of France is", temperature=0, stop=[stop, "never said"]
        )
        assert result(response) == whole[: whole.index(stop)]
        assert response.json()["metadata"]["finish_reason"] == "stop"


def test_full_text_begins_with_the_prompt(server):
    text = result(server.infer("generator", "Once upon a", return_full_text=True, max_new_tokens=5))
    assert text.startswith("Once upon a") and len(text) > len("Once upon a")


def test_embeddings_are_normal_and_near_where_the_meaning_is(server):
    cat, kitten, tax = (
        np.array(result(server.infer("embedder", text)))
        for text in ("A cat sleeps.", "The kitten is asleep.", "Tax returns are due in May.")
    )
    assert cat.shape == (384,)
    assert np.linalg.norm(cat) == pytest.approx(1, abs=1e-4)
    assert cat @ kitten > 0.5 > 0.3 > cat @ tax


def test_client_that_leaves_takes_its_work_along(server):
    connected = threading.Event()

    def leave(request):
        connected.set()

    with httpx.Client(base_url=server.url, event_hooks={"request": [leave]}) as client:
        with pytest.raises(httpx.ReadTimeout):
            body = {
                "model": "generator",
                "text": "Tell me everything",
                "parameters": {"max_new_tokens": 1500, "min_new_tokens": 1500, "seed": 3},
            }
            client.post("/infer", json=body, timeout=httpx.Timeout(10, read=0.5))
    assert connected.is_set()
    until(lambda: server.unanswered("generator") == 0, "the end of the work", 2)


async def test_answer_is_the_same_alone_and_in_a_crowd(server):
    alone = {
        (model, text): server.infer(model, text).json()
        for model in ("sentiment", "embedder")
        for text in TEXTS
    }
    greedy = {"temperature": 0, "max_new_tokens": 20}
    generated = result(server.infer("generator", TEXTS[2], **greedy))

    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def ask(model, text, **parameters):
            body = {"model": model, "text": text, "parameters": parameters}
            response = await client.post("/infer", json=body)
            assert response.status_code == 200, response.text
            return response.json()

        asked = [*alone] * 4
        crowd = [ask(model, text) for model, text in asked]
        crowd += [ask("summarizer", ARTICLE) for _ in range(4)]
        crowd += [ask("generator", TEXTS[2], **greedy) for _ in range(4)]
        answers = await asyncio.gather(*crowd)

    for (model, text), answer in zip(asked, answers, strict=False):
        before = alone[model, text]
        if model == "sentiment":
            assert answer["result"] == before["result"]
            assert answer["metadata"]["scores"] == pytest.approx(
                before["metadata"]["scores"], abs=1e-3
            )
        else:
            assert np.dot(answer["result"], before["result"]) >= 0.9999
    summaries = {answer["result"] for answer in answers[len(asked) : -4]}
    assert len(summaries) == 1
    assert {answer["result"] for answer in answers[-4:]} == {generated}
