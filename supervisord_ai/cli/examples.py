"""What the help of each command shows below its options: how it is typed, and what an exit code of 1 means there.

Apart from the grammar, so that only who asks for help pays for it. A test reads every line back with the grammar.
"""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": ("ai-supervisor run --config ./config.toml",),
    "try": ("ai-supervisor try -- python3 my_agent.py", "ai-supervisor try --memory 512MB --env HF_TOKEN -- ./agent.sh"),
    "demo": ("ai-supervisor demo", "ai-supervisor demo --kill"),
    "stop": ("ai-supervisor stop",),
    "status": ("ai-supervisor status --watch", "ai-supervisor status --json | jq .level"),
    "health": ("ai-supervisor health --once || systemctl restart ai-supervisor",),
    "events": ("ai-supervisor events --since 1h --kind agent.ended", "ai-supervisor events --follow --agent opus-01"),
    "agents list": (
        "ai-supervisor agents list --state backoff",
        "ai-supervisor agents list --class opus --watch",
        "ai-supervisor agents list --names | xargs -n1 echo",
    ),
    "agents show": ("ai-supervisor agents show opus-01",),
    "agents logs": ("ai-supervisor agents logs -f 'sonnet-*'",),
    "agents scale": ("ai-supervisor agents scale sonnet 80",),
    "agents token": ("ai-supervisor agents token editor --env > editor.env",),
    "agents add": ("ai-supervisor agents add helper --class opus -- python3 /opt/helper.py",),
    "agents start": ("ai-supervisor agents start opus-01",),
    "agents stop": ("ai-supervisor agents stop 'sonnet-*'",),
    "agents restart": ("ai-supervisor agents restart opus-01",),
    "agents release": ("ai-supervisor agents release 'sonnet-*'",),
    "queue list": ("ai-supervisor queue list -n 20", "ai-supervisor queue list --watch"),
    "queue show": ("ai-supervisor queue show 3q2-7wEXAMPLE",),
    "queue cancel": ("ai-supervisor queue cancel 3q2-7wEXAMPLE",),
    "queue pause": ("ai-supervisor queue pause",),
    "queue drain": ("ai-supervisor queue drain --wait && ai-supervisor stop",),
    "queue resume": ("ai-supervisor queue resume",),
    "metrics": ("ai-supervisor metrics | grep queue",),
    "models list": ("ai-supervisor models list",),
    "models loaded": ("ai-supervisor models loaded --json",),
    "models load": ("ai-supervisor models load llama3.2:3b",),
    "models unload": ("ai-supervisor models unload llama3.2:3b",),
    "models pull": ("ai-supervisor models pull tinyllama",),
    "models rm": ("ai-supervisor models rm tinyllama --yes",),
    "level show": ("ai-supervisor level show",),
    "level pin": ("ai-supervisor level pin 2 --for 10m",),
    "level unpin": ("ai-supervisor level unpin",),
    "cache stats": ("ai-supervisor cache stats",),
    "cache analyze": ("ai-supervisor cache analyze --prompts",),
    "cache clear": ("ai-supervisor cache clear --tier l1",),
    "rollout": ("ai-supervisor rollout", "ai-supervisor rollout 'sonnet-*' --no-wait", "ai-supervisor rollout --status"),
    "alerts list": ("ai-supervisor alerts list",),
    "alerts test": ("ai-supervisor alerts test",),
    "reload": ("ai-supervisor config plan && ai-supervisor reload",),
    "config init": ("ai-supervisor config init",),
    "config show": ("ai-supervisor config show --agents",),
    "config check": ("ai-supervisor config check ./config.toml",),
    "config plan": ("ai-supervisor config plan --exit-code",),
    "config suggest": ("ai-supervisor config suggest --days 14",),
    "engine install": ("ai-supervisor engine install",),
    "exec": ("ai-supervisor exec --class sonnet -- python3 report.py", "ai-supervisor exec --name nightly -- ./nightly.sh"),
    "doctor": ("ai-supervisor doctor", "ai-supervisor doctor --fix"),
    "backup": ("ai-supervisor backup /mnt/c/backups/ai.tar.zst",),
    "restore": ("ai-supervisor restore ai.tar.zst --into /tmp/look",),
    "takeover": ("ai-supervisor takeover --print", "ai-supervisor takeover --undo"),
    "install": ("sudo ai-supervisor install --now", "ai-supervisor install --user --print"),
    "uninstall": ("sudo ai-supervisor uninstall",),
    "upgrade": ("sudo ai-supervisor upgrade", "sudo ai-supervisor upgrade --rollback"),
    "bench": ("ai-supervisor bench",),
    "dashboards export": ("ai-supervisor dashboards export /var/lib/grafana/dashboards",),
    "completion": (
        "ai-supervisor completion bash > /etc/bash_completion.d/ai-supervisor",
        "ai-supervisor completion zsh > ~/.zfunc/_ai-supervisor",
        "ai-supervisor completion fish > ~/.config/fish/completions/ai-supervisor.fish",
    ),
}

# Where 1 is an answer. Everywhere else it is a fault of the machine: a file that cannot be read, a disk that is full.
EXIT_ONE: dict[str, str] = {
    "try": "the command did not end well",
    "demo": "something did not go as it should",
    "stop": "it has not ended within its time",
    "health": "degraded, with the reasons",
    "models list": "a backend could not be asked",
    "models loaded": "a backend could not be asked",
    "rollout": "it failed, was rolled back or is paused",
    "alerts test": "a notice did not arrive, or nobody is told",
    "config plan": "with --exit-code: something would change",
    "doctor": "something is to be mended",
}


def below(words: str) -> str:
    """Return what stands below the options of a command; "" where there is nothing to say."""
    lines = [f"  {line}" for line in EXAMPLES.get(words, ())]
    told = [f"{'examples' if len(lines) > 1 else 'example'}:", *lines] if lines else []
    if words in EXIT_ONE:
        told += ["", f"exit code 1: {EXIT_ONE[words]}"]
    return "\n".join(told)
