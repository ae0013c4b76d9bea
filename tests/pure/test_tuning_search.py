"""The search of `recc tune`, on a clock of the tests' own, and what it searches."""

from __future__ import annotations

from recc.backends.c import build
from recc.backends.c.options import ALONE
from tuned_spec import small

from recc.tuning import measure
from recc.tuning.search import Search, name_of
from recc.tuning.space import CpuSpace, GpuSpace


class Fake:
    """A clock on which calls take what they say, and the forms of a search by their times."""

    def __init__(self, times, wrong=(), broken=(), stop=None):
        self.times, self.wrong, self.broken, self.stop = times, wrong, broken, stop
        self.clock, self.made = 0.0, []

    def now(self):
        return self.clock

    def seconds(self, run):
        took = run()
        self.clock += took
        return took

    def starts(self, effort):
        return [{"backend": "f", "n": n} for n in self.times if n < 10]

    def around(self, form, effort):
        return [{"backend": "f", "n": n} for n in self.times if n // 10 == form["n"]]

    def runner(self, form):
        n = form["n"]
        if n in self.broken:
            raise RuntimeError("out of resource: shared memory")
        self.made.append(n)
        if n == self.stop:
            raise KeyboardInterrupt
        return lambda: self.times[n]

    def search(self, **options):
        given = {"deadline": 1e9, "effort": "quick"} | options
        return Search(self, self.runner, lambda form: "output o" if form["n"] in self.wrong else "", self, **given)


def test_search_goes_on_around_the_best():
    fake = Fake({1: 3.0, 2: 2.0, 3: 2.5, 21: 2.1, 22: 1.0, 31: 0.1})
    found = fake.search().run()
    assert found.best == {"backend": "f", "n": 22} and found.exhausted
    assert 31 not in fake.made  # near a form that was not the best
    assert found.seconds == 1.0 and found.first_seconds == 3.0


def test_what_is_wrong_is_never_best():
    found = Fake({1: 3.0, 2: 1.0, 3: 2.0}, wrong=(2,)).search().run()
    assert found.best["n"] == 3
    assert [t.why for t in found.trials if t.form["n"] == 2] == ["wrong: output o"]
    assert Fake({1: 3.0}, wrong=(1,)).search().run().best is None


def test_what_does_not_run_is_left_out_with_its_reason():
    found = Fake({1: 3.0, 2: 1.0}, broken=(2,)).search().run()
    assert found.best["n"] == 1
    assert "shared memory" in next(t.why for t in found.trials if t.form["n"] == 2)


def test_what_is_pruned_is_not_built():
    fake = Fake({1: 3.0, 2: 1.0, 3: 2.0})
    found = fake.search(prune=lambda forms: {name_of(f): "spills 96 bytes" for f in forms if f["n"] == 2}).run()
    assert found.best["n"] == 3 and 2 not in fake.made
    assert [t.why for t in found.trials if t.form["n"] == 2] == ["spills 96 bytes"]


def test_a_budget_ends_a_search():
    fake = Fake({n: 4.0 - n / 10 for n in range(1, 10)})
    found = fake.search(deadline=50.0).run()
    assert not found.exhausted and 1 < len(set(fake.made)) < 9 and found.best is not None


def test_ctrl_c_keeps_the_best():
    found = Fake({1: 3.0, 2: 1.0, 3: 0.5, 4: 0.1}, stop=3).search().run()
    assert found.interrupted and found.best["n"] == 2


def test_a_search_goes_on_where_one_was_left(tmp_path):
    times = {1: 3.0, 2: 1.0, 3: 0.5, 4: 0.1}
    first = Fake(times, stop=3).search(journal=tmp_path / "j.tried").run()
    fake = Fake(times)
    found = fake.search(journal=tmp_path / "j.tried").run(resume=first.best)
    assert found.best["n"] == 4 and 1 not in fake.made[:-1]  # 1 only in the last race
    again = Fake(times)
    assert again.search(journal=tmp_path / "j.tried").run(resume=found.best).exhausted
    assert set(again.made) == {4, 1}
    (tmp_path / "j.tried").write_text("half of it")
    assert Fake(times).search(journal=tmp_path / "j.tried").run(resume=found.best).best["n"] == 4


def test_the_same_seed_gives_the_same_order():
    times = {n: 3.0 for n in range(1, 9)}
    orders = []
    for seed in (1, 1, 2):
        fake = Fake(times)
        fake.search(effort="full", seed=seed).run()
        orders.append(fake.made)
    assert orders[0] == orders[1] != orders[2]


def test_spaces_begin_with_the_default():
    from recc.analysis import analyse

    plan = analyse(small())
    forms = CpuSpace(plan).starts("full")
    assert {"backend": "torch", "strategy": "scan", "chunk": 64} not in forms  # the default under another name
    assert {"backend": "torch", "strategy": "scan", "chunk": 128} in forms
    assert len(CpuSpace(plan).starts("quick")) < len(forms)
    if build.find_compiler() is not None:
        assert CpuSpace(plan).starts("quick")[0] == {"backend": "c"}
        near = CpuSpace(plan).around({"backend": "c", "chunk": 8}, "quick")
        assert {"backend": "c"} in near and {"backend": "c", "chunk": 8, "alone": ALONE << 4} in near
        assert all(len(form) <= 3 for form in near) and len(near) == len({str(form) for form in near})
    assert all(form["backend"] == "torch" for form in CpuSpace(plan, "torch").starts("full"))
    assert GpuSpace(plan, "torch").starts("quick") == [{"backend": "torch"}]


def test_rounds_interleave_and_leave_slow_cases_out():
    order = []

    def case(name, seconds):
        def run():
            order.append(name)
            return {"": seconds, ", backward": seconds / 2}

        return run

    times = measure.rounds({"a": case("a", 0.1), "b": case("b", 1.0)}, 4)
    assert order[:4] == ["a", "a", "b", "b"]  # the first of two is not counted
    assert times["a"] == [0.1] * 4 and times["b"] == [1.0, None, None, 1.0]
    assert times["b, backward"] == [0.5, None, None, 0.5]
    assert measure.ratio(times, "b", "a") == 10 and measure.median(times["b"]) == 1.0
    assert measure.spread([1.0, 2.0, None, 3.0]) == (1.5, 2.5)
