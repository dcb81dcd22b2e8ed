"""Measured points that make a curve: what files have for so much that is left."""


def rising(points):
    """Two lists, what is left and what files have of it, both rising, the dense file last; points in the way are left out.

    Args:
        points: pairs `(left, has)`, at least one.
    """
    (at, has), *others = sorted(points, reverse=True)
    kept = [(float(at), float(has))]
    for at, has in others:
        if has < kept[-1][1] and at < kept[-1][0] * (1 - 1e-6):
            kept.append((float(at), float(has)))
    return [list(axis) for axis in zip(*reversed(kept))]
