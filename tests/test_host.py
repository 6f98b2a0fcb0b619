"""Notes are complained of in order, at once or together, and never lost; draws keep their values on the way."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from lit_pursamere.host import deferred, docket, note, onto, settle


@pytest.fixture
def heard(monkeypatch):
    """What was complained of; `heard.reads` counts how often tensors became Python's numbers."""

    class Heard(list):
        reads = 0

        def __call__(self, *numbers: float) -> None:
            self.append(numbers)

    told, plain = Heard(), Tensor.tolist

    def counted(tensor: Tensor) -> list:
        told.reads += 1
        return plain(tensor)

    monkeypatch.setattr(Tensor, "tolist", counted)
    return told


def number(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def test_alone_a_note_is_read_at_once(heard):
    note(heard, number(0.1), torch.tensor([7]))
    assert heard == [(0.1, 7)] and isinstance(heard[0][1], int)


def test_notes_wait_and_are_read_together_in_order(heard):
    with deferred():
        for k in range(50):
            note(heard, number(k), number(-k))
            note(heard, number(2**40 + k, torch.long))
        assert heard == [] and heard.reads == 0
    assert heard == [entry for k in range(50) for entry in ((k, -k), (2**40 + k,))]
    assert heard.reads == 2, "one for each type"


def test_they_can_be_settled_before_the_end_and_are_read_once(heard):
    with deferred():
        note(heard, number(1))
        settle()
        assert heard == [(1,)]
        note(heard, number(2))
    assert heard == [(1,), (2,)]
    settle()
    assert heard == [(1,), (2,)], "outside there is nothing to settle"


def test_what_is_deferred_within_is_not_left_to_the_outer_block(heard):
    with deferred():
        note(heard, number(1))
        with deferred():
            note(heard, number(2))
        assert heard == [(2,)]
    assert heard == [(2,), (1,)]


def refuse(value: float) -> None:
    raise ValueError(f"refused {value:g}")


def test_the_first_complaint_is_raised():
    with pytest.raises(ValueError, match="refused 1"), deferred():
        note(refuse, number(1))
        note(refuse, number(2))
    with pytest.raises(ValueError, match="refused 4"):
        note(refuse, number(4))


def test_if_a_block_fails_its_notes_tell_why():
    with pytest.raises(ValueError, match="refused 1") as caught, deferred():
        note(refuse, number(1))
        raise IndexError("a consequence")
    assert isinstance(caught.value.__context__, IndexError)
    with pytest.raises(IndexError, match="nothing noted"), deferred():
        raise IndexError("nothing noted")


def test_after_an_interruption_nothing_is_read(heard):
    with pytest.raises(KeyboardInterrupt), deferred():
        note(heard, number(1))
        raise KeyboardInterrupt
    assert heard == []
    note(heard, number(2))
    assert heard == [(2,)], "and nothing waits any more"


def test_a_docket_serves_other_threads_and_is_never_mute(heard):
    with deferred():
        kept = docket()
        thread = threading.Thread(target=lambda: kept.note(heard, number(1)))
        thread.start()
        thread.join()
        assert heard == []
    assert heard == [(1,)]
    kept.note(heard, number(2))
    assert heard == [(1,), (2,)], "closed, it reads at once"


def test_without_data_nobody_is_called(heard):
    note(heard, torch.ones((), device="meta"), number(1))
    assert heard == []


def test_notes_keep_no_graph(heard):
    x = torch.ones(3, requires_grad=True)
    with deferred():
        note(heard, x.sum())
        assert not any(kept.requires_grad for _, numbers in docket().notes for kept in numbers)


@pytest.mark.parametrize("dtype", [None, torch.float64, torch.bfloat16])
def test_values_arrive_as_they_are(dtype):
    values = torch.rand(3, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(onto(values, torch.device("cpu"), dtype), values.to(dtype or torch.float32))
    there = onto(values, torch.device("meta"), dtype)
    assert there.is_meta and there.shape == (3, 2) and there.dtype == (dtype or torch.float32)
