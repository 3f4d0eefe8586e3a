"""Every promise and how many times it is tried."""

from tests.reliability.broken_numbers import memory, not_finite
from tests.reliability.command_kills import command_kills
from tests.reliability.disk import full_disk, soak
from tests.reliability.hostile_input import hostile_files, images, prompts, records
from tests.reliability.kills import crash_points, damage, kills
from tests.reliability.outcome import Scenario
from tests.reliability.own_tests import tests_of
from tests.reliability.processes import process_exits, process_kills, process_signals
from tests.reliability.stops import resumes, signals, starts
from tests.reliability.waiting_answers import outbox
from tests.support.hostile.attack import HOSTILE

SCENARIOS = {
    "kills": Scenario(
        "kill -9 at a random time loses nothing acknowledged; replayed steps are bit-equal",
        kills,
        full=1000,
        reduced=12,
    ),
    "command_kills": Scenario(
        "a command that writes, killed before a file operation and given again, leaves the same",
        command_kills,
        full=2200,  # 200 of each command
        reduced=2,
    ),
    "crash_points": Scenario(
        "an exit before any file operation of a save leaves a checkpoint that loads",
        crash_points,
        full=2,
        reduced=1,
    ),
    "damage": Scenario(
        "a damaged newest checkpoint is noticed and the one before it is taken",
        damage,
        full=500,
        reduced=40,
    ),
    "signals": Scenario(
        "SIGTERM, SIGINT and SIGUSR1 exit with 143, 130 and 75, and the run goes on",
        signals,
        full=100,
        reduced=2,
    ),
    "resumes": Scenario(
        "sft, reward and ppo cut and resumed equal the uncut run: every metric and all state",
        resumes,
        full=27,
        reduced=3,
    ),
    "not_finite": Scenario(
        "NaN or infinity in 8 places x 5 steps is refused or skipped, no weight moves",
        not_finite,
        full=40,
        reduced=8,
    ),
    "memory": Scenario(
        "memory that runs out in a phase halves the pieces: same answers, same weights to 1e-5",
        memory,
        full=24,
        reduced=8,
    ),
    "full_disk": Scenario(
        "a full disk is warned of and training goes on; three failed saves exit with 5",
        full_disk,
        full=20,
        reduced=2,
    ),
    "starts": Scenario(
        "of 8 processes that want one run directory one gets it, the others exit with 6",
        starts,
        full=50,
        reduced=5,
    ),
    "soak": Scenario(
        "memory stays within 2 %, no file and no thread is left over, in one long PPO run",
        soak,
        full=500,
        reduced=60,
    ),
    "process_kills": Scenario(
        "kill -9 of one of 1, 2 or 4 processes: the others end, any number resumes, bit-equal",
        process_kills,
        full=100,
        reduced=3,
    ),
    "process_signals": Scenario(
        "a signal to one of 2 or 4 processes, or to their launcher: one checkpoint, its exit code",
        process_signals,
        full=60,
        reduced=2,
    ),
    "process_exits": Scenario(
        "two processes that leave the exchange together end with 0, none aborts",
        process_exits,
        full=50,
        reduced=1,
    ),
    "records": Scenario(
        "damaged files of records are read or refused by file, line and field",
        records,
        full=10_000,
        reduced=200,
    ),
    "images": Scenario(
        "damaged images load or are refused, none slower than 2 s",
        images,
        full=10_000,
        reduced=200,
    ),
    "hostile_files": Scenario(
        "hostile files end with exit 3 and three lines within 10 s, beside loading, and 2 GB",
        hostile_files,
        full=len(HOSTILE),
    ),
    "prompts": Scenario(
        "no text of a user becomes a special token or reads another row's image",
        prompts,
        full=100_000,
        reduced=500,
    ),
    "zoo": Scenario(
        "images of every mode, turned, cut, swollen, or no images at all: no uncaught error",
        tests_of("data/test_image_zoo.py"),
    ),
    "paths": Scenario(
        "no path written in a record leads out of the directory of the data",
        tests_of("data/test_paths.py"),
    ),
    "scorers": Scenario(
        "10,000 calls of a service with 30 % faults: no score is made up, nothing hangs",
        tests_of("rewards/external/test_http.py"),
    ),
    "payloads": Scenario(
        "32 payloads (pickles, adapters, configurations, templates, paths): none runs",
        tests_of("security"),
    ),
    "outbox": Scenario(
        "answers that wait in the browser reach their own log, once",
        outbox,
        full=40,
    ),
}
