"""Turns: never more at a time than there are streams, nobody passed over, nothing lost."""

from hypothesis import given
from hypothesis import strategies as st

from quartzite.engines.openvino.turns import Turns


class Run:
    """Counts how often it began."""

    def __init__(self) -> None:
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from(["take", "end", "withdraw"]), st.integers(0, 9))))
def test_runs_have_their_turns_in_order(streams: int, steps: list[tuple[str, int]]) -> None:
    """Against a plain model: who came first begins first, as soon as there is a stream, and once for each turn."""
    turns, runs = Turns(streams), [Run() for _ in range(10)]
    computing: list[int] = []
    waiting: list[int] = []
    begun = [0] * len(runs)
    for step, number in steps:
        if step == "take" and number not in computing + waiting:
            turns.take(runs[number])
            waiting.append(number)
        elif step == "end":
            turns.end(runs[number])
            computing = [other for other in computing if other != number]
        elif step == "withdraw":
            assert turns.withdraw(runs[number]) == (number in waiting)
            waiting = [other for other in waiting if other != number]
        while waiting and len(computing) < streams:
            begun[waiting[0]] += 1
            computing.append(waiting.pop(0))
        assert [run.begun for run in runs] == begun
