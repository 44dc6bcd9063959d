"""The language-model client against a server that injects faults: nothing lost, nothing asked twice, no key seen."""

import asyncio
import json
import logging
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_server import GOOD, KEY, Server, completion
from openai import OpenAI
from typer.testing import CliRunner

from confitlib import cli
from confitlib.llm import Answer, Client, Price, Request, Store, prompt
from confitlib.llm.client import load_prices
from confitlib.llm.requests import MARKER, common, escape, fence, import_answers, mask, read_requests, write_requests
from confitlib.util import read_entries


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch, tmp_path_factory):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "CONFIT_LLM_MODEL"):
        monkeypatch.delenv(name, raising=False)
    prices = tmp_path_factory.mktemp("prices") / "prices.yaml"
    prices.write_text("m: {input: 1.0, output: 2.0, batch: 0.5}")
    monkeypatch.setenv("CONFIT_PRICES", str(prices))


def asked(*names: str, **more) -> list[Request]:
    return [Request("m", prompt(name), **more) for name in names]


def client_of(server: Server, folder: Path, timeout: float = 120, **more) -> Client:
    api = OpenAI(base_url=server.url, api_key=KEY, timeout=timeout, max_retries=6)
    return Client(folder / "s.jsonl", api=api, **more)


def run(client: Client, requests: list[Request], **more) -> list[Answer]:
    return client.complete(requests, **more)


def test_faults_are_survived_and_no_answer_is_lost(tmp_path):
    faults = {
        "a": [(429, {"retry-after": "0.05"}), (429, {"retry-after": "0.05"})],
        "b": [500, 503],
        "c": ["reset"],
        "d": ["garbage", "no choices"],
        "e": [1.5],
        "f": [(500, {"retry-after": "0.01"}), "reset", "garbage"],
    }
    with Server() as server:
        server.faults = {name: list(listed) for name, listed in faults.items()}
        client = client_of(server, tmp_path, timeout=1.0)
        answers = run(client, asked(*"abcdefgh"))
    injected = sum(map(len, faults.values()))
    assert server.injected == injected == client.summary.retried + client.summary.malformed
    assert [answer.text for answer in answers] == [GOOD] * 8, f"faults injected {injected}, answers lost: not 0"
    assert client.summary.malformed == 3 and client.summary.answered == client.summary.called == len(client.store) == 8
    assert "8 of 8 answered; 8 calls; 8 retries; 3 malformed replies; 120 tokens" in str(client.summary)


def test_a_second_run_asks_nothing_and_a_replay_needs_no_key(tmp_path):
    with Server() as server:
        first = run(client_of(server, tmp_path), asked("a", "b", "a"))
        assert server.prompts == {"a": 1, "b": 1}
        again = run(client_of(server, tmp_path), asked("a", "b", "a"))
        assert server.prompts == {"a": 1, "b": 1}
    replayed = run(Client(tmp_path / "s.jsonl"), asked("a", "b", "a"))
    assert [one.text for one in replayed] == [one.text for one in again] == [one.text for one in first]


def test_samples_are_different_requests_and_endpoints_are_not(tmp_path):
    one, two = asked("a")[0], asked("a", sample=1)[0]
    assert one.fingerprint() != two.fingerprint() and one == replace(one, about="x", source="y")
    assert one.payload() == {"kind": "chat", "model": "m", "messages": prompt("a"), "sample": 0}
    with Server() as here, Server() as there:
        run(client_of(here, tmp_path), [one, two])
        run(client_of(there, tmp_path), [one, two])
        assert here.prompts["a"] == 2 and not there.prompts
        assert all("sample" not in body for body in here.bodies)


@pytest.mark.parametrize(
    "change", [{"temperature": 0.5}, {"max_tokens": 9}, {"sample": 2}, {"model": "n"}, {"messages": prompt("b")}]
)
def test_whatever_decides_a_reply_is_in_the_fingerprint(change):
    request = asked("a")[0]
    assert replace(request, **change).fingerprint() != request.fingerprint()


def test_without_key_and_record_the_answers_say_what_to_do(tmp_path):
    answers = run(Client(tmp_path / "none.jsonl"), asked("a", "b"))
    assert [answer.text for answer in answers] == [None, None]
    line = answers[0].problem
    assert line.startswith("not recorded: ") and "\n" not in line
    assert "OPENAI_API_KEY" in line and "offline writer" in line and not (tmp_path / "none.jsonl").exists()


def test_the_environment_names_endpoint_key_and_model(tmp_path, monkeypatch):
    with Server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("CONFIT_LLM_MODEL", "own")
        assert run(Client(tmp_path / "s.jsonl"), asked("a"))[0].text == GOOD
        assert server.keys == {f"Bearer {KEY}"} and Client(tmp_path / "s.jsonl").model == "own"
        assert not Client(tmp_path / "s.jsonl", offline=True).live


def test_the_key_is_nowhere(tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with Server() as server:
        server.faults = {"denied": [401], "broken": [400]}
        client = client_of(server, tmp_path)
        answers = client.complete(asked("a", "denied", "broken"))
        shown = [repr(client), str(vars(client)), str(answers), str(client.summary)]
    assert server.keys == {f"Bearer {KEY}"} and any("fault 401 for Bearer ***" in str(one.problem) for one in answers)
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    output = capfd.readouterr()
    assert all(KEY not in text for text in [*shown, *written, caplog.text, output.out, output.err])
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(client)
    with pytest.raises(ValueError, match="password"):
        Client(tmp_path / "s.jsonl", api=OpenAI(base_url="http://me:word@host/v1", api_key=KEY))


def test_a_wrong_key_stops_the_run_instead_of_being_refused_every_time(tmp_path):
    with Server() as server:
        server.faults = {name: [401] for name in "abcdefgh"}
        answers = run(client_of(server, tmp_path, concurrency=1), asked(*"abcdefgh"))
        assert sum(server.prompts.values()) == 1 and all("AuthenticationError" in str(one.problem) for one in answers)


def test_a_server_that_is_not_there_is_a_problem_not_an_exception(tmp_path):
    nowhere = OpenAI(base_url="http://127.0.0.1:9/v1", api_key=KEY, max_retries=0)
    (answer,) = run(Client(tmp_path / "s.jsonl", api=nowhere), asked("a"))
    assert answer.problem.startswith("no reply: APIConnectionError")


def test_no_more_calls_at_once_than_asked_for(tmp_path):
    with Server() as server:
        server.faults = {str(i): [0.05] for i in range(12)}
        run(client_of(server, tmp_path, concurrency=3), asked(*map(str, range(12))))
        assert server.busiest == 3


@pytest.mark.parametrize(
    ("reply", "problem"),
    [(completion("cut", "length"), "cut off"), (completion(""), "empty"), (completion(None), "empty"),
     (completion(None, refusal="I will not"), "refused: I will not"),
     (completion("", "content_filter"), "refused: content filter"), (completion("bad"), "too bad")],
)  # fmt: skip
def test_replies_that_cannot_be_used_are_kept_counted_and_asked_for_once_more(reply, problem, tmp_path):
    with Server(lambda body: reply) as server:
        client = client_of(server, tmp_path)
        (answer,) = run(client, asked("a"), check=lambda _, text: "too bad" if text == "bad" else None)
        assert answer.text is None and problem in answer.problem
        calls = 1 if "refused" in problem else 2
        assert sum(server.prompts.values()) == calls == len(client.store)
        assert sum(client.summary.problems.values()) == 1
        run(client, asked("a"), check=lambda _, text: "too bad" if text == "bad" else None)
        assert sum(server.prompts.values()) == calls, "a fault is paid for once too"


def second_time_good(body: dict) -> dict:
    return completion(GOOD if len(body["messages"]) > 1 else "bad")


def test_a_repair_quotes_the_fault_and_replays(tmp_path):
    def check(request: Request, text: str) -> str | None:
        return "the word is bad" if text == "bad" else None

    with Server(second_time_good) as server:
        client = client_of(server, tmp_path)
        (answer,) = run(client, asked("a"), check=check)
        assert answer.text == GOOD and answer.repaired and client.summary.repaired == 1
        assert client.summary.usage.input == 20
        sent = server.bodies[-1]["messages"]
    assert [one["role"] for one in sent] == ["user", "assistant", "user"] and "the word is bad" in sent[-1]["content"]
    (replayed,) = run(Client(tmp_path / "s.jsonl"), asked("a"), check=check)
    assert replayed.text == GOOD and replayed.repaired


def test_pending_names_requests_and_repairs_still_to_ask(tmp_path):
    client = Client(tmp_path / "s.jsonl")
    one, two, three = asked("a", "b", "c")
    client.store.add(one, text="bad", finish_reason="stop")
    client.store.add(two, text=GOOD, finish_reason="stop")
    found = client.pending([one, two, three, three], lambda _, text: "fault" if text == "bad" else None)
    assert len(found) == 2 and len(found[0].messages) == 3 and found[1] == three


def test_a_plain_call_works_inside_a_running_event_loop(tmp_path):
    async def cell() -> list[Answer]:
        return run(client, asked("a"))

    with Server() as server:
        client = client_of(server, tmp_path)
        assert asyncio.run(cell())[0].text == GOOD


def test_the_budget_is_never_crossed(tmp_path):
    requests = asked(*"abcdefgh", max_tokens=5)
    worst = Client(tmp_path / "x.jsonl").estimate(requests[:1]).cost
    with Server() as server:
        client = client_of(server, tmp_path, budget=worst * 3.5)
        answers = run(client, requests)
        assert 2 < sum(server.prompts.values()) < 8 and client.spent <= client.budget
        stopped = [one.problem for one in answers if one.problem]
        assert stopped and all(problem.startswith("budget: ") for problem in stopped)
        assert client.spent == pytest.approx(sum(server.prompts.values()) * (10 * 1 + 5 * 2) / 1e6)
        with pytest.raises(ValueError, match="no price"):
            run(client_of(server, tmp_path, budget=1.0), [Request("unknown", prompt("a"))])


def test_a_dry_run_counts_and_sends_nothing(tmp_path):
    with Server() as server:
        client = client_of(server, tmp_path)
        run(client, asked("a"))
        plan = client.estimate(asked("a", "b" * 300, "c", max_tokens=100))
        assert (plan.calls, plan.recorded, plan.usage.output) == (3, 0, 300)
        plan = client.estimate([*asked("a"), *asked("b" * 300, "c", max_tokens=100)])
        assert (plan.calls, plan.recorded) == (2, 1) and plan.usage.input == 100 + 1 + 2 * 8
        assert plan.cost == pytest.approx((117 * 1 + 200 * 2) / 1e6) and "2 calls to make, 1 recorded" in str(plan)
        unknown = client.estimate([Request("what", prompt("a"))])
        assert unknown.cost is None and "no price for what" in str(unknown)
        assert sum(server.prompts.values()) == 1


def test_price_tables_are_read_and_checked(tmp_path, monkeypatch):
    own = tmp_path / "prices.yaml"
    own.write_text("mine: {input: 1, output: 2}\nlocal: {input: 3, output: 4}\n")
    monkeypatch.setenv("CONFIT_PRICES", str(own))
    assert load_prices()["mine"] == Price(1, 2) and load_prices()["local"].input == 3
    assert all(price.source for name, price in load_prices().items() if name not in ("mine", "local"))
    for text in ("m: {input: 1}", "m: {input: -1, output: 1}", "m: 3", "[1]", "m: ["):
        own.write_text(text)
        with pytest.raises(ValueError, match=r"prices\.yaml"):
            load_prices()


KILLED = """
import sys
from openai import OpenAI
from confitlib.llm import Client, Request, prompt
client = Client(sys.argv[1], api=OpenAI(base_url=sys.argv[2], api_key="k"))
client.complete([Request("m", prompt(f"q{i}")) for i in range(200)])
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torn")
def test_after_a_kill_in_the_middle_of_200_calls_only_the_missing_ones_are_made(tmp_path):
    path = tmp_path / "s.jsonl"
    with Server() as server:
        server.faults = {f"q{i}": [0.02] for i in range(200)}
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), server.url])
        while sum(server.prompts.values()) < 80:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with path.open("a") as file:
            file.write('{"fingerprint": "torn')
        with pytest.warns(UserWarning, match="torn"):
            client = client_of(server, tmp_path)
        kept = len(client.store)
        assert 60 <= kept < 200
        server.prompts.clear()
        with pytest.warns(UserWarning, match="cut off"):
            answers = run(client, asked(*(f"q{i}" for i in range(200))))
        assert sum(server.prompts.values()) == 200 - kept and set(server.prompts.values()) == {1}
    assert all(answer.text == GOOD for answer in answers)


INTERRUPTED = """
import signal, sys
from openai import OpenAI
from confitlib.llm import Client, Request, prompt
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with SIGINT ignored
client = Client(sys.argv[1], api=OpenAI(base_url=sys.argv[2], api_key="k"), concurrency=2)
try:
    client.complete([Request("m", prompt(f"q{i}")) for i in range(200)])
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
def test_an_interruption_keeps_everything_answered(tmp_path):
    path = tmp_path / "s.jsonl"
    with Server() as server:
        server.faults = {f"q{i}": [0.02] for i in range(200)}
        done = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, str(path), server.url],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while sum(server.prompts.values()) < 20:
            time.sleep(0.005)
        done.send_signal(signal.SIGINT)
        out, err = done.communicate(timeout=120)
    assert out == "interrupted\n" and "new replies are kept in" in err and "Traceback" not in err
    assert 15 <= len(Store(path)) < 200


APPENDING = """
import sys
from confitlib.llm import Request, Store, prompt
store = Store(sys.argv[1])
for i in range(150):
    store.add(Request("m", prompt(f"q{i}")), text=sys.argv[2] * 2000, finish_reason="stop")
"""


@pytest.mark.slow
def test_two_processes_append_at_once_and_agree_on_every_reply(tmp_path):
    path = tmp_path / "s.jsonl"
    both = [subprocess.Popen([sys.executable, "-c", APPENDING, str(path), name]) for name in "xy"]
    assert [process.wait() for process in both] == [0, 0]
    store = Store(path)
    assert len(store) == len(read_entries(path)) == 150 and store.duplicates == 0


def test_the_first_reply_counts_and_repeats_collapse(tmp_path):
    path, request = tmp_path / "s.jsonl", asked("a")[0]
    one, other = Store(path), Store(path)
    one.add(request, text="first", finish_reason="stop")
    assert other.add(request, text="second", finish_reason="stop")["text"] == "first"
    path.write_bytes(path.read_bytes() * 2)
    assert len(Store(path)) == 1 and Store(path).duplicates == 1


def test_damage_in_the_middle_of_a_store_names_the_line(tmp_path):
    path = tmp_path / "s.jsonl"
    Store(path).add(asked("a")[0], text="x", finish_reason="stop")
    whole = path.read_text()
    for line in ('{"no": 1}\n', "[]\n", whole.replace('"a"', '"b"')):
        path.write_text(whole + line)
        with pytest.raises(ValueError, match="line 2 is not a reply to its request"):
            Store(path)


def embeddings(body: dict) -> dict:
    rows = [{"index": i, "embedding": [len(text), i, 0.1]} for i, text in enumerate(body["input"])]
    return {"object": "list", "data": rows[::-1], "model": "e", "usage": {"prompt_tokens": 7, "total_tokens": 7}}


def test_embeddings_come_in_order_and_replay(tmp_path):
    with Server(embeddings) as server:
        client = client_of(server, tmp_path)
        texts = ["a" * (i + 1) for i in range(70)]
        vectors = client.embed([*texts, texts[0]], model="m")
        assert vectors.dtype == np.float32 and vectors.shape == (71, 3)
        assert list(vectors[:, 0]) == [*range(1, 71), 1] and sum(server.prompts.values()) == 2
        assert client.summary.usage.input == 14
    np.testing.assert_array_equal(Client(tmp_path / "s.jsonl").embed([texts[3]], model="m"), vectors[3:4])
    with pytest.raises(LookupError, match=r"1 of 1 embeddings .* not recorded"):
        Client(tmp_path / "s.jsonl").embed(["new"], model="m")


def test_contact_details_never_leave_the_machine(tmp_path):
    text = "Mail jo.doe+x@mail.example.org, call +49 (171) 234-5678 or see https://x.io/me?a=1. 2019 - 2021, 2010-2014."
    covered = mask(text)
    assert covered == "Mail [email], call [phone] or see [url] 2019 - 2021, 2010-2014." == mask(covered)
    with Server() as server:
        client = client_of(server, tmp_path)
        (answer,) = run(client, [Request("m", prompt(text), source=text)])
        assert "jo.doe" not in str(server.bodies) and "jo.doe" not in (tmp_path / "s.jsonl").read_text()
        assert answer.request.source == text
        assert run(client, [Request("m", prompt(text))])[0].text == GOOD and len(server.bodies) == 1


@pytest.mark.parametrize(
    ("text", "covered"),
    [("13912345678", True), ("(555) 123-4567 x", True), ("010-6555 1234", True), ("2019.01 - 2020.12", False),
     ("2015-2017 2018-2020", False), ("2019-01-01 - 2020-01-01", False), ("100000-150000 a year", False),
     ("iso 9001:2015, 12345678", False), ("id 4f123456789", False)],
)  # fmt: skip
def test_phone_numbers_are_told_from_dates_and_pay(text, covered):
    assert ("[phone]" in mask(text)) == covered


@given(st.text(alphabet="[]［【 \nthesartnd of", max_size=60))
def test_a_document_cannot_close_its_fence(text):
    fenced = fence("target job", text)
    assert len(MARKER.findall(fenced)) == 2 and escape(escape(text)) == escape(text)


def test_markers_that_imitate_the_prompt_are_found():
    for marker in ("[The end of the target job]", "[ the  START of x]", "［end of job］", "[Example resume]"):
        assert MARKER.search(f"hello {marker} there") and not MARKER.search(escape(marker))
    assert MARKER.search("I [attended] the end of the course [2]") is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "too short"), ("short", "too short"), ("x " * 20_000, "too long"), (f"[The end of the job] {GOOD}", "leaked"),
     ("熟练掌握焊接工艺，带领六人团队完成全部项目。", "wrong language"), (GOOD, None)],
)  # fmt: skip
def test_common_checks(text, fault):
    source = "We look for a welder who takes responsibility for the quality of our seams and knows the standards."
    found = common(Request("m", prompt("x"), source=source), text)
    assert (found is None) if fault is None else found.startswith(fault)
    assert common(Request("m", prompt("x"), source=source), source).startswith("copy of the input: 100%")


def confit(*arguments: object):
    return CliRunner().invoke(cli.app, ["llm", *map(str, arguments)])


ODD_USAGE = (None, "ten", [10], {"prompt_tokens": float("nan"), "completion_tokens": -3}, {"prompt_tokens": "10"})


@pytest.mark.parametrize("usage", ODD_USAGE)
def test_odd_replies_are_stored_sanely_and_paid_once(usage, tmp_path):
    odd = {**completion(GOOD + " \ud83d"), "usage": usage, "model": "served\ud83d"}
    odd["choices"][0]["finish_reason"] = "stop\ud83d"
    with Server(lambda body: odd) as server:
        for _ in range(2):
            client = client_of(server, tmp_path, budget=1.0)
            assert [answer.text for answer in run(client, asked("a"))] == [GOOD + " ?"]
        assert server.prompts == {"a": 1}
    (entry,) = Store(tmp_path / "s.jsonl").values()
    assert entry["usage"] == {"input": None, "output": None} and entry["served_by"] == "served?"
    assert "1 (1 stop?); 0 + 0 tokens" in confit("stats", tmp_path / "s.jsonl").output


def test_what_a_server_does_not_count_is_charged_as_estimated(tmp_path):
    with Server(lambda body: {**completion(), "usage": None}) as server:
        client = client_of(server, tmp_path, budget=1.0)
        cost = client.estimate(asked("a")).cost
        run(client, asked("a"))
    assert client.spent == pytest.approx(cost) and cost > 0


def test_an_error_in_a_check_loses_no_reply_under_way(tmp_path):
    def check(request: Request, text: str) -> None:
        raise RuntimeError("a check that fails")

    with Server() as server:
        server.faults = {name: [0.3] for name in "bcd"}
        client = client_of(server, tmp_path)
        with pytest.raises(RuntimeError, match="a check that fails"):
            run(client, asked(*"abcd"), check=check)
    assert len(Store(tmp_path / "s.jsonl")) == 4


def waiting(folder: Path, n: int = 4) -> list[Request]:
    """Requests in a file, as a task would write them."""
    made = [Request("m", prompt(f"Job {i}"), about=f"J{i}", source="A post, mail a@b.org") for i in range(n)]
    assert write_requests(folder / "requests.jsonl", "echo", made) == n
    return made


def answers_in(folder: Path, *lines: dict) -> tuple[Store, int, int, list[str]]:
    """What became of a file of answers."""
    path, store = folder / "answers.jsonl", Store(folder / "s.jsonl")
    path.write_text("\n" + "".join(json.dumps(line) + "\n" for line in lines))
    return store, *import_answers(store, read_requests(folder / "requests.jsonl"), path, lambda task: common)


def test_requests_go_out_as_a_file_and_answers_come_back_checked(tmp_path):
    made = waiting(tmp_path)
    names = [request.fingerprint() for request in made]
    assert "a@b.org" not in (tmp_path / "requests.jsonl").read_text()
    lines = [{"fingerprint": names[0], "text": GOOD, "model": "own", "usage": {"input": 3, "output": 4}},
             {"fingerprint": names[1], "text": "no"}, {"fingerprint": "f" * 64, "text": GOOD},
             {"fingerprint": names[2], "text": GOOD, "finish_reason": "length"}, {"fingerprint": names[3]},
             {"fingerprint": names[3], "text": 5}]  # fmt: skip
    store, taken, there, rejected = answers_in(tmp_path, *lines)
    assert (taken, there, len(rejected)) == (1, 0, 5) and "line 3 (J1): too short" in rejected[0]
    for fault, message in zip(
        ("line 4: no request", "cut off", "empty reply", "message of text"), rejected[1:], strict=True
    ):
        assert fault in message
    (entry,) = store.values()
    assert (entry["served_by"], entry["usage"], entry["origin"]) == ("own", {"input": 3, "output": 4}, "import")
    assert answers_in(tmp_path, lines[0])[1:] == (0, 1, [])


def test_a_batch_goes_out_and_comes_back_in_the_providers_format(tmp_path):
    made = waiting(tmp_path, 2)
    write_requests(tmp_path / "batch.jsonl", "echo", made, batch=True)
    sent = read_entries(tmp_path / "batch.jsonl")
    assert [line["body"] for line in sent] == [request.body() for request in made]
    assert all(line["method"] == "POST" and line["url"] == "/v1/chat/completions" for line in sent)
    bodies = [completion(), {"error": {"message": "no luck"}}]
    lines = [{"custom_id": one["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}
             for one, body in zip(sent, bodies, strict=True)]  # fmt: skip
    store, taken, _, rejected = answers_in(tmp_path, *lines)
    assert taken == 1 and "line 3 (J1): no luck" in rejected[0]
    assert run(Client(store), made)[0].text == GOOD and next(iter(store.values()))["origin"] == "batch"


def test_an_altered_file_of_requests_is_refused(tmp_path):
    waiting(tmp_path)
    path = tmp_path / "requests.jsonl"
    for line, fault in ((path.read_text().replace("Job", "Jobs", 1), "altered"), ('{"model": "m"}\n', "not a request")):
        path.write_text("\n" + line)
        with pytest.raises(ValueError, match=f"line 2: {fault}"):
            read_requests(path)


def test_commands_write_requests_of_a_task_and_take_its_answers(project, monkeypatch):
    monkeypatch.chdir(project / "notebooks")
    result = confit("requests", "--task", "hyde", "--preset", "tiny", "--model", "gpt-4o-mini", "--batch")
    assert result.exit_code == 0 and "calls to make, 0 recorded" in result.output, result.output
    path = project / "build/requests/hyde_tiny_0.jsonl"
    lines, sent = read_entries(path), read_entries(path.with_suffix(".batch.jsonl"))
    assert [line["fingerprint"] for line in lines] == [line["custom_id"] for line in sent]
    assert f"{len(lines)} requests in" in result.output and f"{len(lines)} calls to make" in result.output
    Path("answers.jsonl").write_text(json.dumps({"fingerprint": lines[0]["fingerprint"], "text": GOOD}) + "\n")
    result = confit("import", "answers.jsonl", "--requests", path)
    assert result.exit_code == 0 and "1 answers taken, 0 already there, 0 rejected" in result.output
    assert len(Store(project / "records/llm/answers.jsonl")) == 1
    assert confit("import", "answers.jsonl", "--requests", path, "--store", "own.jsonl").exit_code == 0
    assert len(Store(project / "notebooks/own.jsonl")) == 1
    again = confit("requests", "--task", "hyde", "--preset", "tiny", "--model", "gpt-4o-mini", "--out", "open.jsonl")
    assert f"{len(lines) - 1} requests in" in again.output and "1 recorded" in again.output
    Path("answers.jsonl").write_text(json.dumps({"fingerprint": lines[1]["fingerprint"], "text": "no"}) + "\n")
    assert confit("import", "answers.jsonl", "--requests", path).exit_code == 1
    assert "use one of hyre" in confit("requests", "--task", "nothing").output


def test_stores_are_counted_and_joined_by_appending(tmp_path):
    for name, question, origin in (("a", "one", "api"), ("b", "two", "batch")):
        usage = {"input": 1_000_000, "output": 0}
        request = Request("gpt-4o-mini", prompt(question))
        Store(tmp_path / f"{name}.jsonl").add(request, text=GOOD, finish_reason="stop", usage=usage, origin=origin)
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_text(a.read_text() + b.read_text())
    assert "gpt-4o-mini: 2 (2 stop); 2,000,000 + 0 tokens, $0.2250" in confit("stats", a).output
    assert confit("stats", tmp_path / "c.jsonl").exit_code == 1
