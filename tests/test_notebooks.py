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


# A net of Keras' own takes as long as all others together. What it calls is what `test_tasks` and `quickstart` call.
LONG = ("mobilenetv3",)
RUN = [pytest.param(path, marks=pytest.mark.slow if path.stem in LONG else ()) for path in NOTEBOOKS]


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
