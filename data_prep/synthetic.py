"""A small physiological generator of labelled 12-lead records.

It is for demos and tests and is no substitute for patients: networks trained on its records learn
textbook signs and nothing about people, and no score on them says how well a network does on real
recordings.

The heart is one moving dipole.  Its P, QRS, ST and T waves are Gaussian curves with directions in
the body, its potentials at nine electrodes come from the lead vectors of Dower's transform (Dower
et al., J Electrocardiol 1980), and every lead, noise included, is a difference of electrodes; so
Einthoven's and Goldberger's relations hold as in a real recording.  The signs of the nine
classes are those of the AHA/ACCF/HRS recommendations for the interpretation of the
electrocardiogram (Circulation 2009, parts III and VI) and of common textbooks.
"""

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from data_prep.commands import run_command
from data_prep.errors import OptionError
from data_prep.files import opened, write_csv
from data_prep.labels import CPSC_CLASSES, CPSC_SNOMED, LEADS

RATE = 500.0
_MARK = "#Hx: Synthetic"
MIN_SECONDS = 6.0
MAX_SECONDS = 600.0

# Body frame: x towards the left arm, y towards the feet, z towards the breastbone.  Rows: leads
# I, II, V1 ... V6; columns: mV in the lead for a dipole of 1 along x, y, z.
_DOWER = np.array(
    [
        [0.632, -0.235, -0.059],
        [0.235, 1.066, 0.132],
        [-0.515, 0.157, 0.917],
        [0.044, 0.164, 1.387],
        [0.882, 0.098, 1.277],
        [1.213, 0.127, 0.601],
        [1.125, 0.127, 0.086],
        [0.831, 0.076, -0.230],
    ]
)

# Potentials of RA, LA, LL against Wilson's terminal, from leads I and II; then V1 ... V6.
_ELECTRODES_FROM_LEADS = np.eye(9, 8, k=-1)
_ELECTRODES_FROM_LEADS[:3, :2] = np.array([[-1, -1], [2, -1], [-1, 2]]) / 3

_V1_ELECTRODE = 3

# Leads I, II, V1 ... V6 from the nine electrodes.
_LEADS_FROM_ELECTRODES = np.eye(8, 9, k=1)
_LEADS_FROM_ELECTRODES[:2, :3] = [[-1, 1, 0], [-1, 0, 1]]
_LEADS_FROM_ELECTRODES[2:, :3] = -1 / 3

# Waves: time of the peak, SD before and after it (ms; QRS waves from QRS onset, P waves from P
# onset), and the dipole at the peak along x, y, z (mV).
_P = np.array(
    [
        [36, 16, 16, 0.05, 0.09, 0.04],  # right atrium
        [66, 17, 17, 0.08, 0.08, -0.04],  # left atrium
    ]
)
_QRS_NORMAL = np.array(
    [
        [17, 7, 7, -0.16, -0.06, 0.30],  # septum: q in I and V6, r in V1
        [42, 10, 10, 1.10, 0.95, -0.15],  # free wall of the left ventricle
        [60, 9, 9, 0.25, 0.25, -0.75],  # its back wall: S in V1, V2
        [78, 7, 7, -0.18, -0.16, -0.15],  # base of the heart
    ]
)
_QRS_RBBB = np.array(
    [
        [17, 7, 7, -0.16, -0.06, 0.32],  # the left ventricle as usual: r ...
        [42, 10, 10, 1.05, 0.80, -0.15],
        [59, 9, 9, 0.20, 0.25, -0.50],  # ... S ...
        [102, 19, 19, -0.80, -0.10, 0.72],  # the right ventricle, late and slow: R' in V1
    ]
)
_QRS_LBBB = np.array(
    [
        [16, 7, 7, 0.10, 0.05, 0.10],  # septum from right to left: no q in I and V6
        [50, 17, 17, 0.95, 0.45, -0.70],  # two humps: the notched R of I and V6, ...
        [77, 15, 15, 0.05, 0.05, -0.40],  # ... which V1 hardly shows
        [103, 19, 19, 0.95, 0.10, -0.80],
    ]
)
# Premature ventricular beats by origin: right outflow tract, left free wall, apex.
_QRS_PVC = np.array(
    [
        [[55, 22, 24, 0.55, 1.30, -0.90], [108, 22, 24, 0.35, 0.70, -0.90]],
        [[55, 22, 24, -0.60, -0.75, 1.15], [108, 22, 24, -0.95, -0.30, 0.60]],
        [[55, 22, 24, 0.50, -1.10, -0.60], [108, 22, 24, 0.45, -0.80, -0.85]],
    ]
)
_T_NORMAL = np.array([0.30, 0.22, 0.22])
_T_RBBB = np.array([0.36, 0.20, -0.08])
_T_LBBB = np.array([-0.40, -0.08, 0.38])

# QRS starts and ends this many SDs from the peaks of its first and last wave.
_QRS_EDGE = 2.2

_HEART_RATES = {  # of the ventricles, beats per minute
    "Normal": (60, 95),
    "AF": (75, 140),
    "I-AVB": (52, 85),
    "LBBB": (58, 100),
    "RBBB": (58, 100),
    "PAC": (64, 95),
    "PVC": (64, 95),
    "STD": (60, 112),
    "STE": (60, 108),
}

# Territories of ST shifts: the leads that must show it, and the direction of the dipole for
# elevation and (sign reversed) depression.
_TERRITORIES: dict[str, dict[str, tuple[tuple[str, ...], tuple[float, float, float]]]] = {
    "STE": {
        "inferior": (("II", "III", "aVF"), (-0.25, 1.0, 0.0)),
        "anterior": (("V2", "V3", "V4"), (0.1, -0.6, 1.0)),
        "lateral": (("I", "aVL", "V5", "V6"), (1.0, -0.5, 0.1)),
    },
    "STD": {
        "inferior": (("II", "III", "aVF"), (-0.1, 1.0, 0.0)),
        "anterior": (("V2", "V3", "V4"), (0.2, 0.1, 1.0)),
        "lateral": (("V4", "V5", "V6"), (1.0, 0.35, 0.5)),
    },
}

_EXCLUSIVE = (  # pairs that cannot occur, or be recognised, in one short record
    {"AF", "I-AVB"},
    {"AF", "PAC"},
    {"LBBB", "RBBB"},
    {"LBBB", "STD"},
    {"LBBB", "STE"},
    {"STD", "STE"},
)


@dataclass(frozen=True)
class SyntheticRecord:
    """A synthetic recording with its annotations.

    Attributes:
        signal: float32 ``(time, 12)``, millivolts, leads in the order of ``LEADS``.
        fs: sampling rate, hertz.
        age: years.
        sex: ``"male"`` or ``"female"``.
        labels: 0-based CPSC classes, in the order requested.
        beat_onsets: ``(beats,)``, start of each QRS complex, seconds from the first sample.
        beat_kinds: ``(beats,)``, ``"N"`` conducted in the record's usual way, ``"A"`` premature
            atrial, ``"V"`` premature ventricular.
        pr_intervals: ``(beats,)``, from the start of P to that of QRS, seconds; NaN if there
            is no P.
        qrs_widths: ``(beats,)``, seconds.
        st_shift: ``(12,)``, shift of ST from the baseline in each lead in millivolts, without
            the shift due to wide QRS complexes; zeros without STD and STE.
        territory: ``"inferior"``, ``"anterior"`` or ``"lateral"``; empty without STD and STE.
    """

    signal: np.ndarray
    fs: float
    age: int
    sex: str
    labels: tuple[int, ...]
    beat_onsets: np.ndarray
    beat_kinds: np.ndarray
    pr_intervals: np.ndarray
    qrs_widths: np.ndarray
    st_shift: np.ndarray
    territory: str


def synthetic_record(
    labels: tuple[int, ...],
    *,
    seconds: float,
    seed: int | np.random.SeedSequence,
    fs: float = RATE,
) -> SyntheticRecord:
    """Generate one recording that shows the signs of its labels.

    It is for demos and tests and is no substitute for patients.

    Args:
        labels: 0-based CPSC classes; several only if they can be seen together.
        seconds: length, 6 to 600 s.
        seed: of everything random; the same seed gives the same record.
        fs: sampling rate, hertz, at least 100.

    Returns:
        The recording with its annotations.

    Raises:
        OptionError: if the labels contradict each other or do not exist, or a number is out of
            range.
    """
    names = _names_of(labels)
    _require_range("seconds", seconds, low=MIN_SECONDS, high=MAX_SECONDS, unit=" s")
    _require_range("fs", fs, low=100, high=10_000, unit=" Hz")
    if isinstance(seed, int):
        _require_seed(seed)
    rng = np.random.default_rng(seed)

    electrodes = _electrode_vectors(rng)
    axis = _rotation(rng)
    breathing = float(rng.uniform(0.2, 0.33))
    onsets, kinds, intervals = _rhythm(rng, names, seconds=seconds, breathing=breathing)
    st_dipole, territory = _st_dipole(rng, names, electrodes)
    waves, pr, widths = _waves(rng, names, onsets, kinds, intervals, axis=axis, st=st_dipole)

    length = round(seconds * fs)
    dipole = _rendered(waves, length=length, fs=fs)
    time = np.arange(length) / fs
    # Respiration rotates and shifts the heart slightly relative to the electrodes.
    phase = rng.uniform(0, 2 * np.pi)
    dipole *= 1 + rng.uniform(0.01, 0.05) * np.sin(2 * np.pi * breathing * time + phase)[:, None]
    potentials = dipole @ electrodes.T
    if "AF" in names:
        # V1 lies right over the right atrium, closer than the distant-dipole model assumes.
        nearness = np.where(np.arange(9) == _V1_ELECTRODE, 1.3, 1.0)
        potentials += nearness * (_fibrillation(rng, time) @ electrodes.T)
    potentials += _electrode_noise(rng, length=length, fs=fs, breathing=breathing)

    mean_age, sd_age = (45, 15) if names == ("Normal",) else (64, 13)
    inside = (onsets >= 0) & (onsets < seconds)
    return SyntheticRecord(
        signal=_twelve_leads(potentials).astype(np.float32),
        fs=fs,
        age=int(np.clip(rng.normal(mean_age, sd_age), 18, 95)),
        sex=str(rng.choice(["male", "female"])),
        labels=tuple(int(label) for label in labels),
        beat_onsets=onsets[inside],
        beat_kinds=kinds[inside],
        pr_intervals=pr[inside],
        qrs_widths=widths[inside],
        st_shift=_twelve_leads(electrodes @ st_dipole),
        territory=territory,
    )


def main(
    *,
    out: Path,
    records: int = 300,
    seed: int = 0,
    test_records: int = 0,
    min_seconds: float = 6.0,
    max_seconds: float = 60.0,
    workers: int | None = None,
) -> None:
    """Write labelled synthetic 12-lead records in the layout of CPSC 2018.

    They are for demos and tests and are no substitute for patients: no figure obtained on them
    says how well a network does on real recordings.

    Writes OUT/train with one WFDB header and one MATLAB v4 file per record (500 Hz, 1000 units
    per mV) and REFERENCE.csv (Recording, First_label, Second_label, Third_label; 1 to 9); with
    --test-records also OUT/test, with the same layout, and OUT/test.csv, which has a column
    Recording and no labels. The nine classes take turns; every thirteenth record has a second
    label, unless it is Normal.

    Args:
        out: folder to write to; created if missing; must be empty.
        records: number of training records.
        seed: of everything random, 0 or above; the same seed and options give the same bytes,
            whatever the number of workers.
        test_records: number of records held out for testing; 0 writes no test part.
        min_seconds: shortest record, in seconds, at least 6.
        max_seconds: longest record, in seconds, at most 600; durations are distributed as in
            CPSC 2018 (median 12 s, mostly 8 to 20 s, a few up to 60 s), clipped to these limits.
        workers: number of processes; by default one per core.
    """
    from joblib import Parallel, delayed
    from tqdm import tqdm

    if records < 1:
        raise OptionError(f"--records must be 1 or more, not {records}.")
    if test_records < 0:
        raise OptionError(f"--test-records must be 0 or more, not {test_records}.")
    if workers is not None and workers < 1:
        raise OptionError(f"--workers must be 1 or more, not {workers}.")
    _require_seed(seed)
    _require_range("--min-seconds", min_seconds, low=MIN_SECONDS, high=MAX_SECONDS, unit=" s")
    _require_range("--max-seconds", max_seconds, low=MIN_SECONDS, high=MAX_SECONDS, unit=" s")
    if min_seconds > max_seconds:
        raise OptionError(
            f"--min-seconds ({min_seconds:g} s) is above --max-seconds ({max_seconds:g} s);"
            " swap them."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "is not empty" if out.is_dir() else "is a file"
        raise OptionError(f"{out} {what}; give an empty or new folder.")

    out.mkdir(parents=True, exist_ok=True)
    parts = {"train": records, "test": test_records}
    # Inside OUT, so that an interrupted run leaves OUT empty and usable.
    with TemporaryDirectory(prefix=".part", dir=out) as unfinished:
        jobs = [
            delayed(_write_one)(Path(unfinished), part, index, seed, min_seconds, max_seconds)
            for part, count in parts.items()
            for index in range(count)
        ]
        for part, count in parts.items():
            if count:
                (Path(unfinished) / part).mkdir()
        # Closed before the folder is removed, so that no process is still writing there.
        with closing(Parallel(n_jobs=workers or -1, return_as="generator")(jobs)) as done:
            rows = list(tqdm(done, total=len(jobs), desc="synthetic records", unit="record"))
        for part, these in (("train", rows[:records]), ("test", rows[records:])):
            if these:
                _write_reference(Path(unfinished) / part / "REFERENCE.csv", these)
                (Path(unfinished) / part).rename(out / part)
    if test_records:
        write_csv(out / "test.csv", ["Recording"], [[name] for name, _ in rows[records:]])
    print(f"{records} training and {test_records} test records, synthetic, are in {out}")


def is_generated(path: Path) -> bool:
    """Tell from its header whether a recording was written by ``ecg-synthetic``.

    Args:
        path: of the recording, with any suffix.
    """
    try:
        with opened(path.with_suffix(".hea"), most=1_000_000) as file:
            return _MARK in file.read().decode("latin-1").splitlines()
    except OSError:
        return False


def command() -> None:
    """Run :func:`main` from the command line."""
    run_command(main)


def _require_range(name: str, value: float, *, low: float, high: float, unit: str) -> None:
    if not low <= value <= high:  # NaN fails too
        raise OptionError(f"{name} must be from {low:g} to {high:g}{unit}, not {value:g}.")


def _require_seed(seed: int) -> None:
    if seed < 0:
        raise OptionError(f"the seed must be 0 or above, not {seed}.")


def _names_of(labels: tuple[int, ...]) -> tuple[str, ...]:
    """Class names of 0-based labels that can be seen together."""
    if not labels or any(not 0 <= label < len(CPSC_CLASSES) for label in labels):
        raise OptionError(
            f"labels must be one or more of 0 to {len(CPSC_CLASSES) - 1}, not {labels}."
        )
    names = tuple(CPSC_CLASSES[label] for label in labels)
    for i, name in enumerate(names):
        for other in names[:i]:
            if not _compatible(name, other):
                raise OptionError(
                    f"{other} and {name} cannot be in one synthetic record; choose one of them."
                )
    return names


def _compatible(name: str, other: str) -> bool:
    return name != other and "Normal" not in (name, other) and {name, other} not in _EXCLUSIVE


# ---- rhythm ----


def _rhythm(
    rng: np.random.Generator, names: tuple[str, ...], *, seconds: float, breathing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """QRS onsets (s), kinds of beat and preceding intervals (s), from before 0 to past the end."""
    low = max(_HEART_RATES[name][0] for name in names)
    high = min(_HEART_RATES[name][1] for name in names)
    mean = 60 / rng.uniform(low, high)
    # Enough beats even if premature beats move the following ones forward.
    count = math.ceil(1.7 * seconds / mean) + 8
    if "AF" in names:
        spread = rng.uniform(0.19, 0.27)
        intervals = mean * np.exp(spread * rng.standard_normal(count) - spread**2 / 2)
        intervals = np.clip(intervals, 0.33, 2.0)
    else:
        intervals = mean * _heart_rate_variability(rng, count, mean=mean, breathing=breathing)
    start = -1.2 - rng.uniform(0, mean)
    times = start + np.cumsum(intervals)

    kinds = np.full(count, "N")
    # A premature beat counts as visible if the beats before and after it are in the record.
    before = times - intervals
    after = np.append(times[1:], np.inf)
    if "AF" in names:
        after = np.maximum(after, before + 2.2 * mean)
    free = (before > 0.25) & (after < seconds - 0.2) & (np.arange(count) > 0)
    wanted = [kind for kind, name in (("A", "PAC"), ("V", "PVC")) if name in names]
    for kind in wanted:
        another_to_come = kind != wanted[-1]
        candidates = np.flatnonzero(free)
        # The first is always placed, even if two beats must be reserved for another kind.
        chosen = rng.choice(candidates[:-2] if another_to_come else candidates)
        extra = rng.poisson(seconds * rng.uniform(0.05, 0.2))
        for index in (chosen, *rng.permutation(candidates)[:extra]):
            # Never two in a row, so that each pause is complete.
            left = free.copy()
            left[index - 1 : index + 2] = False
            if free[index] and (left.any() or not another_to_come):
                kinds[index] = kind
                free = left
    for index in np.flatnonzero(kinds != "N"):
        coupling, usual = rng.uniform(0.52, 0.7), intervals[index]
        if kinds[index] == "A":
            # The sinus node is reset: the pause is not fully compensatory.
            intervals[index] = max(coupling * usual, 0.36)
            intervals[index + 1] = usual * rng.uniform(1.02, 1.1)
        elif "AF" in names:
            intervals[index] = max(coupling * mean, 0.36)
            intervals[index + 1] = mean * rng.uniform(1.2, 1.5)
        else:
            # The sinus node is not reset: the next beat comes at its usual time.
            total = usual + intervals[index + 1]
            intervals[index] = max(coupling * usual, 0.38)
            intervals[index + 1] = total - intervals[index]
    times = start + np.cumsum(intervals)
    keep = times < seconds + 1.0
    return times[keep], kinds[keep], intervals[keep]


def _heart_rate_variability(
    rng: np.random.Generator, count: int, *, mean: float, breathing: float
) -> np.ndarray:
    """Relative RR intervals ``(count,)``: respiratory, 0.1 Hz and 1/f components around 1."""
    time = mean * np.arange(count)
    phases = rng.uniform(0, 2 * np.pi, size=2)
    respiratory = rng.uniform(0.008, 0.035) * np.sin(2 * np.pi * breathing * time + phases[0])
    slow = rng.uniform(0.005, 0.02) * np.sin(2 * np.pi * 0.1 * time + phases[1])
    frequencies = np.fft.rfftfreq(count)
    frequencies[0] = np.inf
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) / np.sqrt(frequencies), n=count)
    flicker = rng.uniform(0.004, 0.012) * noise / noise.std()
    return 1 + np.clip(respiratory + slow + flicker, -0.12, 0.12)


# ---- the waves of each beat ----


def _waves(
    rng: np.random.Generator,
    names: tuple[str, ...],
    onsets: np.ndarray,
    kinds: np.ndarray,
    intervals: np.ndarray,
    *,
    axis: np.ndarray,
    st: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All waves of a record, as rows of the tables above but in seconds; PR and QRS per beat."""
    usual_qrs, t_direction = _QRS_NORMAL, _T_NORMAL
    stretch = rng.uniform(0.85, 1.08)
    if "RBBB" in names:
        usual_qrs, t_direction, stretch = _QRS_RBBB, _T_RBBB, rng.uniform(0.95, 1.12)
    if "LBBB" in names:
        usual_qrs, t_direction, stretch = _QRS_LBBB, _T_LBBB, rng.uniform(0.95, 1.12)
    qrs_gain = math.exp(0.18 * float(np.clip(rng.standard_normal(), -2, 2)))
    t_gain = qrs_gain * math.exp(0.22 * float(np.clip(rng.standard_normal(), -2, 2)))
    p_gain = math.exp(0.15 * float(np.clip(rng.standard_normal(), -2, 2)))
    t_dipole = t_gain * (axis @ t_direction)
    if "STD" in names:
        t_dipole = rng.uniform(-0.2, 0.5) * t_dipole
    if "STE" in names:
        t_dipole = t_dipole + rng.uniform(0.2, 0.6) * st
    usual = _shaped(usual_qrs, stretch=stretch, gain=qrs_gain, axis=axis)
    # One origin per record; its T wave is opposite to QRS.
    pvc = _QRS_PVC[rng.integers(len(_QRS_PVC))]
    pvc = _shaped(pvc, stretch=rng.uniform(0.95, 1.12), gain=qrs_gain, axis=axis)
    pvc_t = -0.42 * pvc[:, 3:].sum(axis=0) / 2
    p = _shaped(_P, stretch=rng.uniform(0.92, 1.08), gain=p_gain, axis=axis)
    # From low in either atrium, against the usual direction: P is inverted in II.
    ectopic_p = p * [1, 1, 1, rng.uniform(-0.3, 0.6), rng.uniform(-1.1, -0.7), 1]

    usual_pr = rng.uniform(0.215, 0.32) if "I-AVB" in names else rng.uniform(0.13, 0.18)
    corrected_qt = rng.uniform(0.385, 0.425)
    mean_interval = float(np.mean(intervals))
    rows, pr_intervals, widths = [], [], []
    for onset, kind, interval in zip(onsets, kinds, intervals, strict=True):
        qrs = pvc if kind == "V" else usual
        begin, width = _extent(qrs)
        qrs = qrs.copy()
        qrs[:, 0] += onset - begin
        qrs[:, 3:] *= 1 + 0.02 * rng.standard_normal()
        rows.append(qrs)
        widths.append(width)
        # Fridericia's law; QT follows the rate slowly.
        qt = corrected_qt * (0.3 * interval + 0.7 * mean_interval) ** (1 / 3)
        qt += max(0.0, width - 0.09)
        spread = qt / 0.4
        t_peak = onset + qt - 0.095 * spread
        repolarisation = pvc_t if kind == "V" else t_dipole
        rows.append(np.array([[t_peak, 0.055 * spread, 0.038 * spread, *repolarisation]]))
        if st.any():
            # Rises at the J point and falls during the T wave.
            rows.append(np.array([[onset + width + 0.035, 0.016, 0.090 * spread, *st]]))
        if kind == "V" or "AF" in names:
            pr_intervals.append(math.nan)
            continue
        pr = usual_pr * rng.uniform(0.92, 1.08) if kind == "A" else usual_pr
        pr += 0.002 * rng.standard_normal()
        pr_intervals.append(pr)
        wave = (ectopic_p if kind == "A" else p).copy()
        wave[:, 0] += onset - pr
        rows.append(wave)
    return np.vstack(rows), np.array(pr_intervals), np.array(widths)


def _shaped(waves: np.ndarray, *, stretch: float, gain: float, axis: np.ndarray) -> np.ndarray:
    """A table of waves in seconds, stretched in time, scaled, and rotated with the heart."""
    return np.hstack([waves[:, :3] * stretch / 1000, gain * waves[:, 3:] @ axis.T])


def _extent(qrs: np.ndarray) -> tuple[float, float]:
    """Start of a QRS complex, on the time axis of its table, and its width, seconds."""
    begin = float(np.min(qrs[:, 0] - _QRS_EDGE * qrs[:, 1]))
    return begin, float(np.max(qrs[:, 0] + _QRS_EDGE * qrs[:, 2])) - begin


def _st_dipole(
    rng: np.random.Generator, names: tuple[str, ...], electrodes: np.ndarray
) -> tuple[np.ndarray, str]:
    """The dipole of a shifted ST segment ``(3,)`` (mV), and its territory."""
    for name, sign in (("STD", -1), ("STE", 1)):
        if name in names:
            territory = str(rng.choice(list(_TERRITORIES[name])))
            leads, direction = _TERRITORIES[name][territory]
            shift = _twelve_leads(electrodes @ np.array(direction))
            # At least two neighbouring leads must show it, so the second largest sets the scale.
            second = np.sort(shift[[LEADS.index(lead) for lead in leads]])[-2]
            size = rng.uniform(0.15, 0.28) if name == "STD" else rng.uniform(0.18, 0.4)
            return sign * size / second * np.array(direction), territory
    return np.zeros(3), ""


def _rendered(waves: np.ndarray, *, length: int, fs: float) -> np.ndarray:
    """The dipole over time ``(length, 3)``: the sum of all waves, each cut off at 4.5 SDs."""
    reach = math.ceil(4.5 * float(waves[:, 1:3].max()) * fs)
    centre = np.round(waves[:, :1] * fs).astype(np.int64)
    index = centre + np.arange(-reach, reach + 1)  # (wave, sample)
    offset = index / fs - waves[:, :1]
    spread = np.where(offset < 0, waves[:, 1:2], waves[:, 2:3])
    shape = np.exp(-0.5 * np.square(offset / spread))
    inside = (index >= 0) & (index < length)
    return np.stack(
        [
            np.bincount(index[inside], (shape * waves[:, k : k + 1])[inside], minlength=length)
            for k in (3, 4, 5)
        ],
        axis=-1,
    )


def _fibrillation(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Fibrillation waves ``(time, 3)`` (mV): two wandering oscillations of 4 to 9 Hz."""
    waves = np.zeros((len(time), 3))
    # The first and larger one points from the left atrium to V1.
    for direction, size in (
        (np.array([-0.55, 0.25, 0.45]), rng.uniform(0.06, 0.12)),
        (np.array([0.1, 0.9, 0.2]), rng.uniform(0.01, 0.03)),
    ):
        frequency = rng.uniform(4.6, 8.2)
        a, b, c = rng.uniform(0, 2 * np.pi, size=3)
        phase = 2 * np.pi * frequency * time + a
        phase += 0.9 * np.sin(2 * np.pi * 0.4 * time + b) + 0.3 * np.sin(2 * np.pi * 1.3 * time + c)
        swell = 1 + 0.35 * np.sin(2 * np.pi * rng.uniform(0.2, 0.7) * time + c)
        shape = np.sin(phase) + 0.3 * np.sin(2 * phase + 0.6)
        waves += size * (swell * shape)[:, None] * direction
    return waves


# ---- from dipole to leads ----


def _electrode_vectors(rng: np.random.Generator) -> np.ndarray:
    """Potential at each electrode for a unit dipole ``(9, 3)``, slightly different in each body."""
    vectors = _ELECTRODES_FROM_LEADS @ _DOWER
    return vectors * np.exp(0.08 * np.clip(rng.standard_normal((9, 1)), -2, 2))


def _rotation(rng: np.random.Generator) -> np.ndarray:
    """A rotation of the heart ``(3, 3)``: in the frontal plane, then about the long axis."""
    frontal = math.radians(float(np.clip(12 * rng.standard_normal(), -25, 25)))
    transverse = math.radians(float(np.clip(7 * rng.standard_normal(), -14, 14)))
    c, s = math.cos(frontal), math.sin(frontal)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    c, s = math.cos(transverse), math.sin(transverse)
    return np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) @ turn


def _electrode_noise(
    rng: np.random.Generator, *, length: int, fs: float, breathing: float
) -> np.ndarray:
    """Muscle noise, mains hum and baseline wander at each electrode ``(length, 9)``, mV."""
    from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

    padded = next_fast_len(length, real=True)
    frequencies = rfftfreq(padded, 1 / fs)
    muscle = ((frequencies > 15) & (frequencies < 150)).astype(float)
    wander = np.zeros_like(frequencies)
    slow = (frequencies > 0.03) & (frequencies < 0.7)
    wander[slow] = 1 / frequencies[slow]
    noise = np.zeros((length, 9))
    for spectrum, median in ((muscle, 0.006), (wander, 0.025)):
        size = median * np.exp(0.5 * np.clip(rng.standard_normal(9), -2, 2))
        white = rng.standard_normal((padded, 9))
        coloured = irfft(rfft(white, axis=0) * spectrum[:, None], n=padded, axis=0)
        noise += size * (coloured / coloured.std(axis=0))[:length]
    time = np.arange(length) / fs
    hum_size, hum_phase = rng.uniform(0, 0.004, size=9), rng.uniform(0, 2 * np.pi)
    if fs > 100:
        noise += hum_size * np.sin(2 * np.pi * 50 * time + hum_phase)[:, None]
    breath = np.sin(2 * np.pi * breathing * time + rng.uniform(0, 2 * np.pi))
    return noise + rng.uniform(0, 0.03, size=9) * breath[:, None]


def _twelve_leads(potentials: np.ndarray) -> np.ndarray:
    """Leads ``(..., 12)`` from electrode potentials ``(..., 9)``."""
    leads = potentials @ _LEADS_FROM_ELECTRODES.T
    return _with_limb_leads(leads[..., 0], leads[..., 1], leads[..., 2:])


def _with_limb_leads(one: np.ndarray, two: np.ndarray, chest: np.ndarray) -> np.ndarray:
    """All twelve leads from I, II and V1 ... V6, by Einthoven's and Goldberger's relations."""
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.concatenate([np.stack(limb, axis=-1), chest], axis=-1)


# ---- files ----


def _write_one(
    folder: Path, part: str, index: int, seed: int, min_seconds: float, max_seconds: float
) -> tuple[str, tuple[int, ...]]:
    """Write record ``index`` of a part; return its name and labels."""
    # Every record is seeded by its index, so that it depends neither on the number of records
    # nor on the process that writes it.
    place = (("train", "test").index(part), index)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(*place, 0)))
    labels: tuple[int, ...] = (index % len(CPSC_CLASSES),)
    if index % 13 == 12:
        first = CPSC_CLASSES[labels[0]]
        others = [i for i, name in enumerate(CPSC_CLASSES) if _compatible(first, name)]
        if others:
            labels = (*labels, int(rng.choice(others)))
    deviate = rng.standard_normal()
    seconds = 12 * math.exp((0.25 if deviate < 0 else 0.6) * deviate)
    record = synthetic_record(
        labels,
        seconds=min(max(seconds, min_seconds), max_seconds),
        seed=np.random.SeedSequence(seed, spawn_key=(*place, 1)),
    )
    name = f"{'ST'[place[0]]}{index + 1:04d}"
    _write_record(folder / part / name, record)
    return name, labels


def _write_record(path: Path, record: SyntheticRecord) -> None:
    """Write PATH.hea and PATH.mat in the format of CPSC 2018 in the PhysioNet/CinC Challenges."""
    from scipy.io import savemat

    # I, II and the chest leads are rounded and the others computed from them, so that the
    # relations also hold between the integers.
    microvolts = np.rint(record.signal.astype(np.float64) * 1000)
    leads = _with_limb_leads(microvolts[:, 0], microvolts[:, 1], microvolts[:, 6:])
    digital = np.rint(leads).astype(np.int16)
    savemat(path.with_suffix(".mat"), {"val": digital.T}, format="4")

    codes = {name: code for code, name in CPSC_SNOMED.items()}
    lines = [f"{path.name} 12 {record.fs:g} {len(digital)}"]
    for lead, samples in zip(LEADS, digital.T, strict=True):
        checksum = (int(samples.sum(dtype=np.int64)) + 0x8000) % 0x10000 - 0x8000
        # The 24-byte MATLAB header precedes the samples.
        lines.append(f"{path.name}.mat 16+24 1000/mV 16 0 {samples[0]} {checksum} 0 {lead}")
    lines += [
        f"#Age: {record.age}",
        f"#Sex: {record.sex.capitalize()}",
        f"#Dx: {','.join(codes[CPSC_CLASSES[label]] for label in record.labels)}",
        "#Rx: Unknown",
        _MARK,
        "#Sx: Unknown",
    ]
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")


def _write_reference(path: Path, rows: list[tuple[str, tuple[int, ...]]]) -> None:
    """Write the table of labels, 1-based, in the challenge's format."""
    columns = ["Recording", "First_label", "Second_label", "Third_label"]
    of_three = ((*(label + 1 for label in labels), "", "")[:3] for _, labels in rows)
    write_csv(path, columns, [[name, *of] for (name, _), of in zip(rows, of_three, strict=True)])


if __name__ == "__main__":
    command()
