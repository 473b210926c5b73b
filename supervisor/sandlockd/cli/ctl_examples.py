"""What `--help` of sandlockctl and of its verbs shows at its end."""

from __future__ import annotations

MAIN = """\
examples:
  sandlockctl run --policy build -- make -j4    in the service; output, ^C and exit status are as in the foreground
  sandlockctl run -it --name box -- bash        with a terminal; -d: do not wait for it
  sandlockctl ps                                what runs, and what waits for a word on its changes
  sandlockctl logs -f box                       what it writes; a name, an id, or the beginning or end of an id
  sandlockctl stop box                          SIGTERM, and after a grace the end of all of it
  sandlockctl diff 4f2a1c                       what one changed
  sandlockctl commit 4f2a1c                     put all of it into the directory
  sandlockctl discard 4f2a1c build              drop what is below build, keep the rest

exit status: 0 done; 1 refused, nothing was changed; 125 used wrongly, no service, or something is broken;
of run, attach and wait: the program's, as of sandlockd
"""

VERBS = {
    "run": """\
examples:
  sandlockctl run -- make -j4                   follow it; ^C ends the program, twice: all of it
  sandlockctl run -d --name web --label job=7 -- ./serve
  sandlockctl run -it --policy ./agent.toml -- bash
  sandlockctl run -i -- sort < words            our input is its input
  sandlockctl run --workdir . --on-exit ask -- ./fix.sh

exit status: the program's own; 128+n when signal n killed it; 124 its time was over; 125 the sandbox could not be
built, or there is no service; 126 not executable; 127 not found
""",
    "exec": """\
examples:
  sandlockctl exec -it box -- bash              a shell beside what runs there
  sandlockctl exec web -- cat /tmp/log          it sees what the sandbox sees
  sandlockctl exec -d web -- sleep 60           prints its number there, for --exec of logs, attach, wait, signal
  sandlockctl exec --list web                   those that were started, and how they ended

exit status: as of sandlockctl run
""",
    "ps": """\
examples:
  sandlockctl ps                                newest first: id, state, start, directory, command
  sandlockctl ps --all                          those that are over, too
  sandlockctl ps --json | jq -r 'select(.state == "kept") | .id'
""",
    "inspect": """\
examples:
  sandlockctl inspect web                       all that is known of it
  sandlockctl inspect web --json | jq .usage
""",
    "logs": """\
examples:
  sandlockctl logs web                          what it wrote: its standard error to ours
  sandlockctl logs -f --tail 10 web             the end of it, and what comes
  sandlockctl logs --stream stderr --json web   with times
  sandlockctl logs --exec 2 web                 of its second further command
""",
    "attach": """\
examples:
  sandlockctl attach box                        its streams, as if it had been started here
  sandlockctl attach --tail 0 --no-stdin box    only what comes from now on, and nothing goes in
  sandlockctl attach --exec 2 box               of its second further command (exec --list)
""",
    "wait": """\
examples:
  sandlockctl wait web                          until it has ended; prints its exit status, and has it
  sandlockctl wait --timeout 30s web            124 when the time is up first
""",
    "signal": """\
examples:
  sandlockctl signal HUP web                    to its program: a name or a number
  sandlockctl signal -g INT web                 to its process group, as ^C
  sandlockctl signal --exec 2 TERM web          to its second further command
""",
    "stop": """\
examples:
  sandlockctl stop web                          SIGTERM to the program; what is left after the grace is killed
  sandlockctl stop --grace 1s web other
""",
    "kill": """\
examples:
  sandlockctl kill web                          all of it, now
""",
    "pause": """\
examples:
  sandlockctl pause web                         all its processes stand still
""",
    "resume": """\
examples:
  sandlockctl resume web                        and go on
""",
    "rm": """\
examples:
  sandlockctl rm web                            one that is over: its logs and records
  sandlockctl rm -f web                         one that lives, or whose changes are kept, too: they are dropped
""",
    "stats": """\
examples:
  sandlockctl stats                             what each uses that lives
  sandlockctl stats web --json | jq .memory     bytes
""",
    "events": """\
examples:
  sandlockctl events                            what happened to your sandboxes
  sandlockctl events -f --json | jq -r 'select(.event == "denied") | .data.target'
  sandlockctl events -f web                     of one, until it is removed
""",
    "top": """\
examples:
  sandlockctl top                               live; ^C ends it
  sandlockctl top --json                        one sample
""",
    "explain": """\
examples:
  sandlockctl explain web                       each refusal, and the line that would allow it
  sandlockctl explain web --json | jq 'select(.kind == "refusal") | .path'
""",
    "diff": """\
examples:
  sandlockctl diff 4f2a1c                       the list, and what changed in text files
  sandlockctl diff 4f2a1c src --list            the list only, of what is below src
  sandlockctl diff 4f2a1c --json                one record a line, with exact names
""",
    "commit": """\
examples:
  sandlockctl commit 4f2a1c                     everything
  sandlockctl commit 4f2a1c src/main.c          only that; the rest stays kept
  sandlockctl commit 4f2a1c . .git/config       everything, and what runs later by itself because it is named
  sandlockctl commit 4f2a1c --digest 57840d...  only if the list is still the one that had this digest
  sandlockctl commit 4f2a1c --force notes.txt   although notes.txt has changed underneath
""",
    "discard": """\
examples:
  sandlockctl discard 4f2a1c                    everything
  sandlockctl discard 4f2a1c build              what is below build; the rest stays kept
""",
    "completion": """\
examples:
  sandlockctl completion bash > ~/.local/share/bash-completion/completions/sandlockctl
  sandlockctl completion fish > ~/.config/fish/completions/sandlockctl.fish
""",
}
