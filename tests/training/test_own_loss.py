"""A loss of one's own by command: trained, resumed and searched like the others; never called from a record."""

import importlib
import sys
import textwrap

import pytest

from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.runs.run_record import recorded_config
from skd_tf.runtime import user_code
from skd_tf.search.plan import Plan
from skd_tf.training import dry_run, no_effect
from tests.helpers.runs import SMALL, numbers, train

CODE = """
    import skd_tf
    from skd_tf.losses.terms import distill_term, label_term, logit_pair

    open("imported", "a").write("x")

    def like_kd(student_logits, teacher_logits, labels, *, temperature, share=1.0):
        if teacher_logits is None:
            return {"label": label_term(student_logits, labels)}
        student, teacher = logit_pair(student_logits, teacher_logits)
        return {"label": label_term(student, labels), "distill": share * distill_term(student, teacher, temperature)}

    def two_terms(student_logits, teacher_logits, labels):
        student, teacher = logit_pair(student_logits, teacher_logits)
        return {"label": label_term(student, labels), "distill": distill_term(student, teacher, 1.0)}

    def forgets(student_logits, teacher_logits, labels):
        student, teacher = logit_pair(student_logits, teacher_logits)
        return {"label": label_term(student, labels)}

    def needs_more(student_logits, teacher_logits, labels, power):
        return {}

    def number(student_logits, teacher_logits, labels):
        return label_term(student_logits, labels)

    def fails(student_logits, teacher_logits, labels):
        return {"label": student_logits @ teacher_logits}

    def narrow(student_logits, labels):
        return {}
"""
SETTINGS = SMALL | {"epochs": 2, "report": False, "calibrate": "none"}


@pytest.fixture(autouse=True)
def my_loss(tmp_path, monkeypatch):
    (tmp_path / "my_loss.py").write_text(textwrap.dedent(CODE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_loss", raising=False)


def same_numbers(first, second):
    """Up to rounding: TensorFlow rewrites graphs, which differ by a factor of 1."""
    for one, other in zip(numbers(first), numbers(second), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_it_trains_as_the_built_in_loss_that_it_repeats(tmp_path, digits_teacher):
    base = SETTINGS | {"teacher_checkpoint": str(digits_teacher), "temperature": 3.0}
    train(tmp_path / "kd", base, loss="kd")
    result = train(tmp_path / "own", base, loss="my_loss:like_kd", loss_settings="share=1")
    same_numbers(tmp_path / "own", tmp_path / "kd")
    assert result["config"]["loss"] == "my_loss:like_kd" and result["radius"] is None
    half = train(tmp_path / "half", base, loss="my_loss:like_kd", loss_settings="share=0.5")
    assert half["student"]["nll"] != result["student"]["nll"]
    assert recorded_config(tmp_path / "own").loss == "my_loss:like_kd"
    (tmp_path / "own" / "result.json").unlink()
    assert (
        train(tmp_path / "own", base, loss="my_loss:like_kd", loss_settings="share=1")["student"] == result["student"]
    )


@pytest.mark.slow
def test_without_a_teacher_it_trains_alone(tmp_path, capsys):
    train(tmp_path / "plain", SETTINGS, loss="cross_entropy")
    result = train(tmp_path / "own", SETTINGS, loss="my_loss:like_kd")
    same_numbers(tmp_path / "own", tmp_path / "plain")
    # A resumed run notices other code, and no other layout.
    module, own = tmp_path / "my_loss.py", SETTINGS | {"loss": "my_loss:like_kd"}
    module.write_text(module.read_text().replace("label_term(student, labels)", "3 * label_term(student, labels)"))
    del sys.modules["my_loss"]
    assert train(tmp_path / "own", own)["student"] == result["student"]
    assert "warning: The code of --loss=my_loss:like_kd has changed since this run" in capsys.readouterr().err
    aside = module.rename(tmp_path / "aside.py")  # a module that is gone does not matter to a finished run
    del sys.modules["my_loss"]
    assert train(tmp_path / "own", own)["student"] == result["student"]
    module = aside.rename(module)
    module.write_text(module.read_text().replace("3 * label_term", "label_term"))
    (tmp_path / "own" / "result.json").unlink()
    for old, new in (("label_term(student, labels)", "2 * label_term(student, labels)"), ("2 * label", "label")):
        module.write_text(module.read_text().replace(old, new) + "# more\n")
        sys.modules.pop("my_loss", None)
        if new.startswith("2"):
            with pytest.raises(InputError, match=r"code of the loss has changed.*--loss=my_loss:like_kd"):
                train(tmp_path / "own", own)
    assert train(tmp_path / "own", own)["student"] == result["student"]


def test_a_loss_that_needs_the_teacher_is_refused_without_one(tmp_path):
    for name in ("two_terms", "forgets"):
        with pytest.raises(InputError, match=r"fails without a teacher.*--teacher_checkpoint"):
            train(tmp_path / "own", SETTINGS, loss=f"my_loss:{name}")


def test_a_fingerprint_is_of_the_function_and_what_it_uses(tmp_path):
    code = "SCALE = 2\ndef helper(x):\n    return x * SCALE\ndef used(x):\n    return helper(x)\ndef other(x):\n    return x\n"

    def fingerprint(text):
        (tmp_path / "printed.py").write_text(text)
        sys.modules.pop("printed", None)
        return user_code.fingerprint("printed:used")

    first = fingerprint(code)
    for old, new, same in (
        ("return helper(x)", "return (helper(x))  # as before", True),
        ("def other(x):\n    return x", "def other(x):\n    return -x", True),
        ("SCALE = 2", "SCALE = 3", False),
        ("return x * SCALE", "return x + SCALE", False),
        ("return helper(x)", "return -helper(x)", False),
        ("SCALE = 2\n", "SCALE = 2\nOTHER = [1]\nOTHER[0] = 2\n", True),
    ):
        assert (fingerprint(code.replace(old, new)) == first) == same, new
    assert user_code.fingerprint("builtins:len") == ""
    made = "import functools\ndef make(scale):\n    def inner(x):\n        return x * scale\n    return inner\n"
    for kind in ("make(2.0)", "lambda x: 2.0 * x", "functools.partial(make, 2.0)"):
        one, other = (fingerprint(f"{made}used = {text}\n") for text in (kind, kind.replace("2.0", "3.0")))
        assert one and other and one != other, kind
    table = "T = {}\nL = []\nT['t'] = 4\nL.append(1)\ndef used(x):\n    return x * T['t'] * L[0]\n"
    changes = ("= 4", "= 8"), ("append(1)", "append(2)"), ("L.append(1)", "for i in (1,):\n    L.append(i)")
    idle = "import random\nrandom.seed(0)\nprint(random.random())\nif __name__ == '__main__':\n    L.append(2)\n"
    assert fingerprint(table + idle) == fingerprint(table)
    assert len({fingerprint(text) for text in (table, *(table.replace(*change) for change in changes))}) == 4
    for name in ("edited", "twin"):
        (tmp_path / f"{name}.py").write_text("def used(student_logits, teacher_logits, labels):\n    return 1\n")
    user_code.resolve("edited:used", "loss")
    imported = user_code.fingerprint("twin:used")  # of the same code
    (tmp_path / "edited.py").write_text("def used(student_logits, teacher_logits, labels):\n    return 2\n")
    assert user_code.fingerprint("edited:used") == imported  # the code that is in use
    used = sys.modules["edited"].used
    used.__code__ = (lambda student_logits, teacher_logits, labels: 2).__code__  # as IPython's autoreload
    assert user_code.fingerprint("edited:used") != imported
    importlib.reload(sys.modules["edited"])
    assert user_code.fingerprint("edited:used") != imported
    found = set()
    for number in (1, 2):  # the function of another module
        (tmp_path / "elsewhere.py").write_text(f"def used(x):\n    return {number} * x\n")
        sys.modules.pop("elsewhere", None)
        found.add(fingerprint("from elsewhere import used\n"))
    assert len(found) == 2


def test_what_is_wrong_with_it_is_found_before_anything_is_written(tmp_path):
    for settings, words in (
        ({"loss": "my_loss:nothing"}, "no such function"),
        ({"loss": "no_module:f"}, "no module no_module"),
        ({"loss": "my_loss:narrow"}, "takes other arguments"),
        ({"loss": "my_loss:needs_more"}, "needs settings that are not given. Expected power"),
        ({"loss": "my_loss:like_kd", "loss_settings": "shore=1"}, "does not have all of these settings"),
        ({"loss": "my_loss:like_kd", "loss_settings": "Share=1"}, "does not have all of these settings.*Share"),
        ({"loss": "focall"}, "is not a loss"),
    ):
        with pytest.raises(InputError, match=words):
            train(tmp_path / "run", SETTINGS, **settings)
        assert not (tmp_path / "run").exists()


def test_a_dry_run_and_a_record_do_not_run_it(tmp_path):
    config = Config(**SETTINGS | {"loss": "my_loss:like_kd"})
    assert "my_loss:like_kd" in dry_run.describe(config)
    assert Config.from_json(config.to_json()) == config
    assert not (tmp_path / "imported").exists()


def test_a_search_compares_it_with_others(tmp_path, digits_teacher):
    base = SETTINGS | {"teacher_checkpoint": str(digits_teacher)}
    plan = Plan(Config(**base), ("loss:choice:kd,my_loss:like_kd", "temperature:choice:2,4"), tuner="grid")
    assert plan.trials == 4 and plan.shared.needs_teacher
    assert plan.config_of({"loss": "my_loss:like_kd", "temperature": 2.0}).loss == "my_loss:like_kd"


def test_what_it_returns_and_what_it_does_not_take(digits_teacher, tmp_path):
    for name, received in (("number", "a tensor"), ("needs_more", "none")):
        settings = SETTINGS | {"loss": f"my_loss:{name}", "loss_settings": "power=2" * (name == "needs_more")}
        with pytest.raises(InputError, match=rf"a dict with the keys distill, label\. Received {received}\."):
            train(tmp_path / name, settings, teacher_checkpoint=str(digits_teacher))
    with pytest.raises(
        InputError, match=r"raises an error.*line \d+: return {\"label\": student_logits @ teacher_logits}"
    ):
        train(tmp_path / "fails", SETTINGS, loss="my_loss:fails", teacher="cnn_2")
    assert not (tmp_path / "fails" / "teacher").exists()
    config = Config(loss="my_loss:like_kd", temperature=2.0, radius="3")
    assert no_effect.lines(config, {"temperature"}) == ["--radius=3.0 has no effect with --loss=my_loss:like_kd"]
