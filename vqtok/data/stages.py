"""What the commits of a run say about time: stages, workers, stragglers, and what binds it."""

from collections import defaultdict
from collections.abc import Sequence

# stages of a worker, then of the driver, and how they are called
WORKER_STAGES = {"read": "read", "decode": "decode", "tokenize": "encode", "write": "write"}
DRIVER_STAGES = {"check": "check", "publish": "publish"}
# share of the workers' time above which a stage is what the run is bound by
BOUND = 0.5
# share of the time from first to last unit in which the one driver is busy
DRIVER_BOUND = 0.8
ADVICE = {
    "read": "the storage is slower than the tokenizer: bring the data nearer, or use more workers",
    "tokenize": "more --workers, a larger --batch-size or a faster device help",
    "write": "parquet takes longer than the codes: keep fewer columns",
}
BALANCED = "balanced: no stage takes more than half of the workers' time"
# a unit that takes so many times the median a row is a straggler
STRAGGLES = 2.0
LEAST_UNITS = 4
MOST_STRAGGLERS = 5
TIMELINE_POINTS = 200
# between two units, in times of the slowest one: that is a break between two runs
BREAK = 3.0


def stage_table(commits: Sequence[dict]) -> tuple[list[dict], str]:
    """Seconds by stage, and what the run is bound by in one line."""
    timed = [commit["seconds"] for commit in commits]
    known = WORKER_STAGES | DRIVER_STAGES
    names = [name for name in known if any(name in unit for unit in timed)]
    worked = sum(unit.get(name, 0.0) for unit in timed for name in WORKER_STAGES)
    rows = []
    for name in names:
        values = sorted(unit.get(name, 0.0) for unit in timed)
        total = sum(values)
        rows.append(
            {
                "stage": known[name],
                "where": "worker" if name in WORKER_STAGES else "driver",
                "seconds": round(total, 3),
                "share": round(total / worked, 4) if worked else 0.0,
                "median": percentile(values, 0.5),
                "p95": percentile(values, 0.95),
                "slowest": values[-1],
            }
        )
    return rows, verdict(commits, worked)


def verdict(commits: Sequence[dict], worked: float) -> str:
    """What a run is bound by, and what would help."""
    if not commits or not worked:
        return "no unit says how long it took"
    total: dict[str, float] = defaultdict(float)
    for commit in commits:
        for name, seconds in commit["seconds"].items():
            total[name] += seconds
    workers = len({commit.get("worker") for commit in commits})
    driver = sum(total[name] for name in DRIVER_STAGES)
    _, wall = timeline(commits)
    if workers > 1 and wall and driver > DRIVER_BOUND * wall:
        return (
            f"publish-bound: the driver was busy {driver / wall:.0%} of the time with checking and "
            "publishing; larger units, a faster disk or --executor shard help"
        )
    slowest = max(WORKER_STAGES, key=lambda name: total[name])
    share = total[slowest] / worked
    if share <= BOUND:
        return BALANCED
    advice = ADVICE.get(slowest, "")
    if slowest == "decode":
        times = (total["decode"] + total["tokenize"]) / max(total["tokenize"], 1e-9)
        advice = f"the encoder waits; about {times:.1f} times the decoding threads would feed it"
    return f"{WORKER_STAGES[slowest]}-bound: {share:.0%} of the workers' time; {advice}"


def percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values: the one that this share of them does not exceed."""
    return values[min(len(values) - 1, int(share * len(values)))]


def worker_seconds(commit: dict) -> float:
    """What a unit took its worker."""
    return sum(commit["seconds"].get(name, 0.0) for name in WORKER_STAGES)


def worker_table(commits: Sequence[dict]) -> list[dict]:
    """Units, rows and seconds of each worker."""
    found: dict[str, list[dict]] = defaultdict(list)
    for commit in commits:
        found[commit.get("worker") or "?"].append(commit)
    return [
        {
            "worker": name,
            "units": len(made),
            "rows": sum(commit["rows"] for commit in made),
            "seconds": round(sum(map(worker_seconds, made)), 3),
        }
        for name, made in sorted(found.items())
    ]


def stragglers(commits: Sequence[dict]) -> list[dict]:
    """Units that took more than twice the median time a row, the slowest first."""
    if len(commits) < LEAST_UNITS:
        return []
    speed = {commit["unit"]: worker_seconds(commit) / commit["rows"] for commit in commits}
    median = percentile(sorted(speed.values()), 0.5)
    slow = [c for c in commits if median and speed[c["unit"]] > STRAGGLES * median]
    slow.sort(key=lambda commit: -speed[commit["unit"]])
    return [
        {
            "unit": commit["unit"],
            "worker": commit.get("worker") or "?",
            "rows": commit["rows"],
            "seconds": round(worker_seconds(commit), 3),
            "times_median": round(speed[commit["unit"]] / median, 2),
        }
        for commit in slow[:MOST_STRAGGLERS]
    ]


def timeline(commits: Sequence[dict]) -> tuple[list[list[float]], float | None]:
    """[seconds of work since the run began, rows so far] and its length; breaks are left out."""
    dated = sorted((c for c in commits if "published" in c), key=lambda c: c["published"])
    if not dated:
        return [], None
    longest = max(map(worker_seconds, dated))
    now, rows, before = 0.0, 0, dated[0]["published"] - worker_seconds(dated[0])
    line = [[0.0, 0]]
    for commit in dated:
        gap = max(commit["published"] - before, 0.0)
        now += gap if gap <= BREAK * longest + 1.0 else worker_seconds(commit)
        before, rows = commit["published"], rows + commit["rows"]
        line.append([round(now, 3), rows])
    step = -(-len(line) // TIMELINE_POINTS)
    thin = line[::step] if line[-1] in line[::step] else [*line[::step], line[-1]]
    return thin, round(now, 3)
