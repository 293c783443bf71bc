"""The mutants: each takes away one of the things that keep a promise, and names the scenario that must notice."""

from __future__ import annotations

from tests.chaos.mutants import Mutant

SCRIPTS = "protocol/scripts/"
URGENT = "supervisor/maintenance/urgent.py"
RECOVERY = "supervisor/maintenance/recovery.py"

MUTANTS = (
    # The fence and the moves.
    Mutant(
        "settle-without-fence",
        SCRIPTS + "settle.lua",
        "  if not pending[ref] then",
        "  if not pending[ref] and redis.call('EXISTS', records .. id) == 0 then",
        "stop-host",
        seconds=12,
    ),
    Mutant(
        "acknowledge-without-delete",
        SCRIPTS + "settle.lua",
        "    redis.call('XDEL', streams[letter], unpack(ids))\n",
        "",
        "kill-workers",
    ),
    Mutant(
        "delete-without-acknowledge",
        SCRIPTS + "settle.lua",
        "    redis.call('XACK', streams[letter], GROUP, unpack(ids))\n",
        "",
        "lose-replies",
        seconds=10,
    ),
    Mutant("group-at-the-end", SCRIPTS + "join.lua", "'millstream', '0',", "'millstream', '$',", "destroy-groups"),
    Mutant(
        "group-made-once",
        SCRIPTS + "join.lua",
        "local reply = redis.pcall(",
        "local reply = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 and {err = 'BUSYGROUP'} or redis.pcall(",
        "destroy-groups",
    ),
    Mutant(
        "enqueue-twice",
        SCRIPTS + "enqueue.lua",
        "  if redis.call('EXISTS', record) == 1 then",
        "  if false then",
        "lose-replies",
        seconds=8,
    ),
    Mutant(
        "settle-refused-when-full",
        SCRIPTS + "settle.lua",
        "#!lua flags=allow-oom",
        "#!lua",
        "fill-server",
    ),
    # Counting.
    Mutant(
        "crash-not-counted",
        SCRIPTS + "settle.lua",
        "    job.crashes, job.alone = job.crashes + 1, true",
        "    job.alone = true",
        "poison-jobs",
        seconds=3,
    ),
    Mutant(
        "attempt-not-counted",
        SCRIPTS + "settle.lua",
        "    job[AGAIN[kind]] = job[AGAIN[kind]] + 1\n    postpone",
        "    postpone",
        "kill-workers",
        seconds=3,
    ),
    # Leases and recovery.
    Mutant(
        "renew-nothing",
        URGENT,
        "lost = self._link.run(transitions.renew(self._keys(record), self._consumer(record), refs))",
        "lost: list[str] = []",
        "kill-maintenance",
    ),
    Mutant(
        "renew-for-ever",
        URGENT,
        "if not self._is_supervised(now):",
        "if False:",
        "stop-supervisor",
    ),
    Mutant(
        "recover-from-the-living",
        SCRIPTS + "recover.lua",
        "  if idle >= lease_of(consumer) then",
        "  if idle >= 300 then",
        "kill-maintenance",
    ),
    Mutant(
        "recover-by-our-own-lease",
        SCRIPTS + "recover.lua",
        "  return tonumber(redis.call('HGET', owners, instance) or ARGV[4])",
        "  return 2000",
        "pinned-entries",
    ),
    Mutant(
        "recover-only-the-first-page",
        RECOVERY,
        "self._cursors[queue, stream] = step.cursor",
        'self._cursors[queue, stream] = ""',
        "pinned-entries",
    ),
    Mutant(
        "recover-right-after-an-outage",
        RECOVERY,
        "        return now < header[Header.RECOVER_FROM] / 1e9\n",
        "        return False\n",
        "long-outage",
        seconds=10,
    ),
    Mutant(
        "recover-right-after-a-step-of-the-clock",
        RECOVERY,
        "            jumped = not server - now - lease / 8 <= clock <= server - asked + lease / 8\n",
        "            jumped = False\n",
        "step-clock",
        seconds=10,
    ),
    Mutant(
        "prune-what-holds-jobs",
        SCRIPTS + "prune.lua",
        "if not living and pending == 0 and idle > lease then",
        "if not living and idle > lease then",
        "pinned-entries",
    ),
    Mutant(
        "prune-nothing",
        SCRIPTS + "prune.lua",
        "      redis.call('XGROUP', 'DELCONSUMER', streams[letter], GROUP, name)\n",
        "",
        "term-under-load",
    ),
    # Deaths.
    Mutant(
        "outbox-of-the-dead-forgotten",
        URGENT,
        "        runs = self._unsettled(record)[1]\n",
        "        runs = self._unsettled(record)[1][:0]\n",
        "poison-jobs",
    ),
    Mutant(
        "unstarted-jobs-not-given-back",
        URGENT,
        "[transitions.retire(one, consumer, delete=False) for one in keys]",
        "[]",
        "poison-jobs",
    ),
    Mutant(
        "orphans-not-noticed",
        URGENT,
        "self.orphaned = os.getppid() != self._parent",
        "self.orphaned = False",
        "kill-supervisor",
    ),
    Mutant(
        "no-parent-death-signal",
        "worker/program.py",
        '    if sys.platform == "linux":\n        ctypes',
        '    if sys.platform == "none":\n        ctypes',
        "kill-supervisor",
        seconds=10,
    ),
    Mutant(
        "stuck-maintenance-not-replaced",
        "supervisor/maintenance/child.py",
        "if silent > self._patience:",
        "if silent > 3600:",
        "stop-maintenance",
    ),
    Mutant(
        "hard-limit-not-enforced",
        "supervisor/deadlines.py",
        "    if now >= hard:",
        "    if now >= hard + 3600:",
        "stuck-jobs",
    ),
    Mutant(
        "strays-not-killed",
        "supervisor/strays.py",
        "        self.left, self._until = True, now + PATIENCE",
        "        self.left, self._until = False, now + PATIENCE",
        "stuck-jobs",
    ),
    Mutant(
        "memory-not-limited",
        "supervisor/memory.py",
        "            elif resident > limit:",
        "            elif resident > 100 * limit:",
        "greedy-jobs",
    ),
    # The connection.
    Mutant(
        "noscript-not-handled",
        "protocol/link.py",
        "            if isinstance(reply, exceptions.NoScriptError):",
        "            if False:",
        "flush-scripts",
    ),
    Mutant(
        "worker-ends-with-the-connection",
        "worker/loop.py",
        "                self._out_of_touch(error)\n        self._finish()",
        "                raise\n        self._finish()",
        "restart-server",
    ),
    Mutant(
        "lost-delivery-not-read",
        "worker/fetcher.py",
        "        if self._uncertain:\n            return transitions.own(keys, consumer)",
        "        if False:\n            return transitions.own(keys, consumer)",
        "lose-replies",
        seconds=8,
    ),
    # Versions and foreign entries.
    Mutant(
        "newer-format-accepted",
        "supervisor/preflight.py",
        "if not version.isdigit() or int(version) > SCHEMA + 1:",
        "if False:",
        "rolling-upgrade",
    ),
    Mutant(
        "malformed-entry-kills-the-worker",
        "worker/loop.py",
        "        except (Malformed, TooNew, BadSignature) as error:",
        "        except (TooNew, BadSignature) as error:",
        "malformed-entries",
    ),
)
