"""The command line: what it prints, what it returns, what it writes, and what it does not import."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import recc
from recc import library
from recc.cli import arguments, main

BAD = "recurrence bad\ninput x\nstate h = 0\noutput h\nh[t] = h[t-1] + y\n"
GOOD = "recurrence good\ninput x\nstate h = 0\noutput h\nh[t] = h[t-1] + x\n"
ROOT = Path(recc.__file__).parent.parent


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECC_DEBUG", raising=False)


ENV = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))}


def python(*args: str, input: str | None = None) -> subprocess.CompletedProcess:
    """A Python process that finds recc."""
    return subprocess.run([sys.executable, *args], input=input, capture_output=True, text=True, env=ENV)


def run(*args: str, input: str | None = None) -> subprocess.CompletedProcess:
    return python("-m", "recc", *args, input=input)


def spec(text: str, name: str = "x.rec") -> str:
    Path(name).write_text(text)
    return name


# --- what a command costs -----------------------------------------------------------------------------------


def test_help_answers_at_once():
    times = []
    for _ in range(5):
        began = time.perf_counter()
        done = run("--help")
        times.append(time.perf_counter() - began)
    assert done.returncode == 0
    assert all(name in done.stdout for name in arguments.COMMANDS)
    assert min(times) < 0.3, times


@pytest.mark.parametrize("line", ["--help", "check gla", "fmt --check gla", "list --names", "new a", "explain E0201"])
def test_light_commands_import_neither_torch_nor_sympy(line):
    script = f"import sys; from recc.cli import main; code = main({line.split()!r}); "
    script += "sys.exit(code or sorted({'torch', 'sympy', 'triton', 'numpy'} & set(sys.modules)) or 0)"
    done = python("-c", script)
    assert done.returncode == 0, done.stderr


def test_importing_recc_imports_nothing_heavy():
    script = "import recc, sys; assert not {'torch', 'sympy', 'lark', 'rich'} & set(sys.modules)"
    assert python("-c", script).returncode == 0


# --- usage --------------------------------------------------------------------------------------------------


def test_no_command_prints_the_help(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize("args, hint", [
    (["chekc", "x"], "did you mean `check`?"),
    (["--message-format", "short", "verfy"], "did you mean `verify`?"),
    (["zzz"], "the commands are check, fmt"),
    (["check"], "`recc check --help` shows the usage"),
    (["check", "--colour", "x"], "`recc --help` shows the usage"),
    (["check", "gated_delta"], "did you mean `gated_delta_net`"),
    (["check", "gla.rec"], "did you mean `gla`"),
    (["check", "no/such/zzzz.rec"], "`recc list` shows the names"),
    (["compile", "gla", "--strategy", "chnk"], "did you mean `chunk`?"),
    (["compile", "gla", "--chunk", "48"], "16, 32, 64 and 128 are usual"),
    (["compile", "gla", "--dim", "K=x"], "write it as `--dim R=3`"),
    (["compile", "gla", "--recurrence", "glb"], "it has gla"),
    (["compile", "gla", "-o", "no/such/folder.py"], ""),
    (["explain", "E9999"], "there are E0101"),
    (["new", "a-b"], "use letters, digits and `_`"),
    (["list", "--readme", "none.md"], ""),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")  # fmt: skip
def test_bad_usage_is_2_with_a_hint(args, hint, capsys):
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and hint in err
    assert "Traceback" not in err and "recc itself failed" not in err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"recc {recc.__version__}\n"


def test_internal_error_is_one_line(monkeypatch, capsys):
    def fail(args):
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(arguments.command("check"), "run", fail)
    assert main(["check", "gla"]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "ZeroDivisionError: two lines" in err and "report" in err
    monkeypatch.setenv("RECC_DEBUG", "1")
    assert main(["check", "gla"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_is_130(monkeypatch, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(arguments.command("check"), "run", interrupt)
    assert main(["check", "gla"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_closed_pipe_is_quiet():
    line = f"{sys.executable} -m recc compile gla | head -1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, env=ENV)
    assert done.stderr == "" and done.stdout.count("\n") == 1


# --- check, fmt, new ----------------------------------------------------------------------------------------


def test_check_reports_all_files_and_returns_1(capsys):
    assert main(["check", spec(GOOD), spec(BAD, "bad.rec"), "gla"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "x.rec: ok" and "gla.rec: ok" in out
    assert "error[E0201]" in err and "bad.rec:5:17" in err and "1 error" in err


def test_check_formats(capsys):
    bad = spec(BAD)
    assert main(["--message-format", "short", "check", bad]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("x.rec:5:17: error[E0201]: ")
    assert main(["check", "--message-format=json", bad, spec(GOOD, "good.rec")]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == "" and {item["code"] for item in found} >= {"E0201"} and {item["path"] for item in found} == {"x.rec"}
    assert main(["check", "--message-format=json", "good.rec"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_check_goes_on_after_a_missing_file(capsys):
    assert main(["check", "zzzz", spec(GOOD)]) == 2
    assert capsys.readouterr().out == "x.rec: ok\n"


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe", b"recurrence \xe4", b"(" * 5000, b"recurrence x\n" * 3])
def test_check_of_rubbish_is_a_message(content, capsys):
    Path("x.rec").write_bytes(content)
    assert main(["check", "x.rec"]) in (1, 2)
    assert "error" in capsys.readouterr().err


def test_standard_input():
    assert run("check", "-", input=GOOD).stdout == "<stdin>: ok\n"
    assert run("fmt", "-", input=GOOD.replace("h[t-1] + x", "h[t-1]+x")).stdout.endswith("h[t] = h[t-1] + x\n")
    assert "<stdin>:5:17" in run("check", "-", input=BAD).stderr
    command = [sys.executable, "-m", "recc", "check", "-"]
    done = subprocess.run(command, input=b"\xff\xfe", capture_output=True, env=ENV)
    assert done.returncode == 2 and b"`<stdin>` is not UTF-8 text" in done.stderr


def test_terminal_without_unicode():
    done = subprocess.run([sys.executable, "-m", "recc", "check", "-"], input="recurrence \u03b1".encode(),
                          capture_output=True, env=ENV | {"PYTHONIOENCODING": "ascii"})  # fmt: skip
    assert done.returncode == 1 and b"error[E01" in done.stderr


def test_compile_does_not_overwrite_its_spec(capsys):
    name = spec(GOOD)
    assert main(["compile", name, "-o", os.path.join(".", name)]) == 2
    assert Path(name).read_text() == GOOD and "is the spec itself" in capsys.readouterr().err


def test_fmt_writes_in_place_and_is_idempotent(capsys):
    name = spec(GOOD.replace("h[t-1] + x", "h[t-1]+x"))
    os.chmod(name, 0o640)
    before = Path(name).read_text()
    assert main(["fmt", "--check", name]) == 1 and Path(name).read_text() == before
    assert capsys.readouterr().out == "x.rec: would change\n"
    assert main(["fmt", "--diff", name]) == 0 and Path(name).read_text() == before
    assert "+h[t] = h[t-1] + x" in capsys.readouterr().out
    assert main(["fmt", name]) == 0 and "h[t-1] + x" in Path(name).read_text()
    assert stat.S_IMODE(os.stat(name).st_mode) == 0o640
    assert capsys.readouterr().out == "x.rec: formatted\n"
    assert main(["fmt", name]) == 0 and main(["fmt", "--check", name]) == 0
    assert capsys.readouterr().out == "" and os.listdir() == [name]


def test_fmt_leaves_a_bad_spec_alone(capsys):
    name = spec("recurrence x\nh[t] = (\n")
    assert main(["fmt", name, spec(GOOD, "good.rec")]) == 1
    assert Path(name).read_text() == "recurrence x\nh[t] = (\n" and "error[E01" in capsys.readouterr().err


def test_fmt_writes_through_a_link():
    name = spec(GOOD.replace("h[t-1] + x", "h[t-1]+x"))
    os.symlink(name, "link.rec")
    assert main(["fmt", "link.rec"]) == 0
    assert os.path.islink("link.rec") and "h[t-1] + x" in Path(name).read_text()


@pytest.mark.parametrize("name", library.names())
def test_specs_that_ship_are_right_and_formatted(name, capsys):
    assert main(["check", name]) == 0
    assert capsys.readouterr().err == ""
    assert main(["fmt", "--check", name]) == 0


def test_new_writes_a_spec_that_passes_and_never_overwrites(capsys):
    assert main(["new", "my_rnn"]) == 0
    text = Path("my_rnn.rec").read_text()
    assert main(["check", "my_rnn.rec"]) == 0 and main(["fmt", "--check", "my_rnn.rec"]) == 0
    assert main(["verify", "my_rnn.rec", "--quick"]) == 0
    assert main(["new", "my_rnn"]) == 2 and main(["new", "my_rnn.rec"]) == 2
    assert Path("my_rnn.rec").read_text() == text and "exists already" in capsys.readouterr().err


# --- explain, compile, list ---------------------------------------------------------------------------------


def test_explain_tells_the_derivation(capsys):
    assert main(["explain", "gated_delta_net"]) == 0
    out = capsys.readouterr().out
    assert all(part in out for part in ("hoisted", "sunk", "rank 1 over K", "chunk", "scan refused"))


def test_explain_json_is_the_stable_view(capsys):
    assert main(["explain", "gated_delta_net", "--json"]) == 0
    view = json.loads(capsys.readouterr().out)
    assert {"recurrence", "components", "hoisted", "sunk"} <= set(view)
    (part,) = view["components"]
    assert part["states"] == ["S"] and part["rank"] == 1 and part["mixing_axis"] == "K" and part["strategy"] == "chunk"
    assert part["class"] == "affine" and part["reasons"]


def test_explain_a_code(capsys):
    assert main(["explain", "e0402"]) == 0
    assert "E0402" in capsys.readouterr().out


def test_refused_strategy_is_a_diagnostic(capsys):
    assert main(["explain", "gru", "--strategy", "chunk"]) == 1
    err = capsys.readouterr().err
    assert "error[E0501]: strategy `chunk`" in err and "gru.rec:" in err and "help:" in err


def test_several_recurrences_in_a_file(capsys):
    both = spec(GOOD + "\n" + GOOD.replace("good", "other"))
    assert main(["compile", both]) == 2
    assert "pick one with `--recurrence NAME`" in capsys.readouterr().err
    assert main(["compile", both, "--recurrence", "other", "-o", "o.py"]) == 0
    assert main(["explain", both]) == 0
    assert {"good", "other"} <= set(capsys.readouterr().out.split())


STAGES = {"ast": "Block", "ir": "S[t] <- ", "plan": '"components"', "torch": "import torch"}


@pytest.mark.parametrize("stage, sign", STAGES.items())
def test_compile_emits_stages(stage, sign, capsys):
    assert main(["compile", "gla", "--emit", stage]) == 0
    assert sign in capsys.readouterr().out


def test_compile_writes_a_file_that_stands_alone():
    assert main(["compile", "gla", "-o", "gla.py"]) == 0
    script = "import sys; sys.modules['recc'] = None; import torch, gla; q = torch.ones(1, 3, 2, 4); "
    script += "o = gla.gla(q, q, torch.ones(1, 3, 2, 5), -q); assert o.shape == (1, 3, 2, 5)"
    done = python("-c", script)
    assert done.returncode == 0, done.stderr


def test_compile_takes_under_two_seconds():
    times = []
    for _ in range(3):
        began = time.perf_counter()
        assert run("compile", "gla", "-o", "gla.py").returncode == 0
        times.append(time.perf_counter() - began)
    assert min(times) < 2, times


def test_list(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:]] == library.names()
    assert main(["list", "--json"]) == 0
    rows = {row["spec"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["gla"]["strategy"] == "chunk" and rows["gru"]["parallel"] is False
    found = {row["strategy"] for row in rows.values() if row["parallel"] and row["class"].startswith("nonlinear")}
    assert found == {"wavefront"}


# --- verify ---------------------------------------------------------------------------------------------------


def test_verify_prints_a_table(capsys):
    assert main(["verify", "simple_gla", "--case", "T=17"]) == 0
    out = capsys.readouterr().out
    assert "chunk" in out and "all within their limits" in out
    assert main(["verify", "simple_gla", "gru", "--case", "T=17 plain"]) == 0
    assert capsys.readouterr().out.endswith("2 of 2 verified\n")


def test_verify_fails_with_one_line_that_repeats_it(monkeypatch, capsys):
    from recc.runtime import verify

    row = verify.Row("chunk", "gradient q", "float32", "T=17 float32 plain", 1.0, 1e-6)
    report = verify.Report("gla", "gla", [row])
    monkeypatch.setattr(verify, "verify", lambda *args, **options: report)
    assert main(["verify", "gla"]) == 1
    out, err = capsys.readouterr()
    assert "FAILED" in out and "error[E0701]" in err
    assert 'recc verify gla --strategy chunk --case "T=17 float32 plain"' in err
    assert main(["verify", "--json", "gla"]) == 1
    (view,) = json.loads(capsys.readouterr().out)
    assert view["ok"] is False and view["rows"][0]["error"] == 1.0


@pytest.mark.parametrize("args", [[], ["--all", "gla"], ["gla", "--case", "zzz"], ["gla", "--strategy", "zzz"]])
def test_verify_usage(args, capsys):
    assert main(["verify", *args]) == 2


# --- names --------------------------------------------------------------------------------------------------


def test_names_and_paths():
    spec(GOOD, "gla.rec")
    assert library.find("gla")[1].endswith(os.path.join("specs", "gla.rec"))  # a name never means a file beside
    assert library.find("gla.rec") == (GOOD, "gla.rec")
    assert library.find("./gla.rec")[0] == GOOD
    with pytest.raises(library.SpecNotFound, match="did you mean `mamba2`"):
        library.find("mamba_2")
    with pytest.raises(LookupError, match="no spec is called"):
        recc.load("zzzzzz")
