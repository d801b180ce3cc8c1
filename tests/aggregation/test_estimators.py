"""What every estimator promises: conventions, order, corner cases, late gold and votes, save and load."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crlhf_ray.aggregation.adversaries import simulate
from crlhf_ray.aggregation.calibrate import Calibrated, cross_fitted, temperature
from crlhf_ray.aggregation.dawid_skene import DawidSkene
from crlhf_ray.aggregation.hierarchical import Hierarchical
from crlhf_ray.aggregation.logistic_l1 import LogisticL1
from crlhf_ray.aggregation.majority import Majority
from crlhf_ray.aggregation.one_coin import OneCoin
from crlhf_ray.aggregation.quality import calibration_error
from crlhf_ray.aggregation.rejections import RowReport, clean
from crlhf_ray.aggregation.shrinkage import class_shares, fitted_strength
from crlhf_ray.aggregation.two_coin import TwoCoin
from crlhf_ray.errors import DataError
from tests.aggregation.tables import crowd

STREAMING = [Majority, OneCoin, TwoCoin]
ALL = [*STREAMING, DawidSkene, Hierarchical, LogisticL1]
GOLD = pd.Series({0: 1, 1: 0, 2: 1, 3: 0, 4: 1, 5: 0})


@pytest.fixture(scope="module")
def votes():
    truth = np.tile([1, 0], 40)
    return crowd(np.random.default_rng(1), truth, np.full(6, 0.85), np.full(6, 0.75), density=0.7)


@pytest.mark.parametrize("make", ALL)
def test_fitting_follows_crowd_kits_conventions(make, votes):
    labels = make().fit_predict(votes, GOLD)
    probas = make().fit_predict_proba(votes, GOLD)
    assert labels.name == "agg_label"
    assert set(labels.index) >= set(votes.task)
    assert list(probas.columns) == [0, 1]
    assert np.allclose(probas.sum(axis=1), 1)
    assert (labels[GOLD.index] == GOLD).all()


@pytest.mark.parametrize("make", ALL)
def test_row_order_changes_nothing(make, votes):
    shuffled = votes.sample(frac=1, random_state=3)
    first, second = make().fit(votes, GOLD), make().fit(shuffled, GOLD.sample(frac=1, random_state=2))
    pd.testing.assert_frame_equal(first.probas_, second.probas_.loc[first.probas_.index], atol=1e-6)
    pd.testing.assert_frame_equal(
        first.reliability(), second.reliability().loc[first.reliability().index], atol=1e-6, check_dtype=False
    )


@pytest.mark.parametrize("make", [TwoCoin, Hierarchical])
def test_row_order_does_not_change_the_temperature(make, votes):
    first = Calibrated(make).fit(votes, GOLD)
    second = Calibrated(make).fit(votes[::-1], GOLD[::-1])
    assert first.temperature_ == pytest.approx(second.temperature_, rel=1e-4)


def test_row_order_changes_nothing_where_not_every_annotator_teaches_the_strengths(monkeypatch):
    monkeypatch.setattr("crlhf_ray.aggregation.state._TEACHERS", 5)
    rng = np.random.default_rng(0)
    votes = crowd(rng, np.tile([1, 0], 40), rng.uniform(0.5, 1.0, 23), rng.uniform(0.5, 1.0, 23), density=0.3)
    first = TwoCoin().fit(votes, GOLD)
    batch = votes.assign(task=votes.task + 100, worker=[f"new {name}" for name in votes.worker])
    late = first.probas_, TwoCoin().fit(votes, GOLD).partial_fit(batch).probas_
    for seed in range(4):
        again = TwoCoin().fit(votes.sample(frac=1, random_state=seed), GOLD)
        np.testing.assert_allclose(again.state_.crowd, first.state_.crowd)
        pd.testing.assert_frame_equal(again.probas_.loc[late[0].index], late[0], atol=1e-9)
        again.partial_fit(batch.sample(frac=1, random_state=seed))
        pd.testing.assert_frame_equal(again.probas_.loc[late[1].index], late[1], atol=1e-9)


@pytest.mark.parametrize("make", STREAMING)
def test_row_order_within_a_batch_of_a_stream_changes_nothing(make, votes):
    first, second = make(classes=(0, 1)), make(classes=(0, 1))
    for start in range(0, len(votes), 60):
        batch = votes[start : start + 60]
        first.partial_fit(batch, GOLD)
        second.partial_fit(batch.sample(frac=1, random_state=start), GOLD)
    assert np.allclose(first.probas_, second.probas_.loc[first.probas_.index], atol=1e-9)


@pytest.mark.parametrize("make", ALL)
def test_names_of_tasks_and_workers_mean_nothing(make, votes):
    renamed = votes.assign(task="t" + votes.task.astype(str), worker="x" + votes.worker)
    gold = GOLD.set_axis("t" + GOLD.index.astype(str))
    if make is LogisticL1:
        make = lambda: LogisticL1(penalty=0.05)  # noqa: E731 - its cross-validation folds go by name
    plain, other = make().fit(votes, GOLD).probas_, make().fit(renamed, gold).probas_
    assert np.allclose(plain, other.loc["t" + plain.index.astype(str)], atol=1e-6)


@pytest.mark.parametrize("make", ALL)
def test_arrow_tables_give_what_data_frames_give(make, votes):
    first = make().fit(votes, GOLD).probas_
    table = pa.table({"task": GOLD.index.to_numpy(), "label": GOLD.to_numpy()})
    second = make().fit(pa.Table.from_pandas(votes, preserve_index=False), table).probas_
    assert np.allclose(first, second.loc[first.index], atol=1e-6)


@pytest.mark.parametrize("make", ALL)
def test_an_abstention_is_no_vote(make, votes):
    holes = votes.astype({"label": object})
    holes.loc[10:30, "label"] = None
    without = votes.drop(index=range(10, 31))
    first, second = make().fit(holes, GOLD).probas_, make().fit(without, GOLD).probas_
    assert np.allclose(first.loc[second.index], second, atol=1e-6)


@pytest.mark.parametrize("make", ALL)
def test_a_vote_of_weight_nought_is_no_vote(make, votes):
    weighted = votes.assign(weight=np.where(np.arange(len(votes)) % 5 == 0, 0.0, 1.0))
    first = make().fit(weighted, GOLD).probas_
    second = make().fit(votes[np.arange(len(votes)) % 5 != 0], GOLD).probas_
    assert np.allclose(first.loc[second.index], second, atol=1e-6)


@pytest.mark.parametrize("make", ALL)
def test_intervals_hold_the_rates(make, votes):
    table = make().fit(votes, GOLD).reliability()
    for rate in ("sensitivity", "specificity"):
        assert (table[f"{rate}_low"] <= table[rate] + 1e-6).all()
        assert (table[rate] <= table[f"{rate}_high"] + 1e-6).all()
    assert table["labels"].sum() == len(votes)
    assert table["gold_labels"].sum() == votes.task.isin(GOLD.index).sum()


@pytest.mark.parametrize("make", [TwoCoin, DawidSkene, Hierarchical])
def test_intervals_of_95_percent_hold_nearly_that_share_of_the_true_rates(make):
    """docs/aggregation.md says what was measured, and where."""
    held = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 2, 600)
        rates = {"sensitivity": rng.beta(12, 4, 20), "specificity": rng.beta(12, 4, 20)}
        votes = crowd(rng, truth, *rates.values(), density=0.3)
        table = make().fit(votes, pd.Series(truth[:60])).reliability([f"w{i}" for i in range(20)])
        for name, rate in rates.items():
            held += list((table[f"{name}_low"] <= rate) & (rate <= table[f"{name}_high"]))
    assert 0.87 < np.mean(held) < 0.99


@pytest.mark.parametrize("make", [TwoCoin, DawidSkene, Hierarchical])
def test_sampled_intervals_hold_also_where_everybody_has_few_labels(make):
    rng = np.random.default_rng(0)
    truth, people = rng.integers(0, 2, 500), 300
    rates = {"sensitivity": rng.beta(8, 4, people), "specificity": rng.beta(8, 4, people)}
    votes = crowd(rng, truth, *rates.values(), density=5 / people)
    fitted = make().fit(votes, pd.Series(truth[:50]))
    names = [f"w{i}" for i in range(people)]
    table = fitted.reliability(names)
    held = [(table[f"{name}_low"] <= rate) & (rate <= table[f"{name}_high"]) for name, rate in rates.items()]
    assert 0.9 < np.mean(held) < 0.99
    pd.testing.assert_frame_equal(fitted.reliability(names[7:8]), table[7:8])


def test_intervals_of_one_coin_hold_where_an_annotator_has_one_rate():
    rng = np.random.default_rng(0)
    truth, rate = rng.integers(0, 2, 500), rng.beta(8, 4, 300)
    fitted = OneCoin().fit(crowd(rng, truth, rate, rate, density=5 / 300), pd.Series(truth[:50]))
    table = fitted.reliability([f"w{i}" for i in range(300)])
    assert 0.9 < ((table["sensitivity_low"] <= rate) & (rate <= table["sensitivity_high"])).mean() < 0.99
    assert np.allclose(table["sensitivity"], table["specificity"])


@pytest.mark.parametrize("settings", [{"prior": 0.9}, {"strength": 4.0}, {"learn_from": "honeypots"}, {"decay": 0.9}])
def test_sampled_intervals_follow_the_settings_of_two_coin(settings, votes):
    usual, other = (TwoCoin(**some).fit(votes, GOLD).reliability() for some in ({}, settings))
    assert np.isfinite(other.to_numpy(float)).all()
    assert not np.allclose(usual["specificity_low"], other["specificity_low"], atol=1e-3)


@pytest.mark.parametrize("make", ALL)
def test_what_is_saved_comes_back_and_goes_on_learning(make, votes, tmp_path):
    first = make().fit(votes[:150], GOLD)
    first.save(tmp_path / "e.npz")
    second = type(first).load(tmp_path / "e.npz")
    pd.testing.assert_frame_equal(first.probas_, second.probas_)
    first.partial_fit(votes[150:])
    second.partial_fit(votes[150:])
    pd.testing.assert_frame_equal(first.probas_, second.probas_)
    other = TwoCoin if make is not TwoCoin else OneCoin
    with pytest.raises(DataError, match=f"holds a {make.__name__}"):
        other.load(tmp_path / "e.npz")


@pytest.mark.parametrize("make", [DawidSkene, Hierarchical, LogisticL1])
def test_estimators_that_hold_all_votes_end_the_same_however_the_votes_came(make, votes):
    once = make().fit(votes, GOLD)
    late = make()
    late.partial_fit(votes[votes.task < 40], GOLD[:3])
    late.partial_fit(votes[votes.task >= 40])
    late.partial_fit(votes[:0].astype({"label": object}), GOLD[3:])
    pd.testing.assert_frame_equal(once.probas_, late.probas_.loc[once.probas_.index], atol=1e-6)


@pytest.mark.parametrize("make", ALL)
def test_a_later_vote_supersedes(make):
    votes = pd.DataFrame({"task": [1, 1, 2], "worker": ["a", "a", "a"], "label": [1, 0, 1], "time": [1, 2, 3]})
    after = make().fit(votes, pd.Series({2: 1}))
    plain = make().fit(votes[1:].drop(columns="time"), pd.Series({2: 1}))
    assert np.allclose(after.probas_, plain.probas_)


TWICE = {"task": [1, 1, 2], "worker": ["a", "a", "a"], "label": [1, 0, 1]}


@pytest.mark.parametrize(
    "time",
    [
        [7.25, 7.75, 8.0],
        ["7.25", "7.75", "8"],
        ["2026-01-31 12:00:00.25", "2026-01-31 12:00:00.75", "2026-02-01"],
        pd.to_datetime(["2026-01-31T12:00:00.25", "2026-01-31T12:00:00.75", "2026-02-01T00:00:00.00"]),
        pd.to_datetime(["2026-01-31T12:00:00.25", "2026-01-31T12:00:00.75", "2026-02-01T00:00:00.00"], utc=True),
        ["2026-01-31T12:00:00+00:00", "2026-01-31T12:00:00-01:00", 1.9e9],
    ],
    ids=["numbers", "numbers as text", "text", "dates", "dates with a zone", "mixed"],
)
@pytest.mark.parametrize("arrow", [False, True])
@pytest.mark.parametrize("make", ALL)
def test_the_later_of_two_votes_supersedes_by_fractions_of_a_second_in_any_row_order(make, arrow, time):
    if arrow and isinstance(time, list) and isinstance(time[0], str):
        time = [*map(str, time)]
    votes, gold = pd.DataFrame(TWICE | {"time": time}), pd.Series({2: 1})
    plain = make().fit(pd.DataFrame(TWICE)[1:], gold)
    for rows in (votes, votes[::-1]):
        fitted = make().fit(pa.Table.from_pandas(rows, preserve_index=False) if arrow else rows, gold)
        assert np.allclose(fitted.probas_.loc[[1, 2]], plain.probas_.loc[[1, 2]])


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e30, "inf", "soon"])
def test_a_time_or_weight_that_is_no_number_is_refused_by_row_and_field(make, value):
    for field in ("time", "weight"):
        values = pd.Series([0.1, value, 0.3], dtype=float if isinstance(value, float) else object)
        with pytest.raises(DataError, match=f"row 1, field '{field}'"):
            make().fit(pd.DataFrame(TWICE | {"time": [1, 2, 3]} | {field: values}), pd.Series({2: 1}))


@pytest.mark.parametrize("value", ["inf", np.inf, -np.inf])
def test_an_infinite_time_in_a_file_is_rejected_by_row(value):
    report = RowReport()
    chunk = pd.DataFrame(TWICE | {"time": [1, value, 3]})
    assert len(clean(chunk, np.arange(1, 4), "votes.csv", report)) == 2
    assert [(row.row, row.field) for row in report.rows] == [(2, "time")]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize(
    "votes, gold",
    [
        ([(1, "a", 1)], {1: 1}),
        ([(1, "a", 1), (2, "a", 1)], {1: 1}),
        ([(t, w, 1) for t in range(5) for w in "abc"], {0: 1, 1: 1}),
        ([(t, w, 0) for t in range(5) for w in "abc"], {0: 1, 1: 0}),
        (
            [(t, "perfect", t % 2) for t in range(60)] + [(t, "wrong", 1 - t % 2) for t in range(60)],
            {t: t % 2 for t in range(50)},
        ),
    ],
    ids=["one label", "one worker", "all the same", "all against gold", "reliabilities at 1 and 0"],
)  # fmt: skip
def test_corner_cases_stay_finite(make, votes, gold):
    table = pd.DataFrame(votes, columns=["task", "worker", "label"])
    fitted = make(classes=(0, 1)).fit(table, pd.Series(gold))
    assert np.isfinite(fitted.probas_.to_numpy()).all()
    assert np.isfinite(fitted.reliability().to_numpy()).all()


@pytest.mark.parametrize("make", [*STREAMING, DawidSkene, Hierarchical])
def test_without_gold_every_estimator_but_the_discriminative_one_answers(make, votes):
    assert np.isfinite(make().fit(votes).probas_.to_numpy()).all()


def test_the_discriminative_estimator_says_that_it_needs_gold(votes):
    with pytest.raises(DataError, match="learns from honeypots alone"):
        LogisticL1().fit(votes)


@pytest.mark.parametrize("make", [Majority, OneCoin, TwoCoin, DawidSkene, Hierarchical])
def test_a_worker_with_a_million_labels_stays_finite(make):
    n = 1_000_000
    table = pd.DataFrame({"task": np.arange(n), "worker": np.full(n, "busy"), "label": np.arange(n) % 2})
    fitted = make(classes=(0, 1)).fit(table, pd.Series(np.arange(1000) % 2))
    assert np.isfinite(fitted.reliability().to_numpy()).all()
    assert np.isfinite(fitted.posterior([0, 5000, n - 1]).to_numpy()).all()


@pytest.mark.parametrize("make", ALL)
def test_bad_tables_are_refused_by_name(make, votes):
    with pytest.raises(DataError, match="no column 'worker'"):
        make().fit(votes.drop(columns="worker"), GOLD)
    with pytest.raises(DataError, match=r"row 3, field 'task'.*missing"):
        make().fit(votes.assign(task=votes.task.where(votes.index != 3)), GOLD)
    with pytest.raises(DataError, match=r"row 2, field 'weight': nan"):
        make().fit(votes.assign(weight=np.where(votes.index == 2, np.nan, 1.0)), GOLD)
    with pytest.raises(DataError, match="contradicts itself"):
        make().fit(votes, pd.Series([1, 0], index=[0, 0]))
    with pytest.raises(DataError, match="7"):
        make(classes=(0, 1)).fit(votes.assign(label=votes.label.where(votes.index != 5, 7)), GOLD)
    with pytest.raises(DataError, match=r"was given (the other|another) truth before"):
        make().fit(votes, GOLD).partial_fit(votes[:0], pd.Series({0: 0}))


@pytest.mark.parametrize("make", [*ALL, lambda: Calibrated(TwoCoin)])
@pytest.mark.parametrize("time, stands", [(None, [0, 1]), ([5, 5, 5, 5, 5, 5, 6], [0, 6])], ids=["untimed", "timed"])
def test_of_second_votes_the_first_of_the_latest_counts_and_the_others_are_counted(make, time, stands):
    votes = pd.DataFrame({"task": [1, 1, 2, 2, 3, 1, 1], "worker": list("ababaab"), "label": [1, 1, 0, 0, 1, 0, 0]})
    votes = votes if time is None else votes.assign(time=time)
    gold = pd.Series({2: 0, 3: 1})
    fitted = make().fit(votes, gold)
    plain = make().fit(pd.concat([votes.iloc[stands], votes.iloc[2:5]]), gold)
    assert (fitted.second_votes_, plain.second_votes_) == (2, 0)
    pd.testing.assert_frame_equal(fitted.probas_, plain.probas_)
    assert fitted.reliability()["labels"].sum() == 5


@pytest.mark.parametrize("make", [*ALL, lambda **kw: Calibrated(lambda: TwoCoin(**kw))])
@pytest.mark.parametrize("classes", [None, (0, 1)], ids=str)
def test_a_table_without_rows_or_labels_is_refused_in_words(make, classes):
    nothing = pd.DataFrame({"task": [], "worker": [], "label": []})
    with pytest.raises(DataError, match="the table has no rows; give one for each vote"):
        make(classes=classes).fit(nothing, GOLD)
    with pytest.raises(DataError, match=r"field 'label': is missing in all 2 rows: everybody abstained"):
        make(classes=classes).fit(pd.DataFrame({"task": [1, 2], "worker": "a", "label": [None, None]}), GOLD)
    with pytest.raises(DataError, match="it has none"):
        make(classes=classes).fit(pd.DataFrame(), GOLD)


@pytest.mark.parametrize(
    "estimator",
    [
        Majority(0.6),
        OneCoin(2.0, learn_from="honeypots"),
        TwoCoin(4.0, decay=0.9),
        DawidSkene(7, smoothing=0.5),
        Hierarchical(trusts=(1.0, 0.5), classes=("no", "yes")),
        LogisticL1(0.01),
        Calibrated(Hierarchical, folds=3),
    ],
    ids=lambda one: type(one).__name__,
)
def test_scikit_learn_clones_the_settings_and_nothing_learnt(estimator, votes):
    base = pytest.importorskip("sklearn.base")
    settings = estimator.get_params()
    if estimator.get_params().get("classes") is None:
        estimator.fit(votes, GOLD)
    copy = base.clone(estimator)
    assert type(copy) is type(estimator)
    assert copy.get_params() == settings
    assert copy.__dict__.keys() == type(estimator)(**settings).__dict__.keys()
    name = next(iter(settings))
    assert copy.set_params(**{name: settings[name]}).get_params() == settings


MORE = pd.DataFrame({"task": [0, "new", "new"], "worker": ["new", 0, "new"], "label": [1, 0, 1]})


@pytest.mark.parametrize(
    "batch, gold",
    [
        (MORE.drop(columns="label"), None),
        (MORE.assign(worker=["new", 0, None]), None),
        (MORE.assign(label=[1, 0, "other"]), None),
        (MORE.assign(weight=[1.0, 1.0, 2.0]), None),
        (MORE.assign(time=[1.0, 2.0, np.inf]), None),
        (MORE, pd.Series({"gold": 1, "new": "other"})),
        (MORE, pd.Series({"gold": 1, "new": None})),
        (MORE, pd.Series([1, 0], index=["gold", "gold"])),
        (MORE, pd.Series({"gold": 1, 0: 0})),
    ],
    ids=[
        "column",
        "worker",
        "label",
        "weight",
        "time",
        "gold's label",
        "gold's null",
        "gold twice",
        "gold's clash",
    ],
)
@pytest.mark.parametrize("make", ALL)
def test_what_is_refused_changes_nothing(make, votes, tmp_path, batch, gold):
    def state(estimator):
        estimator.save(tmp_path / "e.npz")
        with np.load(tmp_path / "e.npz") as arrays:
            return {name: values.tolist() for name, values in arrays.items()}

    votes = votes.astype({"task": object, "worker": object})
    estimator, other = make().fit(votes, GOLD), make().fit(votes, GOLD)
    for learn in (lambda: estimator.partial_fit(batch, gold), lambda: estimator.fit(MORE.assign(weight=2.0), GOLD)):
        with pytest.raises(DataError):
            learn()
        np.testing.assert_equal(state(estimator), state(other))
        pd.testing.assert_frame_equal(estimator.reliability(), other.reliability())
        pd.testing.assert_frame_equal(estimator.probas_, other.probas_)
    pd.testing.assert_frame_equal(estimator.partial_fit(MORE).probas_, other.partial_fit(MORE).probas_)
    np.testing.assert_equal(state(estimator), state(other))


@pytest.mark.parametrize("make", [Majority, OneCoin, TwoCoin, DawidSkene, Hierarchical])
def test_a_refused_first_batch_does_not_settle_the_classes(make):
    estimator = make()
    with pytest.raises(DataError):
        estimator.partial_fit(MORE.assign(label=["no", "yes", "yes"], weight=2.0))
    assert list(estimator.partial_fit(MORE).probas_.columns) == [0, 1]
    assert make().partial_fit(MORE).probas_.equals(estimator.probas_)


@pytest.mark.parametrize("make", ALL)
def test_names_of_any_length_and_kind_are_saved(make, tmp_path):
    names = ["w\0", "w", 3, "é" * 1000]
    table = pd.DataFrame({"task": [1, "1", 1, "1"], "worker": names, "label": [1, 0, 1, 0]})
    fitted = make().fit(table, pd.Series({1: 1, "1": 0}))
    fitted.save(tmp_path / "e.npz")
    back = make.load(tmp_path / "e.npz")
    assert back.reliability().index.tolist() == names
    assert back.labels_.to_dict() == {1: 1, "1": 0}


@pytest.mark.parametrize("make", [DawidSkene, Hierarchical])
def test_more_than_two_classes(make):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    task = np.repeat(np.arange(300), 5)
    label = np.where(rng.random(1500) < 0.7, truth[task], rng.integers(0, 3, 1500))
    votes = pd.DataFrame({"task": task, "worker": np.tile([*"abcde"], 300), "label": np.array([*"xyz"])[label]})
    fitted = make().fit(votes, pd.Series(np.array([*"xyz"])[truth[:30]]))
    assert fitted.classes_ == ("x", "y", "z")
    assert (fitted.labels_.loc[range(300)] == np.array([*"xyz"])[truth]).mean() > 0.8
    assert {"recall_x", "recall_x_low", "recall_z_high"} <= set(fitted.reliability().columns)
    with pytest.raises(DataError, match="two classes"):
        TwoCoin().fit(votes)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), decay=st.sampled_from([1.0, 0.9]))
def test_incremental_bookkeeping_equals_counting_anew(seed, decay):
    """After any mixture of votes, corrections, abstentions and gold, soft counts are those of the standing votes."""
    rng = np.random.default_rng(seed)
    estimator = TwoCoin(decay=decay, classes=(0, 1))
    known = {}
    for step in range(6):
        n = int(rng.integers(1, 30))
        batch = pd.DataFrame(
            {
                "task": rng.integers(0, 10, n),
                "worker": rng.integers(0, 5, n),
                "label": rng.choice(np.array([0, 1, None], dtype=object), n),
                "time": step,
            }
        ).drop_duplicates(["task", "worker"])
        task = int(rng.integers(0, 10))
        known.setdefault(task, int(rng.integers(0, 2)))
        estimator.partial_fit(batch, pd.Series({task: known[task]}))
    state = estimator.state_
    slots, task = state._slots(np.arange(state.n_tasks))
    credit = state.task_credited[task]
    counts = np.zeros((state.n_workers, 4))
    for worker, label, weight, clock, q in zip(
        state.vote_worker[slots], state.vote_label[slots], state.vote_weight[slots], state.vote_clock[slots], credit,
        strict=True,
    ):  # fmt: skip
        if label:
            faded = weight * decay ** (state.worker_clock[worker] - clock)
            counts[worker, 0 + (label > 0)] += faded * (1 - q)
            counts[worker, 2 + (label > 0)] += faded * q
    assert np.allclose(counts, state.worker_counts[: state.n_workers], atol=1e-9)
    assert np.allclose(counts.sum(axis=0), state.crowd[:4], atol=1e-9)
    free = state.task_credited[: state.n_tasks][
        (state.task_gold[: state.n_tasks] == 0) & (state.n_labels(np.arange(state.n_tasks)) > 0)
    ]
    assert np.allclose(state.crowd[6:8], [(1 - free).sum(), free.sum()], atol=1e-9)


# -- the optimisation view ------------------------------------------------------------------------------------------


def _regression(seed=0, n=120, m=10):
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(n) < 0.5, 1.0, -1.0)
    skill = np.linspace(0.5, 0.9, m)
    return np.where(rng.random((n, m)) < skill, truth[:, None], -truth[:, None]) * (rng.random((n, m)) < 0.8), truth


@pytest.mark.parametrize("penalty", [0.003, 0.02, 0.1])
def test_fista_agrees_with_scikit_learn(penalty):
    linear_model = pytest.importorskip("sklearn.linear_model")
    from scipy.sparse import csr_array

    from crlhf_ray.aggregation.logistic_l1 import fista

    votes, truth = _regression()
    reference = linear_model.LogisticRegression(
        l1_ratio=1.0, C=1 / (len(truth) * penalty), solver="saga", fit_intercept=False, tol=1e-10, max_iter=100_000
    ).fit(votes, truth)
    assert np.abs(fista(csr_array(votes), truth, penalty) - reference.coef_[0]).max() < 1e-4


def test_all_weights_are_zero_exactly_from_the_stated_penalty_on():
    from scipy.sparse import csr_array

    from crlhf_ray.aggregation.logistic_l1 import all_zero_penalty, fista

    votes, truth = _regression(seed=3)
    edge = all_zero_penalty(csr_array(votes), truth)
    assert edge == pytest.approx(np.abs(votes.T @ truth).max() / (2 * len(truth)))
    assert not fista(csr_array(votes), truth, edge * 1.0001).any()
    assert fista(csr_array(votes), truth, edge * 0.99).any()


@pytest.mark.parametrize("kind", [int, float])
def test_gold_whose_ids_became_floats_is_refused_where_the_votes_name_tasks_by_text(votes, kind):
    with pytest.raises(DataError, match="give both in one type"):
        TwoCoin().fit(votes.assign(task=votes["task"].astype(kind).astype(str)), pd.Series([1, 0], index=[0.0, 1.0]))


def test_the_l1_term_drops_those_who_guess():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 600)
    votes = crowd(rng, truth, np.array([0.9, 0.85, 0.5, 0.5, 0.5]), np.array([0.9, 0.85, 0.5, 0.5, 0.5]))
    fitted = LogisticL1(penalty=0.05).fit(votes, pd.Series(truth[:400]))
    assert (fitted.reliability().loc[["w2", "w3", "w4"], "sensitivity"] == 0.5).all()
    assert (fitted.reliability().loc[["w0", "w1"], "sensitivity"] > 0.6).all()


# -- what the best estimator withstands -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, share, late, least",
    [
        ("spam", 0.3, False, 0.88),
        ("colluders", 0.4, False, 0.80),
        ("copycats", 0.4, False, 0.78),
        ("camouflaged", 0.2, True, 0.85),
    ],
)
def test_hierarchical_withstands(kind, share, late, least):
    found = []
    for seed in range(3):
        scenario = simulate(kind, share, seed)
        gold = pd.concat([scenario.gold, scenario.late_gold]) if late else scenario.gold
        rest = scenario.truth.drop(scenario.gold.index).drop(scenario.late_gold.index)
        said = Hierarchical().fit_predict(scenario.votes.drop(columns="time"), gold)
        found.append((said.loc[rest.index] == rest).mean())
    assert np.mean(found) >= least


def lopsided(seed, positive=0.1):
    """1,500 tasks, a tenth of them positive, three answers each by people who miss positives and seldom err else."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(1500) < positive).astype(int)
    return crowd(rng, truth, rng.beta(8, 4, 60), rng.beta(20, 2, 60), density=0.05), pd.Series(truth)


def right(said, truth):
    rest = truth.loc[truth.index.isin(said.index)]
    return (said.loc[rest.index] == rest).mean()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("only", [0, 1])
def test_honeypots_of_one_class_do_not_make_all_else_of_that_class(seed, only):
    votes, truth = lopsided(seed)
    gold = truth[truth == only][:100]
    rest = truth.drop(gold.index)
    majority = right(Majority().fit_predict(votes), rest)
    assert right(Hierarchical().fit_predict(votes, gold), rest) > majority
    assert right(TwoCoin().fit_predict(votes, gold), rest) > majority - 0.03


@pytest.mark.parametrize("seed", range(3))
def test_where_one_class_is_rare_a_stream_beats_majority_vote_and_a_prior_of_one_half_does_not(seed):
    votes, truth = lopsided(seed, 0.05)
    gold, rest = truth[:100], truth[100:]
    scores = []
    for estimator in (TwoCoin(), TwoCoin(prior=0.5), Majority()):
        estimator.partial_fit(votes[votes.task < 100], gold)
        for start in range(100, 1500, 100):
            estimator.partial_fit(votes[(votes.task >= start) & (votes.task < start + 100)])
        scores.append(right(estimator.labels_, rest))
    assert scores[0] >= scores[2] > scores[1]


def test_class_shares_follow_the_honeypots_where_the_crowd_says_little():
    gold, free = np.array([40, 60]), np.array([1900.0, 100.0])
    assert class_shares(gold, free, 10.0)[1] == pytest.approx((60 + 15 + 5) / 410)
    assert class_shares(np.array([0, 60]), free, 10.0)[1] == pytest.approx(105 / 2010)  # chosen, not drawn


@pytest.mark.parametrize("near", [1.0, 3.0, 60.0])
def test_the_strength_found_does_not_depend_on_where_it_is_looked_for_first(near):
    counts = np.random.default_rng(0).beta(8, 2, 200)[:, None] * [20, -20] + [0, 20]
    mean = counts.sum(axis=0) / counts.sum()
    assert fitted_strength(counts, mean, near=near) == pytest.approx(fitted_strength(counts, mean))


def test_a_majority_start_is_flipped_by_colluders_and_gold_first_is_not():
    scenario = simulate("colluders", 0.6, 0)
    rest = scenario.truth.drop(scenario.gold.index)
    votes = scenario.votes.drop(columns="time")
    flipped, kept = (e.fit_predict(votes, scenario.gold).loc[rest.index] for e in (DawidSkene(), Hierarchical()))
    assert (kept == rest).mean() > 0.9
    assert (flipped == rest).mean() < 0.1


def test_forgetting_follows_drift():
    scenario = simulate("drift", 0, 0, tasks=1500, annotators=20, per_task=5)
    scores = []
    for decay in (1.0, 0.98):
        estimator, right = (
            TwoCoin(decay=decay).partial_fit(scenario.votes[scenario.votes.task < 150], scenario.gold),
            [],
        )
        rest = scenario.votes[scenario.votes.task >= 150]
        for _, batch in rest.groupby(rest.task // 10):
            names = batch.task.unique()
            p = estimator.partial_fit(batch).posterior(names)[1]
            right.append((p >= 0.5) == (scenario.truth.loc[names] == 1))
        scores.append(pd.concat(right).mean())
    assert scores[1] >= 0.87 > scores[0]


# -- calibration ------------------------------------------------------------------------------------------------------


def test_the_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, 4000)
    truth = rng.random(4000) < 1 / (1 + np.exp(-honest))
    assert temperature(np.stack([np.zeros(len(honest)), 3 * honest], axis=1), truth.astype(int)) == pytest.approx(
        3, rel=0.1
    )


def test_the_temperature_never_sees_what_it_is_measured_on(votes):
    """A honeypot's own truth does not change the answer that the temperature is fitted to."""
    flipped = GOLD.copy()
    task = GOLD.index[0]
    flipped[task] = 1 - flipped[task]
    first = cross_fitted(TwoCoin, votes, GOLD, folds=len(GOLD))
    second = cross_fitted(TwoCoin, votes, flipped, folds=len(GOLD))
    assert first.loc[task].equals(second.loc[task])


def test_tempering_lowers_the_calibration_error_and_changes_no_label():
    rng = np.random.default_rng(0)
    everything = pd.Series(rng.integers(0, 2, 600))
    votes = crowd(rng, everything, np.full(8, 0.7), np.full(8, 0.7), density=0.5)
    votes = pd.concat([votes, votes.assign(worker=votes.worker + "'"), votes.assign(worker=votes.worker + "''")])
    gold, rest = everything[:60], everything[60:]
    raw, calm = Hierarchical().fit(votes, gold), Calibrated(Hierarchical).fit(votes, gold)
    errors = [calibration_error((rest == 1).to_numpy(), e.posterior(rest.index)[1].to_numpy()) for e in (raw, calm)]
    assert errors[1] < errors[0]
    assert (raw.labels_ == calm.labels_).all()


def many_classes(seed, k):
    """400 tasks of k classes, five votes each by thirty people of every skill, who share some mistakes."""
    rng = np.random.default_rng([k, seed])
    truth = pd.Series(rng.integers(0, k, 400))
    skill, favourite = rng.uniform(0.35, 0.75, 30), rng.dirichlet(np.full(k, 0.7), 30)
    rows = []
    for task, right in truth.items():
        trap = rng.integers(0, k)
        for worker in rng.choice(30, 5, replace=False):
            draw = rng.random(2)
            wrong = trap if draw[1] < 0.3 else rng.choice(k, p=favourite[worker])
            rows.append((task, f"w{worker}", int(right if draw[0] < skill[worker] else wrong)))
    return pd.DataFrame(rows, columns=["task", "worker", "label"]), truth


def gap(p, truth):
    """Mean gap between the probability of the answer and how often it is right, in ten bins."""
    sure, right = p.max(axis=1), p.argmax(axis=1) == truth
    return np.abs(np.bincount((sure * 9.999).astype(int), sure - right, minlength=10)).sum() / len(truth)


@pytest.mark.parametrize("k", [3, 4, 6])
def test_of_many_classes_too_the_probabilities_are_tempered(k):
    gaps = []
    for seed in range(3):
        votes, truth = many_classes(seed, k)
        gold, rest = truth[:40], truth[40:]
        shares = pd.crosstab(votes.task, votes.label, normalize="index").loc[rest.index].to_numpy()
        raw, calm = DawidSkene().fit(votes, gold), Calibrated(DawidSkene).fit(votes, gold)
        found = [one.posterior(rest.index)[range(k)].to_numpy() for one in (raw, calm)]
        assert (found[0].argmax(axis=1) == found[1].argmax(axis=1)).all()
        gaps.append([gap(p, rest.to_numpy()) for p in (shares, *found)])
    majority, raw, calm = np.mean(gaps, axis=0)
    assert calm < majority
    assert calm < raw


def test_no_number_of_votes_makes_a_task_without_gold_certain():
    votes = pd.DataFrame([(task, f"w{w}", task % 2) for task in range(12) for w in range(80)])
    votes.columns = ["task", "worker", "label"]
    found = Calibrated(Hierarchical).fit(votes, pd.Series({task: task % 2 for task in range(6)})).probas_
    assert (found.loc[:5].max(axis=1) == 1).all()
    assert (found.loc[6:].max(axis=1) < 1).all()


def test_what_is_said_of_the_honeypots_was_answered_without_their_truth():
    votes, truth = many_classes(0, 4)
    found = Calibrated(Hierarchical).fit(votes, truth[:60]).on_honeypots_
    held = cross_fitted(Hierarchical, votes, truth[:60])
    right = held.idxmax(axis=1) == truth.loc[held.index]
    assert (found.count, found.accuracy) == (60, pytest.approx(right.mean()))
    assert found.low < found.accuracy < found.high


@pytest.mark.parametrize("make", [TwoCoin, Hierarchical])
@pytest.mark.parametrize("task, of_gold", [(3, "3"), ("3", 3)])
def test_gold_whose_tasks_are_of_another_type_is_refused_with_both(make, task, of_gold):
    votes = pd.DataFrame({"task": [task, task], "worker": ["a", "b"], "label": [1, 0]})
    of, on = type(of_gold).__name__, type(task).__name__
    with pytest.raises(DataError, match=rf"task {of_gold!r} \({of}\), the votes are on task {task!r} \({on}\)"):
        make().fit(votes, pd.Series([1], index=pd.Index([of_gold], dtype=object)))


def test_a_state_of_another_version_is_refused_in_words():
    votes = pd.DataFrame({"task": ["t"], "worker": ["w"], "label": [1]})
    state = TwoCoin().fit(votes, pd.Series({"t": 1})).state_
    arrays = state.to_arrays()
    with pytest.raises(DataError, match="another version"):
        state.load_arrays(arrays | {"crowd": arrays["crowd"][:-1]})
