from support.fake_server import Server, make_server
from support.tiny_tokenizer import CHAT_TEMPLATE

import nanopd
from nanopd.config import Role, ServerConfig


def test_models(server: Server) -> None:
    (card,) = server.client.get("/v1/models").json()["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("tiny", "model", 128)
    assert server.client.get("/v1/models/tiny").json() == card
    assert server.client.get("/v1/models/other").status_code == 404


def test_served_model_name_may_hold_a_slash() -> None:
    server = make_server(config=ServerConfig(served_model_name="org/model"))
    assert server.client.get("/v1/models/org/model").json()["id"] == "org/model"
    assert server.chat(model="org/model").json()["model"] == "org/model"


def test_health_is_200_while_every_role_serves(server: Server) -> None:
    response = server.client.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert {worker["worker_id"] for worker in response.json()["workers"]} == {"collocated-0", "prefill-0", "decode-0"}


def test_health_is_503_and_names_the_role_without_a_worker(server: Server) -> None:
    server.controller.ready[Role.DECODE] = False
    response = server.client.get("/health")
    assert response.status_code == 503
    assert response.json()["roles_without_worker"] == ["decode"]


def test_version(server: Server) -> None:
    assert server.client.get("/version").json()["version"] in (nanopd.__version__, "source tree")


def test_tokenize_and_back(server: Server) -> None:
    tokens = server.client.post("/tokenize", json={"prompt": "hé<|im_end|>"}).json()
    assert tokens == {"tokens": [*"hé".encode(), 257], "count": 4, "max_model_len": 128}
    assert server.client.post("/detokenize", json={"tokens": tokens["tokens"]}).json() == {"prompt": "hé<|im_end|>"}


def test_tokenize_a_chat(server: Server) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    tokens = server.client.post("/tokenize", json={"messages": messages}).json()["tokens"]
    server.chat(messages=messages)
    assert tuple(tokens) == server.controller.submitted[0].prompt_token_ids


def test_tokenize_wants_one_of_two(server: Server) -> None:
    for body in ({}, {"prompt": "a", "messages": []}):
        assert server.client.post("/tokenize", json=body).status_code == 400
    assert "[0, 258), got 300" in server.client.post("/detokenize", json={"tokens": [300]}).json()["error"]["message"]


def test_metrics_are_the_snapshots_and_the_requests(server: Server) -> None:
    server.complete()
    server.complete(max_tokens=1)
    lines = set(server.client.get("/metrics").text.splitlines())
    assert {
        "nanopd_handoffs_total 5.0",
        "nanopd_transfer_bytes_total 4096.0",
        'nanopd_decisions_total{path="disaggregated"} 5.0',
        'nanopd_requests_finished_total{reason="stop"} 2.0',
        "nanopd_errors_total 1.0",
        'nanopd_num_requests_running{role="decode",worker="decode-0"} 3.0',
        'nanopd_kv_cache_usage_ratio{role="prefill",worker="prefill-0"} 0.25',
        "nanopd_step_model_error_ratio 0.04",
        "nanopd_step_model_profile_error_ratio 0.12",
        "nanopd_step_model_profile_ratio 1.1",
        'nanopd_worker_restarts_total{role="prefill",worker="prefill-0"} 2.0',
        'nanopd_worker_up{role="collocated",worker="collocated-0"} 1.0',
        'nanopd_time_to_first_token_seconds_count{path="disaggregated"} 2.0',
        'nanopd_time_to_first_token_seconds_sum{path="disaggregated"} 1.0',
        'nanopd_e2e_request_latency_seconds_sum{path="disaggregated"} 2.0',
        "nanopd_inter_token_latency_seconds_count 11.0",  # 12 tokens make 11 gaps, one token none
    } <= lines


def test_every_scrape_is_valid_exposition_text(server: Server) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    families = {family.name for family in text_string_to_metric_families(server.client.get("/metrics").text)}
    assert {"nanopd_time_per_output_token_seconds", "nanopd_preemptions", "nanopd_requests_in_flight"} <= families


def test_tokenizer_info_is_what_a_client_needs_to_do_without_its_own(server: Server) -> None:
    info = server.client.get("/tokenizer_info").json()
    assert info == {"eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE}


def test_what_tells_about_requests_or_the_model_needs_the_key() -> None:
    locked = make_server(config=ServerConfig(api_key="secret"))
    for path in ("/tokenizer_info", "/debug/requests/any"):
        assert locked.client.get(path).status_code == 401
