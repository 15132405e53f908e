"""A batch, which does no I/O: what it plans is what its hits are answered."""

import asyncio
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from service.counter.batch import Batch, Hit, receipt_key
from service.counter.errors import IdempotencyKeyReused

COUNTER = 7

HITS = st.lists(st.tuples(st.integers(1, 5), st.none() | st.sampled_from("abc")), min_size=1, max_size=20)
"""The amounts and keys of hits."""


def batch_of(hits: Iterable[tuple[int, str | None]]) -> Batch:
    loop = asyncio.get_running_loop()
    batch = Batch(needs_recovery=False)
    batch.fill(Hit(amount, key, loop.create_future(), 0.0) for amount, key in hits)
    return batch


@given(HITS, st.integers(0, 1000))
def test_a_settled_plan_gives_each_hit_its_numbers_and_each_number_once(
    amounts: list[tuple[int, str | None]], before: int
) -> None:
    async def check() -> None:
        batch = batch_of(amounts)
        hits = batch.hits
        plan = batch.plan(COUNTER)
        written = plan.receipts_at(before + plan.total)
        batch.settle(COUNTER, written)
        assert batch.hits == []
        numbers = [n for one in written.values() for n in range(one.first, one.last + 1)]
        assert numbers == list(range(before + 1, before + plan.total + 1))
        first_amounts = {key: amount for amount, key in reversed(amounts)}
        plain: list[int] = []
        for hit in hits:
            if hit.key is not None and hit.amount != first_amounts[hit.key]:
                assert isinstance(hit.answer.exception(), IdempotencyKeyReused)
                continue
            answer = hit.answer.result()
            assert answer.last - answer.first + 1 == hit.amount
            if hit.key is None:
                plain += range(answer.first, answer.last + 1)
            else:
                assert answer == written[receipt_key(COUNTER, hit.key)]
        assert plain == list(range(before + 1, before + 1 + len(plain)))

    asyncio.run(check())


@given(HITS, st.sets(st.sampled_from("abc")))
def test_hits_without_a_receipt_stay_and_are_planned_again_under_the_same_keys(
    amounts: list[tuple[int, str | None]], written: set[str]
) -> None:
    async def check() -> None:
        batch = batch_of(amounts)
        plan = batch.plan(COUNTER)
        keys = {receipt_key(COUNTER, key) for key in written}
        batch.settle(COUNTER, {key: one for key, one in plan.receipts_at(plan.total).items() if key in keys})
        assert [(hit.amount, hit.key) for hit in batch.hits] == [one for one in amounts if one[1] not in written]
        rest = [one.key for one in batch.plan(COUNTER).receipts]
        assert rest == [one.key for one in plan.receipts if one.key not in keys]

    asyncio.run(check())
