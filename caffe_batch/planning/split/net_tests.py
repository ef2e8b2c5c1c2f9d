"""The batches of the test nets: small enough beside the train net, covering the test set once.

A test's batches cost memory but change no weight: the score is the mean over test_iter batches
(solver.cpp, Test), so any batch size gives the same score as long as the batches are equal and a
sample's value doesn't depend on the others in its batch. Test batches shrink, down to 1, if that
allows a larger micro-batch; if a score depends on its batch, only if nothing fits otherwise or the
user wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations, groupby
from math import gcd

from caffe_batch.errors import NetError, ShapeError
from caffe_batch.memory.base import MemoryModel
from caffe_batch.net.assumed import fixed_batch
from caffe_batch.net.batch import batch_size
from caffe_batch.net.blob_memory import BlobMemory
from caffe_batch.net.graph import Net
from caffe_batch.net.recipe import Recipe
from caffe_batch.net.samples import Rows, SampleFlow, Summed, follow
from caffe_batch.planning.audit.findings import Cause, Finding, Scope, Verdict
from caffe_batch.planning.edits.changes import Change, inside_solver, layer_changes
from caffe_batch.planning.split.candidates import divisors


@dataclass(frozen=True, slots=True)
class NetTest:
    """The batches of one test net.

    Attributes:
        number: Which test net, in Caffe's order.
        own_size, own_iter: As in the files.
        records: Records of the test set, or None if they can't be counted.
        shared: Whether it reads through the train net's data layer, and so with its batch size.
        leader: The first test net that reads through the same data layers; its own number if no
            other does.
        bound: The layer that makes its scores depend on how many samples a batch has, and why, in
            words; empty if there is none, or no score.
        scored: Whether Caffe runs any batch of it.
    """

    number: int
    own_size: int
    own_iter: int
    records: int | None
    shared: bool
    leader: int
    bound: str = ""
    scored: bool = True

    @property
    def samples(self) -> int:
        """What one test should see: the test set once, or as much as in the files.

        A test without batches sees nothing, and its batch can be of any size.
        """
        if not self.has_batches:
            return self.own_size
        return self.records or self.own_size * self.own_iter

    @property
    def has_batches(self) -> bool:
        """Whether a test runs any batch; with a test_iter of 0 or less Caffe scores nothing."""
        return self.own_iter > 0

    def iter_for(self, size: int) -> int:
        """test_iter for a batch size; the last batch may start the set again."""
        return -(-self.samples // size) if self.has_batches else self.own_iter

    def sizes(self) -> tuple[int, ...]:
        """The batch sizes to choose from, smallest first: from 1 to the files' own.

        These are the divisors of the samples, and the files' own size halved repeatedly; none is
        larger than the samples, as a batch would count some of them more often than others.
        """
        exact = divisors(self.samples)
        halves = [self.own_size >> i for i in range(self.own_size.bit_length())]
        most = min(self.own_size, self.samples)
        return tuple(sorted(size for size in {*exact, *halves} if size <= most))


@dataclass(frozen=True, slots=True)
class TestGroup:
    """Test nets that read through the same data layers, and hence have one batch size.

    Attributes:
        tests: The test nets.
        sizes: The batch sizes to choose from, smallest first.
    """

    __test__ = False  # tells pytest that this isn't a test

    tests: tuple[NetTest, ...]
    sizes: tuple[int, ...]

    @property
    def numbers(self) -> frozenset[int]:
        """Which test nets these are, in Caffe's order."""
        return frozenset(test.number for test in self.tests)

    def shrunk(self, share: Fraction) -> TestGroup:
        """The group with the sizes up to a share of the files' own; 1 if there is none."""
        most = share * self.tests[0].own_size
        return replace(self, sizes=tuple(size for size in self.sizes if size <= most) or (1,))

    def divides_all(self, size: int) -> bool:
        """Whether batches of this size make up exactly what each of the tests should see."""
        return all(test.samples % size == 0 for test in self.tests)


def planned_tests(
    model: MemoryModel, records: Sequence[int | None], *, scored: bool = True
) -> list[NetTest]:
    """The test nets whose batch size can be planned.

    Args:
        model: The recipe's model.
        records: Records of each test set, None if unknown.
        scored: Whether Caffe tests at all: if not, no batch matters to a score.
    """
    found, kept = [], set()
    leaders = _leaders(model)
    for number, leader in enumerate(leaders):
        try:
            size = batch_size(model.test_layers[number])
        except NetError:
            kept.add(leader)  # no layer has a batch size there, so it stays as it is
            continue
        if fixed_batch(model.test_layers[number]) is not None:
            kept.add(leader)  # the file doesn't say it
            continue
        own_iter = model.recipe.solver.test_iter[number]
        shared = leader == _TRAIN
        place = number if shared else leader
        test = NetTest(number, size, own_iter, records[number], shared, place)
        test = replace(test, scored=scored and test.has_batches)
        reasons = _bound(*_flows(model, test, size)) if test.scored else []
        found.append(replace(test, bound=reasons[0][1] if reasons else ""))
    return [test for test in found if test.shared or test.leader not in kept]


#: Stands for the train net among the numbers of the test nets.
_TRAIN = -1


def _leaders(model: MemoryModel) -> list[int]:
    """For each test net, the first net that reads through the same data layers, directly or not."""
    recipe = model.recipe
    layers = {_TRAIN: recipe.sample_layers(recipe.train, model.train_layers)}
    for number, file in enumerate(recipe.tests):
        layers[number] = recipe.sample_layers(file, model.test_layers[number])
    leaders = {number: number for number in layers}
    for one, other in combinations(layers, 2):
        if layers[one] & layers[other]:
            first, second = sorted((leaders[one], leaders[other]))
            leaders = {n: first if old == second else old for n, old in leaders.items()}
    return [leaders[number] for number in range(len(recipe.tests))]


def group_tests(
    tests: Sequence[NetTest],
    *,
    exact: bool = False,
    keeps_bound: bool = False,
    given: Mapping[int, int] | None = None,
) -> tuple[TestGroup, ...]:
    """The test nets with batches of their own, by the data layers that they read through.

    Args:
        tests: The test nets to plan.
        exact: Whether the sizes to choose from are all those that divide the samples of each test;
            if not, they are those of :meth:`NetTest.sizes`.
        keeps_bound: Whether test nets whose scores depend on their batch keep it.
        given: The batches of some test nets, by their numbers.
    """

    def sizes(group: Sequence[NetTest]) -> tuple[int, ...]:
        asked = [given[test.number] for test in group if given and test.number in given]
        if asked:
            return (min(asked),)
        if keeps_bound and any(test.bound for test in group):
            return (group[0].own_size,)
        return _exact_sizes(group) if exact else group[0].sizes()

    own = sorted((test for test in tests if not test.shared), key=_leader)
    groups = [tuple(group) for _, group in groupby(own, _leader)]
    return tuple(TestGroup(group, sizes(group)) for group in groups)


def _exact_sizes(group: Sequence[NetTest]) -> tuple[int, ...]:
    """The divisors of what each test of a group should see, up to the files' batch."""
    common = divisors(gcd(*(test.samples for test in group)))
    return tuple(size for size in common if size <= group[0].own_size)


def _leader(test: NetTest) -> int:
    return test.leader


def smallest(groups: Sequence[TestGroup], number: int) -> tuple[int | None, ...]:
    """For a model with ``number`` test nets: the smallest batch of each net in the groups.

    Args:
        groups: The test nets to plan.
        number: How many test nets the model has.
    """
    sizes: list[int | None] = [None] * number
    for group in groups:
        for test in group.tests:
            sizes[test.number] = group.sizes[0]
    return tuple(sizes)


def largest_that_fit(
    groups: Sequence[TestGroup],
    start: tuple[int | None, ...],
    fits: Callable[[tuple[int | None, ...]], bool],
) -> tuple[int | None, ...]:
    """The largest batch of each test net that fits beside the train net.

    A size that divides the test set is taken instead if it isn't below half of that.

    Args:
        groups: The test nets to plan.
        start: Sizes that fit, one per test net of the model (see :func:`smallest`).
        fits: Whether these sizes fit together.
    """
    chosen = start
    for group in groups:
        sizes = group.sizes

        def trial(
            size: int,
            numbers: frozenset[int] = group.numbers,
            before: tuple[int | None, ...] = chosen,
        ) -> tuple[int | None, ...]:
            return tuple(size if n in numbers else own for n, own in enumerate(before))

        low, high = 0, len(sizes) - 1  # the first one fits
        if fits(trial(sizes[high])):
            low = high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(trial(sizes[middle])) else (low, middle)
        largest = sizes[low]
        exact = max((size for size in sizes[: low + 1] if group.divides_all(size)), default=0)
        chosen = trial(exact if 2 * exact >= largest else largest)
    return chosen


def changes_of_tests(
    recipe: Recipe,
    model: MemoryModel,
    tests: Sequence[NetTest],
    sizes: Sequence[int],
    roomy: Collection[int] = (),
) -> list[Change]:
    """What the test nets' batches change in the files.

    A layer that two test nets read through is changed once.

    Args:
        recipe: The files.
        model: Their model, with the files' own batch sizes.
        tests: The test nets that were planned.
        sizes: The batch size of each.
        roomy: The numbers of those whose own batch would fit as well.
    """
    changes = []
    for test, size in zip(tests, sizes, strict=True):
        if size != test.own_size:
            changes += [
                inside_solver(change, test.number) if change.file == "solver" else change
                for change in layer_changes(
                    model.test_layers[test.number],
                    [index for index, _ in recipe.tests[test.number].selected()],
                    size,
                    _why_smaller(model, test, size, fits=test.number in roomy),
                    recipe.file_of_test(test.number),
                )
            ]
        after = test.iter_for(size)
        if after != test.own_iter:
            changes.append(
                Change("solver", ("test_iter", test.number), test.own_iter, after,
                       _why(test, size))
            )  # fmt: skip
    return list(dict.fromkeys(changes))


def _why_smaller(model: MemoryModel, test: NetTest, size: int, *, fits: bool) -> str:
    """Why a test net gets another batch; ``fits`` says whether its own would fit as well."""
    if test.shared:
        return "the micro-batch, which this net reads through the same layer"
    if fits:
        return f"batches of {size} make up the {test.samples:,} samples of a test"
    try:
        model.test_nets()
    except ShapeError as error:
        return f"Caffe refuses the batch of {test.own_size}: {error.message}"
    return "a smaller test net makes room for the train net"


def _why(test: NetTest, size: int) -> str:
    if test.records is None:
        return f"a test sees {test.samples:,} samples, as in the files"
    again = test.iter_for(size) * size - test.records
    extra = f" ({again} of them twice)" if again else ""
    return f"one test covers the {test.records:,} records once{extra}"


def finding_of_test(model: MemoryModel, test: NetTest, size: int) -> Finding | None:
    """Whether other test batches give the same score; None if they stay the same, or score nothing.

    Args:
        model: The recipe's model, with the files' own batch sizes.
        test: The test net.
        size: Its batch size in the plan.
    """
    if size == test.own_size or not test.scored:
        return None
    small, flows = _flows(model, test, size)
    name = f"test net {test.number}"
    bound = _bound(small, flows)
    if bound:
        layer, why = bound[0]
        return Finding(
            Cause.TEST_BATCHES, layer, Verdict.DIFFERENT,
            f"{name}: {why}, so a score over batches of {size} is not the one over batches of "
            f"{test.own_size}.",
            scope=Scope.TEST,
        )  # fmt: skip
    drawn = _drawn(small, flows)
    if drawn:
        return Finding(
            Cause.TEST_BATCHES, drawn, Verdict.APPROXIMATE,
            f"{name}: {drawn!r} draws other numbers for each batch, and test_iter says how often: "
            f"the same score on average, over {test.iter_for(size)} batches instead of "
            f"{test.own_iter}.",
            scope=Scope.TEST,
        )  # fmt: skip
    uneven = _uneven(small, flows)
    if uneven:
        return Finding(
            Cause.TEST_BATCHES, None, Verdict.APPROXIMATE,
            f"{name}: {', '.join(uneven)} is not a mean over the separate samples of a batch, "
            f"so the mean over batches of {size} is not the one over batches of {test.own_size}.",
            scope=Scope.TEST,
        )  # fmt: skip
    if test.samples % size:
        return Finding(
            Cause.TEST_BATCHES, None, Verdict.APPROXIMATE,
            f"{name}: batches of {size} don't divide {test.samples:,} records, so the first "
            f"{test.iter_for(size) * size - test.samples} count twice.",
            scope=Scope.TEST,
        )  # fmt: skip
    return Finding(
        Cause.TEST_BATCHES, None, Verdict.EXACT,
        f"{name}: the mean over {test.iter_for(size)} equal batches is the mean over the samples.",
        scope=Scope.TEST,
    )  # fmt: skip


def _flows(model: MemoryModel, test: NetTest, size: int) -> tuple[Net, tuple[SampleFlow, ...]]:
    """The test net at a batch size, and what happens to its samples; empty if Caffe refuses it."""
    try:
        small, large = (
            model.with_test_batches(_only(model, test, each)).test_nets(each)[test.number]
            for each in (size, 2 * size)
        )
    except ShapeError:
        return Net("", "TEST", (), (), ()), ()
    return small, follow(small, large, 2)


def _bound(net: Net, flows: Sequence[SampleFlow]) -> list[tuple[str, str]]:
    """Layers whose values for a sample depend on the rest of its batch, and why, in words.

    Only those that an output of the net depends on.
    """
    found = []
    memory = BlobMemory(net)
    scored = _scored(net, memory)
    for flow in flows:
        if not scored.intersection(memory.data[top] for top in flow.small.tops):
            continue
        name, coupling = flow.small.layer.name, flow.coupling
        if coupling.statistics:
            found.append((name, f"{name!r} normalises with the statistics of each batch"))
        elif coupling.carries_state and not flow.cuts_time:
            found.append((name, f"the state of {name!r} carries over from batch to batch"))
        elif flow.problem:
            found.append((name, f"{name!r} mixes the samples of a batch: {flow.problem}"))
        for top in coupling.lasting:
            changed = [
                writer.layer.name
                for writer in memory.writers_of_data(memory.data[flow.small.tops[top]])
                if writer is not flow.small
            ]
            if changed:
                why = f"{changed[0]!r} changes the constants of {name!r} again in each batch"
                found.append((name, why))
    return found


def _drawn(net: Net, flows: Sequence[SampleFlow]) -> str:
    """The first layer that draws numbers for an output; empty if there is none."""
    memory = BlobMemory(net)
    scored = _scored(net, memory)
    for flow in flows:
        draws = flow.coupling.draws and not flow.small.rule.record_order
        if draws and scored.intersection(memory.data[top] for top in flow.small.tops):
            return flow.small.layer.name
    return ""


def _scored(net: Net, memory: BlobMemory) -> set[int]:
    """The memory (a number of ``memory.data``) that the outputs of a net depend on."""
    read = {bottom for node in net.nodes for bottom in node.bottoms}
    wanted = {memory.data[top] for node in net.nodes for top in node.tops if top not in read}
    for node in reversed(net.nodes):
        if wanted.intersection(memory.data[top] for top in node.tops):
            wanted.update(memory.data[bottom] for bottom in node.bottoms)
    return wanted


def _uneven(net: Net, flows: Sequence[SampleFlow]) -> list[str]:
    """The outputs that aren't means over the samples of a batch."""
    used = {i for node in net.nodes for i in node.bottoms}
    return [
        net.blobs[index].name
        for flow in flows
        for index, state in zip(flow.small.tops, flow.tops, strict=True)
        if index not in used
        and not isinstance(state, Rows)
        and not (isinstance(state, Summed) and state.factor == 1)
    ]


def _only(model: MemoryModel, test: NetTest, size: int) -> tuple[int | None, ...]:
    number = len(model.recipe.tests)
    return tuple(size if i == test.number else None for i in range(number))
