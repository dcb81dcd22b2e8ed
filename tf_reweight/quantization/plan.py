"""Where a model's tensors are rounded: decided on its graph before anything is built."""

import dataclasses

import keras

from tf_reweight.graph.access import nodes_in_order, operation_of
from tf_reweight.quantization import rules


@dataclasses.dataclass(frozen=True, eq=False)
class Join:
    """An operation that wants its inputs and its output in one range, where that is no loss.

    Also one that keeps channels apart behind such an operation, with a range of its own: nothing is `compared` then, and it
    stays float where the one before does, since in one range again small channels would be lost after all.

    Attributes:
        inputs: sites of its inputs.
        output: site of its output.
        compared: the sites of which none may be much narrower than the widest of all.
        limit: how much wider the widest may be.
    """

    inputs: tuple
    output: "Site"
    compared: tuple
    limit: float

    def places(self):
        """The same in plain numbers, for the layer that rounds at all of these sites."""
        group = self.output.group
        numbers = [[group.index(site) for site in sites] for sites in (self.inputs, (self.output,), self.compared)]
        return [numbers[0], numbers[1][0], numbers[2], self.limit]


@dataclasses.dataclass(eq=False)
class Site:
    """A place where numbers are rounded.

    Attributes:
        name: of the operation that makes them.
        fixed_range: the range, when integer files prescribe it.
        group: the sites that share one range, this one included; the same list for all of them.
    """

    name: str
    fixed_range: tuple | None = None
    group: list = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.group.append(self)

    def join(self, other):
        """Makes both sites, and all that share a range with them, share one."""
        if other.group is self.group:
            return
        self.group += other.group
        for site in other.group:
            site.group = self.group


class Plan:
    """Sites and rules of a graph without nested models.

    Args:
        graph: a functional model, from `graph.walking.graph_of`.
        chosen: function `layer -> bool`, of the kernel layers that the user wants rounded.
        fine: whether activations have so many bits that one range does for all inputs of a join.

    Attributes:
        sites: mapping of a tensor's id to the `Site` at which it is rounded.
        entries: mapping of `(node id, tensor id)` to the `Site` at which an operation that wants its inputs in one range rounds
            an input that has none here or is bound to another.
        rules: mapping of a node's id to `(rule, reason)`.
        joins: the `Join`s, in the order of the graph.
    """

    def __init__(self, graph, chosen, fine=False):
        self.sites, self.entries, self.rules, self.joins = {}, {}, {}, []
        nodes = nodes_in_order(graph)
        self._readers = _readers(graph, nodes)
        self._makers = {id(tensor): node for node in nodes for tensor in node.outputs}
        for node in nodes:
            operation = node.operation
            rule = rules.rule_of(operation)
            out = rule[0] == rules.KERNEL and not chosen(operation)
            self.rules[id(node)] = (None, "left out by `layers`") if out else rule
            if rule[0] == rules.CLAMP and self._follows_move(node):
                # The file computes the relu inside the pooling, on the one grid it has.
                self.rules[id(node)] = (rules.AVERAGE, None)
            if isinstance(operation, rules.POOLS) and len(self._readers[id(node.outputs[0])]) > 1:
                # The converter pulls the grid through for one reader, and leaves several of them in float.
                self.rules[id(node)] = (rules.AVERAGE, None)
        for node in nodes:
            self._place(node)
        for node in nodes:
            # Integers, as indices that are joined, are on no grid.
            if self.rules[id(node)][0] == rules.JOINED and is_float(node.outputs[0]):
                self._share(node)
            elif not fine and rules.keeps_channels(node.operation, self.rules[id(node)][0]):
                self._follow(node)

    def feeds_kernel(self, tensor):
        """Whether a kernel reads the tensor, at once or behind operations that only move numbers."""
        for node in self._readers[id(tensor)]:
            rule = None if node is None else self.rules[id(node)][0]
            if rule == rules.KERNEL or rule in rules.MOVES and self.feeds_kernel(node.outputs[0]):
                return True
        return False

    def joins_of(self, group):
        """The joins whose inputs and outputs are in a group of sites."""
        return [join for join in self.joins if join.output in group]

    def _place(self, node):
        rule = self.rules[id(node)][0]
        if rule is None or rule in rules.MOVES or not is_float(node.outputs[0]):
            return
        if rules.takes_clamp(node.operation) and self._clamped(node.outputs[0]):
            return
        self.sites[id(node.outputs[0])] = Site(node.operation.name, rule if isinstance(rule, tuple) else None)

    def _clamped(self, tensor):
        """Whether a relu is all that reads the tensor: both become one operation of the file."""
        readers = self._readers[id(tensor)]
        if len(readers) != 1 or readers[0] is None:
            return False
        rule = self.rules[id(readers[0])][0]
        return rule == rules.CLAMP or rule == rules.ABSENT and self._clamped(readers[0].outputs[0])

    def _follows_move(self, node):
        """Whether the file has an operation before that stays on its input's grid."""
        while True:
            node = self._makers.get(id(node.input_tensors[0]))
            rule = None if node is None else self.rules[id(node)][0]
            if rule != rules.ABSENT:
                return rule in rules.MOVES

    def _reaches_output(self, tensor):
        """Whether the tensor is an output of the model, or its channels are, computed on one by one at most."""
        for node in self._readers[id(tensor)]:
            rule = None if node is None else self.rules[id(node)][0]
            passes = rule in (*rules.MOVES, rules.RANGED, rules.JOINED, rules.CLAMP)
            if node is None or passes and self._reaches_output(node.outputs[0]):
                return True
        return False

    def _share(self, node):
        inputs, output = [], self.sites[id(node.outputs[0])]
        for tensor in node.input_tensors:
            source = self.source(tensor)
            if source is None:
                source = self.entries[id(node), id(tensor)] = Site(operation_of(tensor).name)
            # A sigmoid's output, whose range the file prescribes, is converted to the common one there.
            source.fixed_range = None
            output.join(source)
            inputs.append(source)
        limit = rules.LIMIT_AT_OUTPUT if self._reaches_output(node.outputs[0]) else rules.LIMIT_INSIDE
        compared = (output,) if rules.chooses(node.operation) else tuple(inputs)
        self.joins.append(Join(tuple(inputs), output, compared, limit))

    def _follow(self, node):
        """Lets an operation stay float where a join that it reads from does."""
        output = self.sites.get(id(node.outputs[0]))
        joined = {id(join.output) for join in self.joins}
        sources = dict.fromkeys(self.source(tensor) for tensor in node.input_tensors)
        read = [source for source in sources if id(source) in joined]
        if output is None or not read:
            return
        for source in read:
            source.join(output)
        self.joins.append(Join(tuple(read), output, (), rules.NO_LIMIT))

    def source(self, tensor):
        """The site whose grid the tensor is on, if any; back through operations that only move numbers."""
        while id(tensor) not in self.sites:
            node = self._makers.get(id(tensor))
            if node is None or self.rules[id(node)][0] not in rules.MOVES:
                return None
            tensor = node.input_tensors[0]
        return self.sites[id(tensor)]


def _readers(graph, nodes):
    # Inputs too: they may be outputs as well, or read by nobody.
    readers = {id(tensor): [] for tensor in keras.tree.flatten(graph.inputs)}
    readers |= {id(tensor): [] for node in nodes for tensor in node.outputs}
    for node in nodes:
        for tensor in node.input_tensors:
            readers[id(tensor)].append(node)
    for tensor in keras.tree.flatten(graph.outputs):
        readers[id(tensor)].append(None)
    return readers


def is_float(tensor):
    """Whether a tensor holds real numbers."""
    return "float" in keras.backend.standardize_dtype(tensor.dtype)
