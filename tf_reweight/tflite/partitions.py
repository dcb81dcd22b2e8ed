"""Which operations of a loaded file its delegate runs, read from LiteRT's own list of what it is going to run."""

_DELEGATE = "DELEGATE"


def outside_of(runner):
    """`(positions, number of partitions)`: which operations of a `Runner`'s file its delegate leaves to LiteRT.

    LiteRT lists the file's operations, and behind them one for each part that the delegate runs, with what it reads and makes:
    what leads from the one to the other is inside.
    """
    listed = runner.operations
    own = [item for item in listed if item["op_name"] != _DELEGATE]
    parts = [item for item in listed if item["op_name"] == _DELEGATE]
    makers = {int(index): item for item in own for index in item["outputs"]}
    inside = set()
    for part in parts:
        read = {int(index) for index in part["inputs"]}
        waiting = [int(index) for index in part["outputs"]]
        while waiting:
            index = waiting.pop()
            maker = makers.get(index)
            if index not in read and maker is not None and maker["index"] not in inside:
                inside.add(maker["index"])
                waiting.extend(int(index) for index in maker["inputs"])
    return [item["index"] for item in own if item["index"] not in inside], len(parts)
