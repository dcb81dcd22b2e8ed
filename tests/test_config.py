"""Every key is checked before work starts, and every message says what to type instead."""

import pathlib

import pytest
import yaml

import tf_reweight as tfr
from tf_reweight.workflow import config, strict_yaml

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_named_after_their_file(path):
    assert config.load(path).name == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_resolved_yaml_reads_back_equal(path):
    resolved = config.load(path)
    assert config.load(yaml.safe_load(resolved.to_yaml())) == resolved


def test_a_key_that_comes_twice_is_an_error_and_not_the_last_of_the_two(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("train: {epochs: 1}\nseed: 2\ntrain: {epochs: 9}\n")
    with pytest.raises(ValueError, match="the key 'train' comes twice") as caught:
        config.load(path)
    assert "line 3" in str(caught.value) and "Received: config=" in str(caught.value)
    with pytest.raises(ValueError, match="'epochs' comes twice"):
        config.load({}, ["train={epochs: 1, epochs: 2}"])
    path.write_text("train: &base {epochs: 1, learning_rate: 0.1}\nretrain: {<<: *base, epochs: 3}\n")
    assert config.load(path).retrain.model_dump() == {"epochs": 3, "learning_rate": 0.1}


@pytest.mark.parametrize("text", ["x: " + "[" * 3000, "x: {" * 3000])
def test_yaml_that_is_nested_too_deep_says_which_file(tmp_path, text):
    path = tmp_path / "deep.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="must be readable YAML.*deep.yaml"):
        config.load(path)


def test_a_digit_that_is_no_number_is_no_place_in_a_list():
    with pytest.raises(ValueError, match="rules"):
        config.load({}, ["regularize.rules.²=1"])


def test_overrides_reach_sections_lists_and_numbers_yaml_reads_as_text():
    resolved = config.load(
        {"name": "a"}, ["train.epochs=3", "regularize.rules.0.strength=1e-3", "data.name=mnist", "export.precisions=[int8]"]
    )
    assert config.load({"regularize": {"rules": [{"price": "1e-1"}]}}).regularize.rules[0].price == 0.1
    assert resolved.train.epochs == 3 and resolved.data.name == "mnist"
    assert resolved.export.precisions == ["int8"]
    assert resolved.regularize.rules[0].strength == 1e-3 and resolved.regularize.rules[0].structure == "unstructured"


@pytest.mark.parametrize(
    "values, words",
    [
        ({"trian": {}}, "Did you mean 'train'"),
        ({"train": {"epoch": 3}}, "Did you mean 'train.epochs'"),
        ({"regularize": {"rules": [{"strenght": 1}]}}, "Did you mean 'regularize.rules.0.strength'"),
        ({"train": {"epochs": -1}}, "greater than or equal to 0"),
        ({"train": {"epochs": "many"}}, "`train.epochs`"),
        ({"train": {"learning_rate": 0}}, "greater than 0"),
        ({"train": {"learning_rate": float("inf")}}, "finite number"),
        ({"regularize": {"coupled": {"strength": float("inf")}}}, "finite number"),
        ({"train": {"class_weight": {0: float("nan")}}}, "finite number"),
        ({"train": {"class_weight": {0: -1.0}}}, "at least 0"),
        ({"seed": 2**32}, "at most 4,294,967,295"),
        ({"name": ".."}, "pattern"),
        ({"name": "x" * 300}, "at most 200"),
        ({"prune": {"budget": {"bytes": 10, "precision": "int7"}}}, "'int8'"),
        ({"prune": {"budget": {"bytes": 10, "precision": ["int8"]}}}, "`precision` must be a name"),
        ({"prune": {"budget": {"bytes": 0.5, "calibration": {"bytes": 3}}}}, "Leave it out"),
        ({"regularize": {"rules": []}}, "at least 1 item"),
        ({"regularize": {"rules": [{"structure": "filtr"}]}}, "Did you mean 'filter'"),
        ({"regularize": {"penalty": {"name": "log_sum", "epsilon": -1}}}, "`epsilon` must be a finite number > 0"),
        ({"prune": {"sparsity": 80}}, "less than 1"),
        ({"prune": {"sparsity": 0.5, "threshold": 0.1}}, "pass one of"),
        ({"prune": {"macs": 0.5}}, "prune.macs needs regularize.coupled"),
        ({"regularize": {"growth": 1.5}}, "regularize.method.growth needs `stages` in which `regularize` comes again"),
        ({"regularize": {"growth": 0.5}}, "`growth` must be a finite number >= 1"),
        ({"regularize": {"epsilon": [0.2]}}, "`regularize.method` in the configuration: `epsilon` must be one number, or two"),
        ({"regularize": {"penalty": 3}}, "`regularize.method` in the configuration: `penalty` must be a name"),
        ({"prune": {"threshold": 0.5}, "regularize": {"coupled": {}}}, "prune.threshold is for single kernels"),
        ({"regularize": {"coupled": {"relative": True}, "penalty": "lasso"}}, "`coupled.relative` needs a penalty"),
        ({"export": {"precisions": ["int7"]}}, "'int8'"),
        ({"export": {"precisions": ["float32"], "tolerance": 1e-9}}, "must be at least 6e-08 for float32 files"),
        ({"export": {"tolerance": 1e-5}}, "must be at least 0.0001 for int8 files: rounding alone"),
        ({"data": {"validation": 0}}, "greater than 0"),
        ({"name": "no/slashes"}, "pattern"),
        ({"regularize": {"rules": [{"price": "sise"}]}}, "Did you mean 'size'"),
        ({"regularize": {"rules": [{"price": -1}]}}, "`price` must be a finite number > 0"),
        ({"quantize": {"weight_bits": {"conv*": 3.5}}}, "`weight_bits` must be an int in 2..16"),
    ],
)
def test_bad_values_are_explained(values, words):
    with pytest.raises(ValueError, match="Received: ") as raised:
        config.load(values)
    assert words in str(raised.value) and str(raised.value).count("Received: ") == 1
    assert "constrained" not in str(raised.value) and "literal[" not in str(raised.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(ValueError) as raised:
        config.load({"trian": {}, "train": {"epochs": -1}})
    assert "trian" in str(raised.value) and "train.epochs" in str(raised.value)


@pytest.mark.parametrize(
    "text, words",
    [
        (f"seed: {'9' * 5000}", r"`seed` has a value that cannot be read, 9{60}\.\.\. \(5,000 characters\); ValueError: "),
        (f"train: {{epochs: -{'9' * 5000}}}", "`train.epochs` has a value that cannot be read, -9"),
        (f"regularize: {{rules: [{{}}, {{strength: {'9' * 5000}}}]}}", "`regularize.rules.1.strength` has a value that"),
        (f"? {'9' * 5000}\n: 1", "`9{60}` has a value that cannot be read"),
        ("seed: 2024-13-45", "`seed` has a value that cannot be read, 2024-13-45; ValueError: month"),
        ("seed: !!bool x", "`seed` has a value that cannot be read, x; KeyError"),
        ("seed: !!timestamp x", "`seed` has a value that cannot be read, x; AttributeError"),
        (f"train: {{epochs: 0x{'f' * 5000}}}", "`train.epochs` in .*Received: epochs=a number of too many digits to show"),
    ],
)
def test_a_value_that_python_cannot_read_is_told_with_the_file_and_the_key(text, words, tmp_path):
    """What Python says of it came out as it was."""
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"(?s)a.yaml.*{words}|{words}.*a.yaml|`train.epochs` in .*a.yaml.*show") as caught:
        config.load(tmp_path / "a.yaml")
    assert str(caught.value).count("Received: ") == 1
    with pytest.raises(ValueError, match="`--set` takes a YAML value; the parser says: .*cannot be read.*Received: set="):
        config.load({}, ["seed=" + "9" * 5000])


@pytest.mark.parametrize(
    "text, words",
    [
        ("train:\n\tepochs: 3", r"cannot start any token in line 2, column 1. Received: config=.*Mend that line"),
        ("train:\n  epochs: 3\n ? [a, b]\n", "parser says: .*in line 3, column"),
        ("train:\n  <<: 3", "parser says: .* in line 2, column"),
    ],
)
def test_what_no_parser_can_read_is_named_with_its_place_in_a_line(text, words, tmp_path):
    """"While scanning for the next token" was all that came of it."""
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=words) as raised:
        config.load(tmp_path / "a.yaml")
    assert "\n" not in str(raised.value)


def test_a_mistyped_model_is_not_asked_for_data(tmp_path):
    with pytest.raises(ValueError, match="known model.*Did you mean 'lenet5'"):
        tfr.compress({"model": {"name": "lenet"}}, out=tmp_path / "run")


@pytest.mark.parametrize("text, words", [("a: [", "readable YAML"), ("- 1\n- 2", "hold a mapping"), ("", "hold a mapping")])
def test_bad_files_are_explained(text, words, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        config.load(path)


def test_missing_file_and_bad_override_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be an existing YAML file"):
        config.load(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="key=value"):
        config.load({}, ["train.epochs"])


@pytest.mark.parametrize("text, taken", [("1:30", 90), ("010", 8), ("-1:30", -90), ("00", 0)])
def test_whole_numbers_that_yaml_reads_in_another_base_are_refused(text, taken):
    with pytest.raises(yaml.YAMLError, match=f"`train.epochs` has a value .*, {text}; YAML 1.1 takes it for {taken}: write a"):
        strict_yaml.load(f"train: {{epochs: {text}}}")
    assert strict_yaml.load("[0, 10, 0x10, '010', 1_000]") == [0, 10, 16, "010", 1000]


UNSPACED = [("{sparsity:0.5}", "sparsity: 0.5"), ("{a: 1, epochs:3}", "epochs: 3"), ("{c*:4}", "c*: 4")]


@pytest.mark.parametrize("text, meant", UNSPACED)
def test_a_key_without_a_space_behind_its_colon_is_told_what_yaml_wants(text, meant, tmp_path):
    """It was an unknown key 'sparsity:0.5'."""
    (tmp_path / "a.yaml").write_text(f"prune: {text}\n")
    for read in (lambda: config.load({}, [f"prune={text}"]), lambda: config.load(tmp_path / "a.yaml")):
        with pytest.raises(ValueError) as raised:
            read()
        assert f"a space after the colon: `{meant}`" in str(raised.value) and str(raised.value).count("Received: ") == 1
    with pytest.raises(ValueError, match="`train` in --set: .*Received: train='epochs:3'. YAML wants a space after the colon"):
        config.load({}, ["train=epochs:3"])
    assert config.load({}, ["quantize.weight_bits={'a:b':4}", "data.name=a.py:load"]).quantize.weight_bits == {"a:b": 4}
