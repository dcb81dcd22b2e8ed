"""Every notebook runs from top to bottom on a machine without a network, and is kept with its outputs."""

import ast
import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "colab").glob("*.ipynb"))
# What each has to print: words that stand there only if the work was done.
PRINTED = {
    "quickstart": ("weights are zero", "executed"),
    "own_images": ("pictures", "against a dense int8 file", "model.tflite"),
    "transformer_heads": ("groups of channels", "heads:", "executed"),
    "from_tfmot": ("80.0% of 1,188 weights are zero", "zipped", "executed"),
    "reading_the_report": ("shipped", "agrees", "left out"),
    "mobilenetv3": ("parameters", "quantized_int8.tflite", "shipped"),
}


def printed(notebook):
    return "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))


def test_every_notebook_has_words_to_print():
    assert {path.stem for path in NOTEBOOKS} == set(PRINTED)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_can_be_read_and_is_kept_with_what_it_prints(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code" and not cell.source.lstrip().startswith(("%", "!")):
            ast.parse(cell.source)
            assert cell.execution_count and not [out for out in cell.outputs if out.output_type == "error"]
    for words in PRINTED[path.stem]:
        assert words in printed(notebook), f"the kept outputs of {path.stem} lack {words!r}: run it and save it"


# What makes the training of a notebook short, by what stands there.
SHORTER = {
    "quickstart": {"fit(15, tfr.callbacks": "fit(2, tfr.callbacks", "fit(24,": "fit(4,", "every=6": "every=1"},
    "own_images": {"range(120)": "range(30)", "epochs=30": "epochs=3", '"latency_runs": 10': '"latency_runs": 2'},
    "transformer_heads": {"fit(model, 6,": "fit(model, 1,", "fit(model, 8,": "fit(model, 2,"},
    "from_tfmot": {"epochs=15": "epochs=2", "batch_size, epochs = 64, 8": "batch_size, epochs = 64, 2"},
    "reading_the_report": {
        '"epochs": 8': '"epochs": 2', '"every": 6': '"every": 2', '"epochs": 4': '"epochs": 1',
        '"latency_runs": 20': '"latency_runs": 2',
    },
}  # fmt: skip
# What one shows of attention has tests of its own, which take less long; the other runs as it is.
ON_REQUEST = ("transformer_heads", "from_tfmot")
SHORT = [
    pytest.param(path, marks=pytest.mark.slow if path.stem in ON_REQUEST else ()) for path in NOTEBOOKS if path.stem in SHORTER
]
# Accuracies and zeros that only the whole training reaches.
OF_WHOLE_RUNS = ("assert summary", "assert zeros / total > 0.85")
TWICE = {"fit(15, tfr.callbacks": 2}


@pytest.mark.filterwarnings("ignore:Only .* training steps come before the deadline")
@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.stem)
def test_notebook_runs_and_prints_with_a_short_training(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    source = "\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith(("%", "!", *OF_WHOLE_RUNS)))
    for whole, short in SHORTER[path.stem].items():
        assert source.count(whole) == TWICE.get(whole, 1), whole
        source = source.replace(whole, short)
    exec(compile(source, path.name, "exec"), {"__name__": "__main__"})
    text = capsys.readouterr().out
    for words in PRINTED[path.stem]:
        assert words in text, f"{path.stem} does not print {words!r}"


# Of MobileNetV3, a net of Keras' own, what is called is what `test_tasks` and `quickstart` call. Others run above. The one that
# takes least tells whether a kernel runs them.
RUN = [pytest.param(path, marks=() if path.stem == "from_tfmot" else pytest.mark.slow) for path in NOTEBOOKS]


# The kernel's own event loop, and sockets that jupyter closes late.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_notebook_runs_and_prints(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    # In an empty folder, as in Colab: an earlier run would be gone on with.
    where = {"metadata": {"path": str(tmp_path)}}
    done = nbclient.NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=where).execute()
    for words in PRINTED[path.stem]:
        assert words in printed(done), f"{path.stem} does not print {words!r}"
